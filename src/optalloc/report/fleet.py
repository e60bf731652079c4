"""Tables of a fleet: what is rented, how busy it is, what comes next."""

from __future__ import annotations

from collections.abc import Sequence

from optalloc.report.table import Cell, Table, no_answer
from optalloc.result import Termination
from optalloc.serving.mix.account import FleetAccount, Other
from optalloc.serving.mix.problem import FleetProblem
from optalloc.serving.mix.result import FleetResult, answer_of
from optalloc.simulate.fleet import OfferSimulation

_FEW = 6


def fleet_tables(problem: FleetProblem, result: FleetResult) -> list[Table]:
    """The fleet by offer, or why there is none."""
    spent = f"{result.stats.cpu_s:.2f} s of CPU"
    if result.rented is None:
        title = f"No fleet: {result.termination.value}, {spent}"
        return [no_answer(title, result.conflict, result.fixes, result.message)]
    answer, rates = answer_of(problem, result), _rates_per_s(problem, result)
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (
            rented.offer,
            rented.count,
            f"{rented.price_usd_per_h:,.2f}",
            f"{rates.get(rented.offer, 0.0):,.4g}",
            f"{rented.busy:.1%}",
        )
        for rented in answer.fleet
    )
    value, gap = result.bounds.primal or 0.0, result.bounds.gap
    shown = "proven optimal" if result.termination is Termination.OPTIMAL else f"gap {gap:.2%}"
    rule = "" if problem.redundancy == "none" else f", {problem.redundancy} may fail"
    notes = [
        f"Planned for {problem.utilization:.0%} of the time{rule}; "
        f"{result.headroom or 0.0:.2%} more load fits in normal operation."
    ]
    if result.busiest is not None and result.busiest > 0.999:
        notes.append(
            "A fleet at 100% of its time is a knife's edge: bursts queue. Plan with --utilization."
        )
    return [
        Table(
            title=f"{value:,.2f} USD/h ({shown}), {spent}",
            columns=("offer", "replicas", "USD/h", "requests/s", "busy"),
            rows=rows,
            notes=tuple(notes),
            right=("USD/h", "requests/s", "busy"),
        )
    ]


def fleet_raw(problem: FleetProblem, result: FleetResult) -> Table:
    """Plain numbers, one row an offer that is rented."""
    rates = _rates_per_s(problem, result)
    return Table(
        title="",
        columns=("offer", "replicas", "price_usd_per_h", "requests_per_s", "busy"),
        rows=tuple(
            (r.offer, r.count, r.price_usd_per_h, rates.get(r.offer, 0.0), r.busy)
            for r in answer_of(problem, result).fleet
        ),
    )


def _rates_per_s(problem: FleetProblem, result: FleetResult) -> dict[str, float]:
    """Requests per second that each offer serves."""
    rates: dict[str, float] = {}
    for share in result.routes.shares if result.routes is not None else ():
        name = problem.offers[share.offer].name
        rate = share.part * problem.buckets[share.bucket].rate_per_s
        rates[name] = rates.get(name, 0.0) + rate
    return rates


def account_tables(problem: FleetProblem, account: FleetAccount) -> list[Table]:
    """What binds, the price of more load, and other fleets."""
    notes = [f"What binds: {'; '.join(account.binds)}."]
    notes.append(
        f"One per cent more load costs {account.marginal_usd_per_h:,.4f} USD/h at the margin."
    )
    notes += [
        f"One more than {scarce.what} would save {scarce.saves_usd_per_h:,.2f} USD/h."
        for scarce in account.scarce
    ]
    rows = [_row(problem, other) for other in (account.next_load, *account.others)]
    return [
        Table(
            title="Why this fleet, and what else there is",
            columns=("for", "USD/h", "more", "fleet"),
            rows=tuple(rows),
            notes=tuple(notes),
            right=("USD/h", "more"),
        )
    ]


def simulation_table(problem: FleetProblem, found: Sequence[OfferSimulation]) -> Table:
    """Latencies of every offer under Poisson arrivals."""
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (
            problem.offers[one.offer].name,
            f"{one.rate_per_s:,.4g}",
            f"{1e3 * one.summary.ttft.mean_s:,.0f}",
            f"{1e3 * one.summary.ttft.p90_s:,.0f}",
            f"{1e3 * one.summary.tpot.mean_s:,.1f}",
            f"{1e3 * one.summary.tpot.p90_s:,.1f}",
            f"{one.summary.met_share:.1%}",
        )
        for one in found
    )
    columns = ("offer", "requests/s", "ttft ms", "p90", "tpot ms", "p90 ", "in time")
    return Table(
        title="Simulated: Poisson requests, shared as planned",
        columns=columns,
        rows=rows,
        notes=("In time: the share of requests that meet the targets.",),
        right=columns[1:],
    )


def _row(problem: FleetProblem, other: Other) -> tuple[Cell, ...]:
    if other.counts is None or other.price_usd_per_h is None or other.more_usd_per_h is None:
        return (other.what, "", "", "none")
    parts = [
        f"{count} {offer.name}"
        for offer, count in zip(problem.offers, other.counts, strict=True)
        if count
    ]
    more = f" and {len(parts) - _FEW} more" if len(parts) > _FEW else ""
    return (
        other.what,
        f"{other.price_usd_per_h:,.2f}",
        f"{other.more_usd_per_h:+,.2f}",
        f"{', '.join(parts[:_FEW])}{more}",
    )

"""Sensitivity of a serving plan: how far an input can move before other engines are better.

Each probe solves exactly, for one value of one input: the best plan of the chosen engines (their
number, batch and chunk chosen anew for that value), then the whole space for a plan that is better
by more than ``WORTH``. :mod:`optalloc.plan.turns` moves the inputs: load, lengths, targets, memory
bandwidth and links.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from optalloc.cluster.topology import Cluster
from optalloc.plan.compare import Decision
from optalloc.plan.marginals import links, with_link
from optalloc.plan.turns import DIRECTIONS, WORTH, Moving, Stopped, Turn, turn_of
from optalloc.serving.configuration.build import setup_words
from optalloc.serving.configuration.infeasible import with_workload
from optalloc.serving.configuration.limits import Limits
from optalloc.serving.configuration.plan import ServingPlan
from optalloc.serving.configuration.problem import OBJECTIVES, Problem
from optalloc.serving.configuration.search import Choice, Search
from optalloc.stop import StopRule
from optalloc.units import GB

_WIDTHS = ("tp", "pp", "attention_dp", "moe_tp", "moe_ep")


def serving_turns(
    plan: ServingPlan,
    problem: Problem,
    stop: StopRule | None = None,
    on_turn: Callable[[Turn], None] | None = None,
) -> tuple[Turn, ...]:
    """Where the choice of engines turns, for the load, lengths, targets and bandwidths.

    Parameters
    ----------
    problem : Problem
        What the plan answers.
    stop : StopRule, optional
        Ends each search.
    on_turn : callable, optional
        Called with every turn as it is found.

    Returns
    -------
    tuple of Turn
        Two an input, less first. Empty if other engines are already better by more than ``WORTH``.

    Complexity: at most nine pairs of searches a turn.
    """
    probe = _Probe(plan, stop)
    found: list[Turn] = []
    with contextlib.suppress(Stopped):  # then each turn says so
        if not probe.holds(problem):
            return ()
    for which in _inputs(problem):
        for direction in DIRECTIONS:
            found.append(turn_of(probe, which, direction))
            if on_turn is not None:
                on_turn(found[-1])
    return tuple(found)


def chosen_limits(plan: ServingPlan) -> Limits:
    """The limits of a plan with its mode, widths, software, types and devices pinned by role.

    Where several groups of nodes serve, each may have the widths of any of them.
    """
    limits = plan.limits.with_pin("mode", plan.mode)
    for role in dict.fromkeys(worker.role for worker in plan.workers):
        engines = [(w.device, w.engine) for w in plan.workers if w.role == role]
        values = {name: [getattr(e, name) for _, e in engines] for name in _WIDTHS}
        values["software"] = [e.software for _, e in engines]
        values["weights"] = [e.weight_dtype for _, e in engines]
        values["kv"] = [e.kv_dtype for _, e in engines]
        values["device"] = [device for device, _ in engines]
        if all(e.expert_dtype for _, e in engines):
            values["experts"] = [e.expert_dtype for _, e in engines]
        for name, several in values.items():
            limits = limits.with_pin(f"{role}.{name}", *dict.fromkeys(several))
    return limits


class _Found(NamedTuple):
    """What a search came to."""

    search: Search
    choice: Choice | None

    @property
    def words(self) -> str:
        """The deployment in short."""
        return "-" if self.choice is None else setup_words(self.search, self.choice)


class _Probe:
    """Asks of one problem whether the plan's engines are still the best."""

    def __init__(self, plan: ServingPlan, stop: StopRule | None) -> None:
        self.limits, self.stop = chosen_limits(plan), stop

    def _best(self, problem: Problem) -> _Found:
        search = Search(problem, self.stop)
        outcome = search.run()
        if outcome.stopped:
            raise Stopped
        return _Found(search, outcome.best)

    def _both(self, problem: Problem) -> tuple[_Found, _Found]:
        """The chosen engines, then the best ones."""
        return self._best(msgspec.structs.replace(problem, limits=self.limits)), self._best(problem)

    def holds(self, problem: Problem) -> bool:
        """True if no engines are better than the chosen ones by more than ``WORTH``: proven."""
        own, best = self._both(problem)
        lost = _lost(problem, own, best)
        return lost is not None and lost <= WORTH

    def better(self, problem: Problem) -> tuple[float | None, tuple[Decision, ...], str]:
        """What the best engines save, both deployments, and why if there are none."""
        own, best = self._both(problem)
        if best.choice is None:
            return None, (), "nothing meets it"
        lost = _lost(problem, own, best)
        changed = Decision(name="engines", first=own.words, second=best.words)
        return lost, (changed,), "" if lost is not None else "these engines do not meet it"


def _lost(problem: Problem, own: _Found, best: _Found) -> float | None:
    """What the chosen engines lose to the best ones, as a share; None where they cannot."""
    if own.choice is None or best.choice is None:
        return None
    first, second = own.choice.value, best.choice.value
    return 1.0 - (second / first if OBJECTIVES[problem.objective][1] else first / second)


def _inputs(problem: Problem) -> list[Moving[Problem]]:
    work, cluster = problem.workload, problem.cluster

    def moved(name: str, unit: str, field: str, scale: float, step: int) -> Moving[Problem]:
        def at(value: float) -> Problem:
            given = value / scale if step == 0 else round(value)
            return with_workload(problem, **{field: given})

        now = getattr(work, field) * scale
        return Moving(quantity=name, unit=unit, now=float(now), step=step, at=at)

    found = [
        moved(name, unit, field, scale, step)
        for name, unit, field, scale, step in (
            ("rate", "requests/s", "rate_per_s", 1.0, 0),
            ("requests in flight", "requests", "concurrency", 1.0, 1),
            ("input length", "tokens", "input_len", 1.0, 1),
            ("output length", "tokens", "output_len", 1.0, 1),
            ("target of the first token", "ms", "ttft_s", 1e3, 0),
            ("target of a further token", "ms", "tpot_s", 1e3, 0),
        )
        if getattr(work, field) is not None
    ]

    def scaled(name: str, now: float, change: Callable[[float], Cluster]) -> Moving[Problem]:
        unit, base = ("GB/s", now) if len(cluster.nodes) == 1 else ("times", 1.0)

        def at(value: float) -> Problem:
            return msgspec.structs.replace(problem, cluster=change(value / base))

        return Moving(quantity=name, unit=unit, now=base, step=0, at=at)

    group = cluster.nodes[0]
    found.append(
        scaled(
            "memory bandwidth",
            group.device.memory_bandwidth_bytes_per_s / GB,
            lambda factor: _with_memory(cluster, factor),
        )
    )
    for field, words in links(cluster).items():
        now = getattr(group, field).bandwidth_bytes_per_s / GB
        found.append(scaled(f"{words} bandwidth", now, _linked(cluster, field)))
    return found


def _linked(cluster: Cluster, field: str) -> Callable[[float], Cluster]:
    return lambda factor: with_link(cluster, field, factor)


def _with_memory(cluster: Cluster, factor: float) -> Cluster:
    """The cluster with the memory bandwidth of every device multiplied."""
    groups = []
    for group in cluster.nodes:
        bandwidth = group.device.memory_bandwidth_bytes_per_s * factor
        device = msgspec.structs.replace(group.device, memory_bandwidth_bytes_per_s=bandwidth)
        groups.append(msgspec.structs.replace(group, device=device))
    return msgspec.structs.replace(cluster, nodes=tuple(groups))

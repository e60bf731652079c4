"""optalloc simulate of a serving plan: its requests, event by event."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from optalloc.cli.answers import colored
from optalloc.cli.flags import said_by_flags

if TYPE_CHECKING:
    from optalloc.serving.configuration.plan import ServingPlan
    from optalloc.simulate.requests.arrivals import Arrivals
    from optalloc.simulate.requests.load import Load, Requests

_ROUTINGS = ("least-loaded", "round-robin", "prefix")
_FEWEST = 2000
_ROUNDS = 10
"""Requests of each client, at least, so that the beginning counts little."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that serving plans take beside those of all plans."""
    group = parser.add_argument_group("serving plans")
    group.add_argument(
        "--rate", type=float, metavar="R", help="requests each second; default: the workload's"
    )
    group.add_argument(
        "--arrivals",
        metavar="HOW",
        help="poisson, burst, closed (clients with one request each), at-once, or a trace: CSV or "
        "JSONL with arrival_s, input_tokens and output_tokens, and hash_ids of the prompts' blocks "
        "for a cache of prefixes; default: poisson with a rate, closed without",
    )
    group.add_argument(
        "--hash-block-tokens",
        type=int,
        metavar="N",
        help="tokens of a block that has one of a trace's hash_ids; default: 512",
    )
    group.add_argument(
        "--routing",
        choices=_ROUTINGS,
        help="to which engine a request goes: with fewest requests, each in turn, or where the "
        f"beginning of its prompt was sent last; default: {_ROUTINGS[0]}",
    )
    group.add_argument(
        "--clients", type=int, metavar="Q", help="of closed arrivals; default: the workload's"
    )
    group.add_argument(
        "--requests", type=int, metavar="N", help=f"how many; default: {_FEWEST} or more"
    )
    group.add_argument("--seed", type=int, metavar="K", help="of what is drawn (0)")
    group.add_argument(
        "--spread",
        metavar="SHARE",
        help="lengths are uniform within this share of their mean; default: 20%%",
    )
    group.add_argument(
        "--warm-up",
        metavar="SHARE",
        help="the first requests that the figures leave out; default: 10%%",
    )
    group.add_argument(
        "--max-rate",
        action="store_true",
        help="also find the greatest rate at which the workload's percentile meets its targets",
    )
    parser.set_defaults(**_DEFAULTS)


_DEFAULTS = {
    "rate": None,
    "arrivals": None,
    "hash_block_tokens": None,
    "routing": _ROUTINGS[0],
    "clients": None,
    "requests": None,
    "seed": 0,
    "spread": "20%",
    "warm_up": "10%",
    "max_rate": False,
}


def refuse(arguments: argparse.Namespace, plan: str) -> None:
    """Refuse what only serving plans take.

    Raises
    ------
    InputError
        For the first flag that was given.
    """
    from optalloc.errors import InputError

    for name, default in _DEFAULTS.items():
        if getattr(arguments, name) != default:
            raise InputError(
                f"{plan} has no requests",
                path=f"--{name.replace('_', '-')}",
                fix="leave it out, or give a plan of 'optalloc serve'",
            )


# Argument -> the flag that gives it.
_FLAGS = {"num_requests": "--requests", "seed": "--seed", "warm_up": "--warm-up"}
_TRACE_FLAGS = {"num_requests": "--requests", "hash_block_tokens": "--hash-block-tokens"}


def run(arguments: argparse.Namespace, plan: ServingPlan) -> int:
    """Simulate and print; returns the exit status."""
    import msgspec

    from optalloc.cli.plans import with_true_figures
    from optalloc.errors import InputError
    from optalloc.report import requests as report
    from optalloc.report.table import render
    from optalloc.simulate.requests.max_rate import max_rate
    from optalloc.simulate.requests.plans import asked_of, deployment_of
    from optalloc.simulate.requests.simulate import simulate_requests
    from optalloc.units import parse_share

    if arguments.trace_all:
        raise InputError(
            "a serving plan has no passes of a step", path="--trace-all", fix="leave it out"
        )
    plan = with_true_figures(plan, arguments.plan)
    deployment, load = deployment_of(plan), _load(arguments, plan)
    deployment = msgspec.structs.replace(deployment, routing=arguments.routing)
    work, arrivals = asked_of(plan), "--rate" if arguments.clients is None else "--clients"
    with said_by_flags(_FLAGS | {"arrivals": arrivals}):
        simulation = simulate_requests(
            deployment,
            load,
            num_requests=_enough(load) if arguments.requests is None else arguments.requests,
            seed=arguments.seed,
            ttft_s=work.ttft_s,
            tpot_s=work.tpot_s,
            warm_up=parse_share(arguments.warm_up, path="--warm-up"),
        )
    most = None
    if arguments.max_rate:
        most = max_rate(
            deployment,
            _open(load),
            percentile=work.percentile,
            ttft_s=work.ttft_s,
            tpot_s=work.tpot_s,
            num_requests=_FEWEST if arguments.requests is None else arguments.requests,
            seed=arguments.seed,
        )
    if arguments.trace is not None:
        simulation.trace.write(arguments.trace)
    if arguments.format == "csv":
        table = report.raw_table(simulation, most)
    else:
        table = report.request_table(simulation, plan, most)
    data = report.plain(simulation, plan, most)
    print(render([table], data, arguments.format, color=colored()), end="")
    if arguments.trace is not None and arguments.format == "table":
        print(f"Trace: {arguments.trace} (open it at https://ui.perfetto.dev).")
    return 0


def _load(arguments: argparse.Namespace, plan: ServingPlan) -> Load | Requests:
    """What is asked for, or the requests of a trace.

    Raises
    ------
    InputError
        For arrivals of no known kind, or flags that contradict each other.
    """
    from optalloc.errors import InputError
    from optalloc.simulate.requests.plans import load_of
    from optalloc.simulate.requests.traces import read_trace
    from optalloc.units import parse_share

    word = arguments.arrivals
    if word is not None and word not in _KINDS:
        if not Path(word).is_file():
            raise InputError(
                f"{word!r} is no kind of arrivals and no file",
                path="--arrivals",
                fix=f"use {', '.join(_KINDS)}, or the path of a trace",
            )
        if arguments.rate is not None or arguments.clients is not None:
            raise InputError(
                "a trace has its own arrivals",
                path="--rate" if arguments.rate is not None else "--clients",
                fix="leave it out",
            )
        with said_by_flags(_TRACE_FLAGS):
            requests = read_trace(
                word,
                num_requests=arguments.requests,
                hash_block_tokens=arguments.hash_block_tokens,
            )
        _check_positions(requests, plan, word)
        return requests
    if arguments.hash_block_tokens is not None:
        raise InputError(
            "only a trace has hash_ids",
            path="--hash-block-tokens",
            fix="leave it out, or give the trace as --arrivals",
        )
    spread = parse_share(arguments.spread, path="--spread")
    if not 0.0 <= spread <= 1.0:
        raise InputError(
            f"lengths cannot be spread by {spread:.0%} of their mean",
            path="--spread",
            fix="give a share from 0% to 100%",
        )
    return load_of(plan, _arrivals(arguments, plan), spread)


def _check_positions(requests: Requests, plan: ServingPlan, path: str) -> None:
    """The model reads every request of a trace."""
    from optalloc.errors import InputError

    tokens = requests.input_tokens.astype("int64") + requests.output_tokens
    most = plan.model.max_positions
    if most is not None and (long := tokens > most).any():
        raise InputError(
            f"{long.sum():,} of {len(requests):,} requests have more tokens than the {most:,} "
            f"positions of {plan.model.name}, up to {tokens.max():,}",
            path=path,
            fix="leave them out, or plan a model of longer contexts",
        )


_KINDS = ("poisson", "burst", "closed", "at-once")


def _arrivals(arguments: argparse.Namespace, plan: ServingPlan) -> Arrivals:
    from optalloc.errors import InputError
    from optalloc.simulate.requests.arrivals import AtOnce, Bursts, ClosedLoop, Poisson
    from optalloc.simulate.requests.plans import arrivals_of, in_flight

    word, rate, work = arguments.arrivals, arguments.rate, plan.workload
    if word is None:
        if rate is None and arguments.clients is None:
            return arrivals_of(plan)
        word = "poisson" if rate is not None else "closed"
    if word in ("closed", "at-once") and rate is not None:
        raise InputError(
            f"{word} arrivals have no rate", path="--rate", fix="leave it out, or use poisson"
        )
    if word == "at-once":
        return AtOnce()
    if word == "closed":
        clients = arguments.clients
        if clients is None:
            clients = work.concurrency or in_flight(plan)
        return ClosedLoop(clients)
    if arguments.clients is not None:
        raise InputError(
            f"{word} arrivals have no clients", path="--clients", fix="use --arrivals closed"
        )
    if rate is None:
        rate = work.rate_per_s or plan.predicted.request_rate_per_s
    return Poisson(rate) if word == "poisson" else Bursts(rate)


def _enough(load: Load | Requests) -> int:
    from optalloc.simulate.requests.arrivals import ClosedLoop
    from optalloc.simulate.requests.load import Requests

    if not isinstance(load, Requests) and isinstance(load.arrivals, ClosedLoop):
        return max(_FEWEST, _ROUNDS * load.arrivals.clients)
    return _FEWEST


def _open(load: Load | Requests) -> Load | Requests:
    """The load, with Poisson arrivals where its own have no rate."""
    import msgspec

    from optalloc.simulate.requests.arrivals import AtOnce, ClosedLoop, Poisson
    from optalloc.simulate.requests.load import Requests

    if isinstance(load, Requests) or not isinstance(load.arrivals, ClosedLoop | AtOnce):
        return load
    return msgspec.structs.replace(load, arrivals=Poisson(1.0))

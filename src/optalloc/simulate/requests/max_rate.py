"""The greatest rate at which a percentile of the requests meets its targets, by bisection.

Every rate is simulated with the same random numbers: the same requests in the same order, their
arrivals scaled in time. What differs between two rates is then the rate alone.
"""

from __future__ import annotations

import msgspec
import numpy as np

from optalloc.errors import InputError
from optalloc.simulate.requests.arrivals import Bursts, Poisson
from optalloc.simulate.requests.deployment import Deployment
from optalloc.simulate.requests.load import Load, Requests, draw_requests
from optalloc.simulate.requests.outcome import RequestSimulation
from optalloc.simulate.requests.simulate import simulate_requests

_LAST = 0.1
_LATE = 0.05
_ALL_AT_ONCE = 1e12


class MaxRate(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """The greatest rate found, and a rate just above it that fails.

    Parameters
    ----------
    rate_per_s : float
        Requests/s that meet every target; 0 if not even requests one after another do.
    failing_rate_per_s : float
        At most ``1 + tolerance`` times it.
    binds : {"ttft", "tpot", "throughput", "nothing"}
        What fails there; "throughput": the queue grows without end; "nothing": the engines serve
        all requests at once, so that there are too few of them for an answer.
    simulation : RequestSimulation
        At ``rate_per_s``; if that is 0, of requests one after another.
    num_simulations : int
        Rates tried.
    """

    rate_per_s: float
    failing_rate_per_s: float
    binds: str
    simulation: RequestSimulation
    num_simulations: int


def max_rate(
    deployment: Deployment,
    load: Load | Requests,
    *,
    percentile: float | None = 90.0,
    ttft_s: float | None = None,
    tpot_s: float | None = None,
    num_requests: int = 2000,
    seed: int = 0,
    tolerance: float = 0.01,
) -> MaxRate:
    """The greatest rate of requests at which the targets are met.

    Parameters
    ----------
    load : Load or Requests
        An open loop (Poisson or bursts), or a trace; its own rate does not matter.
    percentile : float, optional
        Share of the requests, in percent, that meets each target; None: the mean does.
    ttft_s, tpot_s : float, optional
        Targets, seconds.
    tolerance : float
        Relative distance of the answer from a rate that fails.

    Returns
    -------
    MaxRate

    Raises
    ------
    InputError
        If the load is a closed loop.

    Notes
    -----
    A rate is kept up with where the last tenth of the requests waited less than 5 % of the whole
    span of arrivals in the mean. Latencies of a finite sample need not rise everywhere with the
    rate: the answer meets the targets and a rate within the tolerance above does not, but a still
    higher one that does is not excluded.

    Complexity: about 15 simulations.
    """
    requests = _open(load, num_requests, seed)
    tried = 1

    def simulate(rate: float) -> RequestSimulation:
        nonlocal tried
        tried += 1
        return simulate_requests(deployment, _at_rate(requests, rate), record=False)

    def fails(simulation: RequestSimulation) -> str:
        return _fails(simulation, percentile, ttft_s, tpot_s)

    one_by_one = msgspec.structs.replace(requests, clients=1, arrival_s=np.zeros(len(requests)))
    best = simulate_requests(deployment, one_by_one, record=False)
    low, high = 0.0, 1.0 / float(best.e2e_s.mean())
    if failing := fails(best):
        return MaxRate(
            rate_per_s=0.0,
            failing_rate_per_s=0.0,
            binds=failing,
            simulation=best,
            num_simulations=tried,
        )
    while not (failing := fails(found := simulate(high))):
        low, best, high = high, found, 2.0 * high
        if high > _ALL_AT_ONCE:
            return MaxRate(
                rate_per_s=low,
                failing_rate_per_s=float("inf"),
                binds="nothing",
                simulation=best,
                num_simulations=tried,
            )
    while high > low * (1.0 + tolerance):
        middle = (low + high) / 2.0
        found = simulate(middle)
        if reason := fails(found):
            high, failing = middle, reason
        else:
            low, best = middle, found
    return MaxRate(
        rate_per_s=low,
        failing_rate_per_s=high,
        binds=failing,
        simulation=best,
        num_simulations=tried,
    )


def _open(load: Load | Requests, num_requests: int, seed: int) -> Requests:
    """The requests, with a mean rate of 1/s."""
    if isinstance(load, Load) and isinstance(load.arrivals, Poisson | Bursts):
        unit = msgspec.structs.replace(load.arrivals, rate_per_s=1.0)
        return draw_requests(msgspec.structs.replace(load, arrivals=unit), num_requests, seed)
    if isinstance(load, Requests) and not load.clients and load.arrival_s[-1] > load.arrival_s[0]:
        since = load.arrival_s - load.arrival_s[0]
        return msgspec.structs.replace(load, arrival_s=since * ((len(load) - 1) / since[-1]))
    raise InputError(
        "these arrivals have no rate that could be raised",
        path="max_rate",
        fix="give Poisson arrivals, bursts, or a trace of requests at different times",
    )


def _at_rate(requests: Requests, rate: float) -> Requests:
    return msgspec.structs.replace(requests, arrival_s=requests.arrival_s / rate)


def _fails(
    simulation: RequestSimulation,
    percentile: float | None,
    ttft_s: float | None,
    tpot_s: float | None,
) -> str:
    """Which target is missed; empty: none."""
    span_s = float(simulation.arrival_s[-1] - simulation.arrival_s[0])
    last = simulation.queue_s[-max(1, int(_LAST * len(simulation.requests))) :]
    for name, target_s, times in (
        ("ttft", ttft_s, simulation.ttft_s),
        ("tpot", tpot_s, simulation.tpot_s),
    ):
        times = times[~np.isnan(times)]
        if target_s is None or not times.size:
            continue
        met = times.mean() if percentile is None else np.percentile(times, percentile)
        if met > target_s:
            return name
    return "throughput" if float(last.mean()) > _LATE * span_s else ""

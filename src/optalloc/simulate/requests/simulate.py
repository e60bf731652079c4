"""simulate_requests: requests of a load through a deployment, event by event."""

from __future__ import annotations

from optalloc.errors import InputError
from optalloc.simulate.requests.deployment import Deployment
from optalloc.simulate.requests.kernel import TICKS_PER_S, fits_ticks, instance_of, run_native
from optalloc.simulate.requests.load import Load, Requests, draw_requests
from optalloc.simulate.requests.outcome import RequestSimulation


def simulate_requests(
    deployment: Deployment,
    load: Load | Requests,
    *,
    num_requests: int = 2000,
    seed: int = 0,
    ttft_s: float | None = None,
    tpot_s: float | None = None,
    warm_up: float = 0.0,
    record: bool = True,
) -> RequestSimulation:
    """Simulate requests over replicas of a serving engine.

    Parameters
    ----------
    deployment : Deployment
        Engines with the times of their iterations, and their caches.
    load : Load or Requests
        What is drawn, or the requests themselves, for example of a trace.
    num_requests, seed : int
        How many requests are drawn, and from which seed; equal seeds give equal bytes.
    ttft_s, tpot_s : float, optional
        Targets that count for goodput, seconds.
    warm_up : float
        Share of the requests, the first ones, that percentiles and rates leave out.
    record : bool
        Keep every stretch of iterations, for figures over time and for a trace; 64 bytes each, and
        about two for a request.

    Returns
    -------
    RequestSimulation
        ``summary`` has percentiles and rates; times are estimates of the cost model.

    Raises
    ------
    InputError
        If a figure makes no sense, or a request is larger than a cache.

    Complexity: O(N log N) for N requests of a few stretches each, some million requests a second.

    References
    ----------
    Kwon et al., "Efficient Memory Management for Large Language Model Serving with PagedAttention"
    (2023), sections 4.3 and 4.5: blocks and recomputation; Agrawal et al., "Sarathi-Serve" (2024),
    section 4: chunked prefill beside decoding.
    """
    if not 0.0 <= warm_up < 1.0:
        raise InputError(
            f"the warm-up is {warm_up:g} of the requests",
            path="warm_up",
            fix="give a share from 0 to below 1",
        )
    requests = load if isinstance(load, Requests) else draw_requests(load, num_requests, seed)
    for ticks_per_s in TICKS_PER_S:
        if not fits_ticks(deployment, requests, ticks_per_s):
            continue
        run = run_native(instance_of(deployment, requests, ticks_per_s), record=record)
        if run is not None:
            return RequestSimulation(
                deployment=deployment,
                requests=requests,
                run=run,
                ticks_per_s=ticks_per_s,
                ttft_target_s=ttft_s,
                tpot_target_s=tpot_s,
                warm_up=int(warm_up * len(requests)),
            )
    raise InputError(
        "the simulated time exceeds 17 years",
        path="simulate_requests",
        fix="give times of iterations in seconds, or fewer requests",
    )

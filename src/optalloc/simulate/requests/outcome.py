"""RequestSimulation: what requests met, as percentiles, rates and shares."""

from __future__ import annotations

from functools import cached_property

import msgspec
import numpy as np
from numpy.typing import NDArray

from optalloc.errors import InputError
from optalloc.simulate.events import Trace
from optalloc.simulate.requests.deployment import Deployment
from optalloc.simulate.requests.kernel import Run
from optalloc.simulate.requests.load import Requests
from optalloc.simulate.requests.timeline import Timeline, timeline
from optalloc.simulate.requests.trace import request_trace

Reals = NDArray[np.float64]


class Quantiles(msgspec.Struct, frozen=True, kw_only=True):
    """Mean and percentiles of a latency over the requests, seconds."""

    mean_s: float
    p50_s: float
    p90_s: float
    p95_s: float
    p99_s: float


class RequestSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A simulation in figures.

    Times are of the requests behind ``warm_up``. ``ttft`` is the time from arrival to the first
    token, ``tpot`` the mean time of each further one (requests of one token have none), ``e2e``
    from arrival to the last token, ``queue`` from arrival until first scheduled. Rates count the
    time from the first of these arrivals to the last token. ``goodput_per_s`` counts requests that
    met every target. ``mean_in_system`` and ``mean_waiting`` are requests, over that time.
    ``prefix_hit_share`` is the part of all prompt tokens that was found cached, of all requests;
    ``kv_peak_share`` is the fullest that a rank's cache was, ``busy_share`` the mean over engines.
    """

    num_requests: int
    duration_s: float
    requests_per_s: float
    output_tokens_per_s: float
    ttft: Quantiles
    tpot: Quantiles
    e2e: Quantiles
    queue: Quantiles
    met_share: float
    goodput_per_s: float
    mean_in_system: float
    mean_waiting: float
    preemptions: int
    prefix_hit_share: float
    kv_peak_share: float
    busy_share: float
    iterations: int


class RequestSimulation(msgspec.Struct, frozen=True, kw_only=True, eq=False, dict=True):
    """Requests and what became of them.

    ``run`` holds the times of each in ticks, of which there are ``ticks_per_s``.
    """

    deployment: Deployment
    requests: Requests
    run: Run
    ticks_per_s: int
    ttft_target_s: float | None = None
    tpot_target_s: float | None = None
    warm_up: int = 0

    @cached_property
    def arrival_s(self) -> Reals:
        """Arrival of each request, seconds; shape (N,)."""
        return self.run.arrival / self.ticks_per_s

    @cached_property
    def finish_s(self) -> Reals:
        """Last token of each request, seconds; shape (N,)."""
        return self.run.finish / self.ticks_per_s

    @cached_property
    def ttft_s(self) -> Reals:
        """Time to the first token of each request at its client, seconds; shape (N,)."""
        return (self._first - self.run.arrival) / self.ticks_per_s + self._lag_s

    @cached_property
    def tpot_s(self) -> Reals:
        """Mean time of each further token, seconds; nan for one token; shape (N,)."""
        further = self.requests.output_tokens - 1.0
        spent = (self.run.finish - self._first) / self.ticks_per_s
        further[further == 0.0] = np.nan
        return spent / further

    @cached_property
    def e2e_s(self) -> Reals:
        """Time to the last token of each request at its client, seconds; shape (N,)."""
        return (self.run.finish - self.run.arrival) / self.ticks_per_s + self._lag_s

    @property
    def _first(self) -> NDArray[np.int64]:
        """When first tokens are sent, ticks: with split phases by the worker that goes on with the
        answer, once it has the cache."""
        return np.maximum(self.run.first, self.run.handed)

    @property
    def _lag_s(self) -> Reals:
        return self.deployment.lag_iterations * np.nan_to_num(self.tpot_s)

    @cached_property
    def queue_s(self) -> Reals:
        """Time until each request was first scheduled, seconds; shape (N,)."""
        return (self.run.start - self.run.arrival) / self.ticks_per_s

    @cached_property
    def met(self) -> NDArray[np.bool_]:
        """Which requests met every target; shape (N,)."""
        met = np.ones(len(self.requests), np.bool_)
        if self.ttft_target_s is not None:
            met &= self.ttft_s <= self.ttft_target_s
        if self.tpot_target_s is not None:
            met &= ~(self.tpot_s > self.tpot_target_s)
        return met

    @cached_property
    def summary(self) -> RequestSummary:
        """The figures."""
        kept = slice(self.warm_up, None)
        tokens = self.requests.output_tokens[kept]
        duration_s = float(self.finish_s[kept].max() - self.arrival_s[kept].min())
        run, met = self.run, self.met[kept]
        blocks = [
            engines.kv_tokens // self.deployment.block_tokens
            for pool in self.deployment.pools
            for engines in pool
            for _ in range(engines.replicas * engines.ranks)
        ]
        return RequestSummary(
            num_requests=int(tokens.size),
            duration_s=duration_s,
            requests_per_s=tokens.size / duration_s,
            output_tokens_per_s=float(tokens.sum()) / duration_s,
            ttft=quantiles(self.ttft_s[kept]),
            tpot=quantiles(self.tpot_s[kept]),
            e2e=quantiles(self.e2e_s[kept]),
            queue=quantiles(self.queue_s[kept]),
            met_share=float(met.mean()),
            goodput_per_s=float(met.sum()) / duration_s,
            mean_in_system=float(self.e2e_s[kept].sum()) / duration_s,
            mean_waiting=float(self.queue_s[kept].sum()) / duration_s,
            preemptions=int(run.preemptions.sum()),
            prefix_hit_share=float(run.hits.sum()) / float(self.requests.input_tokens.sum()),
            kv_peak_share=float(np.max(run.peak_blocks / np.array(blocks))),
            busy_share=float(run.busy.mean()) / float(run.finish.max()),
            iterations=int(run.iterations.sum()),
        )

    def percentile_s(self, name: str, percentile: float) -> float:
        """A percentile of ``"ttft_s"``, ``"tpot_s"``, ``"e2e_s"`` or ``"queue_s"`` behind the
        warm-up; nan where no request has one."""
        times = getattr(self, name)[self.warm_up :]
        times = times[~np.isnan(times)]
        return float(np.percentile(times, percentile)) if times.size else float("nan")

    def over_time(self, points: int = 400) -> Timeline:
        """Queue, batch, cache and hits at so many times; needs a recorded simulation."""
        self._check_recorded()
        return timeline(self.run, self.requests, self._blocks(), self.ticks_per_s, points)

    @cached_property
    def trace(self) -> Trace:
        """Iterations and requests for Perfetto; needs a recorded simulation."""
        self._check_recorded()
        return request_trace(self.requests, self.run, self._blocks(), self.ticks_per_s)

    def _blocks(self) -> list[int]:
        """Blocks of each engine."""
        return [
            engines.kv_tokens // self.deployment.block_tokens * engines.ranks
            for pool in self.deployment.pools
            for engines in pool
            for _ in range(engines.replicas)
        ]

    def _check_recorded(self) -> None:
        if not len(self.run.stretches):
            raise InputError(
                "this simulation kept no record of its iterations",
                path="simulate_requests",
                fix="simulate with record=True",
            )


def quantiles(values: Reals) -> Quantiles:
    """Mean and percentiles, of what is not nan; all nan if there is nothing."""
    values = values[~np.isnan(values)]
    if values.size == 0:
        return Quantiles(**dict.fromkeys(Quantiles.__struct_fields__, float("nan")))
    at = np.percentile(values, [50, 90, 95, 99])
    return Quantiles(
        mean_s=float(values.mean()),
        p50_s=float(at[0]),
        p90_s=float(at[1]),
        p95_s=float(at[2]),
        p99_s=float(at[3]),
    )

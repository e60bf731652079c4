"""Deployment: the engines that serve requests, in one pool or apart for prompts and answers."""

from __future__ import annotations

from typing import Literal, get_args

import msgspec

from optalloc.errors import InputError
from optalloc.simulate.requests.step_times import StepTimes

Routing = Literal["least-loaded", "round-robin", "prefix"]
ROUTINGS: tuple[Routing, ...] = get_args(Routing)
"""In the order of the native kernel."""


class Engines(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Equal engines.

    Parameters
    ----------
    times : StepTimes
        Of one iteration; also the limits of a rank's batch: tokens and sequences.
    kv_tokens : int
        Tokens that the cache of a rank holds.
    replicas : int
        Engines.
    ranks : int
        Data-parallel attention ranks of an engine. Each has its own queue, batch and cache; all
        step together, in the time of the slowest.
    shared : StepTimes, optional
        What the tokens of all ranks take together, of the experts, beside the time of the slowest:
        by the sums over the ranks, without times of contexts and prompts.
    sequence_tokens : int
        What each sequence takes of the cache beside its tokens, in tokens.
    tokens_per_step : float
        Tokens that a decoding sequence gains in an iteration (speculative decoding), in the mean.
        Its context is counted as if it gained one.
    weight : int
        Share of the requests that a rank gets, against ranks of other engines.
    """

    times: StepTimes
    kv_tokens: int
    replicas: int = 1
    ranks: int = 1
    sequence_tokens: int = 0
    tokens_per_step: float = 1.0
    weight: int = 1
    shared: StepTimes | None = None

    def __post_init__(self) -> None:
        for name in ("kv_tokens", "replicas", "ranks", "weight", "tokens_per_step"):
            _check_least(name, getattr(self, name), 1)
        _check_least("sequence_tokens", self.sequence_tokens, 0)
        if self.shared is not None:
            most = (self.ranks * self.times.chunk_tokens, self.ranks * self.times.max_batch)
            if (self.shared.chunk_tokens, self.shared.max_batch) < most:
                raise InputError(
                    f"the shared times end before {most[0]} tokens and {most[1]} sequences",
                    path="Engines",
                    fix="give those of the sums over all ranks",
                )


def _check_least(name: str, value: float, least: int) -> None:
    if not value >= least:
        raise InputError(
            f"{name} is {value:g}", path="Engines", fix=f"give a number of at least {least}"
        )


class Deployment(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What serves the requests.

    Parameters
    ----------
    engines : tuple of Engines
        Engines that share all requests; with ``prefill``, those that decode.
    prefill : tuple of Engines
        Engines that read prompts, give the first token and hand the cache over; empty: none.
    routing : {"least-loaded", "round-robin", "prefix"}
        A request goes to the rank with fewest requests in its system for its weight; or to each in
        turn as often as its weight; or to the one that was last sent the longest part of its
        prompt, if that is three tenths of it or more and the rank has at most 16 requests, or half
        of them for its weight, more than the least loaded, which gets it otherwise.
    transfer_s, transfer_s_per_token : float
        Time of handing over: constant, and for each token of the prompt.
    block_tokens : int
        Tokens of one block of the cache.
    lag_iterations : float
        Iterations between the end of the one that gives a token and the client's seeing it. They
        count in latencies, not in what engines do.
    """

    engines: tuple[Engines, ...]
    prefill: tuple[Engines, ...] = ()
    routing: Routing = "least-loaded"
    transfer_s: float = 0.0
    transfer_s_per_token: float = 0.0
    block_tokens: int = 16
    lag_iterations: float = 0.0

    def __post_init__(self) -> None:
        if not self.engines:
            raise InputError("there is no engine", path="Deployment", fix="give at least one")
        if self.routing not in ROUTINGS:
            raise InputError(
                f"routing {self.routing!r} is unknown",
                path="Deployment",
                fix=f"use {', '.join(ROUTINGS)}",
            )
        times = (self.transfer_s, self.transfer_s_per_token, self.lag_iterations)
        if self.block_tokens < 1 or min(times) < 0.0:
            raise InputError(
                "a block holds no token, or a transfer or lag takes less than no time",
                path="Deployment",
                fix="give block_tokens of at least 1 and times of at least 0",
            )

    @property
    def pools(self) -> tuple[tuple[Engines, ...], ...]:
        """In the order in which a request passes them."""
        return (self.prefill, self.engines) if self.prefill else (self.engines,)

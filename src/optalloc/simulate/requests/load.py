"""Load: the requests of a simulation, drawn from distributions or read from a trace."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from optalloc.errors import InputError
from optalloc.simulate.requests.arrivals import Arrivals, AtOnce, Bursts, ClosedLoop, Poisson
from optalloc.simulate.requests.lengths import Fixed, Lengths, drawn
from optalloc.simulate.requests.prefixes import BlockHashes, check_hashes


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """How requests come, how long they are, and what of them is cached.

    Parameters
    ----------
    arrivals : Poisson, Bursts, ClosedLoop or AtOnce
    input, output : Fixed, Uniform, Lognormal or Empirical
        Tokens of prompts and of answers.
    prefix_tokens : int
        Tokens at the start of a prompt that the requests of a group share; the first of them reads
        these, later ones find them while they stay cached.
    prefix_groups : int
        Number of such groups; a request belongs to any, as likely.
    cached_share : float
        Share of each prompt that need not be read, for whatever reason (a cache elsewhere).
    """

    arrivals: Arrivals
    input: Lengths
    output: Lengths
    prefix_tokens: int = 0
    prefix_groups: int = 1
    cached_share: float = 0.0


class Requests(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Requests in order of arrival.

    Parameters
    ----------
    arrival_s : ndarray of float64, shape (N,)
        Seconds, ascending. With ``clients``, the first so many arrive then, and each later one as
        long after an answer.
    input_tokens, output_tokens : ndarray of int32, shape (N,)
        Of the prompt and of the answer.
    cached_tokens : ndarray of int32, shape (N,)
        Tokens of the prompt that need not be read.
    group : ndarray of int32, shape (N,)
        Whose prefix the prompt begins with; -1: none.
    prefix_tokens : ndarray of int32, shape (groups,)
        Length of each group's prefix.
    clients : int
        Clients of a closed loop; 0: arrivals do not depend on answers.
    hashes : BlockHashes, optional
        Ids of the blocks of each prompt, in place of groups.
    """

    arrival_s: NDArray[np.float64]
    input_tokens: NDArray[np.int32]
    output_tokens: NDArray[np.int32]
    cached_tokens: NDArray[np.int32]
    group: NDArray[np.int32]
    prefix_tokens: NDArray[np.int32]
    clients: int = 0
    hashes: BlockHashes | None = None

    def __len__(self) -> int:
        return int(self.arrival_s.size)


def make_requests(
    arrival_s: NDArray[np.float64],
    input_tokens: NDArray[np.int64],
    output_tokens: NDArray[np.int64],
    *,
    group: NDArray[np.int64] | None = None,
    prefix_tokens: NDArray[np.int64] | None = None,
    cached_share: float = 0.0,
    clients: int = 0,
    hashes: BlockHashes | None = None,
) -> Requests:
    """Requests of arrays; what is left out is not cached.

    Raises
    ------
    InputError
        If a length is below one token, a prefix leaves nothing of a prompt, arrivals descend, or
        a prompt has more ids than blocks, or a group beside them.
    """
    count = arrival_s.size
    prefix = np.zeros(0, np.int64) if prefix_tokens is None else prefix_tokens
    group = np.full(count, -1, np.int64) if group is None else group
    _check(arrival_s[: clients or count], input_tokens, output_tokens, group, prefix)
    if hashes is not None:
        _check_hashes(hashes, input_tokens, group)
    if not 0.0 <= cached_share < 1.0:
        raise InputError(
            f"the cached share is {cached_share:g}",
            path="load",
            fix="give a share from 0 to below 1",
        )
    cached = np.minimum(np.floor(input_tokens * cached_share), input_tokens - 1)
    return Requests(
        arrival_s=arrival_s.astype(np.float64),
        input_tokens=input_tokens.astype(np.int32),
        output_tokens=output_tokens.astype(np.int32),
        cached_tokens=cached.astype(np.int32),
        group=group.astype(np.int32),
        prefix_tokens=prefix.astype(np.int32),
        clients=clients,
        hashes=hashes,
    )


def _check_hashes(
    hashes: BlockHashes, input_tokens: NDArray[np.int64], group: NDArray[np.int64]
) -> None:
    check_hashes(hashes, input_tokens)
    if (group >= 0).any():
        raise InputError(
            "requests have both groups and ids of their blocks", path="load", fix="give one of them"
        )


def _check(
    arrival_s: NDArray[np.float64],
    input_tokens: NDArray[np.int64],
    output_tokens: NDArray[np.int64],
    group: NDArray[np.int64],
    prefix: NDArray[np.int64],
) -> None:
    if input_tokens.size == 0:
        raise InputError("there is no request", path="load", fix="give at least one")
    for name, tokens in (("input", input_tokens), ("output", output_tokens)):
        wrong = np.flatnonzero((tokens < 1) | (tokens > 2**30))
        if wrong.size:
            raise InputError(
                f"the {name} of request {wrong[0]} is {tokens[wrong[0]]} tokens",
                path="load",
                fix="give every request at least 1 token, and at most 2^30",
            )
    if (
        arrival_s.min() < 0.0
        or (np.diff(arrival_s) < 0.0).any()
        or not np.isfinite(arrival_s).all()
    ):
        raise InputError(
            "arrivals are not ascending from 0", path="load", fix="sort the requests by arrival"
        )
    mine = np.append(prefix, 0)[group]  # of no group: the last
    short = np.flatnonzero(mine >= input_tokens)
    if short.size:
        raise InputError(
            f"the prefix of request {short[0]} is all of its {input_tokens[short[0]]} tokens",
            path="load",
            fix="share fewer tokens than the shortest prompt has",
        )


#: Requests that are drawn at once at most: they take some gigabytes.
MOST_REQUESTS = 50_000_000


def draw_requests(load: Load, num_requests: int, seed: int = 0) -> Requests:
    """Requests of a load; equal seeds draw the same ones, whatever the rate.

    Raises
    ------
    InputError
        If a figure of the load makes no sense.

    Complexity: O(num_requests).
    """
    if not 1 <= num_requests <= MOST_REQUESTS:
        raise InputError(
            f"{num_requests:,} requests are to be drawn",
            path="num_requests",
            fix=f"draw at least one and at most {MOST_REQUESTS:,}",
        )
    if seed < 0:
        raise InputError(
            f"the seed is {seed}", path="seed", fix="give a whole number of at least 0"
        )
    when, lengths, groups = (
        np.random.default_rng(stream) for stream in np.random.SeedSequence(seed).spawn(3)
    )
    shares = load.prefix_tokens > 0
    return make_requests(
        _arrival_s(load.arrivals, num_requests, when),
        drawn(load.input, num_requests, lengths),
        drawn(load.output, num_requests, lengths),
        group=groups.integers(0, load.prefix_groups, num_requests) if shares else None,
        prefix_tokens=np.full(load.prefix_groups, load.prefix_tokens) if shares else None,
        cached_share=load.cached_share,
        clients=load.arrivals.clients if isinstance(load.arrivals, ClosedLoop) else 0,
    )


def _arrival_s(arrivals: Arrivals, count: int, random: np.random.Generator) -> NDArray[np.float64]:
    if isinstance(arrivals, Poisson | Bursts):
        return arrivals.times_s(count, random)
    if isinstance(arrivals, AtOnce):
        return np.zeros(count)
    if not 1 <= arrivals.clients <= MOST_REQUESTS or arrivals.think_s < 0.0:
        raise InputError(
            f"a closed loop of {arrivals.clients} clients that think {arrivals.think_s:g} s",
            path="arrivals",
            fix=f"give 1 to {MOST_REQUESTS:,} clients and at least 0 s",
        )
    thinking = random.exponential(1.0, count) * arrivals.think_s
    thinking[: arrivals.clients] = 0.0
    return thinking


def fixed_load(arrivals: Arrivals, input_tokens: int, output_tokens: int) -> Load:
    """Requests that are all alike."""
    return Load(arrivals=arrivals, input=Fixed(input_tokens), output=Fixed(output_tokens))

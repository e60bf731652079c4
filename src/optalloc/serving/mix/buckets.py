"""Buckets of a trace: requests of about one size together, with the mean size and the rate."""

from __future__ import annotations

import math
from collections.abc import Sequence

from optalloc.errors import InputError
from optalloc.serving.mix.problem import Bucket


def buckets_of(
    input_tokens: Sequence[int],
    output_tokens: Sequence[int],
    *,
    rate_per_s: float,
    per_doubling: int = 1,
) -> tuple[Bucket, ...]:
    """Group requests by size on a grid of ``per_doubling`` lines a doubling of tokens.

    Parameters
    ----------
    input_tokens, output_tokens : sequence of int, one entry a request
    rate_per_s : float
        Of all requests; each bucket gets its share. Its lengths are the mean of its requests,
        rounded up.

    Raises
    ------
    InputError
        If there is no request, or no rate.

    Complexity: O(requests).
    """
    if not input_tokens or not 0.0 < rate_per_s < float("inf"):
        raise InputError(
            "the trace has no requests, or no rate",
            path="buckets",
            fix="give requests, and a rate above 0 requests/s",
        )
    groups: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for size in zip(input_tokens, output_tokens, strict=True):
        cell = (_line(size[0], per_doubling), _line(size[1], per_doubling))
        groups.setdefault(cell, []).append(size)
    return tuple(
        Bucket(
            input_len=math.ceil(sum(i for i, _ in sizes) / len(sizes)),
            output_len=math.ceil(sum(o for _, o in sizes) / len(sizes)),
            rate_per_s=rate_per_s * len(sizes) / len(input_tokens),
        )
        for _, sizes in sorted(groups.items())
    )


def _line(tokens: int, per_doubling: int) -> int:
    return math.floor(per_doubling * math.log2(max(1, tokens)))

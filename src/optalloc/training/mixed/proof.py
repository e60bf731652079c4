"""MixedProof: what the search of a mixed cluster hands to whoever checks its bound."""

from __future__ import annotations

import msgspec


class PartProof(msgspec.Struct, frozen=True, kw_only=True):
    """Prices that close one part of the space: ``micro_batch`` sequences a micro-batch, plans on
    ``groups`` alone, with ``least`` to ``most`` replicas.

    ``prices`` are micro-batches: of one device of each of the groups, then of one replica.
    """

    micro_batch: int
    groups: tuple[int, ...]
    least: int
    most: int
    prices: tuple[float, ...]


class MixedProof(msgspec.Struct, frozen=True, kw_only=True):
    """The limits under which was searched and the parts closed by prices; all others are closed by
    the work that they have to do, or by the memory that they lack.

    ``rules`` of recomputation are of plans whose stages all have the same degrees, which need no
    prices; without, stages may differ.
    """

    pin: dict[str, tuple[int, ...]] = {}
    forbid: dict[str, tuple[int, ...]] = {}
    parts: tuple[PartProof, ...] = ()
    rules: tuple[str, ...] = ()

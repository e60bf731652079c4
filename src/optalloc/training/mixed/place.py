"""Which devices each stage of a mixed plan takes."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from optalloc.training.mixed.strategy import Degrees

Range = tuple[int, int]


class Block(msgspec.Struct, frozen=True):
    """Equal stages one after another on one group: ``count`` times ``size`` devices."""

    replica: int
    first: int
    count: int
    degrees: Degrees


def blocks_of(pipelines: Sequence[Sequence[Degrees]]) -> list[Block]:
    """Runs of equal stages of every pipeline."""
    blocks: list[Block] = []
    for replica, stages in enumerate(pipelines):
        for i, degrees in enumerate(stages):
            if i and stages[i - 1] == degrees:
                last = blocks[-1]
                blocks[-1] = msgspec.structs.replace(last, count=last.count + 1)
            else:
                blocks.append(Block(replica, i, 1, degrees))
    return blocks


def place(
    pipelines: Sequence[Sequence[Degrees]], available: Sequence[int], domain: Sequence[int]
) -> list[list[Range]]:
    """Device ranges of all stages, in cluster order.

    A block that counts as near needs its own size as alignment, any other its tp. Those with the
    larger alignment come first; each size is a multiple of its alignment, and alignments are
    powers of two or the domain, so every block begins where it must.

    Complexity: O(stages log stages).
    """
    starts = [sum(available[:g]) for g in range(len(available))]
    placed: list[list[Range]] = [[(0, 0)] * len(stages) for stages in pipelines]

    def alignment(block: Block) -> int:
        size = block.count * block.degrees.num_devices
        near = domain[block.degrees.group]
        if size == near or (near % size == 0 and size & (size - 1) == 0):
            return size
        return block.degrees.tp

    for block in sorted(blocks_of(pipelines), key=lambda b: (-alignment(b), b.replica, b.first)):
        group, size = block.degrees.group, block.degrees.num_devices
        for i in range(block.first, block.first + block.count):
            placed[block.replica][i] = (starts[group], starts[group] + size)
            starts[group] += size
    return placed

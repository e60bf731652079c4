"""Prefixes: what of a prompt other requests may find, as paths down a tree of cache blocks.

The ids of a prompt's blocks are hashes; two prompts share what begins with the same ids. Nodes that
all requests pass together are one (a radix tree): they are used and given up together.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from optalloc.errors import InputError

Longs = NDArray[np.int64]
Ints = NDArray[np.int32]

HASH_BLOCK_TOKENS = 512
"""Tokens of a hashed block, unless said otherwise: those of the Mooncake traces."""


class BlockHashes(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Ids of the blocks of every prompt.

    Parameters
    ----------
    ids : ndarray of int64
        Those of one request after another. Only what comes before decides whether equal ids are
        the same block, so that ids of contents do as well as ids of whole prefixes.
    start : ndarray of int64, shape (N + 1,)
        Where those of each request begin in ``ids``, and the end.
    block_tokens : int
        Tokens of a block; the last one of a prompt may have fewer.
    """

    ids: Longs
    start: Longs
    block_tokens: int = HASH_BLOCK_TOKENS

    def take(self, order: Longs) -> BlockHashes:
        """Those of some requests, in their order."""
        counts = np.diff(self.start)[order]
        start = np.concatenate([[0], np.cumsum(counts)])
        within = np.arange(start[-1]) - np.repeat(start[:-1], counts)
        return msgspec.structs.replace(
            self, ids=self.ids[np.repeat(self.start[order], counts) + within], start=start
        )


class Paths(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """The way of each prompt down the tree, in blocks of the cache.

    Parameters
    ----------
    start : ndarray of int64, shape (N + 1,)
        Where the nodes of each request begin in ``nodes``, and the end.
    nodes : ndarray of int32
        Those of one request after another, each from a root.
    node_blocks : ndarray of int32
        Whole blocks of the cache in each node.
    shared : ndarray of int32, shape (N,)
        Blocks of each path.
    """

    start: Longs
    nodes: Ints
    node_blocks: Ints
    shared: Ints


def hashes_of(lists: list[list[int]], block_tokens: int = HASH_BLOCK_TOKENS) -> BlockHashes:
    """Of a list of ids for each request."""
    start = np.concatenate([[0], np.cumsum([len(ids) for ids in lists], dtype=np.int64)])
    ids = np.fromiter((one for ids in lists for one in ids), np.int64, int(start[-1]))
    return BlockHashes(ids=ids, start=start, block_tokens=block_tokens)


def check_hashes(hashes: BlockHashes, input_tokens: Longs) -> None:
    """Refuse ids that do not fit the prompts.

    Raises
    ------
    InputError
        If a prompt has more of them than it has blocks.
    """
    if hashes.block_tokens < 1:
        raise InputError(
            f"a hashed block has {hashes.block_tokens} tokens",
            path="load",
            fix="give at least 1 token",
        )
    counts, most = np.diff(hashes.start), -(-input_tokens // hashes.block_tokens)
    wrong = np.flatnonzero(counts > most)
    if wrong.size:
        raise InputError(
            f"request {wrong[0]} has {counts[wrong[0]]} hash_ids, and its prompt of "
            f"{input_tokens[wrong[0]]} tokens {most[wrong[0]]} blocks of {hashes.block_tokens}",
            path="load",
            fix="give one id for each block, and the tokens of a block where they are others",
        )


def group_paths(group: Ints, prefix_tokens: Ints, block_tokens: int) -> Paths:
    """Paths of one node each: the prefix of the group; -1: none."""
    node_blocks = prefix_tokens // block_tokens
    mine = np.append(node_blocks, 0)[group]  # of no group: the last
    return Paths(
        start=np.concatenate([[0], np.cumsum(mine > 0, dtype=np.int64)]),
        nodes=group[mine > 0],
        node_blocks=node_blocks.astype(np.int32),
        shared=mine.astype(np.int32),
    )


def hash_paths(hashes: BlockHashes, input_tokens: Ints, block_tokens: int) -> Paths:
    """Paths down the tree of all ids, in blocks of ``block_tokens``.

    Complexity: O(n log n) for n ids, a level of the tree at a time.
    """
    size, lengths, total = hashes.block_tokens, np.diff(hashes.start), hashes.ids.size
    ids, spread = _numbered(hashes, input_tokens)
    node, ends = np.full(lengths.size, -1), np.zeros(total, np.int64)
    passing, runs = np.zeros(total + 1, np.int64), np.full(total + 1, -1)
    begins, run_of = np.zeros(total, np.bool_), np.zeros(total, np.int64)
    nodes = num_runs = 0
    for depth in range(int(lengths.max(initial=0))):
        alive = np.flatnonzero(lengths > depth)
        at = hashes.start[alive] + depth
        above = node[alive]
        _, first, inverse, counts = np.unique(
            (above + 1) * spread + ids[at],
            return_index=True,
            return_inverse=True,
            return_counts=True,
        )
        parent = above[first]
        new = (parent < 0) | (passing[parent] != counts)
        runs[nodes : nodes + counts.size] = np.where(
            new, num_runs + np.cumsum(new) - 1, runs[parent]
        )
        passing[nodes : nodes + counts.size] = counts
        node[alive] = nodes + inverse
        begins[at], run_of[at] = new[inverse], runs[node[alive]]
        ends[run_of[at]] = np.minimum((depth + 1) * size, input_tokens[alive])
        nodes += counts.size
        num_runs += int(new.sum())
    depths = np.arange(total) - np.repeat(hashes.start[:-1], lengths)
    begin = np.zeros(num_runs, np.int64)
    begin[run_of[begins]] = depths[begins] * size
    node_blocks = ends[:num_runs] // block_tokens - begin // block_tokens
    kept = begins.copy()
    kept[begins] = node_blocks[run_of[begins]] > 0
    start = np.concatenate([[0], np.cumsum(kept)])[hashes.start]
    mine = np.concatenate([[0], np.cumsum(node_blocks[run_of[kept]])])
    return Paths(
        start=start,
        nodes=run_of[kept].astype(np.int32),
        node_blocks=node_blocks.astype(np.int32),
        shared=np.diff(mine[start]).astype(np.int32),
    )


def _numbered(hashes: BlockHashes, input_tokens: Ints) -> tuple[Longs, int]:
    """Ids numbered from 0, those of blocks of unequal lengths apart, and their number."""
    ids: Longs
    _, ids = np.unique(hashes.ids, return_inverse=True)
    count = int(ids.max(initial=-1)) + 1
    lengths = np.diff(hashes.start)
    tokens = input_tokens - (lengths - 1) * hashes.block_tokens
    partial = np.flatnonzero((lengths > 0) & (tokens < hashes.block_tokens))
    if not partial.size:
        return ids, count
    last = hashes.start[partial + 1] - 1
    _, apart = np.unique(ids[last] * hashes.block_tokens + tokens[partial], return_inverse=True)
    ids = ids.copy()
    ids[last] = count + apart
    return ids, count + int(apart.max()) + 1

"""stage_ends: when each stage of a pipeline ends, computed wave by wave for one plan or for many.

The operations of a schedule are laid out in waves so that whatever an operation waits for lies in
an earlier wave. Number stages from the last, q = p - 1 - i, and let stage q run forward ``n`` in
the same pair as backward ``n - w``:

    GPipe            forwards in wave n + i, then backwards in wave n + q
    1F1B, ZB-H1      w = q;                forward n in wave 2 n - q,  backward j in 2 j + q + 1
    interleaved      w = 2 q + (v - 1) p;  pair r = n - w = j in wave r + q, forward first

In 1F1B forward n of stage q waits for that of stage q + 1, one wave earlier, and backward j for
that of stage q - 1, one wave earlier. So it is in the interleaved order, where pair r of stage q
stands beside pair r - 2 of stage q + 1; and a chunk's result goes round from the last stage to the
first p turns on, that is from pair r to r - (p - 2) and from wave r to r + 1. A wave is a handful
of array operations over all its stages.

Times are added in the order of :func:`optalloc.training.schedule.run_pipeline`, so both agree to
the last bit. No code is shared with the native event clock.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from optalloc.training.strategy import Schedule

Array = NDArray[np.float64]


def stage_ends(
    schedule: Schedule,
    num_stages: int,
    num_microbatches: int,
    forward_s: Array,
    backward_s: Array,
    weight_s: Array,
    link_s: Array,
) -> Array:
    """End of the last operation of each stage, seconds.

    Parameters
    ----------
    forward_s, backward_s, weight_s : array, shape (chunks, ...)
        Times of one micro-batch on each chunk in model order, seconds; trailing axes are separate
        pipelines of the same schedule.
    link_s : array, shape (chunks - 1, ...)
        Time from each chunk to the next one, either way, seconds.

    Returns
    -------
    array, shape (num_stages, ...)

    Complexity: O(p m v) numbers in O(p + m v) waves.
    """
    if schedule == "interleaved":
        whole = backward_s + weight_s
        return _interleaved(num_stages, num_microbatches, forward_s, whole, link_s)
    f, w = forward_s[::-1], weight_s[::-1]
    split = schedule == "zb-h1"
    b = backward_s[::-1] if split else backward_s[::-1] + w
    link = np.concatenate([np.zeros_like(f[:1]), link_s[::-1], np.zeros_like(f[:1])])
    if schedule == "gpipe":
        return _gpipe(num_microbatches, f, b, link)[::-1]
    free = _one_f_one_b(num_microbatches, f, b, w if split else None, link)
    if split:
        for late in range(min(num_microbatches, num_stages)):
            rows = slice(0, num_stages - 1 - late)  # stage i has min(m, i) weight gradients left
            free[rows] = free[rows] + w[rows]
    return free[::-1]


def _gpipe(m: int, f: Array, b: Array, link: Array) -> Array:
    """All forwards, then all backwards; row q is the q-th stage from the last.

    ``link[q]`` joins rows q - 1 and q.
    """
    p = len(f)
    free = np.zeros_like(f)
    ends = np.zeros((p + 2, *f.shape[1:]))  # row q + 1 holds stage q, with a border of zeros
    for wave in range(m + p - 1):  # forward wave - i of stage i = p - 1 - q
        low, high = max(0, p - 1 - wave), min(p, p + m - 1 - wave)
        start = np.maximum(free[low:high], ends[low + 2 : high + 2] + link[low + 1 : high + 1])
        free[low:high] = ends[low + 1 : high + 1] = start + f[low:high]
    ends[0] = 0.0
    for wave in range(m + p - 1):
        low, high = max(0, wave - m + 1), min(p, wave + 1)
        start = np.maximum(free[low:high], ends[low:high] + link[low:high])
        free[low:high] = ends[low + 1 : high + 1] = start + b[low:high]
    return free


def _one_f_one_b(m: int, f: Array, b: Array, w: Array | None, link: Array) -> Array:
    """1F1B, with weight gradients ``w`` apart (ZB-H1) where given; rows as in :func:`_gpipe`."""
    p = len(f)
    free = np.zeros_like(f)
    sent = np.zeros((p + 1, *f.shape[1:]))  # end of the newest forward of stage q
    back = np.zeros((p + 1, *f.shape[1:]))  # end of the newest backward of stage q - 1
    for wave in range(1 - p, 2 * m + p - 1):
        low, high = max(0, -wave), min(p - 1, 2 * (m - 1) - wave)  # 0 <= n = (wave + q) / 2 < m
        low += (wave + low) % 2
        if low <= high:
            rows, before = slice(low, high + 1, 2), slice(low + 1, high + 2, 2)
            free[rows] = sent[rows] = np.maximum(free[rows], sent[before] + link[before]) + f[rows]
        low, high = max(0, wave - 1 - 2 * (m - 1)), min(p - 1, wave - 1)
        low += (wave - 1 - low) % 2
        if low <= high:
            rows, after = slice(low, high + 1, 2), slice(low + 1, high + 2, 2)
            end = np.maximum(free[rows], back[rows] + link[rows]) + b[rows]
            free[rows] = back[after] = end
            if w is not None:  # behind backward j of stage i where j >= i: q >= 2 p - 1 - wave
                least = max(low, 2 * p - 1 - wave)
                least += (least - low) % 2
                some = slice(least, high + 1, 2)
                free[some] = free[some] + w[some]
    return free


def _interleaved(p: int, m: int, f: Array, b: Array, link: Array) -> Array:
    """Groups of p micro-batches pass chunk by chunk; rows are stages in model order."""
    v, total = len(f) // p, m * (len(f) // p)
    zero = np.zeros_like(f[:1])
    into = np.concatenate([zero, link])  # of a forward, by chunk
    out = np.concatenate([link, zero])  # of a backward
    stages = np.arange(p)
    free = np.zeros((p, *f.shape[1:]))
    # Ends of the newest operations: `sent[i]` is of stage i - 1, `back[i]` of stage i.
    sent, back = np.zeros((2, p + 1, *f.shape[1:]))
    last = np.zeros((total + p, *f.shape[1:]))  # forwards of the last stage, p turns on
    first = np.zeros((total + p, *f.shape[1:]))  # backwards of the first stage, p turns on
    turn = (
        stages[::-1] + (v - 1) * p
    )  # of stage i in wave 0; pairs lie stages[::-1] behind the wave
    for wave in range(-(v * p - 1), total + p - 1):
        low, high = max(0, wave + v * p - total), min(p, wave + v * p)
        if low < high:
            n = wave + turn[low:high]
            chunk = n % (p * v) // p * p + stages[low:high]
            if low == 0:
                sent[0] = last[n[0]] if chunk[0] else 0.0
            end = np.maximum(free[low:high], sent[low:high] + into[chunk]) + f[chunk]
            free[low:high] = sent[low + 1 : high + 1] = end
            if high == p:
                last[n[-1] + p] = end[-1]
        low, high = max(0, p - 1 - wave), min(p, total + p - 1 - wave)
        if low < high:
            n = wave - stages[::-1][low:high]
            chunk = (v - 1 - n % (p * v) // p) * p + stages[low:high]
            if high == p:
                back[p] = first[n[-1]] if chunk[-1] < p * v - 1 else 0.0
            end = np.maximum(free[low:high], back[low + 1 : high + 1] + out[chunk]) + b[chunk]
            free[low:high] = back[low:high] = end
            if low == 0:
                first[n[0] + p] = end[0]
    return free

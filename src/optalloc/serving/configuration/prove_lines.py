"""Lines: a request's seconds for given seconds of a token, for the proof.

All terms of the closed loop of a row but the queue grow with t; f of q requests a rank are held, P
seconds read a prompt, E <= P more a further one, A = (O - 1) t are an answer:

    ttft - queue = P + lag t + burst (f - 1) / 2 E + (q / f - 1) (P + A) + min(outside, q - 1) / q A

Prompts are read for the share x = min(0.95, (q - 1) E / whole) of the time, whole being all but the
queue, which takes min(queue P x / 2 (1 - x), (q - 1) E): the less the longer the whole. So the
sequences that decode, D = q A / (whole + queue), grow with t. Along f = min(q, M) they grow with q
too but for the queue, for whole / q falls (burst < 2) and x grows: with the queue of the largest q
and all else of the smallest, D is at most that of any between.

Whatever the row, ttft >= q r - A, with r the model's least seconds of a prompt divided by pp. So a
request takes q r or what its own terms make, whichever is longer, but for roundings; and where q r
is as long as another row takes, no row is faster.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from optalloc.serving.configuration.prove_space import Floats, Ints
from optalloc.serving.configuration.prove_tokens import LESS

ROUNDINGS = 1e-14  # more than a few of them
_LONGEST = 0.95


class Requests(NamedTuple):
    """Requests a rank, those of them that it holds, and those outside as a share of all."""

    q: Floats
    fit: Floats
    outside: Floats


class Lines(NamedTuple):
    """What the times of many rows with one chunk are made of, an array of one entry a row."""

    room: Floats
    prompt_s: Floats
    each_s: Floats
    lag: Floats
    outside: Floats
    burst: Floats
    queue: Floats
    read: Floats

    def at(self, index: Ints | tuple[slice, None]) -> Lines:
        return Lines(*(column[index] for column in self))

    def left_out(self, q: Floats) -> Floats:
        """The share of the requests that stays outside."""
        return np.minimum(self.outside, q - 1.0) / q

    def all_read_s(self, q: Floats) -> Floats:
        """Seconds of a request at least: those of the prompts of all."""
        seconds: Floats = q * self.read
        return seconds * (1.0 - ROUNDINGS)

    def first_s(self, token_s: Floats, answers: float, load: Requests) -> Floats:
        """Seconds to the first token, but for the queue."""
        answer, others = answers * token_s, load.q / load.fit - 1.0
        start = self.burst * (load.fit - 1.0) / 2.0 * self.each_s
        slots = others * (self.prompt_s + answer)
        return self.prompt_s + self.lag * token_s + start + slots + load.outside * answer

    def queue_s(self, whole_s: Floats, q: Floats) -> Floats:
        """Seconds in the queue where all else takes so long."""
        reads = (q - 1.0) * self.each_s
        busy = np.minimum(reads / whole_s, _LONGEST)
        return np.minimum(reads, self.queue * self.prompt_s / 2.0 * busy / (1.0 - busy))

    def wait_s(self, whole_s: Floats, q: Floats) -> Floats:
        """What the queue adds at least where all else takes ``whole_s`` or more, less what is more.

        With r = (q - 1) E seconds of reading in w, w >= whole, and k = queue P / 2, it is at most k
        x / (1 - x) of x = r / w: w + k r / (w - r) is least at w = r + (k r)^(1/2).
        """
        reads, weight = (q - 1.0) * self.each_s, self.queue * self.prompt_s / 2.0
        at = np.maximum(whole_s, reads + np.sqrt(weight * reads))
        least = at - whole_s + weight * reads / np.maximum(at - reads, 1e-30)
        most = np.minimum(weight * _LONGEST / (1.0 - _LONGEST), reads)
        return np.minimum(most, least) * LESS

    def decoding(self, token_s: Floats, answers: float, few: Requests, many: Requests) -> Floats:
        """Sequences that decode at least with any number of requests from ``few`` to ``many``."""
        answer = answers * token_s
        queue = self.queue_s(self.first_s(token_s, answers, many) + answer, many.q)
        whole = self.first_s(token_s, answers, few) + answer + queue
        return np.maximum(1.0, few.q * answer / whole)

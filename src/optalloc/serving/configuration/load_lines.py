"""Lines: what the time of a request is made of where the time of a token is given.

With q requests a rank of which f fit, P seconds of a prompt, E <= P of one read with another, t of
a token, A = (O - 1) t of an answer of O tokens and x = min(outside, q - 1) / q, the closed loop of
:mod:`optalloc.cost.engine.load` is

    request  = W + wait,   W = (q/f) (P + A) + lag t + burst (f - 1)/2 E + x A          (whole_s)
    wait     = min( queue P share / 2 (1 - share), (q - 1) E )
    share    = min( 0.95, (q - 1) E / W )                                               (waits_s)
    decoding = q A / request                                                            (decoding)

W grows with t and the wait falls, so the decoding sequences grow with t. They grow with q too, f
being the batch or q, but for the wait: W / q falls and the share grows. So with the wait of the
most requests and all else of the fewest, no load between has fewer.

No engine answers more requests than it reads prompts: with R the least seconds of a prompt, one for
all chunks and batches, the model takes the larger ttft of this and q R / pp - A, hence

    request >= q R / pp                                                                 (reads_s)

and this to the last rounding wherever it is more than what is above, and ttft >= q R / pp - A.
"""

from __future__ import annotations

from typing import NamedTuple, Self

import numpy as np

from optalloc.serving.configuration.columns import Floats, Ints

ROUNDED = 1.0 - 1e-14  # less than a few roundings take off
_BUSIEST = 0.95  # share of time that reads prompts, at most: a limit of the model


class Load(NamedTuple):
    """Requests in flight of a rank, those that fit, and the share of all that waits outside."""

    q: Floats
    fit: Floats
    outside: Floats


class Lines(NamedTuple):
    """The figures of many rows with one chunk; an array of one entry a row each."""

    room: Floats
    prompt_s: Floats
    each_s: Floats
    lag: Floats
    burst: Floats
    outside: Floats
    queue: Floats
    pp: Floats
    read_s: Floats  # R / pp

    def at(self, index: Ints | tuple[slice, None]) -> Self:
        """The entries of some rows."""
        return type(self)(*(column[index] for column in self))

    def outside_share(self, q: Floats) -> Floats:
        """The share of the requests that the server leaves outside."""
        return np.minimum(self.outside, q - 1.0) / q

    def reads_s(self, q: Floats) -> Floats:
        """Seconds of a request at least, for as many prompts are read; see :data:`ROUNDED`."""
        found: Floats = q * self.read_s * ROUNDED
        return found

    def whole_s(self, token_s: Floats, answer: float, load: Load) -> Floats:
        """Seconds of a request but for the wait; least where ``token_s`` is."""
        answer_s = answer * token_s
        start = self.burst * (load.fit - 1.0) / 2.0 * self.each_s
        slots = load.q / load.fit * (self.prompt_s + answer_s)
        return slots + self.lag * token_s + start + load.outside * answer_s

    def waits_s(self, whole_s: Floats, q: Floats) -> Floats:
        """The wait where all else takes so long; the least where that is the most."""
        reads = (q - 1.0) * self.each_s
        share = np.minimum(_BUSIEST, reads / whole_s)
        return np.minimum(self.queue * self.prompt_s * share / (2.0 * (1.0 - share)), reads)

    def least_wait_s(self, whole_s: Floats, q: Floats) -> Floats:
        """The least wait, and what is above ``whole_s``, where the rest takes so long or longer.

        With r = (q - 1) E and k = queue P / 2 it is k r / (w - r) for the rest w; the sum of both
        is least at w = r + (k r)^(1/2).
        """
        reads, weight = (q - 1.0) * self.each_s, self.queue / 2.0 * self.prompt_s
        root = np.sqrt(weight * reads)
        busiest = weight * _BUSIEST / (1.0 - _BUSIEST)
        least = np.where(
            whole_s >= reads + root,
            weight * reads / np.maximum(whole_s - reads, 1e-30),
            reads + 2.0 * root - whole_s,
        )
        return np.minimum(np.minimum(busiest, reads), least)

    def decoding(self, token_s: Floats, answer: float, low: Load, high: Load) -> Floats:
        """The sequences that decode where a token takes so long: no fewer under any load from
        ``low`` to ``high``, and as many where these are one."""
        waits = self.waits_s(self.whole_s(token_s, answer, high), high.q)
        whole_s = self.whole_s(token_s, answer, low) + waits
        return np.maximum(1.0, low.q * answer * token_s / whole_s)

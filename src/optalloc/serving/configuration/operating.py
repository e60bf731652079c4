"""Operating: rates and times of prefill and decode workers together, as functions of their numbers.

See :mod:`split` for the formulas.
"""

from __future__ import annotations

import numpy as np

from optalloc.serving.configuration.columns import Floats, Ints
from optalloc.serving.configuration.problem import BUSIEST, Problem
from optalloc.serving.configuration.workers import Decode, Prefill


class Operating:
    """Rates and times of pairs of workers, as functions of their numbers (all arrays)."""

    def __init__(
        self, problem: Problem, prefill: Prefill, decode: Decode, link_bytes_per_s: Floats | float
    ) -> None:
        self.problem, self.prefill, self.decode = problem, prefill, decode
        self.move_s = move_s = prefill.bytes / link_bytes_per_s + prefill.handover_s
        self.answer_s = (problem.workload.output_len - 1.0) * decode.tpot_s
        self.fixed_s = prefill.prompt_s + move_s + prefill.lag * decode.tpot_s
        self.wait_s = prefill.queue * prefill.prompt_s / 2.0
        self.half = prefill.burst / 2.0
        self.decode_per_s = decode.places / np.maximum(self.answer_s + move_s, 1e-12)

    def ttft_s(self, busy: Floats) -> Floats:
        """The time to the first token while prefill is busy for this share of the time."""
        plain = self.fixed_s + self.wait_s * busy / (1.0 - busy)
        found: Floats = (plain + self.half * busy * self.answer_s) / (1.0 - self.half * busy)
        return found

    @property
    def busiest(self) -> Floats:
        """The largest share of busy time that meets the target; negative where none does.

        ``ttft_s`` grows with x, and reaches the target where a quadratic equation says.
        """
        target = self.problem.ttft_s
        if np.isinf(target):
            return np.full(len(self.answer_s), BUSIEST)
        free = target - self.fixed_s
        both = self.half * (self.answer_s + target)
        linear = free + self.wait_s + both
        root = np.sqrt(np.maximum(0.0, linear**2 - 4.0 * both * free))
        reached = 2.0 * free / np.maximum(linear + root, 1e-300)
        found: Floats = np.minimum(BUSIEST, np.where(free >= 0.0, reached, -1.0))
        return found

    def at(self, num_prefill: Ints, num_decode: Ints) -> tuple[Floats, Floats, Floats]:
        """Requests per second, ttft (s) and busy share of prefill with so many workers."""
        most = num_prefill * self.prefill.per_s
        work = self.problem.workload
        with np.errstate(divide="ignore", invalid="ignore"):
            if work.concurrency is not None:
                busy = np.minimum(self.in_flight(num_prefill), BUSIEST)
                rate = np.minimum(busy * most, num_decode * self.decode_per_s)
                return rate, work.concurrency / rate - self.answer_s, rate / most
            if self.problem.objective == "latency" and work.rate_per_s is None:  # one alone
                zero = np.zeros(len(most))
                ttft = self.ttft_s(zero)
                return 1.0 / (ttft + self.answer_s), ttft, zero
            rate = np.minimum(self.busiest * most, num_decode * self.decode_per_s)
            busy = rate / most
            if work.rate_per_s is not None and self.problem.objective != "throughput":
                busy = np.minimum(busy, self.problem.asked_per_s / most)
            return rate, self.ttft_s(np.maximum(busy, 0.0)), busy

    def in_flight(self, num_prefill: Ints) -> Floats:
        """The busy share of prefill under the given concurrency, if the decode workers kept up:
        the root in (0, 1) of the quadratic that Little's law gives."""
        requests = float(self.problem.workload.concurrency or 0)
        most = num_prefill * self.prefill.per_s
        whole = self.fixed_s + self.half * requests / most + self.answer_s
        linear = most * whole + requests
        square = most * (self.wait_s - whole)
        root = np.sqrt(np.maximum(0.0, linear**2 + 4.0 * square * requests))
        found: Floats = 2.0 * requests / np.maximum(linear + root, 1e-300)
        return found

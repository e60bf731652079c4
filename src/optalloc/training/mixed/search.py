"""The exact search: a native search for each set of groups, ring of replicas and micro-batch.

Method
------
A *part* of the space fixes the micro-batch size, the groups that may be used, and a range of R; a
range in which costs differ is *relaxed*: each replica costs what it costs with the cheapest number.
Within a part the native search (``native/training/mixed*.cpp``) answers: is there a plan of at most
T seconds? A *shape* is a sequence of blocks; n(shape) is the greatest number of micro-batches that
it takes in T. The question is whether some packing of shapes into the devices takes M in all.

- Bounds of n: all work at the best rates of the kinds; then, for kinds of one group and size as
  one family and then for each kind, by counts: with no stage longer than beta and no tail longer
  than theta, can the stages hold as many layers as there are, for some theta of a grid and the beta
  it leaves? Then the least bottleneck over all cuts; then exact, by a dynamic programme over
  (stage, layers done) that keeps the undominated (S, beta, theta).
- Prices: the linear relaxation of the packing (devices of each group and R as rows) is solved by
  column generation. Its dual gives each device a price. Scaled until the whole cluster costs just
  less than M, these refute T if no shape takes more micro-batches than its devices cost; each shape
  is tested against its own price alone, by the cheapest bound that decides.
- Single pipelines of a few kinds (:func:`seeds`) come before all else: a plan within a second.
- A look at each part finds plans first: the shapes of the relaxation alone are packed, and T falls
  by a part of what the relaxation has to spare, until they make no plan or T is refuted.
- Where the relaxation reaches M a dynamic programme over (replicas, devices used of each group)
  packs the shapes that waste, by the prices, no more than the relaxation has to spare: first those
  that waste a share of it, which may be enough for a plan. A relaxed part that can be packed is
  split, its halves go on with the bounds and prices found.

Why it is exact
---------------
Prices p >= 0 with p * devices + q * R < M and n(shape) <= p * (devices of the shape) + q for every
shape leave no packing that takes M: no plan of the part has J <= T. Bounds never fall below n, and
costs in a relaxed part are no greater than in its halves. If the packing takes M with exact shapes,
it is a plan; if it does not, shapes left out waste more than the difference of the relaxation and
M. Costs depend on the groups used alone through the slowest link and the fixed time, which grow
with the set: a plan found among more groups than it uses is worth no less in its own part, so the
least over all parts is the optimum. T rises from the greatest lower bound until there is a plan,
then it is the best plan's time; each round ends in a better plan, or in the proof that T is a lower
bound of all plans.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import msgspec
import numpy as np

from optalloc import _native
from optalloc.interrupt import in_thread
from optalloc.result import Incumbent
from optalloc.stop import OnProgress, Progress, StopRule
from optalloc.training.mixed.parts import Part, Row, parts_of, seeds
from optalloc.training.mixed.problem import MixedProblem, Replica
from optalloc.training.mixed.proof import PartProof

NONE, FOUND, LIMIT, TOO_LARGE, SPLIT = range(5)
# Targets as multiples of the first bound.
_TARGETS = (1.15, 1.3, 1.6, 2.5, 6.0, 1e2, 1e4)
# This multiple of a part's own bound stands for no limit at all: what takes a million times the
# work at its best has no plan for want of memory, not of time.
_NO_LIMIT = 1e6
# A plan must be better by this share to replace another.
TIE = 1e-9
# The next target of a look: this share of the way to where the relaxation may end, at least a step.
_HASTE, _STEP = 0.6, 1e-3
# With few groups a plan within this multiple of the first bound is near enough for no other target
# than its time; with more, lower targets give a search that is stopped a better bound.
_NEAR, _FEW_GROUPS = 1.6, 3
# A first plan is sought below this multiple of a part's bound, then anywhere, in coarse steps.
_FIRST, _COARSE = 2.0, 1e-2
# Programmes of a range of replicas before it is split.
MOST_SOLVED = 2_000


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What the search found and proved.

    ``open`` parts were too large to close; ``closed`` are those that prices close.
    """

    value: float | None
    problem: MixedProblem | None
    replicas: tuple[Replica, ...]
    bound: float | None
    parts: int
    open: int
    shapes: int
    solved: int
    pruned: dict[str, int]
    incumbents: tuple[Incumbent, ...]
    stopped: bool
    closed: tuple[PartProof, ...] | None = None


def in_order(parts: Iterable[Part]) -> list[Part]:
    """One replica before many, which take longer; the least bound first."""
    return sorted(parts, key=lambda part: (part.most > 1, part.bound))


class Search:
    """Rounds of rising targets over the parts, with the incumbent shared among them."""

    def __init__(
        self,
        problems: Sequence[MixedProblem],
        *,
        most_replicas: int | None = None,
        stop: StopRule | None = None,
        on_progress: OnProgress | None = None,
        ceiling_s: float = float("inf"),
    ) -> None:
        self.parts = parts_of(problems, most_replicas)
        self.stop, self.on_progress = stop, on_progress
        self.ceiling_s = ceiling_s
        self.begin = time.perf_counter()
        self.cancel = np.zeros(1, np.int32)
        self.value: float | None = None
        self.found: tuple[MixedProblem, tuple[Replica, ...]] | None = None
        self.incumbents: list[Incumbent] = []
        self.shapes = self.refined = self.solved = 0
        self.pruned: dict[str, int] = {}
        self.floor: float | None = None
        self.stopped = False

    def run(self) -> Outcome:
        """Search until the proof, the stop rule, or the keyboard."""
        waiting = in_order(part for part in self.parts if part.bound < np.inf)
        self._seed(waiting)
        first = min((part.bound for part in waiting), default=0.0)
        last = max((part.bound for part in waiting), default=0.0)
        near = first * _NEAR * (max((len(part.used) for part in waiting), default=0) <= _FEW_GROUPS)
        for target in (*(first * factor for factor in _TARGETS), last * _NO_LIMIT * 10.0):
            if self.stopped:
                break
            if self.value is not None and target < self.value <= near:
                continue
            try:
                waiting = self._round(waiting, target)
            except KeyboardInterrupt:  # between two calls: what is open stays so
                self.stopped = True
            self.floor = min((part.bound for part in waiting), default=None)
            self._report()
            if not waiting or self.stopped:
                break
        left = [part for part in waiting if part.bound < self._goal()]
        bound = min((part.bound for part in left), default=self.value)
        if bound is not None and self.value is not None:
            bound = min(bound, self.value)
        return Outcome(
            value=self.value,
            problem=None if self.found is None else self.found[0],
            replicas=() if self.found is None else self.found[1],
            bound=bound,
            parts=len(self.parts),
            open=sum(part.too_large_s < np.inf for part in left),
            shapes=self.shapes,
            solved=self.solved,
            pruned=self.pruned,
            incumbents=tuple(self.incumbents),
            stopped=self.stopped or bool(left),
            closed=tuple(entry for part in self.parts for entry in part.closed),
        )

    def _seed(self, waiting: Sequence[Part]) -> None:
        """Good plans before any proof."""
        try:
            for part in seeds(waiting):
                for target in (part.bound * _FIRST, np.inf):
                    goal = min(target, self._goal(), part.bound * _NO_LIMIT)
                    if self.stopped or goal <= part.bound or (target == np.inf and self.found):
                        break
                    self._improve(part, goal, _COARSE)
                    part.close()
        except KeyboardInterrupt:  # between two calls
            self.stopped = True

    def _improve(self, part: Part, goal: float, step: float) -> int:
        """The best plan of a part below a goal, to a share, or the proof that there is none."""
        search = partial(part.native().improve, goal - part.fixed_s, step, self.cancel)
        status, value, rows = self._run(search)
        if rows:
            replicas = part.replicas(rows)
            # With fewer groups than allowed the exchange and the fixed time are no longer.
            self._offer(part, min(part.problem.evaluate(replicas), value + part.fixed_s), replicas)
        return status

    def _round(self, waiting: list[Part], target: float) -> list[Part]:
        """What is open of the parts once each was searched up to a target."""
        later = []
        single = [part for part in waiting if part.most == 1]
        several = [part for part in waiting if part.most > 1]
        for parts in (single, several):  # the first take little time
            for part in several if parts is several else ():
                if self._is_open(part, target):
                    self._look(part, target)
            for part in parts:
                closed = self._close(part, target) if self._is_open(part, target) else None
                if closed is not None:
                    part.closed, part.bound = closed, max(part.bound, target)
                if part.bound < min(self._goal(), part.work_bound * _NO_LIMIT):
                    later.append(part)
                elif part.closed:
                    self._count("packing bound" if self.value is not None else "memory")
                else:
                    self._count("work bound")
        return in_order(later)

    def _goal(self) -> float:
        """Plans at or above this are of no interest."""
        value = float("inf") if self.value is None else self.value * (1.0 - TIE)
        return min(value, self.ceiling_s)

    def _is_open(self, part: Part, target: float) -> bool:
        """Whether a part may have plans of at most ``target``, and is not too large to find out."""
        return part.bound < min(target, self._goal()) < part.too_large_s

    def _look(self, part: Part, target: float) -> None:
        """Plans within falling targets, of shapes that the relaxation of a part uses, or the proof
        that the part has none.

        Replicas are worth what they cost together, not what the cheapest number of them would.
        """
        goal = min(target, self._goal())
        while not self.stopped:
            native = part.native()
            within = goal - part.fixed_s
            status, value, rows = self._run(partial(native.look, within, self.cancel))
            if status == NONE:
                part.bound, part.closed = max(part.bound, goal), (part.proof(),)
            if not rows:
                break
            replicas = part.replicas(rows)
            true = part.problem.evaluate(replicas)
            if true == np.inf and self.value is None:  # so few replicas need more memory
                for half in part.halves():
                    if self.value is None:
                        self._look(half, goal)
                break
            self._offer(part, true, replicas)
            spare = 1.0 - part.problem.num_microbatches / native.bound()
            within = min(value * (1.0 - _STEP), within * (1.0 - _HASTE * spare))
            goal = min(within + part.fixed_s, self._goal())
        part.close()

    def _offer(self, part: Part, value: float, replicas: tuple[Replica, ...]) -> None:
        """A plan that replaces the incumbent if it is better."""
        if value < self._goal():
            self.value, self.found = value, (part.problem, replicas)
            elapsed = time.perf_counter() - self.begin
            self.incumbents.append(Incumbent(elapsed_s=elapsed, value=value))

    def _close(self, part: Part, target: float) -> tuple[PartProof, ...] | None:
        """The proof that a part has no plan of at most ``target`` that is better than the
        incumbent, which any such plan becomes; None if there is none yet."""
        if self.stopped:
            return None
        goal = min(target, self._goal())
        if part.is_relaxed:
            refute = partial(part.native().refute, goal - part.fixed_s, MOST_SOLVED, self.cancel)
            status, _, _ = self._run(refute)
        else:
            status = self._improve(part, goal, TIE)
        closed: tuple[PartProof, ...] | None = None
        if status in (NONE, FOUND):
            closed = (part.proof(),)
        elif status == SPLIT:
            halves = part.halves()
            found = [self._close(half, target) for half in halves]
            part.too_large_s = min(half.too_large_s for half in (part, *halves))
            if None not in found:
                closed = tuple(entry for own in found for entry in own or ())
        elif status == TOO_LARGE:
            part.too_large_s = min(part.too_large_s, goal)
        part.close()
        return closed

    def _run(self, search: Callable[[], _native.MixedAnswer]) -> tuple[int, float, list[Row]]:
        """A native search in a thread, so that the stop rule and the keyboard can end it."""
        answer = in_thread(search, self.cancel, should_stop=self._should_stop)
        if self._should_stop():
            self.cancel[0] = 1
            self.stopped = True
        status, value, rows, shapes, refined, solved, _ = answer
        self.shapes, self.refined = self.shapes + shapes, self.refined + refined
        self.solved += solved
        self.stopped = self.stopped or status == LIMIT
        return status, value, rows

    def _should_stop(self) -> bool:
        return self.stop is not None and self.stop(self._progress())

    def _progress(self) -> Progress:
        return Progress(
            elapsed_s=time.perf_counter() - self.begin,
            incumbent=self.value,
            bound=self.floor,
            nodes=self.solved,
        )

    def _report(self) -> None:
        if self.on_progress is not None:
            self.on_progress(self._progress())

    def _count(self, name: str) -> None:
        self.pruned[name] = self.pruned.get(name, 0) + 1

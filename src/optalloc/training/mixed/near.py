"""Plans near the best of a mixed cluster, one for each way of using it.

Formulation
-----------
A *way* is a micro-batch size, a set of groups G that may be used, and a number of replicas R (above
eight the numbers that share the optimizer alike count as one). For each way w

    v_w = min J_G(x)   over the plans x of w,   J_G: gradients are exchanged over the links of G

and the plan that attains it, if v_w <= ceiling and it uses all of G.

Why it is complete
------------------
A plan x of value J(x) <= ceiling that uses exactly the groups G has a way w with v_w <= J_G(x) =
J(x). The plan y of w that attains v_w uses G or fewer groups; with fewer it is a plan of the way of
those, of no greater value there, since links and fixed time only grow with the groups. So some
listed plan has the micro-batch size and the replicas of x, uses no other groups, and takes no
longer. Ranges of R that hold no plan within the ceiling are closed together, each replica costing
what it costs with the cheapest number; what is left is searched number by number, as in
:mod:`optalloc.training.mixed.search`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import msgspec

from optalloc.stop import Progress, StopRule
from optalloc.training.mixed.parts import Part
from optalloc.training.mixed.problem import MixedProblem, Replica, rings
from optalloc.training.mixed.search import (
    MOST_SOLVED,
    SPLIT,
    TIE,
    TOO_LARGE,
    Outcome,
    Search,
    in_order,
)

Way = tuple[int, tuple[int, ...], int]
"""Micro-batch size, groups, the smallest number of replicas that costs the same."""


class Near(msgspec.Struct, frozen=True, kw_only=True):
    """The best plan of one way."""

    problem: MixedProblem
    replicas: tuple[Replica, ...]
    value: float

    @property
    def way(self) -> Way:
        """What it uses."""
        return way_of(self.problem, self.replicas)


def way_of(problem: MixedProblem, replicas: Sequence[Replica]) -> Way:
    """The way of a plan."""
    groups = tuple(problem.groups_of(replicas))
    return problem.micro_batch, groups, rings(len(replicas))[0]


class NearSearch(Search):
    """The best plan of every way that has one within the ceiling.

    Parameters
    ----------
    problems : sequence of MixedProblem
        Those of the search for the best plan.
    after : Outcome
        What that search found; its programmes count on.
    ceiling_s : float
        The longest step of interest, seconds.
    begin : float
        When the clock of the stop rule began, ``time.perf_counter()``.
    """

    def __init__(
        self,
        problems: Sequence[MixedProblem],
        after: Outcome,
        *,
        ceiling_s: float,
        begin: float,
        stop: StopRule | None = None,
    ) -> None:
        super().__init__(problems, stop=stop, ceiling_s=ceiling_s)
        self.begin, self.solved = begin, after.solved
        self.near: list[Near] = []
        self.open = False

    def plans(self) -> tuple[tuple[Near, ...], bool]:
        """The plans, the best first, and whether they are all.

        Complexity: that of a search for each way.
        """
        try:
            for part in in_order(self.parts):
                self._descend(part)
        except KeyboardInterrupt:  # between two calls
            self.stopped = True
        found = tuple(sorted(self.near, key=lambda one: one.value))
        return found, not self.stopped and not self.open

    def _descend(self, part: Part) -> None:
        if self.stopped or part.bound > self.ceiling_s:
            return
        if part.is_relaxed:
            goal = self.ceiling_s - part.fixed_s
            refute = partial(part.native().refute, goal, MOST_SOLVED, self.cancel)
            if self._run(refute)[0] == SPLIT:
                for half in part.halves():
                    self._descend(half)
        else:
            self._best_of(part)
        part.close()

    def _best_of(self, part: Part) -> None:
        """The best plan of one way: one from a look, then better ones until there is none."""
        self.value = self.found = None
        if part.most > 1:
            self._look(part, self.ceiling_s)
        if part.bound < self._goal() and not self.stopped:
            self.open |= self._improve(part, self._goal(), TIE) == TOO_LARGE
        if self.value is not None and self.found is not None:
            one = Near(problem=part.problem, replicas=self.found[1], value=self.value)
            if one.way[1] == part.used:
                self.near.append(one)

    def _progress(self) -> Progress:
        """Of no one way: a rule about the gap is for the search that came before."""
        return msgspec.structs.replace(super()._progress(), incumbent=None, bound=None)

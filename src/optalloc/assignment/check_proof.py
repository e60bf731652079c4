"""certify_proof: prove again, in NumPy alone, what a proof log claims about an assignment.

Each tree refuses a region: every assignment whose largest relative load is at most, or below, some
share, and whose cost is at most some number. :mod:`optalloc.assignment.check_tree` proves it
again. Whether the plan is the best then follows from what would be better than it:

    a first goal below the plan's
    a first goal at most the plan's and a second one below it, where there are two goals

Both must lie in what the trees refuse. Nothing depends on where the log came from: a wrong one can
only fail to prove. The checker shares no code with the search.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from fractions import Fraction
from typing import NamedTuple

import msgspec
import numpy as np

from optalloc.assignment.check_facts import Facts, FaultError, read_facts
from optalloc.assignment.check_tree import Proven, prove_tree
from optalloc.assignment.check_twins import pooled
from optalloc.assignment.problem import AssignmentProblem
from optalloc.assignment.proof import Event, ProofHeader, Tree, instance_digest


class Verdict(enum.Enum):
    """What a proof shows."""

    OPTIMAL = "optimal"
    """Its plan is feasible and no assignment is better."""
    INFEASIBLE = "infeasible"
    """No assignment is feasible."""
    BOUND = "bound"
    """No assignment has a first goal below the bound; that the plan is the best is not shown."""
    INVALID = "invalid"
    """It proves nothing; ``reason`` names the first fault."""


class ProofCheck(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome: ``bound`` is proven and ``objective`` evaluated, both of the first goal."""

    verdict: Verdict
    bound: float | None = None
    objective: float | None = None
    num_leaves: int = 0
    num_fixed: int = 0
    reason: str = ""


class _Region(NamedTuple):
    """Assignments of a cost at most ``most`` and of a largest relative load at most, or below,
    ``share``; None: any.
    """

    most: int | None
    share: Fraction | None
    strict: bool = False

    def holds(self, other: _Region) -> bool:
        """Whether it contains another region."""
        if self.most is not None and (other.most is None or other.most > self.most):
            return False
        if self.share is None:
            return True
        if other.share is None or other.share > self.share:
            return False
        return other.share < self.share or other.strict or not self.strict


def certify_proof(
    problem: AssignmentProblem, header: ProofHeader, events: Iterable[Event]
) -> ProofCheck:
    """Check a proof against its instance.

    Parameters
    ----------
    problem : AssignmentProblem
        In any form.
    header, events
        As :func:`optalloc.assignment.proof.read_proof` gives them.

    Complexity
    ----------
    See :func:`prove_tree`.
    """
    try:
        return _check(problem, header, events)
    except FaultError as fault:
        return ProofCheck(verdict=Verdict.INVALID, reason=str(fault))


def _check(problem: AssignmentProblem, header: ProofHeader, events: Iterable[Event]) -> ProofCheck:
    if header.instance != instance_digest(problem):
        raise FaultError("the proof is of another instance")
    facts = read_facts(problem)
    coming = iter(events)
    pairs = [_refused(facts, tree, coming) for tree in header.trees]
    if next(coming, None) is not None:
        raise FaultError("events follow the end of the last tree")
    refused = [region for region, _ in pairs]
    goals = problem.objective.split("-then-")
    objective = None
    values: list[int | Fraction] = []
    if header.assignment is not None:
        evaluation = problem.evaluate(_read_plan(header.assignment, problem))
        if not evaluation.is_feasible:
            raise FaultError(f"the plan breaks a rule: {evaluation.violations[0]}")
        objective = evaluation.objective
        placed = facts.placed(header.assignment)
        cost, share = facts.cost(placed), facts.fullest(placed)
        values = [cost if goal == "sum" else share for goal in goals]
        if any(region.holds(_Region(cost, share)) for region in refused):
            raise FaultError("a tree refuses the plan, which is feasible")

    def shown(verdict: Verdict, bound: float | None = None, reason: str = "") -> ProofCheck:
        return ProofCheck(
            verdict=verdict,
            bound=bound,
            objective=objective,
            num_leaves=sum(proven.num_leaves for _, proven in pairs),
            num_fixed=sum(proven.num_fixed for _, proven in pairs),
            reason=reason,
        )

    if any(region.holds(_Region(None, None)) for region in refused):
        return shown(Verdict.INFEASIBLE)
    bound = _first_bound(facts, goals[0], refused)
    if bound is None:
        raise FaultError("no tree is of the first goal")
    if not values:
        return shown(Verdict.BOUND, bound)
    for number, goal in enumerate(goals):
        better = _better(goals, values, number)
        if goal == "bottleneck" and values[number] == 0:
            continue  # no load is negative
        if not any(region.holds(better) for region in refused):
            reason = f"nothing says that no {_WORDS[goal]} is below the plan's"
            return shown(Verdict.BOUND, bound, reason)
    if facts.is_rounded:
        return shown(Verdict.BOUND, bound, "the numbers are rounded: that proves a bound")
    return shown(Verdict.OPTIMAL, bound)


_WORDS = {"sum": "sum of costs", "bottleneck": "largest relative load"}


def _refused(facts: Facts, tree: Tree, events: Iterable[Event]) -> tuple[_Region, Proven]:
    """What one tree refuses, proven; over pools of identical units, where it is of pools."""
    share, strict = None, False
    if tree.share is not None:
        strict = not tree.share.startswith("<=")
        try:
            share = Fraction(tree.share.removeprefix("<").removeprefix("="))
        except (ValueError, ZeroDivisionError) as error:
            raise FaultError(f"the share {tree.share[:40]!r} is no fraction") from error
        facts = facts.limited(share, strict=strict)
    if tree.pools:
        if tree.without_costs:  # then units may differ in what they cost
            facts = msgspec.structs.replace(facts, costs=np.zeros_like(facts.costs))
        facts = pooled(facts, tree.pools, tree.groups)
        tree = msgspec.structs.replace(tree, groups=())
    proven = prove_tree(facts, tree, iter(events))
    return _Region(proven.most, share, strict), proven


def _better(goals: list[str], values: list[int | Fraction], number: int) -> _Region:
    """What beats the plan in goal ``number`` and is no worse in those before."""
    most: int | None = None
    share: Fraction | None = None
    strict = False
    for goal, value in list(zip(goals, values, strict=True))[: number + 1]:
        if isinstance(value, Fraction):
            share, strict = value, goal == goals[number]
        else:
            most = value - 1 if goal == goals[number] else value
    return _Region(most, share, strict)


def _first_bound(facts: Facts, goal: str, refused: list[_Region]) -> float | None:
    """The best bound of the first goal, in its own unit; None where no tree is of it."""
    if goal == "bottleneck":
        shares = [
            region.share
            for region in refused
            if region.most is None and region.share is not None and region.strict
        ]
        return float(max([Fraction(0), *shares]))
    mosts = [region.most for region in refused if region.share is None and region.most is not None]
    return float(Fraction(max(mosts) + 1) / facts.cost_scale) if mosts else None


def _read_plan(plan: tuple[int, ...], problem: AssignmentProblem) -> tuple[int, ...]:
    good = len(plan) == problem.num_tasks and all(-1 <= i < problem.num_units for i in plan)
    if not good:
        raise FaultError("the plan does not fit the instance")
    return plan

"""certify_proof: prove again, in NumPy alone, what a proof log claims about an assignment.

The tree of :mod:`optalloc.assignment.proof` is walked depth first. The checker keeps its own set
of allowed pairs. With integer multipliers h_j (cost times scale K), profits p_ij = h_j - K c_ij and
the placed tasks (those with one unit left) taken out of the knapsacks and of the capacities,

    bound = K sum_placed c + sum_free h_j - sum_i KP_i(p)         KP_i: 0/1 knapsack of unit i

never exceeds K times the cost of an assignment within the allowed pairs. So

* a leaf holds if its bound exceeds K * target, or if the pairs left admit nothing;
* ``fix`` removes (i, j) if bound + a_ij + sum_{k != i} b_kj > K * target, where a_ij and b_kj are
  what knapsack i loses with task j forced in, and knapsack k with task j forced out;
* the two children of a branch together hold every assignment of their parent.

Nothing of this depends on where the multipliers, the removals' order or the branches came from: a
wrong log can only fail to prove. It shares no code with the search; knapsacks are tables over the
capacity, or lists of undominated states where a table would be large.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable

import msgspec
import numpy as np
import numpy.typing as npt

from optalloc.assignment.problem import AssignmentProblem
from optalloc.assignment.proof import Event, ProofHeader, instance_digest
from optalloc.assignment.states import conditioned

Longs = npt.NDArray[np.int64]

_RANGE = 2**61


class Verdict(enum.Enum):
    """What a proof shows."""

    OPTIMAL = "optimal"
    """Its plan is feasible and no assignment is cheaper."""
    INFEASIBLE = "infeasible"
    """No assignment is feasible."""
    BOUND = "bound"
    """No assignment costs less than the bound; a plan, if there is one, costs more than it."""
    INVALID = "invalid"
    """It proves nothing; ``reason`` names the first fault."""


class ProofCheck(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome: ``bound`` is proven and ``objective`` evaluated, in the unit of the costs."""

    verdict: Verdict
    bound: float | None = None
    objective: float | None = None
    num_leaves: int = 0
    num_fixed: int = 0
    reason: str = ""


class _FaultError(Exception):
    """The log does not prove its claim."""


def certify_proof(
    problem: AssignmentProblem, header: ProofHeader, events: Iterable[Event]
) -> ProofCheck:
    """Check a proof against its instance.

    Parameters
    ----------
    problem : AssignmentProblem
        In the plain form.
    header, events
        As :func:`optalloc.assignment.proof.read_proof` gives them.

    Complexity
    ----------
    O(sum_i n_i L_i) a leaf or fix, with n_i useful items of unit i.
    """
    try:
        return _check(problem, header, events)
    except _FaultError as fault:
        return ProofCheck(verdict=Verdict.INVALID, reason=str(fault))


def _check(problem: AssignmentProblem, header: ProofHeader, events: Iterable[Event]) -> ProofCheck:
    form = problem.integer_form()
    if header.instance != instance_digest(problem):
        raise _FaultError("the proof is of another instance")
    if (header.num_tasks, header.num_units) != form.costs.shape or header.scale < 1:
        raise _FaultError("the header does not fit the instance")
    if header.without_costs and header.target != 0:
        raise _FaultError("a tree without costs must have the target 0")
    costs = np.zeros_like(form.costs) if header.without_costs else form.costs
    top = max(int(np.abs(costs).max(initial=0)), 1) * (len(costs) + 1)
    if max(top, abs(header.target)) * header.scale >= _RANGE:
        raise _FaultError("the scale is too large for 64-bit integers")
    tree = _Tree(costs, form.loads, form.capacities, form.allowed, header.scale, header.target)
    tree.walk(events)

    def shown(verdict: Verdict, bound: float | None = None) -> ProofCheck:
        return ProofCheck(
            verdict=verdict,
            bound=bound,
            objective=objective,
            num_leaves=tree.num_leaves,
            num_fixed=tree.num_fixed,
        )

    dearest = _dearest(costs, form.allowed)
    objective = None
    value = None
    if header.assignment is not None:
        evaluation = problem.evaluate(_read_plan(header.assignment, problem))
        if not evaluation.is_feasible:
            raise _FaultError(f"the plan breaks a rule: {evaluation.violations[0]}")
        units = np.array(header.assignment, dtype=np.int64)
        value = int(form.costs[np.arange(len(units)), units].sum())
        objective = evaluation.objective
    if header.without_costs or header.target >= dearest:
        if objective is not None:
            raise _FaultError("the plan is feasible, and the tree says that nothing is")
        return shown(Verdict.INFEASIBLE)
    if value is not None and value <= header.target:
        raise _FaultError("the plan costs no more than the target that the tree refuses")
    least = _next_cost(form.costs, form.allowed, header.target)
    bound = form.objective(least)
    # Rounded costs prove a bound, and no plan to be the best.
    met = value == least and form.arithmetic != "float"
    return shown(Verdict.OPTIMAL if met else Verdict.BOUND, bound)


def _read_plan(plan: tuple[int, ...], problem: AssignmentProblem) -> tuple[int, ...]:
    good = len(plan) == problem.num_tasks and all(0 <= i < problem.num_units for i in plan)
    if not good:
        raise _FaultError("the plan does not fit the instance")
    return plan


def _dearest(costs: Longs, allowed: npt.NDArray[np.bool_]) -> int:
    """No assignment costs more."""
    if not allowed.any(axis=1).all():
        return -_RANGE
    return int(np.where(allowed, costs, -_RANGE).max(axis=1).sum()) if len(costs) else 0


def _next_cost(costs: Longs, allowed: npt.NDArray[np.bool_], target: int) -> int:
    """The least number above ``target`` that can be the cost of an assignment.

    Costs of one task differ by multiples of g, so that costs of assignments do.
    """
    if not allowed.any(axis=1).all() or not len(costs):
        return target + 1
    low = np.where(allowed, costs, _RANGE).min(axis=1)
    gaps = np.where(allowed, costs - low[:, None], 0)
    g = max(int(np.gcd.reduce(gaps, axis=None)), 1)
    base = int(low.sum())
    return base + g * ((target - base) // g + 1)


class _Tree:
    """The pairs allowed on the way down, and what the events do to them."""

    def __init__(
        self,
        costs: Longs,
        loads: Longs,
        capacities: Longs,
        allowed: npt.NDArray[np.bool_],
        scale: int,
        target: int,
    ) -> None:
        self.costs, self.loads, self.capacities = costs, loads, capacities
        self.allowed = allowed.copy()
        self.scale, self.limit = scale, scale * target
        self.multipliers = np.zeros(len(costs), dtype=np.int64)
        self.most = _RANGE // (len(costs) + 1)
        self.num_leaves = self.num_fixed = 0
        self.dead = False

    def walk(self, events: Iterable[Event]) -> None:
        """Every path must end in a leaf that holds; raises at the first that does not."""
        # What is still to come: the state before a branch, and its second child.
        waiting: list[tuple[npt.NDArray[np.bool_], bool, int, int, int]] = []
        open_ = True
        self.propagate()
        for event in events:
            if not open_:
                raise _FaultError("events follow the end of the tree")
            match event:
                case ["fix", list() as tasks, list() as values]:
                    self.read(tasks, values)
                    self.fix()
                case ["branch", int() as unit, int() as task, 0 | 1 as side]:
                    inside = 0 <= task < self.allowed.shape[0] and 0 <= unit < self.allowed.shape[1]
                    if not inside:
                        raise _FaultError("a branch names a pair that does not exist")
                    before = self.allowed.copy()
                    waiting.append((before, self.dead, unit, task, 1 - side))
                    self.decide(unit, task, side)
                case ["leaf", *rest]:
                    self.leaf(rest)
                    if waiting:
                        self.allowed, self.dead, unit, task, side = waiting.pop()
                        self.decide(unit, task, side)
                    else:
                        open_ = False
                case _:
                    raise _FaultError(f"there is no event {str(event)[:40]}")
        if open_:
            raise _FaultError("the tree is cut off")

    def read(self, tasks: list[object], values: list[object]) -> None:
        """Take over the multipliers of some tasks."""
        if len(tasks) != len(values):
            raise _FaultError("tasks and multipliers are not of one length")
        for task, value in zip(tasks, values, strict=True):
            if type(task) is not int or not 0 <= task < len(self.multipliers):
                raise _FaultError("a multiplier is of no task")
            if type(value) is not int or abs(value) >= self.most:
                raise _FaultError("a multiplier is out of range")
            self.multipliers[task] = value

    def leaf(self, rest: list[object]) -> None:
        self.num_leaves += 1
        if rest:
            match rest:
                case [list() as tasks, list() as values]:
                    self.read(tasks, values)
                case _:
                    raise _FaultError("a leaf has one list of tasks and one of multipliers")
        if not self.dead and self.bound() <= self.limit:
            raise _FaultError(f"leaf {self.num_leaves} does not hold")

    def decide(self, unit: int, task: int, side: int) -> None:
        """Force the pair in (1) or out (0)."""
        if side:
            kept = bool(self.allowed[task, unit])
            self.allowed[task] = False
            self.allowed[task, unit] = kept
        else:
            self.allowed[task, unit] = False
        self.propagate()

    def propagate(self) -> None:
        """Remove pairs that no longer fit; dead when a task or a capacity has nothing left."""
        while not self.dead:
            count = self.allowed.sum(axis=1)
            placed = count == 1
            room = self.room(placed)
            if (count == 0).any() or (room < 0).any():
                self.dead = True
                return
            misfits = self.allowed & (self.loads > room) & ~placed[:, None]
            if not misfits.any():
                return
            self.allowed &= ~misfits

    def room(self, placed: npt.NDArray[np.bool_]) -> Longs:
        """What the placed tasks leave of each capacity."""
        held = self.allowed & placed[:, None]
        used: Longs = np.where(held, self.loads, 0).sum(axis=0)
        return self.capacities - used

    def bound(self) -> int:
        """The scaled bound of the present pairs at the present multipliers."""
        return self.evaluate()[0]

    def fix(self) -> None:
        """Remove the pairs whose price of being used exceeds what is left to the target."""
        if self.dead:
            return
        total, gain_in, gain_out = self.evaluate()
        gap = self.limit - total
        if gap < 0:
            self.dead = True
            return
        if (gap + 1) * (self.allowed.shape[1] + 1) >= _RANGE:
            return  # the sums might leave 64 bits: remove nothing
        gain_in, gain_out = np.minimum(gain_in, gap + 1), np.minimum(gain_out, gap + 1)
        every = gain_out.sum(axis=1)[:, None]
        removed = self.allowed & (gain_in + every - gain_out > gap)
        removed &= self.allowed.sum(axis=1)[:, None] > 1
        self.num_fixed += int(removed.sum())
        self.allowed &= ~removed
        self.propagate()

    def evaluate(self) -> tuple[int, Longs, Longs]:
        """Bound, and what forcing each pair of a free task in or out adds to it."""
        placed = self.allowed.sum(axis=1) == 1
        room = self.room(placed)
        held = self.allowed & placed[:, None]
        total = self.scale * int(self.costs[held].sum()) + int(self.multipliers[~placed].sum())
        gain_in = np.zeros(self.allowed.shape, dtype=np.int64)
        gain_out = np.zeros(self.allowed.shape, dtype=np.int64)
        for unit in range(self.allowed.shape[1]):
            rows = np.nonzero(self.allowed[:, unit] & ~placed)[0]
            profits = self.multipliers[rows] - self.scale * self.costs[rows, unit]
            best, with_, without = conditioned(profits, self.loads[rows, unit], int(room[unit]))
            total -= best
            gain_in[rows, unit] = best - with_
            gain_out[rows, unit] = best - without
        return total, gain_in, gain_out

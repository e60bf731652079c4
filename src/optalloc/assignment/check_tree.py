"""prove_tree: walk one search tree of a proof log and prove every leaf of it again.

The walk keeps its own set A of allowed pairs. With integer multipliers, the placed tasks (those
with one unit left in A) taken out of the rows, scaled normal costs C and, of each resource r and
unit i, the rests ``left`` and the relative loads in 2**20 parts, rounded down,

    bound = sum_placed C + sum_free h_j - sum_i (K_i + sum_r floor(v_ir left_ir) + sum_g s_gi)
    K_i   = max sum_j (h_j - C_ij - sum_r floor(v_ir w_ijr) - sum_{g of j} s_gi) y_j

never exceeds the scaled cost of an assignment within A: r runs over the resources that knapsack i
does not keep, g over groups of tasks that stay apart of which none is placed on i, and y over the
binary vectors within the kept resource that take at most one task of each class. So

* a leaf holds if its bound exceeds the scaled target, or if A admits nothing;
* a *cover* leaf holds as well if no choice of one set a unit, each free task in one set, has values
  sum_j (h_j - C_ij - ...) whose sum reaches what the bound lacks of the target:
  :mod:`optalloc.assignment.check_cover` lists all sets that could take part, and tries them;
* ``fix`` removes (i, j) if bound + a_ij + sum_{k != i} b_kj exceeds it, where a_ij and b_kj are
  what knapsack i loses with task j forced in, and knapsack k with task j forced out;
* of the two children of a branch one holds an assignment if their parent does. B are the pairs
  that the branches leave; units are *twins* whose costs, loads, capacities and pairs in B are the
  same, so that swapping them maps B onto itself at the same cost. Where one child has task j on
  unit i, the other needs no assignment with j on a twin of i: swapped, it is one of the first;

Nothing of this depends on where multipliers, removals and branches came from: a wrong log can only
fail to prove. Prices must not be negative; groups and classes must be of tasks that stay apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from optalloc.assignment.check_cover import Sack, TooManyError, has_cover
from optalloc.assignment.check_facts import Bools, Facts, FaultError, Longs, normal_costs
from optalloc.assignment.check_twins import alike, by_divisor, check_apart
from optalloc.assignment.proof import Event, Tree
from optalloc.assignment.states import best_profit, conditioned

_RANGE = 2**61
_BITS = 20
_MOST_PRICE = 2**40


class Proven(NamedTuple):
    """What a tree that holds refuses: every cost of at most ``most``, None: every cost."""

    most: int | None
    num_leaves: int
    num_fixed: int


def prove_tree(facts: Facts, tree: Tree, events: Iterator[Event]) -> Proven:
    """Take the events of one tree and prove it.

    Parameters
    ----------
    facts : Facts
        Within the tree's share.
    tree : Tree
    events : iterator
        Those of later trees stay.

    Raises
    ------
    FaultError
        If the tree does not prove its claim; it names the first fault.

    Complexity
    ----------
    O(sum_i n_i L_i) a leaf or fix, with n_i useful items of unit i.
    """
    normal = normal_costs(facts)
    costs = np.zeros_like(normal.costs) if tree.without_costs else normal.costs
    if tree.without_costs and tree.target < 0:
        raise FaultError("a tree without costs refuses nothing at a target below 0")
    dearest = 0 if tree.without_costs else normal.dearest
    if tree.scale < 1 or tree.shift < 0 or (tree.shift > 0 and tree.scale > 1):
        raise FaultError("the scale does not fit")
    if max(dearest + 1, abs(tree.target)) * tree.scale >= _RANGE << tree.shift:
        raise FaultError("the scale is too large for 64-bit integers")
    walk = _Walk(facts, tree, costs)
    walk.run(events)
    most = normal.offset + normal.divisor * (tree.target + 1) - 1
    refuses_all = tree.without_costs or tree.target >= dearest
    return Proven(None if refuses_all else most, walk.num_leaves, walk.num_fixed)


class _Knapsack(NamedTuple):
    """Free tasks that a unit may take, with their profits, loads and classes, and the room."""

    rows: Longs
    profits: Longs
    loads: Longs
    room: int
    classes: Longs


class _Walk:
    """The pairs allowed on the way down, and what the events do to them."""

    def __init__(self, facts: Facts, tree: Tree, costs: Longs) -> None:
        self.facts, self.tree = facts, tree
        self.costs, self.scaled = costs, (costs * tree.scale) >> tree.shift
        self.limit = (tree.target * tree.scale) >> tree.shift
        self.allowed = facts.allowed.copy()
        self.branched = facts.allowed.copy()  # B
        self.columns = alike(facts, costs)
        resources, tasks, width = facts.loads.shape
        size = tasks + (resources + len(tree.groups)) * width
        self.multipliers = np.zeros(size, dtype=np.int64)
        self.most = _RANGE // (tasks + 1)
        kept = tree.kept or (0,) * width
        if len(kept) != width or not all(0 <= r < resources for r in kept):
            raise FaultError("the kept resources do not fit the instance")
        check_apart(facts, (*tree.groups, *tree.classes))
        self.classes = np.full(tasks, -1)
        for number, group in enumerate(tree.classes):
            if (self.classes[list(group)] >= 0).any():
                raise FaultError("a task is in two classes")
            self.classes[list(group)] = number
        self.kept = kept
        self.kept_loads, self.cells = _in_cells(facts, kept, tree.cells)
        self.parts = _in_parts(facts.loads, facts.capacities) if resources > 1 else facts.loads
        self.num_leaves = self.num_fixed = 0
        self.dead = bool((facts.capacities < 0).any())

    def run(self, events: Iterator[Event]) -> None:
        """Every path must end in a leaf that holds."""
        # What is still to come: the state before a branch, and its second child.
        waiting: list[tuple[Bools, Bools, bool, int, int, int]] = []
        self.propagate()
        for event in events:
            match event:
                case ["fix", list() as numbers, list() as values]:
                    self.read(numbers, values)
                    self.fix()
                case ["branch", int() as unit, int() as task, 0 | 1 as side]:
                    inside = 0 <= task < self.allowed.shape[0] and 0 <= unit < self.allowed.shape[1]
                    if not inside:
                        raise FaultError("a branch names a pair that does not exist")
                    state = self.allowed.copy(), self.branched.copy(), self.dead
                    waiting.append((*state, unit, task, 1 - side))
                    self.decide(unit, task, side)
                case ["leaf" | "cover" as kind, *rest]:
                    self.leaf(rest, covers=kind == "cover")
                    if not waiting:
                        return
                    self.allowed, self.branched, self.dead, unit, task, side = waiting.pop()
                    self.decide(unit, task, side)
                case _:
                    raise FaultError(f"there is no event {str(event)[:40]}")
        raise FaultError("the tree is cut off")

    def read(self, numbers: list[object], values: list[object]) -> None:
        """Take over some multipliers."""
        if len(numbers) != len(values):
            raise FaultError("numbers and multipliers are not of one length")
        for number, value in zip(numbers, values, strict=True):
            if type(number) is not int or not 0 <= number < len(self.multipliers):
                raise FaultError("a multiplier is of nothing")
            if type(value) is not int or abs(value) >= self.most:
                raise FaultError("a multiplier is out of range")
            if number >= len(self.allowed) and not 0 <= value <= _MOST_PRICE:
                raise FaultError("a price is out of range")
            self.multipliers[number] = value

    def leaf(self, rest: list[object], *, covers: bool) -> None:
        self.num_leaves += 1
        match rest:
            case []:
                pass
            case [list() as numbers, list() as values]:
                self.read(numbers, values)
            case _:
                raise FaultError("a leaf has one list of numbers and one of multipliers")
        if self.dead:
            return
        if (self.allowed.sum(axis=1) == 1).all():  # no rows left to price
            holds = int(self.costs[self.allowed].sum()) > self.tree.target
        else:
            holds = self.evaluate(forced=False)[0] > self.limit or (covers and self.is_exhausted())
        if not holds:
            raise FaultError(f"leaf {self.num_leaves} does not hold")

    def is_exhausted(self) -> bool:
        """Whether no sets of free tasks, one a unit, reach the target."""
        total, sacks = self.priced()
        free = np.nonzero(self.allowed.sum(axis=1) > 1)[0]
        place = np.cumsum(self.allowed.sum(axis=1) > 1) - 1
        items = [
            Sack(place[sack.rows], sack.profits, *by_divisor(sack.loads, sack.room))
            for sack in sacks
        ]
        try:
            return not has_cover(items, len(free), total - self.limit)
        except TooManyError as error:
            raise FaultError(f"leaf {self.num_leaves} cannot be checked: {error}") from error

    def decide(self, unit: int, task: int, side: int) -> None:
        """Force the pair in (1), or the task off the unit and its twins (0)."""
        units = np.arange(self.allowed.shape[1])
        if side:
            gone = units != unit
        else:
            same = (self.branched == self.branched[:, [unit]]).all(axis=0)
            gone = same & (self.columns == self.columns[unit])
        self.allowed[task, gone] = self.branched[task, gone] = False
        self.propagate()

    def propagate(self) -> None:
        """Remove pairs that no longer fit; dead when a task or a row has nothing left."""
        while not self.dead:
            count = self.allowed.sum(axis=1)
            placed = count == 1
            held = self.allowed & placed[:, None]
            left, blocked = self.left(held), self.blocked(held)
            if (count == 0).any() or (left < 0).any() or (held & blocked).any():
                self.dead = True
                return
            misfits = (self.facts.loads > left[:, None, :]).any(axis=0) | blocked
            misfits &= self.allowed & ~placed[:, None]
            if not misfits.any():
                return
            self.allowed &= ~misfits

    def left(self, held: Bools) -> Longs:
        """What the placed tasks leave of each capacity, shape (R, W)."""
        used: Longs = (self.facts.loads * held).sum(axis=1)
        return self.facts.capacities - used

    def blocked(self, held: Bools) -> Bools:
        """Pairs whose unit holds a task that the task stays apart from."""
        blocked = np.zeros_like(held)
        foes, units = self.facts.foes, self.facts.num_units
        if foes.any():
            blocked[:, :units] = foes.astype(np.int64) @ held[:, :units].astype(np.int64) > 0
        return blocked

    def fix(self) -> None:
        """Remove the pairs whose price of being used exceeds what is left to the target."""
        if self.dead:
            return
        total, gain_in, gain_out = self.evaluate(forced=True)
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

    def evaluate(self, *, forced: bool) -> tuple[int, Longs, Longs]:
        """Bound and, with ``forced``, what forcing each pair of a free task in or out adds."""
        total, sacks = self.priced()
        gain_in = np.zeros(self.allowed.shape, dtype=np.int64)
        gain_out = np.zeros(self.allowed.shape, dtype=np.int64)
        for unit, (rows, profits, loads, room, classes) in enumerate(sacks):
            if not forced:
                total -= best_profit(profits, loads, room, classes)
                continue
            best, with_, without = conditioned(profits, loads, room, classes)
            total -= best
            gain_in[rows, unit] = best - with_
            gain_out[rows, unit] = best - without
        return total, gain_in, gain_out

    def priced(self) -> tuple[int, list[_Knapsack]]:
        """The bound before the knapsacks are taken off, and the knapsacks, one a unit."""
        tasks = len(self.allowed)
        placed = self.allowed.sum(axis=1) == 1
        held = self.allowed & placed[:, None]
        left = self.left(held)
        total = int(self.scaled[held].sum()) + int(self.multipliers[:tasks][~placed].sum())
        sacks = []
        for unit in range(self.allowed.shape[1]):
            rows = np.nonzero(self.allowed[:, unit] & ~placed)[0]
            profits = self.multipliers[rows] - self.scaled[rows, unit]
            paid, constant = self.prices(unit, held[:, unit], left[:, unit])
            total -= constant
            profits -= paid[rows]
            room = int(left[self.kept[unit], unit])
            whole = int(self.facts.capacities[self.kept[unit], unit])
            if self.cells[unit] < whole:
                room = room * self.cells[unit] // whole
            is_real = unit < self.facts.num_units
            classes = self.classes[rows] if is_real else np.full(len(rows), -1)
            sacks.append(_Knapsack(rows, profits, self.kept_loads[rows, unit], room, classes))
        return total, sacks

    def prices(self, unit: int, held: Bools, left: Longs) -> tuple[Longs, int]:
        """What each task pays on a unit for the rows that its knapsack does not keep, and the sum
        of what those rows cost at most.
        """
        resources, tasks, width = self.facts.loads.shape
        paid, constant = np.zeros(tasks, dtype=np.int64), 0
        for resource in range(resources):
            whole = int(self.facts.capacities[resource, unit])
            price = int(self.multipliers[tasks + resource * width + unit])
            if price == 0 or whole == 0 or resource == self.kept[unit]:
                continue
            paid += (price * self.parts[resource, :, unit]) >> _BITS
            constant += price * ((int(left[resource]) << _BITS) // whole) >> _BITS
        for number, group in enumerate(self.tree.groups):
            price = int(self.multipliers[tasks + (resources + number) * width + unit])
            mine = list(group)
            if price > 0 and unit < self.facts.num_units and not held[mine].any():
                paid[mine] += price
                constant += price
        return paid, constant


def _in_cells(facts: Facts, kept: tuple[int, ...], cells: int | None) -> tuple[Longs, list[int]]:
    """Loads of the kept resource as the knapsacks count them, and what each capacity counts as."""
    loads = np.array([facts.loads[r, :, unit] for unit, r in enumerate(kept)], dtype=np.int64).T
    sizes = [int(facts.capacities[r, unit]) for unit, r in enumerate(kept)]
    for unit, size in enumerate(sizes):
        if cells is not None and 1 <= cells < size:
            loads[:, unit] = [load * cells // size for load in loads[:, unit].tolist()]
            sizes[unit] = cells
    return loads, sizes


def _in_parts(loads: Longs, capacities: Longs) -> Longs:
    """Loads in 2**20 parts of their capacity, rounded down; 0 where that is 0."""
    whole = np.maximum(capacities, 1)[:, None, :].astype(object)
    parts: Longs = ((loads.astype(object) << _BITS) // whole).astype(np.int64)
    return np.minimum(parts, 1 << _BITS)  # of pairs that are not allowed, too

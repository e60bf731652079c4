"""Shift and swap: the local search that repairs and improves an assignment.

A *shift* moves one task to another unit, a *swap* exchanges the units of two tasks. The energy is
the cost plus ``weights[i]`` for each unit of load above the capacity of unit i, so that the same
search first repairs (large weights) and then improves (no move into overload).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from optalloc.assignment.integers import IntegerForm

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


class Neighbourhood:
    """An assignment that can be moved, with the load of each unit kept up to date."""

    def __init__(self, form: IntegerForm, placed: IntArray, weights: FloatArray) -> None:
        self.form, self.weights = form, weights
        self.placed = placed.copy()
        self.costs = np.where(form.allowed, form.costs.astype(np.float64), np.inf)
        self.tasks = np.arange(len(placed))
        self.used = np.zeros(len(form.capacities), dtype=np.int64)
        np.add.at(self.used, self.placed, form.loads[self.tasks, self.placed])
        # What a swap reads of every task: unit by unit, and where the task is now.
        self._costs_on = np.ascontiguousarray(self.costs.T)
        self._loads_on = np.ascontiguousarray(form.loads.T)
        self._cost_now = self.costs[self.tasks, self.placed]
        self._load_now = form.loads[self.tasks, self.placed]

    @property
    def is_feasible(self) -> bool:
        """Whether no unit is overloaded and every pair is allowed."""
        inside = bool((self.used <= self.form.capacities).all())
        return inside and bool(self.form.allowed[self.tasks, self.placed].all())

    @property
    def value(self) -> int:
        """Sum of the integer costs."""
        return int(self.form.costs[self.tasks, self.placed].sum())

    def move(self, task: int, unit: int) -> None:
        """Put a task on another unit."""
        old = int(self.placed[task])
        self.used[old] -= self.form.loads[task, old]
        self.used[unit] += self.form.loads[task, unit]
        self.placed[task] = unit
        self._cost_now[task] = self.costs[task, unit]
        self._load_now[task] = self.form.loads[task, unit]

    def _over(self, used: IntArray, units: IntArray) -> FloatArray:
        over = np.maximum(used - self.form.capacities[units], 0)
        return np.asarray(over * self.weights[units], dtype=np.float64)

    def best_shift(self, task: int) -> tuple[float, int]:
        """The best other unit for a task and what the energy changes by."""
        form, old = self.form, int(self.placed[task])
        units = np.arange(len(form.capacities))
        now = self._over(self.used, units)
        without = self._over(self.used - form.loads[task], units)[old] - now[old]
        delta = self.costs[task] - self.costs[task, old] + without
        delta = delta + self._over(self.used + form.loads[task], units) - now
        delta[old] = np.inf
        unit = int(delta.argmin())
        return float(delta[unit]), unit

    def best_swap(self, task: int) -> tuple[float, int]:
        """The best other task to exchange units with and what the energy changes by."""
        form, old, placed = self.form, int(self.placed[task]), self.placed
        over_now = self._over(self.used, np.arange(len(form.capacities)))
        room_here = form.capacities[old] - self.used[old] + form.loads[task, old]
        here = np.maximum(self._loads_on[old] - room_here, 0) * self.weights[old]
        above = self.used + form.loads[task] - form.capacities
        there = np.maximum(above[placed] - self._load_now, 0) * self.weights[placed]
        of_unit = self.costs[task] - self.costs[task, old] - over_now - over_now[old]
        delta = of_unit[placed] + self._costs_on[old] - self._cost_now + here + there
        delta[placed == old] = np.inf
        other = int(delta.argmin())
        return float(delta[other]), other

    def descend(self, halt: Callable[[], bool], *, sweeps: int = 20) -> None:
        """Take the best shift or swap of one task after another until none helps or ``halt``."""
        units, eps = len(self.form.capacities), 1e-9
        if units < 2:
            return
        for _ in range(sweeps):
            moved = False
            for task in self.tasks.tolist():
                if task % 64 == 0 and halt():
                    return
                shift, unit = self.best_shift(task)
                swap, other = self.best_swap(task)
                if min(shift, swap) >= -eps:
                    continue
                moved = True
                old = int(self.placed[task])
                if shift <= swap:
                    self.move(task, unit)
                else:
                    target = int(self.placed[other])
                    self.move(task, target)
                    self.move(other, old)
            if not moved:
                return

"""One part of the space for the prover: its prices refute the target, or the packing does.

With prices p of a device and q of a replica, no shape may take more micro-batches in T than its
devices and itself cost, but for one that is in no plan: it wastes too much of what its devices can
do, or leaves the other replicas no room. If the devices of all groups and the greatest number of
replicas cost less than M, no plan of the part takes M micro-batches in T. If they cost M or more,
by what is to spare, then in a plan that takes M no replica can waste more than that of what it
costs: the shapes that waste no more are packed into the devices in every way, by dynamic
programming over replicas and devices.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from optalloc.errors import CertificateError
from optalloc.training.mixed.problem import MixedProblem
from optalloc.training.mixed.proof import PartProof
from optalloc.training.mixed.prove.cuts import Cuts
from optalloc.training.mixed.prove.shapes import Bounds, Shapes, needs, undominated, worths
from optalloc.training.mixed.prove.words import KindWays, Stages, Words

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Array = NDArray[np.float64]

_SPARE = 1e-7  # micro-batches; prices are floats
_NEVER = -(1 << 40)


class Prover:
    """Proves parts of one problem: one micro-batch size; problems of one model share its words."""

    def __init__(self, problem: MixedProblem, words: Words | None = None) -> None:
        self.problem = problem
        self.words = words or Words(tuple(int(t) for t in problem.sequence))
        self.ways: dict[int, KindWays] = {}
        self.kinds = undominated(problem)

    def bounds(self, groups: tuple[int, ...], least: int, most: int, target_s: float) -> Bounds:
        """The bounds of a part for steps of ``target_s``."""
        stages = Stages(self.problem, self.words, self.ways, groups, least, most)
        return Bounds(stages, target_s - stages.fixed_s, self.kinds)

    def prove(self, part: PartProof, target_s: float) -> int:
        """The number of shapes shown not to take more than they cost.

        Raises
        ------
        CertificateError
            If a plan of the part may take ``target_s`` or less.
        """
        p, micro = self.problem, self.problem.num_microbatches
        if len(part.prices) != len(part.groups) + 1 or not min(part.prices) >= 0.0:
            raise CertificateError(f"{_name(part)}: prices are of its groups and of a replica")
        bounds = self.bounds(part.groups, part.least, part.most, target_s)
        if not bounds.target_s > 0.0:
            return 0
        shapes = bounds.all_shapes()
        worth = worths(bounds.usage(shapes), part.prices)
        useful = self._useful(part, bounds, shapes)
        late = untaken(bounds, shapes, np.maximum(needs(worth), useful))
        if not late.all():
            row = next(self._among_others(part, bounds, shapes, np.flatnonzero(~late)), None)
            if row is not None:
                raise CertificateError(
                    f"{_name(part)}: a pipeline on {bounds.usage(shapes)[row].tolist()} devices "
                    f"takes more micro-batches than the {worth[row]:.6g} that it costs"
                )
        devices = np.array([p.available[g] for g in part.groups])
        total = float(worths(devices, [*part.prices[:-1], part.prices[-1] * part.most]))
        if total >= micro - _SPARE:
            self._pack(part, bounds, shapes, worth, useful, total - micro)
        return len(shapes)

    def _among_others(
        self, part: PartProof, bounds: Bounds, shapes: Shapes, rows: Ints
    ) -> Iterator[int]:
        """The rows whose shapes leave room in the devices for the other replicas of the part, each
        of a shape that takes a micro-batch; of those that do not, no plan has the shape."""
        if part.least == 1:
            yield from rows.tolist()
            return
        usage = bounds.usage(shapes)
        devices = np.array([self.problem.available[g] for g in part.groups])
        some = ~untaken(bounds, shapes, np.ones(len(shapes), np.int64))
        others = np.unique(usage[some], axis=0)
        count, most = part.least - 1, np.ones(len(others), np.int64)
        for row in rows.tolist():
            if _packed(others, most, devices - usage[row], count, count)[0] > 0:
                yield row

    def _useful(self, part: PartProof, bounds: Bounds, shapes: Shapes) -> Ints:
        """The fewest micro-batches with which a shape can be part of a plan: with devices priced at
        all that they can do, no shape takes more than it costs, and one that takes fewer than this
        wastes more than there is to spare."""
        prices = [bounds.target_s * rate for rate in bounds.device_rates]
        devices = [self.problem.available[g] for g in part.groups]
        total = sum(p * count for p, count in zip(prices, devices, strict=True))
        spare = total - self.problem.num_microbatches
        least = worths(bounds.usage(shapes), [*prices, 0.0]) * (1.0 - 1e-12) - spare - 1e-6
        return np.maximum(1, np.ceil(least)).astype(np.int64)

    def _pack(
        self,
        part: PartProof,
        bounds: Bounds,
        shapes: Shapes,
        worth: Array,
        useful: Ints,
        spare: float,
    ) -> None:
        """Raise if replicas that together waste no more than ``spare`` may take all micro-batches.

        Shapes of equal devices are one; their number of micro-batches is made exact where the best
        packing uses it.
        """
        micro = self.problem.num_microbatches
        devices = np.array([self.problem.available[g] for g in part.groups])
        usage, row = np.unique(bounds.usage(shapes), axis=0, return_inverse=True)
        row = row.ravel()
        least = np.maximum(useful, np.ceil(worth - spare - 1e-6).astype(np.int64)) - 1
        most = np.zeros(len(usage), np.int64)
        np.maximum.at(most, row, _most_by_counts(bounds, shapes, least, needs(worth) - 1))
        exact = np.zeros(len(usage), bool)
        while True:
            packed, chosen = _packed(usage, most, devices, part.least, part.most)
            if packed < micro:
                return
            open_ = [k for k in chosen if not exact[k]]
            if not open_:
                raise CertificateError(
                    f"{_name(part)}: its devices may take {packed} micro-batches in "
                    f"{bounds.target_s + bounds.stages.fixed_s:.9g} s, and {micro} are a step"
                )
            for k in open_:
                own = np.flatnonzero(row == k)
                most[k] = _most(bounds, shapes.take(own), int(least[own[0]]), int(most[k]))
                exact[k] = True


def _name(part: PartProof) -> str:
    return (
        f"micro-batches of {part.micro_batch} on groups {list(part.groups)} with {part.least} to "
        f"{part.most} replicas"
    )


def untaken(bounds: Bounds, shapes: Shapes, need: Ints) -> Bools:
    """True where no cut of the shape takes ``need`` micro-batches in the target.

    The cheapest bound comes first; families of several kinds that it leaves are opened, and what is
    left of single kinds is decided by its cuts.
    """
    late = need > bounds.stages.problem.num_microbatches
    left = np.flatnonzero(~late)
    for bound in (bounds.by_rates, bounds.by_counts):
        some = shapes.take(left)
        found = bound(some, need[left], bounds.links_s(some))
        late[left[found]] = True
        left = left[~found]
    if not len(left):
        return late
    exact = bounds.is_exact(shapes.take(left))
    for row in left[exact]:
        kinds = [
            bounds.members[f][0]
            for f, count in zip(shapes.family[row], shapes.count[row], strict=True)
            for _ in range(count)
        ]
        most_s = bounds.target_s / int(need[row]) * (1.0 + 1e-12)  # of a stage: S is no less
        cuts = Cuts(bounds.stages, kinds, most_s)
        late[row] = not cuts.takes(int(need[row]), bounds.target_s)
    wide = left[~exact]
    if len(wide):
        opened, rows = bounds.expand(shapes.take(wide))
        inner = untaken(bounds, opened, need[wide][rows])
        taken = np.zeros(len(wide), bool)
        taken[rows[~inner]] = True
        late[wide] = ~taken
    return late


def _most_by_counts(bounds: Bounds, shapes: Shapes, least: Ints, most: Ints) -> Ints:
    """No more than these can be taken, by the bounds alone; 0 where that is no more than
    ``least``."""
    low, high = least.copy(), np.minimum(most, bounds.stages.problem.num_microbatches)
    links_s = bounds.links_s(shapes)
    while True:
        left = np.flatnonzero(low < high)
        if not len(left):
            return np.where(high > least, high, 0)
        middle = (low[left] + high[left] + 1) // 2
        some = shapes.take(left)
        late = bounds.by_rates(some, middle, links_s[left])
        rest = np.flatnonzero(~late)
        late[rest] = bounds.by_counts(some.take(rest), middle[rest], links_s[left][rest])
        high[left] = np.where(late, middle - 1, high[left])
        low[left] = np.where(late, low[left], middle)


def _most(bounds: Bounds, shapes: Shapes, least: int, most: int) -> int:
    """The greatest number that one of the shapes takes; 0 where that is no more than ``least``."""
    low, high = least, most
    while low < high:
        middle = (low + high + 1) // 2
        left = ~untaken(bounds, shapes, np.full(len(shapes), middle))
        if left.any():
            low, shapes = middle, shapes.take(left)
        else:
            high = middle - 1
    return high if high > least else 0


def _packed(
    usage: Ints, most: Ints, devices: Ints, fewest: int, largest: int
) -> tuple[int, list[int]]:
    """The most micro-batches of ``fewest`` to ``largest`` replicas on the devices, and the rows of
    ``usage`` that take them; 0 if there is no room for so many."""
    rows = [k for k in np.flatnonzero(most > 0) if (usage[k] <= devices).all()]
    if not rows:
        return 0, []
    units = np.array([math.gcd(*column) or 1 for column in usage[rows].T.tolist()])
    extent = tuple((devices // units + 1).tolist())
    columns = [(tuple((usage[k] // units).tolist()), int(most[k]), int(k)) for k in rows]
    tables = [np.zeros(extent, np.int64)]
    for _ in range(largest):
        now = np.full(extent, _NEVER)
        for taken, micro, _ in columns:
            to = tuple(slice(t, None) for t in taken)
            of = tuple(slice(None, e - t) for t, e in zip(taken, extent, strict=True))
            np.maximum(now[to], tables[-1][of] + micro, out=now[to])
        if now.max() < 0:
            break
        tables.append(now)
    if len(tables) <= fewest:
        return 0, []
    count = max(range(fewest, len(tables)), key=lambda r: int(tables[r].max()))
    answer = int(tables[count].max())
    at = tuple(int(k) for k in np.unravel_index(int(tables[count].argmax()), extent))
    chosen: list[int] = []
    for r in range(count, 0, -1):
        for taken, micro, k in columns:
            before = tuple(a - t for a, t in zip(at, taken, strict=True))
            if min(before) >= 0 and tables[r - 1][before] + micro == tables[r][at]:
                chosen.append(k)
                at = before
                break
    return answer, sorted(set(chosen))

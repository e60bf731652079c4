"""One part of the space for the prover: its prices refute the target, or the packing does.

With prices p of a device and q of a replica, no shape may take more micro-batches in T than its
devices and itself cost. If the devices of all groups and the greatest number of replicas cost less
than M, no plan of the part takes M micro-batches in T. If they cost M or more, by what is to spare,
then in a plan that takes M no replica can waste more than that of what it costs: the shapes that
waste no more are packed into the devices in every way, by dynamic programming over replicas and
devices.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from optalloc.errors import CertificateError
from optalloc.training.mixed.problem import MixedProblem
from optalloc.training.mixed.proof import PartProof
from optalloc.training.mixed.prove.cuts import Cuts
from optalloc.training.mixed.prove.shapes import Bounds, Shapes, needs, worths
from optalloc.training.mixed.prove.words import Recomputations, Stages, Words

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_SPARE = 1e-7  # micro-batches; prices are floats


class Prover:
    """Proves parts of one problem: one micro-batch size."""

    def __init__(self, problem: MixedProblem) -> None:
        self.problem = problem
        self.words = Words(tuple(int(t) for t in problem.sequence))
        self.ways: dict[int, Recomputations] = {}

    def bounds(self, groups: tuple[int, ...], least: int, most: int, target_s: float) -> Bounds:
        """The bounds of a part for steps of ``target_s``."""
        stages = Stages(self.problem, self.words, self.ways, groups, least, most)
        return Bounds(stages, target_s - stages.fixed_s)

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
        late = untaken(bounds, shapes, needs(worth))
        if not late.all():
            row = int(np.flatnonzero(~late)[0])
            raise CertificateError(
                f"{_name(part)}: a pipeline on {bounds.usage(shapes)[row].tolist()} devices takes "
                f"more micro-batches than the {worth[row]:.6g} that it costs"
            )
        devices = np.array([p.available[g] for g in part.groups])
        total = float(worths(devices, [*part.prices[:-1], part.prices[-1] * part.most]))
        if total >= micro - _SPARE:
            kept = _candidates(bounds, shapes, worth, total - micro)
            packed = _packed(kept, devices, part.least, part.most)
            if packed >= micro:
                raise CertificateError(
                    f"{_name(part)}: its devices may take {packed} micro-batches in "
                    f"{target_s:.9g} s, and {micro} are a step"
                )
        return len(shapes)


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
        late[row] = not Cuts(bounds.stages, kinds).takes(int(need[row]), bounds.target_s)
    wide = left[~exact]
    if len(wide):
        opened, rows = bounds.expand(shapes.take(wide))
        inner = untaken(bounds, opened, need[wide][rows])
        taken = np.zeros(len(wide), bool)
        taken[rows[~inner]] = True
        late[wide] = ~taken
    return late


def _candidates(
    bounds: Bounds, shapes: Shapes, worth: NDArray[np.float64], spare: float
) -> dict[tuple[int, ...], int]:
    """By devices: the most micro-batches of shapes that waste no more than there is to spare."""
    need = np.maximum(1, np.ceil(worth - spare - 1e-6).astype(np.int64))
    left = np.arange(len(shapes))
    most: dict[tuple[int, ...], int] = {}
    usage = bounds.usage(shapes)
    while len(left):
        left = left[~untaken(bounds, shapes.take(left), need[left])]
        for row in left:
            key = tuple(usage[row].tolist())
            most[key] = max(most.get(key, 0), int(need[row]))
        need[left] += 1
    return most


def _packed(candidates: dict[tuple[int, ...], int], devices: Ints, least: int, most: int) -> int:
    """The most micro-batches of ``least`` to ``most`` replicas on the devices; 0 if there is no
    room for so many."""
    if not candidates:
        return 0
    usage = np.array(list(candidates))
    units = np.array([math.gcd(*column) or 1 for column in usage.T.tolist()])
    usage = usage // units
    extent = tuple((devices // units + 1).tolist())
    never = -(1 << 40)
    best, answer = np.zeros(extent, np.int64), 0
    for replicas in range(1, most + 1):
        now = np.full(extent, never)
        for taken, micro in zip(usage.tolist(), candidates.values(), strict=True):
            if any(t >= e for t, e in zip(taken, extent, strict=True)):
                continue
            to = tuple(slice(t, None) for t in taken)
            of = tuple(slice(None, e - t) for t, e in zip(taken, extent, strict=True))
            now[to] = np.maximum(now[to], best[of] + micro)
        best = now
        if best.max() < 0:
            break
        if replicas >= least:
            answer = max(answer, int(best.max()))
    return answer

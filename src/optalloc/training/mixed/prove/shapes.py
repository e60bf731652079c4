"""Shapes for the prover: all of a part, and bounds of the micro-batches that they take.

A *family* is a set of kinds of one group and size; its bounds are the best of its members'. A shape
is a sequence of blocks of equal stages, each of one family, no group twice.

Bounds, each for "no cut of the shape takes ``need`` micro-batches in T seconds"
-------------------------------------------------------------------------------
- :func:`by_rates`: with x_i of the work on stage i of rate r_i, S + (need - 1) beta is at least
  (q + need - 1) / (r_1 + .. + r_q) for some q, the fastest first; inside a block this quotient is
  monotone in q, so the ends of blocks and the first stage decide.
- :func:`by_counts`: with no stage longer than beta and no tail longer than theta, stage i holds at
  most so many layers; together they must hold all L. S is then at least what the layers take where
  the quickest stages hold all they can, and beta at most (T - links - theta - S) / (need - 1): this
  is repeated while beta falls. Tails lie in one of the intervals of a grid; all must be refuted,
  and what refutes a wide one refutes all in it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import cached_property

import msgspec
import numpy as np
from numpy.typing import NDArray

from optalloc.cost.meshes import LAYER_FIELDS
from optalloc.training.mixed.problem import MixedProblem
from optalloc.training.mixed.prove.words import FIRST, LAST, MIDDLE, SINGLE, Stages

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_TAILS = 32  # intervals of the grid of theta
_ROUNDS = 40
_FORWARD, _BACKWARD = (LAYER_FIELDS.index(name) for name in ("forward_s", "backward_s"))


class Shapes(msgspec.Struct, frozen=True):
    """Many shapes, one a row: families of their blocks (-1: none) and stages of each."""

    family: Ints
    count: Ints

    def __len__(self) -> int:
        return len(self.family)

    def take(self, rows: Bools | Ints) -> Shapes:
        return Shapes(self.family[rows], self.count[rows])


class Bounds:
    """The bounds of shapes in one part at one target, seconds; of stages of ``kinds``."""

    def __init__(self, stages: Stages, target_s: float, kinds: Sequence[int]) -> None:
        self.stages, self.target_s = stages, target_s
        p = stages.problem
        self.num_layers = len(p.sequence)
        kinds = [k for k in kinds if int(p.group[k]) in stages.groups]
        sizes: dict[tuple[int, int], list[int]] = {}
        for k in kinds:
            sizes.setdefault((int(p.group[k]), int(p.devices[k])), []).append(k)
        #: Kinds of each family; those of one kind alone are behind the others.
        self.members = [*sizes.values(), *([k] for k in kinds)]
        self.num_families = len(sizes)
        one = [m[0] for m in self.members]
        self.group, self.devices = p.group[one].astype(np.int64), p.devices[one].astype(np.int64)
        seconds = stages.layers[:, :, _FORWARD] + stages.layers[:, :, _BACKWARD]
        self._rates(seconds)
        inner = seconds[:, np.unique(p.sequence)].min(axis=1)
        head = np.minimum(seconds[:, -2], seconds[:, -1])
        self.layer_s, self.first_s, self.last_s = (
            np.array([values[m].min() for m in self.members])
            for values in (inner, seconds[:, 0], head)
        )
        self.theta = target_s * (np.arange(_TAILS + 1) / _TAILS) ** 2
        self._known: dict[tuple[int, int], Array] = {}

    def _rates(self, seconds: Array) -> None:
        """Work a second of one stage of each family; the whole model is 1."""
        p, groups = self.stages.problem, self.stages.groups
        counts = np.bincount(p.sequence, minlength=seconds.shape[1] - 1).astype(float)
        counts[[0, -1]] = 1.0
        each = seconds[:, :-1].copy()
        each[:, -1] = np.minimum(each[:, -1], seconds[:, -1])
        speed = np.zeros(each.shape[1])
        with np.errstate(divide="ignore", invalid="ignore"):
            for g in groups:
                own = p.group == g
                if own.any():
                    speed += p.available[g] / (each[own] * p.devices[own, None]).min(axis=0)
            work = np.where((speed > 0) & np.isfinite(speed), 1.0 / speed, 0.0)
            work /= counts @ work
            rate = np.where(work > 0, work / each, 0.0).max(axis=1)
        self.rate = np.array([rate[m].max() for m in self.members])

    @property
    def device_rates(self) -> list[float]:
        """Work a second of one device of each group of the part, at most."""
        each = self.rate / self.devices
        return [float(each[self.group == g].max(initial=0.0)) for g in self.stages.groups]

    # -- shapes ----------------------------------------------------------------------------------

    def all_shapes(self) -> Shapes:
        """Every shape of families that the devices and the number of stages allow."""
        p = self.stages.problem
        most = min(p.most_stages, self.num_layers + 2)
        blocks: dict[int, Ints] = {}
        for g in self.stages.groups:
            rows = [
                (f, count)
                for f in range(self.num_families)
                if self.group[f] == g
                for count in range(1, min(most, p.available[g] // int(self.devices[f])) + 1)
            ]
            blocks[g] = np.array(rows, np.int64).reshape(-1, 2)
        parts: list[Shapes] = []
        width = min(len(self.stages.groups), p.most_blocks)
        for size in range(1, width + 1):
            for order in itertools.permutations(self.stages.groups, size):
                grids = np.meshgrid(*(np.arange(len(blocks[g])) for g in order), indexing="ij")
                picks = [blocks[g][grid.ravel()] for g, grid in zip(order, grids, strict=True)]
                family = np.full((len(picks[0]), width), -1, np.int64)
                count = np.zeros((len(picks[0]), width), np.int64)
                for k, pick in enumerate(picks):
                    family[:, k], count[:, k] = pick.T
                fits = count.sum(axis=1) <= most
                parts.append(Shapes(family[fits], count[fits]))
        return Shapes(
            *(np.concatenate([getattr(s, n) for s in parts]) for n in ("family", "count"))
        )

    def usage(self, shapes: Shapes) -> Ints:
        """Devices of each group of the part that a shape takes, shape (shapes, groups)."""
        own = np.where(shapes.family >= 0, shapes.count * self.devices[shapes.family], 0)
        group = self.group[shapes.family]
        return np.stack(
            [np.where(group == g, own, 0).sum(axis=1) for g in self.stages.groups], axis=1
        )

    def is_exact(self, shapes: Shapes) -> Bools:
        """Whether every block is of one kind."""
        open_ = (shapes.family >= 0) & (shapes.family < self.num_families)
        single = np.array([len(m) == 1 for m in self.members])
        exact: Bools = ~(open_ & ~single[shapes.family]).any(axis=1)
        return exact

    def expand(self, shapes: Shapes) -> tuple[Shapes, Ints]:
        """Shapes with each kind of their first family of several, and the rows they come from."""
        families, counts, rows = [], [], []
        single = np.array([len(m) == 1 for m in self.members])
        open_ = (shapes.family >= 0) & ~single[shapes.family]
        block = open_.argmax(axis=1)
        place = {
            m[0]: self.num_families + k for k, m in enumerate(self.members[self.num_families :])
        }
        chosen = shapes.family[np.arange(len(shapes)), block]
        for f in np.unique(chosen):
            own = np.flatnonzero(chosen == f)
            for kind in self.members[f]:
                family = shapes.family[own].copy()
                family[np.arange(len(own)), block[own]] = place[kind]
                families.append(family)
                counts.append(shapes.count[own])
                rows.append(own)
        return Shapes(np.concatenate(families), np.concatenate(counts)), np.concatenate(rows)

    # -- bounds ----------------------------------------------------------------------------------

    def links_s(self, shapes: Shapes) -> Array:
        """The least seconds that one micro-batch spends on links, there and back."""
        inside, between = self._inside_s(int(shapes.count.max(initial=0))), self._between_s
        total = np.zeros(len(shapes))
        for block in range(shapes.family.shape[1]):
            f = shapes.family[:, block]
            here = f >= 0
            total += np.where(here, inside[f, shapes.count[:, block]], 0.0)
            if block + 1 < shapes.family.shape[1]:
                after = shapes.family[:, block + 1]
                total += np.where(here & (after >= 0), between[f, after], 0.0)
        return total

    def _inside_s(self, most: int) -> Array:
        """The same inside a block, by family and number of stages."""
        p, g, count = self.stages.problem, self.group, np.arange(most + 1)
        domain = np.array(p.domain)[g][:, None]
        size = self.devices[:, None] * np.maximum(count, 1)
        near = (size == domain) | ((domain % size == 0) & ((size & (size - 1)) == 0))
        each = []
        for level in (p.near, p.far):
            latency = np.array([w.latency_s for w in level])[g]
            rate = np.array([w.bandwidth_bytes_per_s for w in level])[g]
            each.append((latency + self._sent / rate)[:, None])
        seconds: Array = 2.0 * (count - 1) * np.where(near, *each)
        return seconds

    @cached_property
    def _between_s(self) -> Array:
        """The same between two blocks, by their families."""
        g, seconds = self.group, np.zeros((len(self.group), len(self.group)))
        most = np.maximum(self._sent[:, None], self._sent)
        for a, b in itertools.permutations(self.stages.groups, 2):
            hop_s, speed = self.stages.link(a, b)
            here = (g[:, None] == a) & (g == b)
            seconds = np.where(here, 2.0 * (hop_s + most / speed), seconds)
        return seconds

    @cached_property
    def _sent(self) -> Array:
        """Bytes that cross the cheapest boundary, by family, at least."""
        p = self.stages.problem
        sent: Array = np.array([p.sent_bytes[m].min() for m in self.members])
        return float(p.boundary.min()) * sent

    def by_rates(self, shapes: Shapes, need: Ints, links_s: Array) -> Bools:
        """True where no cut takes ``need`` micro-batches in the target; see the module."""
        rate = np.where(shapes.family >= 0, self.rate[shapes.family], 0.0)
        order = np.argsort(-rate, axis=1, kind="stable")
        rate = np.take_along_axis(rate, order, axis=1)
        count = np.take_along_axis(shapes.count, order, axis=1)
        done, speed = np.cumsum(count, axis=1), np.cumsum(count * rate, axis=1)
        more = (need - 1)[:, None]
        least = np.minimum(((done + more) / speed).min(axis=1), need / rate[:, 0])
        late: Bools = least * (1.0 - 1e-12) + links_s > self.target_s
        return late

    def by_counts(self, shapes: Shapes, need: Ints, links_s: Array) -> Bools:
        """True where no cut takes ``need`` micro-batches in the target; see the module."""
        late = np.ones(len(shapes), bool)
        waiting = [(0, _TAILS, np.arange(len(shapes)))]
        while waiting:
            low, high, rows = waiting.pop()
            rows = rows[late[rows]]
            if not len(rows):
                continue
            rows = rows[self._open(shapes.take(rows), need[rows], links_s[rows], low, high)]
            if high - low == 1:
                late[rows] = False
            elif len(rows):
                middle = (low + high) // 2
                waiting += [(low, middle, rows), (middle, high, rows)]
        return late

    def _open(self, shapes: Shapes, need: Ints, links_s: Array, low: int, high: int) -> Bools:
        """Where the counts leave a cut with its tail between two steps of the grid."""
        room = self.target_s - links_s - self.theta[low]
        ends = self.first_s[shapes.family[:, 0]]
        last = (shapes.count > 0).sum(axis=1) - 1
        ends = ends + self.last_s[shapes.family[np.arange(len(shapes)), last]]
        beta = room / need
        open_: Bools = room > 0.0
        rows = np.flatnonzero(open_)
        for _ in range(_ROUNDS):
            if not len(rows):
                break
            held = self._held(shapes.take(rows), beta[rows], high)
            enough = (held.sum(axis=1) >= self.num_layers) & (held.min(axis=1) >= 0)
            open_[rows[~enough]] = False
            rows, held = rows[enough], held[enough]
            pass_s = (ends[rows] + self._spread(shapes.take(rows), held)) * (1.0 - 1e-12)
            open_[rows[pass_s > room[rows]]] = False
            with np.errstate(divide="ignore", invalid="ignore"):
                longest = (room[rows] - pass_s) / (need[rows] - 1)
            less = (need[rows] > 1) & (longest < beta[rows] * (1.0 - 1e-9)) & open_[rows]
            rows = rows[less]
            beta[rows] = longest[less]
        return open_

    def _spread(self, shapes: Shapes, held: Ints) -> Array:
        """Seconds of all layers where the quickest blocks hold all they can."""
        layer = np.where(shapes.family >= 0, self.layer_s[shapes.family], np.inf)
        order = np.argsort(layer, axis=1, kind="stable")
        layer = np.take_along_axis(layer, order, axis=1)
        most = np.take_along_axis(held, order, axis=1)
        before = np.cumsum(most, axis=1) - most
        taken = np.clip(self.num_layers - before, 0, most)
        seconds: Array = (taken * np.where(np.isinf(layer), 0.0, layer)).sum(axis=1)
        return seconds

    def _held(self, shapes: Shapes, beta: Array, high: int) -> Ints:
        """The most layers that the stages of each block hold within beta and theta; negative where
        a stage has no number of layers at all."""
        ends = np.cumsum(shapes.count, axis=1)
        stages = ends[:, -1:]
        place = np.arange(int(stages.max(initial=0)))[None, :]
        some = place < stages
        block = np.where(some, (place[:, :, None] >= ends[:, None, :]).sum(axis=2), 0)
        role = np.where(place == 0, FIRST, np.where(place == stages - 1, LAST, MIDDLE))
        role = np.where(stages == 1, SINGLE, role)
        family = np.take_along_axis(shapes.family, block, axis=1)
        code = ((family * 32 + stages - place) * 4 + role)[some]
        longest = np.broadcast_to(beta[:, None] * (1.0 + 1e-12), some.shape)[some]
        order = np.argsort(code, kind="stable")
        cuts = np.flatnonzero(np.diff(code[order], prepend=-1, append=-1))
        most = np.zeros(len(code), np.int64)
        for begin, end in itertools.pairwise(cuts):
            own = order[begin:end]
            one = int(code[own[0]])
            reach = np.searchsorted(self._rows(one, high), longest[own], side="right") - 1
            floor = 1 if one % 4 == MIDDLE else 0
            most[own] = np.where(reach < floor, -64 * self.num_layers, reach)
        held = np.zeros(some.shape, np.int64)
        held[some] = most
        return np.stack(
            [np.where(block == b, held, 0).sum(axis=1) for b in range(ends.shape[1])], axis=1
        )

    def _rows(self, code: int, high: int) -> Array:
        """By number of layers: the least time of a stage that holds so many or more, with its tail
        within theta."""
        key = (code, high)
        if key not in self._known:
            role, family, flight = code % 4, code // 128, code // 4 % 32
            least = np.full(self.num_layers + 1, np.inf)
            for kind in self.members[family]:
                tau, tail = self.stages.times(kind, flight, role)
                fits = tail * (1.0 - 1e-12) <= self.theta[high]
                np.minimum(least, self.stages.words.least(np.where(fits, tau, np.inf)), out=least)
            self._known[key] = np.minimum.accumulate(least[::-1])[::-1]
        return self._known[key]


def undominated(problem: MixedProblem) -> list[int]:
    """Kinds that no other of the same group and size replaces without loss.

    Another that is no worse in any time or number of bytes can take the place of a kind on every
    stage. Its passes may hide less of the exchange, but by no more than they are shorter: the sum
    of S and the longest tail does not grow, nor does the slowest stage.
    """
    columns = [problem.layers.reshape(len(problem.group), -1), -problem.capacity_bytes[:, None]]
    for name in ("optimizer_bytes", "gradient_bytes", "weight_bytes"):
        columns.append(getattr(problem, name))
    columns += [getattr(problem, f"{n}_bytes")[:, None] for n in ("logits", "sent", "tied")]
    table = np.concatenate(columns, axis=1)
    kept: list[int] = []
    for k in range(len(table)):
        same = (problem.group == problem.group[k]) & (problem.devices == problem.devices[k])
        rivals = np.flatnonzero(same)
        no_worse = (table[rivals] <= table[k]).all(axis=1)
        better = (table[rivals] < table[k]).any(axis=1)
        if not (no_worse & (better | (rivals < k))).any():
            kept.append(k)
    return kept


def needs(worth: Array) -> Ints:
    """The number of micro-batches that a shape must not take, given what its devices cost."""
    return np.floor(worth + 1e-9).astype(np.int64) + 1


def worths(usage: Ints, prices: Sequence[float]) -> Array:
    """What devices and one replica cost."""
    total: Array = usage @ np.array(prices[:-1]) + prices[-1]
    return total

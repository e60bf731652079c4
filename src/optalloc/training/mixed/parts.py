"""Parts of the space of mixed plans, their lower bounds, and which kinds of stages they hold."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import msgspec
import numpy as np

from optalloc import _native
from optalloc.cost.meshes import LAYER_FIELDS
from optalloc.training.mixed.problem import (
    BY_KIND,
    GATHER,
    REDUCE,
    STATE,
    UPDATE,
    Array,
    MixedProblem,
    Replica,
    Stage,
    rings,
    shards,
)
from optalloc.training.mixed.proof import PartProof
from optalloc.training.strategy import Recompute

Row = tuple[int, float, list[int], list[int], list[int], list[int]]


class Part:
    """One part of the space, with a lower bound of all its plans; ``only`` some kinds if given."""

    def __init__(
        self,
        problem: MixedProblem,
        used: Sequence[int],
        least: int,
        most: int,
        bound: float,
        within: Part | None = None,
        only: Sequence[int] | None = None,
    ) -> None:
        self.problem, self.used = problem, tuple(used)
        self.least, self.most = least, most
        self.bound = self.work_bound = bound
        self.fixed_s = max(problem.fixed_s[g] for g in used)
        self.too_large_s = np.inf  # with a target as great as this the part was too large to close
        self.within, self.only = within, only
        self.closed: tuple[PartProof, ...] = ()
        self._native: _native.MixedSearch | None = None

    @property
    def is_relaxed(self) -> bool:
        """True if the numbers of replicas differ in cost: each then counts as the cheapest."""
        return rings(self.least) != rings(self.most)

    def halves(self) -> list[Part]:
        """The part in two, cut between numbers of replicas that differ in cost."""
        cuts = [r for r in range(self.least + 1, self.most + 1) if rings(r)[0] == r]
        middle = cuts[len(cuts) // 2]
        low = Part(self.problem, self.used, self.least, middle - 1, self.bound, self)
        high = Part(self.problem, self.used, middle, self.most, self.bound, self)
        return [low, high]

    def native(self) -> _native.MixedSearch:
        """The native search of this part, kept until :meth:`close`."""
        if self._native is None:
            self._native = self._made()
            if self.within is not None:
                self._native.inherit(self.within.native())
        return self._native

    def proof(self) -> PartProof:
        """The prices that close the part, after its native search has refuted a target."""
        return PartProof(
            micro_batch=self.problem.micro_batch,
            groups=self.used,
            least=self.least,
            most=self.most,
            prices=tuple(self.native().prices()),
        )

    def close(self) -> None:
        """Forget what the native search has computed."""
        self._native = None

    def _made(self) -> _native.MixedSearch:
        """Costs are those of the part's replicas and groups."""
        p, used = self.problem, self.used
        index = {g: i for i, g in enumerate(used)}
        own = np.isin(p.group, used)
        if self.only is not None:
            own &= np.isin(np.arange(p.num_kinds), self.only)
        self.kinds = np.flatnonzero(own)
        exchange = p.exchange_link(used)
        share, hops = p.ring(self.least)
        rate, z = exchange.bandwidth_bytes_per_s, shards(self.most)
        layers = p.layers[self.kinds].copy()
        layers[:, :, STATE] += p.optimizer_bytes[self.kinds] / z
        layers[:, :, REDUCE] += share * p.gradient_bytes[self.kinds] / rate
        layers[:, :, GATHER] += share * p.weight_bytes[self.kinds] / rate
        layers[:, :, UPDATE] /= z
        tied = p.tied_bytes[self.kinds]
        latency = np.full(len(self.kinds), hops * exchange.latency_s)
        reals = [
            p.capacity_bytes[self.kinds],
            p.logits_bytes[self.kinds],
            p.sent_bytes[self.kinds],
            np.where(tied > 0, 2.0 * exchange.latency_s + tied / rate, 0.0),
            latency,
            latency,
        ]
        links = [
            [
                (w.latency_s, 1.0 / w.bandwidth_bytes_per_s)
                for w in (p.near[g], p.far[g], *(p.wire(g, h) for h in used))
            ]
            for g in used
        ]
        ints = [[index[int(p.group[k])], int(p.devices[k])] for k in self.kinds]
        return _native.MixedSearch(
            np.array(ints, np.int32).reshape(-1, 2),
            np.ascontiguousarray(np.stack(reals, axis=1)),
            np.ascontiguousarray(layers[:, :-1]),
            np.ascontiguousarray(layers[:, -1]),
            [p.available[g] for g in used],
            [p.domain[g] for g in used],
            np.array(links),
            p.sequence,
            p.boundary,
            p.overlap,
            p.num_microbatches,
            p.most_stages,
            p.most_blocks,
            self.least,
            self.most,
        )

    def replicas(self, rows: list[Row]) -> tuple[Replica, ...]:
        """The native answer in the problem's own numbers."""
        return tuple(
            Replica(
                micro,
                tuple(
                    Stage(int(self.kinds[k]), n, Recompute(f, s))
                    for k, n, f, s in zip(kinds, sizes, full, core, strict=True)
                ),
            )
            for micro, _, kinds, sizes, full, core in rows
        )


def work_bound(problem: MixedProblem, used: Sequence[int]) -> float:
    """A lower bound of J on these groups: all work spread over all devices at their best rates.

    Give each layer type a share w of the work, the shares of all layers summing to 1. A device of
    group g does at most c_g = max over kinds and types of w / (devices * seconds) of it a second,
    so M <= J sum c_g available_g. True for any w; taken is the time that the groups together need.
    """
    seconds = problem.layers[:, :-1, LAYER_FIELDS.index("forward_s")]
    seconds = seconds + problem.layers[:, :-1, LAYER_FIELDS.index("backward_s")]
    counts = np.bincount(problem.sequence, minlength=seconds.shape[1]).astype(np.float64)
    counts[0] = counts[-1] = 1.0
    least: list[Array] = []
    for g in used:
        own = problem.group == g
        if own.any():
            least.append((seconds[own] * problem.devices[own, None]).min(axis=0))
        else:
            least.append(np.full(seconds.shape[1], np.inf))
    with np.errstate(divide="ignore", invalid="ignore"):
        speed = sum(problem.available[g] / t for g, t in zip(used, least, strict=True))
        work = np.where(np.isfinite(speed) & (speed > 0), 1.0 / speed, 0.0)
        total = float(counts @ work)
        if total <= 0.0:
            return 0.0
        work = work / total
        rates = [float(np.max(np.where(work > 0, work / t, 0.0))) for t in least]
    rate = sum(c * problem.available[g] for c, g in zip(rates, used, strict=True))
    fixed = max(problem.fixed_s[g] for g in used)
    return problem.num_microbatches / rate + fixed if rate > 0 else float("inf")


def most_replicas(problem: MixedProblem, used: Sequence[int]) -> int:
    """No plan on these groups has more replicas: each has a micro-batch and a device, and all of
    them together hold so many times the least bytes of every layer."""
    most = min(problem.num_microbatches, sum(problem.available[g] for g in used))
    own = np.isin(problem.group, used)
    if not own.any():
        return most
    room = sum(
        problem.available[g] * float(problem.capacity_bytes[problem.group == g].max())
        for g in used
        if (problem.group == g).any()
    )
    field = {name: problem.layers[own, :, k] for k, name in enumerate(LAYER_FIELDS)}
    held = np.minimum(field["held_bytes"], field["held_full_bytes"])
    kept = field["state_bytes"] + np.minimum(held, field["held_selective_bytes"])
    counts = np.bincount(problem.sequence, minlength=problem.layers.shape[1] - 1)
    counts[0] = counts[-1] = 1
    while most > 1:
        whole = (kept + problem.optimizer_bytes[own] / shards(most)) * problem.devices[own, None]
        least = whole.min(axis=0)
        least[-2] = min(least[-2], least[-1])  # the head, or where one stage holds both ends
        if most * float(counts @ least[:-1]) <= room * (1.0 + 1e-9):
            break
        most -= 1
    return most


def chosen(problem: MixedProblem, kinds: Sequence[int]) -> MixedProblem:
    """The problem with these kinds alone."""
    index = np.array(kinds, np.int64)
    return msgspec.structs.replace(problem, **{n: getattr(problem, n)[index] for n in BY_KIND})


def parts_of(problems: Sequence[MixedProblem], limit: int | None = None) -> list[Part]:
    """The space as parts: one replica, or all greater numbers of them up to the limit.

    One replica has no more groups than blocks.
    """
    parts = []
    for problem in problems:
        groups = [g for g in range(len(problem.available)) if (problem.group == g).any()]
        for size in range(1, len(groups) + 1):
            for used in itertools.combinations(groups, size):
                bound = work_bound(problem, used)
                if size <= problem.most_blocks:
                    parts.append(Part(problem, used, 1, 1, bound))
                most = most_replicas(problem, used) if limit is None else limit
                if most > 1:
                    parts.append(Part(problem, used, 2, most, bound))
    return parts


def seeds(parts: Sequence[Part]) -> list[Part]:
    """The parts of one replica, the least bound first, with a few kinds alone: of each group and
    size the fastest and that of the fewest bytes, and only as small as a pipeline of all devices
    can have."""
    few = {id(part.problem): _few_kinds(part.problem) for part in parts}
    single = [
        Part(part.problem, part.used, 1, 1, part.bound, only=few[id(part.problem)])
        for part in parts
        if part.most == 1
        and set(part.used) & {part.problem.group[k] for k in few[id(part.problem)]}
    ]
    return sorted(single, key=lambda part: part.bound)


def _few_kinds(problem: MixedProblem) -> list[int]:
    field = {name: problem.layers[:, 1:-2, k] for k, name in enumerate(LAYER_FIELDS)}
    seconds = (field["forward_s"] + field["backward_s"]).sum(axis=1)
    needed = problem.optimizer_bytes[:, 1:-2] + field["state_bytes"] + field["held_full_bytes"]
    smallest = sum(problem.available) / problem.most_stages
    sizes: dict[tuple[int, int], list[int]] = {}
    for k, (group, devices) in enumerate(zip(problem.group, problem.devices, strict=True)):
        if devices >= smallest:
            sizes.setdefault((int(group), int(devices)), []).append(k)
    return sorted(
        {
            min(own, key=values.__getitem__)
            for own in sizes.values()
            for values in (seconds, needed.sum(axis=1))
        }
    )

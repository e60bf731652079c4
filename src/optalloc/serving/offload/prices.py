"""Prices: a bound on every layout, with CPU memory sold at a price instead of limited.

*Formulation.* At prices p >= 0 of a part of each kind in CPU memory, the seconds of a range of
places on a GPU are at least those of a fractional knapsack over the GPU's memory
(:func:`range_costs`); the best chain of ranges is a shortest path over (GPUs used, place, device)
(:class:`Layouts`). In :mod:`~optalloc.serving.offload.duals` the prices come from the rows that
they stand for.

Complexity: O(2^G G P^2) time for G GPUs and P places; equal GPUs are used in their order.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np

from optalloc.serving.offload.fills import best_fill
from optalloc.serving.offload.machine import Gpu
from optalloc.serving.offload.problem import Device
from optalloc.serving.offload.tables import CPU, DEVICE, DISK, Counts, Floats, Mode, Tables

_WIDEST = 0.05  # share of the shortest chain within which ranges are made whole at once


def range_costs(tables: Tables, mode: Mode, prices: Floats) -> Floats:
    """Least seconds of every range ``[a, b)`` on a mode, with CPU memory paid.

    Returns
    -------
    ndarray of float64, shape (P + 1, P + 1)
        Infinite where ``b <= a`` or the range does not fit.
    """
    counts = (tables.before[None, :, :] - tables.before[:, None, :]).astype(float)
    sizes, away = tables.sizes, mode.away(prices)
    if mode.device is None:
        cost = counts @ away
    else:
        forced = np.isinf(away)
        rest = mode.room - counts @ np.where(forced, sizes, 0)
        finite = np.where(forced, mode.seconds[:, DEVICE], away)
        cost = np.where(rest < 0, math.inf, counts @ finite)
        rest = np.maximum(rest, 0.0)
        gain = finite - mode.seconds[:, DEVICE]
        for c in np.argsort(-gain / sizes, kind="stable"):
            if gain[c] <= 0.0:
                break
            taken = np.minimum(counts[:, :, c], rest / sizes[c])
            rest = rest - taken * sizes[c]
            cost = cost - taken * gain[c]
    backwards = np.tril(np.ones(cost.shape, dtype=bool))
    return np.where(backwards, math.inf, cost)


def parts_in_cpu(
    tables: Tables, mode: Mode, prices: Floats, counts: Counts, *, whole: bool
) -> Floats:
    """Parts of each kind, in fractions unless ``whole``, that the cheapest fill of a range with
    ``counts`` parts has in CPU memory.
    """
    memory = DEVICE if mode.device is None else CPU
    held = mode.seconds[:, memory] + prices <= mode.seconds[:, DISK]
    if mode.device is None:
        return np.where(held, counts.astype(float), 0.0)
    if whole:
        _, on_gpu = best_fill(mode, tables.sizes, counts, prices)
        return np.where(held, (counts - on_gpu).astype(float), 0.0)
    away = mode.away(prices)
    forced = np.isinf(away)
    rest = mode.room - float((counts * tables.sizes)[forced].sum())
    left = np.where(forced, 0.0, counts.astype(float))
    gain = np.where(forced, 0.0, np.where(forced, 0.0, away) - mode.seconds[:, DEVICE])
    for c in np.argsort(-gain / tables.sizes, kind="stable"):
        if gain[c] <= 0.0:
            break
        taken = min(left[c], rest / tables.sizes[c])
        rest -= taken * tables.sizes[c]
        left[c] -= taken
    return np.where(held, left, 0.0)


class Range(msgspec.Struct, frozen=True):
    """Places ``[begin, end)`` on a mode of a device."""

    mode: int
    device: Device
    begin: int
    end: int


class Layouts:
    """Shortest chains of ranges at given prices.

    ``rest[used][d][k]`` bounds the seconds from place ``k`` on, once the GPUs of the bit set
    ``used`` have had their range, coming from device number ``d`` (the last number is the CPU).
    """

    def __init__(self, tables: Tables, prices: Floats) -> None:
        self.tables, self.prices = tables, prices
        problem = tables.problem
        self.num_gpus = len(problem.machine.gpus)
        self.costs: dict[Device, list[Floats]] = {
            device: [range_costs(tables, mode, prices) for mode in modes]
            for device, modes in tables.modes.items()
        }
        if problem.limits.embedding_on_cpu:
            for device, found in self.costs.items():
                for cost in found if device is not None else ():
                    cost[0, :] = math.inf
        self.before_equal = [self._equals_before(k) for k in range(self.num_gpus)]
        self._hops = [
            [problem.hop_s(a, b) for b in (*range(self.num_gpus), None)]
            for a in (*range(self.num_gpus), None)
        ]
        self._shape = (2**self.num_gpus, self.num_gpus + 1, tables.num_places + 1)
        self._find_rest()

    def _find_rest(self) -> None:
        shape = (self.tables.num_places + 1,) * 2
        self.least = {
            device: np.min(found, axis=0) if found else np.full(shape, math.inf)
            for device, found in self.costs.items()
        }
        self.rest = np.full(self._shape, math.inf)
        for used in reversed(range(2**self.num_gpus)):
            self._fill(used)

    def sharpen(self, share: float) -> float:
        """Replace fractional knapsacks by whole ones where a chain through the range is within
        ``share`` of the shortest, until all of these are; returns the seconds of the shortest.
        Each turn looks twice as far as the one before, so that there are few.
        """
        known: dict[object, float] = {}
        sharp = {gpu: [np.zeros(c.shape, bool) for c in found] for gpu, found in self.costs.items()}
        while True:
            shortest = float(self.rest[0, self.num_gpus, 0])
            limit = shortest + share * abs(shortest)
            share = max(share, min(2.0 * share, _WIDEST))
            reach, changed = self._reach(), False
            for gpu in range(self.num_gpus):
                around = self._around(reach, gpu)
                for m, cost in enumerate(self.costs.get(gpu, [])):
                    near = (around + cost <= limit) & ~sharp[gpu][m]
                    sharp[gpu][m] |= near
                    for a, b in np.argwhere(near).tolist():
                        exact = self._exact(gpu, m, a, b, known)
                        changed |= exact > cost[a, b]
                        cost[a, b] = max(cost[a, b], exact)
            if not changed:
                return shortest
            self._find_rest()

    def _around(self, reach: Floats, gpu: int) -> Floats:
        """Least seconds before and after a range of a GPU, by its first and end place."""
        around = np.full((self.tables.num_places + 1,) * 2, math.inf)
        for used in range(2**self.num_gpus):
            if gpu not in self.next_gpus(used):
                continue
            for d in range(self.num_gpus + 1):
                hop = self.hop(None if d == self.num_gpus else d, gpu)
                before = reach[used, d][:, None] + hop
                around = np.minimum(around, before + self.rest[used | 1 << gpu, gpu][None, :])
        return around

    def _exact(self, gpu: int, m: int, begin: int, end: int, known: dict[object, float]) -> float:
        counts = self.tables.counts(begin, end)
        key = (gpu, m, tuple(counts.tolist()))
        if key not in known:
            mode = self.tables.modes[gpu][m]
            known[key], _ = best_fill(mode, self.tables.sizes, counts, self.prices)
        return known[key]

    def _reach(self) -> Floats:
        """Least seconds up to every place, by GPUs used and the device that ran it."""
        cpu, last = self.num_gpus, self.tables.num_places
        reach = np.full(self._shape, math.inf)
        reach[0, cpu, 0] = 0.0
        for used in range(2**self.num_gpus):
            for gpu in range(self.num_gpus):
                earlier = used & ~(1 << gpu)
                if not used >> gpu & 1 or gpu not in self.next_gpus(earlier):
                    continue
                for d in range(cpu + 1):
                    hop = self.hop(None if d == cpu else d, gpu)
                    through = (reach[earlier, d] + hop)[:, None] + self.least[gpu]
                    reach[used, gpu] = np.minimum(reach[used, gpu], through.min(axis=0))
            if None in self.least:
                for d in range(cpu + 1):
                    if d < cpu and not self.cpu_next(used, d, 0):
                        continue
                    begin = reach[used, d] + self.hop(None if d == cpu else d, None)
                    if d == cpu:
                        begin = np.where(np.arange(last + 1) == 0, begin, math.inf)
                    through = begin[:, None] + self.least[None]
                    reach[used, cpu] = np.minimum(reach[used, cpu], through.min(axis=0))
        return reach

    def _equals_before(self, gpu: int) -> int:
        """Bit set of equal GPUs of lower number: they are used first."""
        machine, found = self.tables.problem.machine, 0
        limits = self.tables.problem.limits
        if machine.links or limits.devices is not None or limits.stream_to is not None:
            return 0
        for other in range(gpu):
            if _figures(machine.gpus[other]) == _figures(machine.gpus[gpu]):
                found |= 1 << other
        return found

    def hop(self, begin: Device, end: Device) -> float:
        """Seconds of a hop between two devices."""
        last = self.num_gpus
        return self._hops[last if begin is None else begin][last if end is None else end]

    def next_gpus(self, used: int) -> list[int]:
        """GPUs that may run the next range."""
        return [
            gpu
            for gpu in range(self.num_gpus)
            if gpu in self.least
            and not used >> gpu & 1
            and self.before_equal[gpu] & used == self.before_equal[gpu]
        ]

    def cpu_next(self, used: int, previous: Device, place: int) -> bool:
        """Whether the CPU may run the next range."""
        if None not in self.least or (previous is None and place > 0):
            return False
        return used == 0 or not self.tables.problem.limits.cpu_first

    def _fill(self, used: int) -> None:
        last = self.tables.num_places
        gpus = self.next_gpus(used)
        onward = {
            gpu: np.min(self.least[gpu] + self.rest[used | 1 << gpu, gpu][None, :], axis=1)
            for gpu in gpus
        }
        rest = self.rest[used]
        for d in (self.num_gpus, *range(self.num_gpus)):
            device = None if d == self.num_gpus else d
            best = np.full(last + 1, math.inf)
            for gpu in gpus:
                best = np.minimum(best, self.hop(device, gpu) + onward[gpu])
            if device is not None and self.cpu_next(used, device, 0):
                through = np.min(self.least[None] + rest[self.num_gpus][None, :], axis=1)
                best = np.minimum(best, self.hop(device, None) + through)
            best[last] = self.hop(device, None)
            if device is None and self.cpu_next(used, None, 0) and not used:
                best[0] = min(best[0], np.min(self.least[None][0] + best))
            rest[d] = best

    def onward(
        self, used: int, previous: Device, place: int
    ) -> list[tuple[Device, int, Floats, Floats]]:
        """Next ranges: device, mode, and by end the seconds of the range and of all after it."""
        found: list[tuple[Device, int, Floats, Floats]] = []
        devices: list[Device] = list(self.next_gpus(used))
        if self.cpu_next(used, previous, place):
            devices.append(None)
        for device in devices:
            then = used if device is None else used | 1 << device
            d = self.num_gpus if device is None else device
            if math.isinf(self.least[device][place].min()):
                continue
            for m, cost in enumerate(self.costs[device]):
                step = self.hop(device if device == previous else previous, device) + cost[place]
                found.append((device, m, step, self.rest[then, d]))
        return found

    def shortest(self) -> tuple[float, list[Range]]:
        """Seconds of the shortest chain, infinite without one, and its ranges."""
        tables = self.tables
        used, place, total = 0, 0, 0.0
        previous: Device = None
        made: list[Range] = []
        while place < tables.num_places:
            best: tuple[float, Device, int, int] = (math.inf, None, 0, place)
            for device, m, step, rest in self.onward(used, previous, place):
                both = step + rest
                end = int(np.argmin(both))
                if both[end] < best[0]:
                    best = (float(both[end]), device, m, end)
            if math.isinf(best[0]):
                return math.inf, []
            _, device, m, end = best
            total += self.hop(previous, device) + float(self.costs[device][m][place, end])
            made.append(Range(m, device, place, end))
            used |= 0 if device is None else 1 << device
            previous, place = device, end
        return total + self.hop(previous, None), made

    def in_cpu(self, made: list[Range], *, whole: bool) -> Floats:
        """Parts of each kind that a chain has in CPU memory: with whole fills of GPUs or not."""
        held = np.zeros(len(self.tables.kinds))
        for one in made:
            mode = self.tables.modes[one.device][one.mode]
            counts = self.tables.counts(one.begin, one.end)
            held += parts_in_cpu(self.tables, mode, self.prices, counts, whole=whole)
        return held


def _figures(gpu: Gpu) -> tuple[object, ...]:
    return tuple(v for k, v in msgspec.structs.asdict(gpu).items() if k != "name")

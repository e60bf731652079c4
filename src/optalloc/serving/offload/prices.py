"""Prices: a bound on every layout, with CPU memory sold at a price instead of limited.

*Formulation.* At a price l >= 0 a byte of CPU memory, the seconds of a range of places on a GPU are
at least those of a fractional knapsack over the GPU's memory (:func:`range_costs`); the best chain
of ranges is a shortest path over (GPUs used, place, device) (:class:`Layouts`). With C the CPU
memory, path(l) - l C is a bound for every l; the best l is where its slope changes sign
(:func:`best_price`).

Complexity: O(2^G G P^2) time a price for G GPUs and P places; equal GPUs are used in their order.
"""

from __future__ import annotations

import math

import numpy as np

from optalloc.serving.offload.fills import least_seconds
from optalloc.serving.offload.problem import Device
from optalloc.serving.offload.tables import DEVICE, DISK, Floats, Mode, Tables


def range_costs(tables: Tables, mode: Mode, price: float) -> tuple[Floats, Floats]:
    """Least seconds of every range ``[a, b)`` on a mode, and the CPU bytes they take.

    Returns
    -------
    tuple of two ndarrays of float64, shape (P + 1, P + 1)
        Infinite where ``b <= a`` or the range does not fit.
    """
    counts = (tables.before[None, :, :] - tables.before[:, None, :]).astype(float)
    sizes = tables.sizes
    away = mode.away(price, sizes)
    if mode.device is None:
        in_memory = mode.seconds[:, DEVICE] + price * sizes <= mode.seconds[:, DISK]
        cost = counts @ away
        used = counts @ np.where(in_memory, sizes, 0)
    else:
        on_cpu = mode.seconds[:, 1] + price * sizes <= mode.seconds[:, DISK]
        forced = np.isinf(away)
        rest = mode.room - counts @ np.where(forced, sizes, 0)
        finite = np.where(forced, mode.seconds[:, DEVICE], away)
        cost = counts @ finite
        used = counts @ np.where(on_cpu & ~forced, sizes, 0)
        cost = np.where(rest < 0, math.inf, cost)
        rest = np.maximum(rest, 0.0)
        gain = np.where(forced, 0.0, finite - mode.seconds[:, DEVICE])
        for c in np.argsort(-gain / sizes, kind="stable"):
            if gain[c] <= 0.0:
                break
            taken = np.minimum(counts[:, :, c], rest / sizes[c])
            rest = rest - taken * sizes[c]
            cost = cost - taken * gain[c]
            used = used - taken * (sizes[c] if on_cpu[c] else 0)
    backwards = np.tril(np.ones(cost.shape, dtype=bool))
    return np.where(backwards, math.inf, cost), np.where(backwards, 0.0, used)


class Layouts:
    """Shortest chains of ranges at one price.

    ``rest[used][d][k]`` bounds the seconds from place ``k`` on, once the GPUs of the bit set
    ``used`` have had their range, coming from device number ``d`` (the last number is the CPU).
    """

    def __init__(self, tables: Tables, price: float) -> None:
        self.tables, self.price = tables, price
        problem = tables.problem
        self.num_gpus = len(problem.machine.gpus)
        self.costs: dict[Device, list[tuple[Floats, Floats]]] = {
            device: [range_costs(tables, mode, price) for mode in modes]
            for device, modes in tables.modes.items()
        }
        if problem.limits.embedding_on_cpu:
            for device, found in self.costs.items():
                for cost, _ in found if device is not None else ():
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
            device: np.min([cost for cost, _ in found], axis=0)
            if found
            else np.full(shape, math.inf)
            for device, found in self.costs.items()
        }
        self.rest = np.full(self._shape, math.inf)
        for used in reversed(range(2**self.num_gpus)):
            self._fill(used)

    def sharpen(self, share: float) -> float:
        """Replace fractional knapsacks by whole ones where a chain through the range is within
        ``share`` of the shortest; returns the seconds of the shortest chain then.
        """
        tables = self.tables
        limit = self.rest[0, self.num_gpus, 0]
        limit += share * abs(limit)
        reach = self._reach()
        known: dict[object, float] = {}
        for gpu in range(self.num_gpus):
            if gpu not in self.costs:
                continue
            around = np.full((tables.num_places + 1,) * 2, math.inf)
            for used in range(2**self.num_gpus):
                if gpu not in self.next_gpus(used):
                    continue
                for d in range(self.num_gpus + 1):
                    hop = self.hop(None if d == self.num_gpus else d, gpu)
                    before = reach[used, d][:, None] + hop
                    around = np.minimum(around, before + self.rest[used | 1 << gpu, gpu][None, :])
            for m, (cost, _) in enumerate(self.costs[gpu]):
                mode = tables.modes[gpu][m]
                for a, b in np.argwhere(around + cost <= limit).tolist():
                    counts = tables.counts(a, b)
                    key = (gpu, m, tuple(counts.tolist()))
                    if key not in known:
                        known[key] = least_seconds(mode, tables.sizes, counts, self.price)
                    cost[a, b] = max(cost[a, b], known[key])
        self._find_rest()
        return float(self.rest[0, self.num_gpus, 0])

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
            same = machine.gpus[other].__class__ is machine.gpus[gpu].__class__
            if same and _figures(machine.gpus[other]) == _figures(machine.gpus[gpu]):
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
            for m, (cost, _) in enumerate(self.costs[device]):
                step = self.hop(device if device == previous else previous, device) + cost[place]
                found.append((device, m, step, self.rest[then, d]))
        return found

    def shortest(self) -> tuple[float, float]:
        """Seconds of the shortest chain, and the CPU bytes that it takes."""
        used, previous, place = 0, None, 0
        total = taken = 0.0
        last = self.tables.num_places
        while place < last:
            best: tuple[float, Device, int, int] = (math.inf, None, 0, place)
            for device, m, step, rest in self.onward(used, previous, place):
                both = step + rest
                end = int(np.argmin(both))
                if both[end] < best[0]:
                    best = (float(both[end]), device, m, end)
            if math.isinf(best[0]):
                return math.inf, 0.0
            _, device, m, end = best
            cost, bytes_ = self.costs[device][m]
            total += self.hop(previous, device) + float(cost[place, end])
            taken += float(bytes_[place, end])
            used |= 0 if device is None else 1 << device
            previous, place = device, end
        return total + self.hop(previous, None), taken


def _figures(gpu: object) -> tuple[object, ...]:
    import msgspec

    return tuple(v for k, v in msgspec.structs.asdict(gpu).items() if k != "name")  # type: ignore[arg-type]


def best_price(tables: Tables) -> tuple[Layouts, float]:
    """The layouts at the price whose bound is highest, and that bound (infinite: none fits).

    The bound is concave in the price; the two lines around its top are cut until they agree.
    """
    room = tables.room
    if room < 0:
        return Layouts(tables, 0.0), math.inf

    def at(price: float) -> tuple[Layouts, float, float]:
        layouts = Layouts(tables, price)
        seconds, taken = layouts.shortest()
        return layouts, seconds - price * room, taken - room

    low = at(0.0)
    if math.isinf(low[1]) or low[2] <= 0.0:
        return low[0], low[1]
    a, b = 0.0, 1e-9
    high = at(b)
    while high[2] > 0.0:
        if b > 1e9:
            return high[0], math.inf
        a, low = b, high
        b *= 16.0
        high = at(b)
    best = max(low, high, key=lambda one: one[1])
    for _ in range(40):
        # Where the tangents at a and b meet is a bound on the bound.
        middle = (high[1] - low[1] + low[2] * a - high[2] * b) / (low[2] - high[2])
        top = low[1] + low[2] * (middle - a)
        if not a < middle < b or top - best[1] <= 1e-9 * abs(top):
            break
        one = at(middle)
        best = max(best, one, key=lambda one: one[1])
        if one[2] > 0.0:
            a, low = middle, one
        else:
            b, high = middle, one
    return best[0], best[1]

"""The offload problem as a mixed integer programme for HiGHS: a peer of the search, and its check.

Variables: an arc for every range of places on every device with every buffer, and an arc for every
hop between devices at every place; the number of parts of every kind at every home. Rows: one path
of arcs; every GPU at most one range (or, with holes, any number of ranges with one buffer); homes
of a kind add up to what the ranges hold; the memories. The size of the largest part on disk is a
choice among binary variables.
"""

from __future__ import annotations

import math
from typing import Any

from optalloc.serving.offload.parts import Part
from optalloc.serving.offload.problem import Device, OffloadProblem


def least_seconds_by_milp(
    problem: OffloadProblem, *, time_limit_s: float = 60.0, holes: bool = False
) -> float:
    """Seconds of the best placement; infinite where none fits, not a number if time ran out.

    With ``holes`` a GPU may run any number of ranges.
    """
    import highspy

    from optalloc.assignment.milp import QuietHighs

    model = _Model(problem, QuietHighs(), highspy.HighsVarType.kInteger, holes=holes)
    highs = model.highs
    highs.setOptionValue("mip_rel_gap", 0.0)
    highs.setOptionValue("mip_abs_gap", 1e-9)
    highs.setOptionValue("time_limit", time_limit_s)
    highs.run()
    status = highs.getModelStatus()
    if status == highspy.HighsModelStatus.kInfeasible:
        return math.inf
    if status != highspy.HighsModelStatus.kOptimal:
        return math.nan
    return float(highs.getInfo().objective_function_value)


class _Model:
    def __init__(self, problem: OffloadProblem, highs: Any, integer: Any, *, holes: bool) -> None:
        self.problem, self.highs, self.integer, self.holes = problem, highs, integer, holes
        places = problem.chain.places
        self.kinds = list(dict.fromkeys(part for parts in places for part in parts))
        self.flow: dict[tuple[int, Device, str], list[Any]] = {}
        self.cpu: list[Any] = []
        self.on_disk: list[Any] = []
        self.disk_use: dict[int, list[Any]] = {}
        self.scale = 1.0 / max(part.size_bytes for part in self.kinds)
        self._hops()
        for device in problem.devices:
            self._device(device)
        self._path()
        self._memories()

    def _binary(self, cost: float = 0.0) -> Any:
        return self.highs.addVariable(lb=0.0, ub=1.0, obj=cost, type=self.integer)

    def _arc(self, begin: tuple[int, Device, str], end: tuple[int, Device, str], arc: Any) -> None:
        self.flow.setdefault(begin, []).append(-1.0 * arc)
        self.flow.setdefault(end, []).append(1.0 * arc)

    def _hops(self) -> None:
        """At every place from each device to each: ("left", a) to ("entered", b)."""
        problem = self.problem
        last = len(problem.chain.places)
        for place in range(last + 1):
            for a in (*problem.devices, *(() if None in problem.devices else (None,))):
                for b in (None,) if place == last else problem.devices:
                    if place in (0, last) or a != b:
                        if place == 0 and a is not None:
                            continue
                        late = problem.limits.cpu_first and a is not None and b is None
                        if late and place < last:
                            continue
                        arc = self._binary(problem.hop_s(a, b))
                        self._arc((place, a, "left"), (place, b, "entered"), arc)

    def _device(self, device: Device) -> None:
        problem, places = self.problem, self.problem.chain.places
        buffers = {0}
        if device is not None:
            for part in self.kinds:
                if any(o.streamed for o in problem.options(part, device)):
                    buffers.add(part.size_bytes)
        used = []
        for buffer in sorted(buffers):
            held: dict[Part, list[Any]] = {}
            arcs = []
            for begin in range(len(places)):
                if problem.limits.embedding_on_cpu and begin == 0 and device is not None:
                    continue
                for end in range(begin + 1, len(places) + 1):
                    arc = self._binary()
                    self._arc((begin, device, "entered"), (end, device, "left"), arc)
                    arcs.append(arc)
                    for parts in places[begin:end]:
                        for part in parts:
                            held.setdefault(part, []).append(arc)
            own = self._homes(device, buffer, held)
            if self.holes and device is not None:
                with_buffer = self._binary()
                for arc in arcs:
                    self.highs.addConstr(1.0 * arc - 1.0 * with_buffer <= 0.0)
                arcs = [with_buffer]
            used += arcs
            if device is not None:
                memory = problem.machine.gpus[device].memory_bytes
                room = memory - problem.chain.workspace_bytes - buffer
                if room < 0:
                    for arc in arcs:
                        self.highs.addConstr(1.0 * arc <= 0.0)
                elif own:
                    self.highs.addConstr(sum(own) <= room * self.scale)
        if device is not None and used:
            self.highs.addConstr(sum(1.0 * arc for arc in used) <= 1.0)

    def _homes(self, device: Device, buffer: int, held: dict[Part, list[Any]]) -> list[Any]:
        own = []
        for part, arcs in held.items():
            size, most = part.size_bytes, float(len(arcs))
            counts = []
            for option in self.problem.options(part, device):
                if option.streamed and device is not None and size > buffer:
                    continue
                count = self.highs.addVariable(
                    lb=0.0, ub=most, obj=option.seconds, type=self.integer
                )
                counts.append(count)
                term = size * self.scale * count
                if option.home == "disk":
                    self.on_disk.append(term)
                    self.disk_use.setdefault(size, []).append((count, most))
                elif device is None or option.home == "cpu":
                    self.cpu.append(term)
                else:
                    own.append(term)
            self.highs.addConstr(sum(1.0 * c for c in counts) == sum(1.0 * arc for arc in arcs))
        return own

    def _path(self) -> None:
        last = len(self.problem.chain.places)
        for (place, _device, side), terms in self.flow.items():
            if place == 0 and side == "left":
                self.highs.addConstr(sum(terms) == -1.0)
            elif place == last and side == "entered":
                self.highs.addConstr(sum(terms) == 1.0)
            else:
                self.highs.addConstr(sum(terms) == 0.0)

    def _memories(self) -> None:
        """CPU memory less the buffer for the largest part on disk; the disk."""
        machine, scale = self.problem.machine, self.scale
        buffer = []
        sizes = sorted(self.disk_use)
        chosen = [(size, self._binary()) for size in sizes]
        if chosen:
            self.highs.addConstr(sum(1.0 * one for _, one in chosen) <= 1.0)
        for size in sizes:
            larger = [one for other, one in chosen if other >= size]
            for count, most in self.disk_use[size]:
                self.highs.addConstr(1.0 * count - sum(most * one for one in larger) <= 0.0)
            buffer.append(size * scale * dict(chosen)[size])
        room = machine.cpu.memory_bytes - self.problem.chain.workspace_bytes
        if self.cpu or buffer:
            self.highs.addConstr(sum([*self.cpu, *buffer]) <= room * scale)
        elif room < 0:
            self.highs.addConstr(self.highs.addVariable(lb=1.0, ub=1.0) <= 0.0)
        if self.on_disk and machine.disk is not None:
            self.highs.addConstr(sum(self.on_disk) <= machine.disk.size_bytes * scale)

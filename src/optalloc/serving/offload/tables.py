"""Tables: the problem as arrays over kinds of parts, devices and ranges of places.

A *mode* is a device with the size of the largest part that may be streamed to it (its buffer).
Which of several ways to compute a part at one home is best is settled here: it is the fastest.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from optalloc.serving.offload.parts import Part
from optalloc.serving.offload.problem import Device, OffloadProblem, Option

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

#: Index of a home in the tables.
DEVICE, CPU, DISK = 0, 1, 2
_INDEX = {"device": DEVICE, "cpu": CPU, "disk": DISK}


class Mode:
    """A device with a buffer: seconds of every kind of part at every home, and room for parts.

    ``seconds[c, h]`` is infinite where that is not allowed; ``best[c][h]`` says how it is computed.
    On the CPU home 0 is its memory.
    """

    def __init__(
        self, problem: OffloadProblem, kinds: list[Part], device: Device, buffer: int, disk: int
    ) -> None:
        self.device, self.buffer = device, buffer
        self.best: list[list[Option | None]] = []
        for part in kinds:
            row: list[Option | None] = [None, None, None]
            for option in problem.options(part, device):
                if option.streamed and device is not None and part.size_bytes > buffer:
                    continue
                if option.home == "disk" and part.size_bytes > disk:
                    continue
                h = _INDEX[option.home]
                old = row[h]
                if old is None or option.seconds < old.seconds:
                    row[h] = option
            self.best.append(row)
        self.seconds: Floats = np.array(
            [[math.inf if o is None else o.seconds for o in row] for row in self.best]
        ).reshape(-1, 3)
        if device is None:
            self.room = 0
        else:
            memory = problem.machine.gpus[device].memory_bytes
            self.room = memory - problem.chain.workspace_bytes - buffer

    def away(self, prices: Floats) -> Floats:
        """Least seconds of a part of each kind that is not on the device, CPU memory paid."""
        memory = DEVICE if self.device is None else CPU
        return np.minimum(self.seconds[:, memory] + prices, self.seconds[:, DISK])


class Tables:
    """Kinds of parts, how many of each precede a place, and the modes of every device.

    ``disk`` is the size of the largest part that may be on disk (0: none); CPU memory keeps a
    buffer of that size.
    """

    def __init__(self, problem: OffloadProblem, disk: int) -> None:
        self.problem, self.disk = problem, disk
        places = problem.chain.places
        self.kinds = list(dict.fromkeys(part for parts in places for part in parts))
        index = {part: c for c, part in enumerate(self.kinds)}
        before = np.zeros((len(places) + 1, len(self.kinds)), dtype=np.int64)
        for k, parts in enumerate(places):
            before[k + 1] = before[k]
            for part in parts:
                before[k + 1, index[part]] += 1
        self.before = before
        self.sizes: Counts = np.array([part.size_bytes for part in self.kinds], dtype=np.int64)
        machine = problem.machine
        self.room = machine.cpu.memory_bytes - problem.chain.workspace_bytes - disk
        self.disk_room = 0 if machine.disk is None else machine.disk.size_bytes
        self.modes: dict[Device, list[Mode]] = {
            device: self._modes_of(device) for device in problem.devices
        }

    def _modes_of(self, device: Device) -> list[Mode]:
        """A mode for each buffer that makes some part faster than a smaller one does."""
        found: list[Mode] = []
        for buffer in self._buffers(device):
            mode = Mode(self.problem, self.kinds, device, buffer, self.disk)
            same = found and np.array_equal(found[-1].seconds, mode.seconds)
            if mode.room >= 0 and not same:
                found.append(mode)
        return found

    def _buffers(self, device: Device) -> list[int]:
        """Sizes that a buffer may have: those of the parts that can be streamed."""
        if device is None:
            return [0]
        streams = {
            part.size_bytes
            for part in self.kinds
            if any(o.streamed for o in self.problem.options(part, device))
        }
        return sorted({0, *streams})

    @property
    def num_places(self) -> int:
        """Embedding, layers and head."""
        return len(self.before) - 1

    def holds_all(self) -> bool:
        """Whether all parts fit into GPUs, CPU memory and disk as if they were one memory."""
        parts = self.before[-1] * self.sizes
        on_disk = min(self.disk_room, int(parts[self.sizes <= self.disk].sum()))
        on_gpus = sum(
            max((mode.room for mode in modes), default=0)
            for device, modes in self.modes.items()
            if device is not None
        )
        return int(parts.sum()) <= on_gpus + max(0, self.room) + on_disk

    def counts(self, begin: int, end: int) -> Counts:
        """How many parts of every kind a range of places holds."""
        found: Counts = self.before[end] - self.before[begin]
        return found


def disk_buffers(problem: OffloadProblem) -> list[int]:
    """Sizes of the largest part on disk to consider; 0 stands for nothing on disk."""
    if problem.machine.disk is None or not problem.limits.disk:
        return [0]
    return sorted({0, *(p.size_bytes for parts in problem.chain.places for p in parts)})

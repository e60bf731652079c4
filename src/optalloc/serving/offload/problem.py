"""The formal problem: a device for every place, a home for every part, least seconds.

Places ``0 .. P-1`` (embedding, layers, head) are run in order, each on one device: a GPU or the
CPU. A GPU runs one contiguous range of places, or none; the CPU any. A part p of a place on device
d has a home h (d's memory, CPU memory, or disk) and is computed on d or, on a GPU's place, on the
CPU. One pass takes

    latency + moved_p / bandwidth of the links from h to where it is computed
    + max( read_p / bandwidth, flops_p / speed ) of what computes it
    + two hops between d and the CPU where the CPU computes a part of a GPU's place
    + a hop between devices of successive places, the prompt coming from the CPU and ending there

and a request, prefill passes times the former and decode passes times the latter, summed. Nothing
is assumed to overlap. What must fit:

    GPU g     parts at home there + workspace, if it runs a place
              + a buffer of the largest part that is streamed to it
    CPU       parts at home there + workspace + a buffer of the largest part that is on disk
    disk      parts at home there
"""

from __future__ import annotations

from typing import Literal

import msgspec

from optalloc.serving.offload.machine import Machine
from optalloc.serving.offload.parts import Chain, Kind, Part, Work

#: A device that computes: the number of a GPU, or None for the CPU.
Device = int | None

Home = Literal["device", "cpu", "disk"]
_HOMES: tuple[Home, ...] = ("device", "cpu", "disk")


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a runtime can express; the default is everything.

    Parameters
    ----------
    devices : tuple of int or None, optional
        The only devices that may run places.
    stream_to : tuple of int, optional
        The only GPUs that compute parts whose home is elsewhere.
    streams : tuple of str, optional
        The only kinds of parts that GPUs compute from elsewhere.
    cpu_computes : tuple of str, optional
        Kinds of parts that the CPU may compute for a place of a GPU.
    cache_moves : bool
        Whether a KV cache may be elsewhere than the device of its layer.
    disk : bool
        Whether parts may be on disk.
    cpu_first : bool
        Whether places on the CPU must come before those on GPUs.
    embedding_on_cpu : bool
        Whether the embedding is always on the CPU.
    """

    devices: tuple[Device, ...] | None = None
    stream_to: tuple[int, ...] | None = None
    streams: tuple[Kind, ...] | None = None
    cpu_computes: tuple[Kind, ...] | None = None
    cache_moves: bool = True
    disk: bool = True
    cpu_first: bool = False
    embedding_on_cpu: bool = False

    def allow(self, kind: str, device: Device, home: Home, on_cpu: bool) -> bool:
        """Whether a part of a place on ``device`` may be held and computed so."""
        if home == "disk" and not self.disk:
            return False
        if kind == "kv" and home != "device" and not self.cache_moves:
            return False
        if device is None:
            return home != "cpu" and not on_cpu  # it is the CPU's memory, and the CPU computes
        if on_cpu:
            if home == "device" or kind in ("attention", "embedding"):
                return False
            return self.cpu_computes is None or kind in self.cpu_computes
        if home == "device":
            return True
        kinds, gpus = self.streams, self.stream_to
        return (kinds is None or kind in kinds) and (gpus is None or device in gpus)


class Option(msgspec.Struct, frozen=True):
    """A way to hold and compute a part: seconds a request, of them prefill, loading and hops."""

    home: Home
    on_cpu: bool
    seconds: float
    prefill_s: float
    load_s: float
    hop_s: float

    @property
    def streamed(self) -> bool:
        """Whether a GPU needs a buffer for it."""
        return self.home != "device" and not self.on_cpu


class OffloadProblem(msgspec.Struct, frozen=True, kw_only=True):
    """A chain of parts on a machine, within the limits of a runtime."""

    machine: Machine
    chain: Chain
    limits: Limits = Limits()

    @property
    def devices(self) -> tuple[Device, ...]:
        """Devices that may run places: GPUs in order, then the CPU."""
        every: tuple[Device, ...] = (*range(len(self.machine.gpus)), None)
        allowed = self.limits.devices
        return every if allowed is None else tuple(d for d in every if d in allowed)

    def hop_s(self, begin: Device, end: Device) -> float:
        """Seconds a request spends between two devices of successive places."""
        return sum(self.hop_by_phase_s(begin, end))

    def hop_by_phase_s(self, begin: Device, end: Device) -> tuple[float, float]:
        """Those of prefill and those of decoding."""
        latency, per_byte = self.machine.hop(begin, end)
        prefill, decode = self.chain.hop_bytes
        return (
            self.chain.prefill_passes * (latency + prefill * per_byte),
            self.chain.decode_passes * (latency + decode * per_byte),
        )

    def options(self, part: Part, device: Device) -> tuple[Option, ...]:
        """Every allowed way to hold and compute a part of a place on ``device``.

        On a place of the CPU ``home`` "device" is CPU memory, and "cpu" does not occur.
        """
        found = []
        for home in _HOMES:
            if home == "disk" and self.machine.disk is None:
                continue
            for on_cpu in (False, True):
                if self.limits.allow(part.kind, device, home, on_cpu):
                    found.append(self._option(part, device, home, on_cpu))
        return tuple(found)

    def _option(self, part: Part, device: Device, home: Home, on_cpu: bool) -> Option:
        machine = self.machine
        computes = None if on_cpu else device
        unit = machine.cpu if computes is None else machine.gpus[computes]
        latency = per_byte = 0.0
        if home == "disk":
            assert machine.disk is not None
            latency = machine.disk.latency_s
            per_byte = 1.0 / machine.disk.bandwidth_bytes_per_s
        if home != "device" and computes is not None:
            wait, link = machine.hop(None, computes)
            latency += wait
            per_byte += link
        hops = [2.0 * s if on_cpu else 0.0 for s in self.hop_by_phase_s(device, None)]
        phases, load = list(hops), 0.0
        for phase, work in enumerate((part.prefill, part.decode)):
            moved = work.passes * (latency + work.moved_bytes * per_byte)
            load += moved
            phases[phase] += moved + work.passes * max(
                _read(work, home, on_cpu) / unit.memory_bandwidth_bytes_per_s,
                work.flops / unit.flops_per_s,
            )
        return Option(home, on_cpu, sum(phases), phases[0], load, sum(hops))


def _read(work: Work, home: Home, on_cpu: bool) -> float:
    """Bytes that the computing device reads from its own memory; all that was brought there."""
    return work.read_bytes if home == "device" or (home == "cpu" and on_cpu) else work.moved_bytes

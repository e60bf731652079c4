"""Placement: where every place runs and every part lives, and what that takes."""

from __future__ import annotations

import msgspec

from optalloc.errors import InputError
from optalloc.serving.offload.problem import Device, Home, OffloadProblem, Option
from optalloc.units import format_bytes


class Held(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One part of a place: ``on_cpu`` says that the CPU computes it for a GPU."""

    kind: str
    home: Home
    on_cpu: bool = False


class Placed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One place: ``gpu`` is the number of its GPU, None for the CPU."""

    name: str
    gpu: int | None
    parts: tuple[Held, ...]


Placement = tuple[Placed, ...]


class Use(msgspec.Struct, frozen=True, kw_only=True):
    """Memory of one device, bytes."""

    device: str
    parts_bytes: int
    workspace_bytes: int
    buffer_bytes: int
    capacity_bytes: int

    @property
    def free_bytes(self) -> int:
        """What is left; negative where it does not fit."""
        return self.capacity_bytes - self.parts_bytes - self.workspace_bytes - self.buffer_bytes


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds of one request by what they go to, and the memory of every device.

    ``prefill_s`` of ``seconds`` pass before the first token. ``compute_s`` is by device;
    ``load_s`` is what is read from disk and sent to GPUs.
    """

    seconds: float
    prefill_s: float
    compute_s: dict[str, float]
    load_s: float
    hop_s: float
    uses: tuple[Use, ...]


def device_name(device: Device) -> str:
    """``gpu0`` or ``cpu``."""
    return "cpu" if device is None else f"gpu{device}"


def evaluate(problem: OffloadProblem, placement: Placement) -> Evaluation:
    """Time and memory of a placement, whether or not it fits.

    Raises
    ------
    InputError
        If a place is missing, a GPU has two ranges, or a part is held in a way that is not allowed.
    """
    chain, machine = problem.chain, problem.machine
    if len(placement) != len(chain.places):
        raise InputError(
            f"{len(placement)} places are placed of {len(chain.places)}", path="placement"
        )
    held = dict.fromkeys([*map(device_name, range(len(machine.gpus))), "cpu", "disk"], 0)
    buffers = dict.fromkeys(held, 0)
    compute = dict.fromkeys(held, 0.0)
    load = hops = prefill = 0.0
    previous: Device = None
    for place, parts in zip(placement, chain.places, strict=True):
        hops += problem.hop_s(previous, place.gpu)
        prefill += problem.hop_by_phase_s(previous, place.gpu)[0]
        previous = place.gpu
        if [part.kind for part in parts] != [one.kind for one in place.parts]:
            raise InputError(f"the parts of {place.name} are not all placed", path="placement")
        for part, one in zip(parts, place.parts, strict=True):
            option = _option(problem, place, one, problem.options(part, place.gpu))
            home = device_name(place.gpu) if one.home == "device" else one.home
            held[home] += part.size_bytes
            computes = "cpu" if one.on_cpu else device_name(place.gpu)
            compute[computes] += option.seconds - option.load_s - option.hop_s
            prefill += option.prefill_s
            load += option.load_s
            hops += option.hop_s
            if option.streamed and place.gpu is not None:
                name = device_name(place.gpu)
                buffers[name] = max(buffers[name], part.size_bytes)
            if home == "disk":
                buffers["cpu"] = max(buffers["cpu"], part.size_bytes)
    hops += problem.hop_s(previous, None)
    prefill += problem.hop_by_phase_s(previous, None)[0]
    _check_ranges(placement)
    runs = {place.gpu for place in placement}
    uses = [
        Use(
            device=device_name(gpu),
            parts_bytes=held[device_name(gpu)],
            workspace_bytes=chain.workspace_bytes if gpu is None or gpu in runs else 0,
            buffer_bytes=buffers[device_name(gpu)],
            capacity_bytes=(machine.cpu if gpu is None else machine.gpus[gpu]).memory_bytes,
        )
        for gpu in (*range(len(machine.gpus)), None)
    ]
    if machine.disk is not None:
        uses.append(
            Use(
                device="disk",
                parts_bytes=held["disk"],
                workspace_bytes=0,
                buffer_bytes=0,
                capacity_bytes=machine.disk.size_bytes,
            )
        )
    return Evaluation(
        seconds=sum(compute.values()) + load + hops,
        prefill_s=prefill,
        compute_s={name: s for name, s in compute.items() if s > 0.0},
        load_s=load,
        hop_s=hops,
        uses=tuple(uses),
    )


def check_fits(evaluation: Evaluation) -> None:
    """Refuse a placement that some memory has no room for."""
    for use in evaluation.uses:
        if use.free_bytes < 0:
            raise InputError(
                f"{use.device} lacks {format_bytes(-use.free_bytes)} of memory",
                path="placement",
                fix="move parts elsewhere",
            )


def _option(
    problem: OffloadProblem, place: Placed, held: Held, options: tuple[Option, ...]
) -> Option:
    for option in options:
        here = place.gpu in problem.devices
        if here and option.home == held.home and option.on_cpu == held.on_cpu:
            return option
    raise InputError(
        f"{held.kind} of {place.name} may not be held at {held.home}"
        f"{' and computed on the CPU' if held.on_cpu else ''}",
        path="placement",
    )


def _check_ranges(placement: Placement) -> None:
    seen: set[int] = set()
    previous: Device = None
    for place in placement:
        if place.gpu is not None and place.gpu != previous:
            if place.gpu in seen:
                raise InputError(f"gpu{place.gpu} runs two ranges", path="placement")
            seen.add(place.gpu)
        previous = place.gpu

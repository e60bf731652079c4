"""Devices: what a search refuses of a cluster, before it begins."""

from __future__ import annotations

from optalloc.errors import InputError
from optalloc.serving.configuration.limits import SOFTWARE
from optalloc.serving.configuration.problem import MOST_DEVICES, Problem
from optalloc.serving.configuration.targets import TARGETS


def check_devices(problem: Problem) -> None:
    """The cluster is of a size that can be searched, pinned devices are in it, and what deploys or
    runs the engines takes its makes.

    Raises
    ------
    InputError
        If one of these does not hold.
    """
    if problem.cluster.num_devices > MOST_DEVICES:
        raise InputError(
            f"a cluster of {problem.cluster.num_devices:,} devices is more than the "
            f"{MOST_DEVICES:,} that one deployment is searched on",
            path="cluster",
            fix="plan a part of it, and repeat that",
        )
    known = problem.cluster.device_names
    for limits in (problem.limits.pin, problem.limits.forbid):
        for key, values in limits.items():
            for value in values if key.rpartition(".")[2] == "device" else ():
                if value not in known:
                    raise InputError(
                        f"the cluster has no {value!r}",
                        path="--pin device",
                        fix=f"use one of {', '.join(known)}",
                    )
    _check_makes(problem)


def _check_makes(problem: Problem) -> None:
    limits = problem.limits
    devices = [g.device for g in problem.cluster.nodes if limits.allows("device", g.device.name)]
    amd = [device.name for device in devices if device.is_amd]
    if amd and "trtllm" in _software(problem):
        raise InputError(
            f"TensorRT-LLM does not run on {amd[0]}",
            path="--software",
            fix=f"use --software vllm,sglang, or --forbid device={amd[0]}",
        )
    if not limits.target:
        return
    others = [device.name for device in devices if device.kind != "gpu"]
    if others:
        raise InputError(
            f"no target starts engines on {others[0]}",
            path="--for",
            fix="plan on GPUs, or leave it out and start the engines by hand",
        )
    if TARGETS[limits.target].one_image and 0 < len(amd) < len(devices):
        raise InputError(
            f"{limits.target} starts one image, and {amd[0]} needs another than the rest",
            path="--for",
            fix=f"use --for vllm, or --forbid device={amd[0]}",
        )


def _software(problem: Problem) -> set[str]:
    """What some phase may run."""
    return {
        value
        for role in ("serve", "prefill", "decode")
        for value in problem.limits.choices("software", SOFTWARE[:1], role)
    }

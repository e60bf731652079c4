"""What every serving export asks of a worker: its name, its nodes, and its flags by software."""

from __future__ import annotations

from collections.abc import Callable

from optalloc.errors import ExportError
from optalloc.export.serving import sglang, trtllm, vllm
from optalloc.serving.configuration.plan import ServingPlan, Worker

#: software -> the flags of one engine; TensorRT-LLM reads a file instead.
FLAGS: dict[str, Callable[[ServingPlan, Worker], list[str]]] = {
    "vllm": vllm.flags,
    "sglang": sglang.flags,
}
TITLES = {"vllm": "vLLM", "sglang": "SGLang", "trtllm": "TensorRT-LLM"}
_WORDS = {"serve": "worker", "prefill": "prefill", "decode": "decode"}


def names(plan: ServingPlan) -> tuple[str, ...]:
    """A name of each worker: its role, and its device where several have the role."""
    roles = [worker.role for worker in plan.workers]
    found: list[str] = []
    for worker in plan.workers:
        word = _WORDS[worker.role]
        if roles.count(worker.role) > 1:
            word = f"{word}-{worker.device}"
        while word in found:
            word += "-b"
        found.append(word)
    return tuple(found)


def software_of(plan: ServingPlan, target: str) -> str:
    """The one software of all engines.

    Raises
    ------
    ExportError
        If workers run different software.
    """
    found = sorted({worker.engine.software for worker in plan.workers})
    if len(found) > 1:
        raise ExportError(
            target,
            f"workers of {' and '.join(TITLES[one] for one in found)} in one deployment",
            fix="plan with one software",
        )
    return found[0]


def nodes_of(plan: ServingPlan, worker: Worker, target: str) -> tuple[int, int]:
    """Nodes of one engine, and its devices on each.

    Raises
    ------
    ExportError
        If an engine does not fill its nodes.
    """
    devices, per_node = worker.engine.num_devices, plan.cluster.nodes[worker.group].devices
    if devices <= per_node:
        return 1, devices
    if devices % per_node:
        raise ExportError(
            target,
            f"an engine of {devices} devices on nodes of {per_node}",
            fix="plan with engines that fill whole nodes",
        )
    return devices // per_node, per_node


def mixed_devices(plan: ServingPlan) -> bool:
    """Whether workers run on different kinds of device, so that pods must choose their nodes."""
    return len({worker.device for worker in plan.workers}) > 1


def trtllm_config(plan: ServingPlan, worker: Worker) -> str:
    """The options of one engine as YAML."""
    return trtllm.config(plan, worker)

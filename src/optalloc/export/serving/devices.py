"""What the make of a worker's devices decides: the type of 16 bits, the name of the resource."""

from __future__ import annotations

from optalloc.cluster.device import DeviceSpec
from optalloc.errors import ExportError
from optalloc.serving.configuration.plan import ServingPlan, Worker

NVIDIA = "nvidia.com/gpu"


def check_gpus(plan: ServingPlan, target: str) -> None:
    """Refuse devices whose engines are started in another way.

    Raises
    ------
    ExportError
        For devices that are no GPUs, or TensorRT-LLM on others than NVIDIA's.
    """
    for worker in plan.workers:
        device = device_of(plan, worker)
        if device.kind != "gpu":
            raise ExportError(target, f"engines on {device.name}, no GPU", fix="plan on GPUs")
        if worker.engine.software == "trtllm" and is_amd(device):
            raise ExportError(
                target,
                f"TensorRT-LLM on {device.name}",
                fix="plan with --software vllm or --software sglang",
            )


def device_of(plan: ServingPlan, worker: Worker) -> DeviceSpec:
    """The device of a worker's nodes."""
    return plan.cluster.nodes[worker.group].device


def is_amd(device: DeviceSpec) -> bool:
    """Whether the device is one of AMD's."""
    return device.title.startswith("AMD")


def gpu_resource(plan: ServingPlan, worker: Worker) -> str:
    """The name under which Kubernetes counts the devices."""
    return "amd.com/gpu" if is_amd(device_of(plan, worker)) else NVIDIA


def sixteen_bits(plan: ServingPlan, worker: Worker) -> str:
    """Of weights, as vLLM and SGLang name it: neither computes in bfloat16 on GPUs before Ampere,
    which have none."""
    peaks = device_of(plan, worker).peak_flops_per_s
    return "float16" if "fp16" in peaks and "bf16" not in peaks else "bfloat16"

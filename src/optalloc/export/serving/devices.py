"""What the make of a worker's devices decides: the type of 16 bits, the name of the resource."""

from __future__ import annotations

from optalloc.cluster.device import DeviceSpec
from optalloc.errors import ExportError
from optalloc.serving.configuration.plan import ServingPlan, Worker
from optalloc.serving.configuration.targets import TARGETS

NVIDIA = "nvidia.com/gpu"


def check_gpus(plan: ServingPlan, target: str) -> None:
    """Refuse devices whose engines are started in another way.

    Raises
    ------
    ExportError
        For devices that are no GPUs, TensorRT-LLM on others than NVIDIA's, or GPUs of two makes
        where all engines run one image.
    """
    if TARGETS[target].one_image and len({device_of(plan, w).is_amd for w in plan.workers}) > 1:
        raise ExportError(
            target,
            "GPUs of two makes, which need two images",
            fix="plan with one make, or export scripts: --to vllm or --to sglang",
        )
    for worker in plan.workers:
        device = device_of(plan, worker)
        if device.kind != "gpu":
            raise ExportError(target, f"engines on {device.name}, no GPU", fix="plan on GPUs")
        if worker.engine.software == "trtllm" and device.is_amd:
            raise ExportError(
                target,
                f"TensorRT-LLM on {device.name}",
                fix="plan with --software vllm or --software sglang",
            )


def device_of(plan: ServingPlan, worker: Worker) -> DeviceSpec:
    """The device of a worker's nodes."""
    return plan.cluster.nodes[worker.group].device


def gpu_resource(plan: ServingPlan, worker: Worker) -> str:
    """The name under which Kubernetes counts the devices."""
    return "amd.com/gpu" if device_of(plan, worker).is_amd else NVIDIA


def sixteen_bits(plan: ServingPlan, worker: Worker) -> str:
    """Of weights, as vLLM and SGLang name it: neither computes in bfloat16 on GPUs before Ampere,
    which have none."""
    peaks = device_of(plan, worker).peak_flops_per_s
    return "float16" if "fp16" in peaks and "bf16" not in peaks else "bfloat16"

"""llm-d: values of the ``llm-d-modelservice`` chart, which deploys vLLM.

The chart has one pool that decodes (and, alone, does both phases) and one that reads prompts. It
sets the widths of tensor and data parallelism and the number of GPUs itself from ``parallelism``.
"""

from __future__ import annotations

from optalloc.errors import ExportError
from optalloc.export.base import Artefact
from optalloc.export.serving import vllm
from optalloc.export.serving.devices import NVIDIA, gpu_resource
from optalloc.export.serving.kubernetes import (
    Tree,
    apply_script,
    documents,
    label,
    node_selector,
)
from optalloc.export.serving.workers import TITLES, nodes_of, software_of
from optalloc.serving.configuration.plan import ServingPlan, Worker


def artefacts(plan: ServingPlan) -> tuple[Artefact, ...]:
    """``values.yaml`` and ``apply.sh``.

    Raises
    ------
    ExportError
        For software other than vLLM, pipelines, or two kinds of engine of one role.
    """
    found = software_of(plan, "llm-d")
    if found != "vllm":
        raise ExportError("llm-d", f"engines of {TITLES[found]}", fix="plan with --software vllm")
    roles = [worker.role for worker in plan.workers]
    if len(roles) != len(set(roles)):
        raise ExportError(
            "llm-d",
            "two kinds of engine of one role",
            fix="plan with one kind, or export to dynamo",
        )
    name = label(plan.model.name)
    pools = {worker.role: _pool(plan, worker) for worker in plan.workers}
    split = "prefill" in pools
    nvidia = gpu_resource(plan, plan.workers[0]) == NVIDIA
    many = any(nodes_of(plan, worker, "llm-d")[0] > 1 for worker in plan.workers)
    values: Tree = {
        "multinode": many,
        "modelArtifacts": {
            "name": "${MODEL}",
            "uri": "hf://${MODEL}",
            "labels": {"llm-d.ai/inferenceServing": "true", "llm-d.ai/model": name},
            "authSecretName": "hf-token-secret",
        },
        **({} if nvidia else {"accelerator": {"type": "amd"}}),
        "routing": {"servicePort": 8000, "proxy": {"enabled": split}},
        "decode": pools.get("decode") or pools["serve"],
        "prefill": pools["prefill"] if split else {"create": False},
    }
    command = (
        "envsubst '$MODEL $IMAGE' < values.yaml | helm upgrade --install "
        f"{name} llm-d-modelservice/llm-d-modelservice -f -"
    )
    return Artefact("values.yaml", documents(values)), apply_script(plan, command)


def _pool(plan: ServingPlan, worker: Worker) -> Tree:
    engine = worker.engine
    nodes, per_node = nodes_of(plan, worker, "llm-d")
    if engine.pp > 1:
        raise ExportError("llm-d", f"a pipeline of {engine.pp} stages", fix="plan with pp = 1")
    if nodes > 1 and per_node % engine.tp:
        raise ExportError(
            "llm-d", f"tp {engine.tp} on nodes of {per_node} devices", fix="plan with a smaller tp"
        )
    flags = vllm.parallel_flags(plan, worker)
    if "--data-parallel-size" in flags:  # the chart's own
        flags = flags[2:]
    container: Tree = {
        "name": "vllm",
        "image": "${IMAGE}",
        "modelCommand": "vllmServe",
        "args": flags + vllm.engine_flags(plan, worker),
        "mountModelVolume": True,
    }
    if environment := vllm.pod_environment(worker):
        container["env"] = environment
    parallelism = {
        "tensor": engine.tp,
        "data": engine.attention_dp,
        "dataLocal": max(1, engine.attention_dp // nodes),
        "workers": nodes,
    }
    return {
        "create": True,
        "replicas": worker.count,
        "parallelism": parallelism,
        **node_selector(plan, worker),
        "containers": [container],
    }

"""Dynamo: a ``DynamoGraphDeployment`` (nvidia.com/v1alpha1) with a front end and every worker.

Each worker is a service with its role in ``subComponentType`` and in the flag
``--disaggregation-mode``, without which an engine registers as one that does both phases.
"""

from __future__ import annotations

from optalloc.export.base import Artefact
from optalloc.export.serving.devices import NVIDIA, gpu_resource
from optalloc.export.serving.kubernetes import (
    Tree,
    apply_script,
    documents,
    label,
    node_selector,
)
from optalloc.export.serving.sglang import BOOTSTRAP_PORT
from optalloc.export.serving.workers import FLAGS, names, nodes_of, software_of, trtllm_config
from optalloc.serving.configuration.plan import ServingPlan, Worker

_MODULES = {"vllm": "dynamo.vllm", "sglang": "dynamo.sglang", "trtllm": "dynamo.trtllm"}
_OPTIONS = "/optalloc"  # where the options of TensorRT-LLM are mounted


def artefacts(plan: ServingPlan) -> tuple[Artefact, ...]:
    """``deploy.yaml`` and ``apply.sh``.

    Raises
    ------
    ExportError
        For workers of different software, or what the software cannot express.
    """
    software = software_of(plan, "dynamo")
    name = label(f"{plan.model.name}-{plan.mode[:6]}")
    services: Tree = {
        "Frontend": {
            "componentType": "frontend",
            "replicas": 1,
            "extraPodSpec": {"mainContainer": {"image": "${IMAGE}"}},
        }
    }
    options: Tree = {}
    for word, worker in zip(names(plan), plan.workers, strict=True):
        services[word] = _service(plan, worker, software, word, name)
        if software == "trtllm":
            options[f"{word}.yaml"] = trtllm_config(plan, worker)
    graph: Tree = {
        "apiVersion": "nvidia.com/v1alpha1",
        "kind": "DynamoGraphDeployment",
        "metadata": {"name": name},
        "spec": {"services": services},
    }
    trees: list[Tree] = [graph]
    if options:
        metadata = {"name": f"{name}-options"}
        trees.insert(
            0, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": options}
        )
    command = "envsubst '$MODEL $IMAGE' < deploy.yaml | kubectl apply -f -"
    return Artefact("deploy.yaml", documents(*trees)), apply_script(plan, command)


def _service(plan: ServingPlan, worker: Worker, software: str, word: str, name: str) -> Tree:
    nodes, per_node = nodes_of(plan, worker, "dynamo")
    model = "--model" if software == "vllm" else "--model-path"
    args = [model, "${MODEL}"]
    container: Tree = {"image": "${IMAGE}", "command": ["python3", "-m", _MODULES[software]]}
    pod: Tree = {"mainContainer": container, **node_selector(plan, worker)}
    if software == "trtllm":
        args += ["--extra-engine-args", f"{_OPTIONS}/{word}.yaml"]
        container["volumeMounts"] = [{"name": "options", "mountPath": _OPTIONS}]
        pod["volumes"] = [{"name": "options", "configMap": {"name": f"{name}-options"}}]
    else:
        args += _without_role(FLAGS[software](plan, worker))
    if worker.role != "serve":
        args += ["--disaggregation-mode", worker.role]
        if software == "sglang":
            args += ["--disaggregation-transfer-backend", "nixl"]
        if software == "sglang" and worker.role == "prefill":
            args += ["--disaggregation-bootstrap-port", str(BOOTSTRAP_PORT)]
    container["args"] = args
    service: Tree = {
        "envFromSecret": "hf-token-secret",
        "componentType": "worker",
        "replicas": worker.count,
        "resources": {"limits": _gpus(plan, worker, per_node)},
        "extraPodSpec": pod,
    }
    if worker.role != "serve":
        service["subComponentType"] = worker.role
    if nodes > 1:
        service["multinode"] = {"nodeCount": nodes}
    return service


def _gpus(plan: ServingPlan, worker: Worker, count: int) -> dict[str, str]:
    resource = gpu_resource(plan, worker)
    return {"gpu": str(count)} | ({} if resource == NVIDIA else {"gpuType": resource})


def _without_role(words: list[str]) -> list[str]:
    """Engine flags without those of a role, which Dynamo sets from its own."""
    found, skip = [], False
    for word in words:
        if skip:
            skip = False
        elif word == "--kv-transfer-config" or word.startswith("--disaggregation-"):
            skip = True
        else:
            found.append(word)
    return found

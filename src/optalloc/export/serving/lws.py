"""LeaderWorkerSet (leaderworkerset.x-k8s.io/v1): a set for every worker, an engine a group.

The pods of a group are the nodes of one engine; each learns its number and the leader's address
from the environment that the controller sets. A service a set leads to the leaders.
"""

from __future__ import annotations

import shlex

from optalloc.errors import ExportError
from optalloc.export.base import Artefact
from optalloc.export.serving import vllm
from optalloc.export.serving.devices import gpu_resource
from optalloc.export.serving.kubernetes import (
    Tree,
    apply_script,
    documents,
    label,
    node_selector,
)
from optalloc.export.serving.sglang import BOOTSTRAP_PORT
from optalloc.export.serving.workers import FLAGS, TITLES, names, nodes_of, software_of
from optalloc.serving.configuration.plan import ServingPlan, Worker

_PORT = 8000


def artefacts(plan: ServingPlan) -> tuple[Artefact, ...]:
    """``lws.yaml`` and ``apply.sh``.

    Raises
    ------
    ExportError
        For TensorRT-LLM, whose engines MPI starts, or a data-parallel rank over several nodes.
    """
    software = software_of(plan, "lws")
    if software == "trtllm":
        raise ExportError(
            "lws", f"engines of {TITLES[software]}, which MPI starts", fix="export to dynamo"
        )
    trees: list[Tree] = []
    for word, worker in zip(names(plan), plan.workers, strict=True):
        trees += _set(plan, worker, software, label(f"{plan.model.name}-{word}"))
    command = "envsubst '$MODEL $IMAGE' < lws.yaml | kubectl apply -f -"
    return Artefact("lws.yaml", documents(*trees)), apply_script(plan, command)


def _set(plan: ServingPlan, worker: Worker, software: str, name: str) -> list[Tree]:
    nodes, per_node = nodes_of(plan, worker, "lws")
    container: Tree = {
        "name": "engine",
        "image": "${IMAGE}",
        "command": ["sh", "-c", _command(plan, worker, software, nodes)],
        "ports": [{"containerPort": _PORT}],
        "resources": {"limits": {gpu_resource(plan, worker): str(per_node)}},
        "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}],
    }
    if software == "vllm" and (environment := vllm.pod_environment(worker)):
        container["env"] = environment
    pod: Tree = {
        **node_selector(plan, worker),
        "containers": [container],
        "volumes": [{"name": "shm", "emptyDir": {"medium": "Memory"}}],
    }
    labels = {"app": name, "optalloc/role": worker.role}
    template: Tree = {"metadata": {"labels": labels}, "spec": pod}
    leaders: Tree = {
        "apiVersion": "leaderworkerset.x-k8s.io/v1",
        "kind": "LeaderWorkerSet",
        "metadata": {"name": name},
        "spec": {
            "replicas": worker.count,
            "leaderWorkerTemplate": {
                "size": nodes,
                "restartPolicy": "RecreateGroupOnPodRestart",
                "workerTemplate": template,
            },
        },
    }
    selector = {"app": name, "leaderworkerset.sigs.k8s.io/worker-index": "0"}
    service: Tree = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": selector, "ports": [{"port": _PORT, "targetPort": _PORT}]},
    }
    return [leaders, service]


def _command(plan: ServingPlan, worker: Worker, software: str, nodes: int) -> str:
    """The command of every pod of a group."""
    words = " ".join(shlex.quote(word) for word in FLAGS[software](plan, worker))
    rank, leader = "$LWS_WORKER_INDEX", "$LWS_LEADER_ADDRESS"
    if software == "sglang":
        if worker.role == "prefill":
            words += f" --disaggregation-bootstrap-port {BOOTSTRAP_PORT}"
        over = f" --nnodes {nodes} --node-rank {rank} --dist-init-addr {leader}:20000"
        return (
            "exec python3 -m sglang.launch_server --model-path ${MODEL} --host 0.0.0.0"
            f" --port {_PORT} {words}{over if nodes > 1 else ''}"
        )
    begin, over = "", ""
    if nodes > 1:
        begin = f'[ "{rank}" = 0 ] || more=--headless; '
        over = vllm.node_words(worker, worker.engine.num_devices // nodes, rank, leader, "$more")
    return f"{begin}exec vllm serve ${{MODEL}} --port {_PORT} {words}{over}"

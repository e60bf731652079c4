"""Shell scripts that start engines on the machines at hand: vLLM, SGLang and TensorRT-LLM.

One script a worker, started once for every engine: ``NAME.sh MODEL INDEX`` takes the devices and
the port of that engine on its node. An engine over several nodes is started on each of them with
``NODE_RANK`` and ``LEADER`` set. ``router.sh`` sends requests to all of them.
"""

from __future__ import annotations

import math
import shlex

from optalloc.errors import ExportError
from optalloc.export.base import Artefact
from optalloc.export.serving import sglang, trtllm, vllm
from optalloc.export.serving.workers import TITLES, names, nodes_of, software_of
from optalloc.serving.configuration.plan import ServingPlan, Worker

_PORT, _SIDE_PORT, _PORTS_APART = 8100, 5600, 100


def vllm_artefacts(plan: ServingPlan) -> tuple[Artefact, ...]:
    """Scripts for ``vllm serve`` and its router.

    Raises
    ------
    ExportError
        For engines of other software, or a data-parallel rank over several nodes.
    """
    _check(plan, "vllm")
    found = []
    for number, (name, worker) in enumerate(zip(names(plan), plan.workers, strict=True)):
        nodes, per_node = nodes_of(plan, worker, "vllm")
        words = vllm.flags(plan, worker)
        over_nodes = ""
        if nodes > 1:
            over_nodes = vllm.node_words(worker, per_node, "$NODE_RANK", "$LEADER", "$headless")
        side = ""
        if worker.role != "serve":
            base, step = _SIDE_PORT + number * _PORTS_APART, worker.engine.num_devices
            side = f"export VLLM_NIXL_SIDE_CHANNEL_PORT=$(({base} + {step} * $index))\n"
            side += (
                'host="${VLLM_NIXL_SIDE_CHANNEL_HOST:-$(hostname -i | cut -d" " -f1)}"\n'
                'export VLLM_NIXL_SIDE_CHANNEL_HOST="$host"  # the other phase meets it there\n'
            )
        lines = _head(plan, worker, "vllm", number) + side
        if nodes > 1:
            lines += 'headless=""\nif [ "$NODE_RANK" != 0 ]; then headless="--headless"; fi\n'
        lines += f'exec vllm serve "$model" --port $port {_quoted(words)}{over_nodes} "$@"\n'
        found.append(Artefact(f"{name}.sh", lines, executable=True))
    return (*found, _router(plan, "vllm-router", "--vllm-pd-disaggregation"))


def sglang_artefacts(plan: ServingPlan) -> tuple[Artefact, ...]:
    """Scripts for ``sglang.launch_server`` and its router.

    Raises
    ------
    ExportError
        For engines of other software.
    """
    _check(plan, "sglang")
    found = []
    for number, (name, worker) in enumerate(zip(names(plan), plan.workers, strict=True)):
        nodes, _ = nodes_of(plan, worker, "sglang")
        words = _quoted(sglang.flags(plan, worker))
        if nodes > 1:
            words += f" --nnodes {nodes} --node-rank $NODE_RANK --dist-init-addr $LEADER:20000"
        if worker.role == "prefill":
            words += f" --disaggregation-bootstrap-port $(({sglang.BOOTSTRAP_PORT} + $index))"
        lines = _head(plan, worker, "sglang", number)
        lines += "exec python3 -m sglang.launch_server --host 0.0.0.0 --port $port"
        lines += f' --model-path "$model" {words} "$@"\n'
        found.append(Artefact(f"{name}.sh", lines, executable=True))
    router = "python3 -m sglang_router.launch_router"
    return (*found, _router(plan, router, "--pd-disaggregation"))


def trtllm_artefacts(plan: ServingPlan) -> tuple[Artefact, ...]:
    """Options in YAML and scripts for ``trtllm-serve``, and its front end where phases are split.

    Raises
    ------
    ExportError
        For engines of other software, or over several nodes (they are started by MPI).
    """
    _check(plan, "trtllm")
    found = []
    for number, (name, worker) in enumerate(zip(names(plan), plan.workers, strict=True)):
        nodes, _ = nodes_of(plan, worker, "trtllm")
        if nodes > 1:
            raise ExportError(
                "trtllm", "an engine over several nodes", fix="export to dynamo, or plan smaller"
            )
        found.append(Artefact(f"{name}.yaml", trtllm.config(plan, worker)))
        lines = _head(plan, worker, "trtllm", number)
        lines += 'exec trtllm-serve serve "$model" --host 0.0.0.0 --port $port --backend pytorch'
        lines += f' --extra_llm_api_options "$(dirname "$0")/{name}.yaml" "$@"\n'
        found.append(Artefact(f"{name}.sh", lines, executable=True))
    if plan.mode == "disaggregated":
        return (*found, *_trtllm_front(plan))
    return (*found, _router(plan, "python3 -m sglang_router.launch_router", ""))


def _trtllm_front(plan: ServingPlan) -> tuple[Artefact, Artefact]:
    import yaml

    servers: dict[str, object] = {}
    for role, key in (("prefill", "context_servers"), ("decode", "generation_servers")):
        urls = [url for one, url in _urls(plan) if one == role]
        servers[key] = {"num_instances": len(urls), "urls": [u.split("//")[1] for u in urls]}
    text = yaml.safe_dump(
        {"hostname": "0.0.0.0", "port": 8000, "backend": "pytorch", **servers}, sort_keys=False
    )
    script = (
        "#!/bin/sh\n# Sends requests to the engines, prompts first; edit the hosts in front.yaml.\n"
        'exec trtllm-serve disaggregated -c "$(dirname "$0")/front.yaml" "$@"\n'
    )
    return Artefact("front.yaml", text), Artefact("router.sh", script, executable=True)


def _check(plan: ServingPlan, target: str) -> None:
    found = software_of(plan, target)
    if found != target:
        raise ExportError(
            target, f"engines planned for {TITLES[found]}", fix=f"plan with --software {target}"
        )


def _head(plan: ServingPlan, worker: Worker, target: str, number: int) -> str:
    """What every script begins with: what it starts, its arguments, its devices and its port."""
    nodes, per_node = nodes_of(plan, worker, target)
    engine = worker.engine
    weights = engine.weight_dtype + (
        f", experts {engine.expert_dtype}" if engine.expert_dtype else ""
    )
    base = _PORT + number * _PORTS_APART
    lines = (
        "#!/bin/sh\n"
        f"# {TITLES[target]}: one of {worker.count} engines ({worker.role}) on {nodes} x "
        f"{per_node} {worker.device}.\n"
        f"# usage: {names(plan)[number]}.sh MODEL INDEX [more flags]; MODEL holds {weights} weights"
        " or, for fp8, 16-bit ones.\n"
        f'model="$1"; index="${{2:-0}}"; shift; [ $# -gt 0 ] && shift\nport=$(({base} + $index))\n'
    )
    if nodes > 1:
        lines += ': "${NODE_RANK:?the number of this node in the engine, from 0}"\n'
        lines += ': "${LEADER:?the address of the node of number 0}"\n'
    else:
        base, on_node = _first_devices(plan, target)[number], _devices(plan, worker)
        where = f"({base} + {per_node} * INDEX) / {on_node}"
        if on_node % per_node == 0:
            first = f"({base} + {per_node} * $index) % {on_node}"
        else:
            first = f"{per_node} * ($index % {on_node // per_node})"
            where = f"{base // on_node} + INDEX / {on_node // per_node}"
        lines += (
            f"# It belongs on node {where} (rounded down, from 0) of its kind.\n"
            f"first=$(({first}))\n"
            f"export CUDA_VISIBLE_DEVICES=$(seq -s, $first $(($first + {per_node - 1})))\n"
        )
    return lines


def _devices(plan: ServingPlan, worker: Worker) -> int:
    return plan.cluster.nodes[worker.group].devices


def _first_devices(plan: ServingPlan, target: str) -> list[int]:
    """The device at which each worker's engines begin, counted over the nodes of its group.

    The largest engines come first, so that smaller ones fit behind them without crossing nodes;
    those that do not divide a node begin on one of their own.
    """
    found, used = [0] * len(plan.workers), dict.fromkeys(range(len(plan.cluster.nodes)), 0)
    order = sorted(
        range(len(plan.workers)), key=lambda i: -nodes_of(plan, plan.workers[i], target)[1]
    )
    for number in order:
        worker = plan.workers[number]
        nodes, per_node = nodes_of(plan, worker, target)
        on_node, begin = _devices(plan, worker), used[worker.group]
        if begin % per_node or on_node % per_node:
            begin = -(-begin // on_node) * on_node
        found[number] = begin
        each = per_node if on_node % per_node == 0 else on_node / (on_node // per_node)
        used[worker.group] = begin + math.ceil(worker.count * nodes * each)
    return found


def _quoted(words: list[str]) -> str:
    return " ".join(shlex.quote(word) for word in words)


def _urls(plan: ServingPlan) -> list[tuple[str, str]]:
    """Role and URL of every engine, as the scripts number them, all on one host."""
    return [
        (worker.role, f"http://localhost:{_PORT + number * _PORTS_APART + index}")
        for number, worker in enumerate(plan.workers)
        for index in range(worker.count)
    ]


def _router(plan: ServingPlan, command: str, split: str) -> Artefact:
    """``router.sh``: all engines behind port 8000; localhost stands for their hosts."""
    words = command
    if plan.mode == "disaggregated":
        words += f" {split}"
        bootstrap = sglang.BOOTSTRAP_PORT
        for role, url in _urls(plan):
            words += f" --{role} {url}"
            if role == "prefill" and "sglang" in command:
                words += f" {bootstrap}"
                bootstrap += 1
    else:
        words += " --worker-urls " + " ".join(url for _, url in _urls(plan))
    text = (
        "#!/bin/sh\n# Sends requests to the engines; replace localhost by their hosts.\n"
        f'exec {words} --host 0.0.0.0 --port 8000 "$@"\n'
    )
    return Artefact("router.sh", text, executable=True)

"""Exports of mixed plans: what each target can express, and the PyTorch script that runs them."""

from __future__ import annotations

import math

from optalloc.errors import ExportError
from optalloc.export.alike import uniform_plan
from optalloc.export.base import Artefact, artefacts, check_target
from optalloc.export.launch import Host, script
from optalloc.export.pytorch import Facts, layer_facts, template
from optalloc.files import canonical_json
from optalloc.model.lower import lower
from optalloc.model.spec import Attention, Experts
from optalloc.training.mixed.plan import MixedPlan, MixedReplica, MixedStage

TARGET = "pytorch"
_SCRIPTS = ("train_mixed.py", "sharded.py", "parallel.py", "task.py", "decoder.py")


def mixed_artefacts(plan: MixedPlan, target: str) -> tuple[Artefact, ...]:
    """The files of an export, without writing them.

    Raises
    ------
    InputError
        If the target is unknown.
    ExportError
        If the target cannot express the plan; names the feature and the stage.
    """
    check_target(target)
    if target != TARGET:
        return artefacts(uniform_plan(plan, target), target)
    _require(plan)
    return (
        *(Artefact(name, template(name)) for name in _SCRIPTS),
        Artefact("plan_facts.json", canonical_json(mixed_facts(plan))),
        Artefact("launch.sh", _launch(plan), executable=True),
    )


def _require(plan: MixedPlan) -> None:
    graph = lower(plan.model)
    if graph.encoder_decoder or any(t.stack != "decoder" for t in graph.layers):
        raise ExportError(TARGET, "layers other than decoder layers", stage=0)
    if plan.workload.dtype in ("fp8", "fp16"):
        raise ExportError(TARGET, f"dtype {plan.workload.dtype}", fix="plan with dtype bf16")
    for stage in plan.stages:
        if stage.cp > 1:
            fix = "plan with --pin cp=1"
            raise ExportError(TARGET, f"cp {stage.cp} in a mixed plan", stage=stage.index, fix=fix)
        if stage.ep > 1:
            fix = "plan with --pin ep=1"
            raise ExportError(TARGET, f"ep {stage.ep} in a mixed plan", stage=stage.index, fix=fix)
    for layer in plan.model.layer_types:
        name = layer.name
        own = layer.attention
        if not isinstance(own, Attention) or own.sinks or own.output_gate:
            what = f"latent or linear attention, sinks or an output gate ({name})"
            raise ExportError(TARGET, what, stage=0)
        if layer.norm.count != 2:
            raise ExportError(TARGET, f"{layer.norm.count} norms a layer ({name})", stage=0)
        for stage in plan.stages:
            if own.kv_heads % stage.tp:
                what = f"tp {stage.tp} over {own.kv_heads} key-value heads ({name})"
                raise ExportError(TARGET, what, stage=stage.index)
            if isinstance(layer.feed_forward, Experts) and stage.tp > 1:
                raise ExportError(TARGET, f"experts with tp {stage.tp}", stage=stage.index)


def mixed_facts(plan: MixedPlan) -> Facts:
    """What the script needs to know, as plain values; ranks are the used devices in order."""
    model, work = plan.model, plan.workload
    names = [run.layer for run in lower(model).sequence for _ in range(run.count)]
    used = sorted(d for s in plan.stages for first, end in s.devices for d in range(first, end))
    rank = {device: k for k, device in enumerate(used)}
    replicas, done = [], 0
    for replica in plan.replicas:
        replicas.append(_replica(replica, names, rank, done))
        done += replica.num_microbatches
    widest = math.lcm(*(s.tp for s in plan.stages))
    return {
        "format": "optalloc.torch-mixed/1",
        "model": model.name,
        "hidden": model.hidden,
        "vocabulary": -(-model.vocabulary // widest) * widest,
        "tied_embeddings": model.tied_embeddings,
        "sequence_length": work.sequence_length,
        "dtype": work.dtype,
        "gradient_dtype": work.gradient_dtype,
        "optimizer": work.optimizer,
        "degrees": {"tp": 1, "cp": 1, "pp": 1, "dp": 1, "ep": 1, "virtual_stages": 1},
        "sequence_parallel": False,
        "micro_batch": plan.micro_batch,
        "num_microbatches": plan.num_microbatches,
        "global_batch": work.global_batch,
        "num_ranks": len(used),
        "layers": names,  # type: ignore[dict-item]
        "layer_types": {x.name: layer_facts(x) for x in model.layer_types if x.name in names},
        "chunks": replicas[0]["chunks"],
        "replicas": replicas,
        "estimate": {"cost_model": plan.cost_model, "step_time_s": plan.step_time_s},
    }


def _replica(replica: MixedReplica, names: list[str], rank: dict[int, int], done: int) -> Facts:
    stages: list[Facts] = []
    chunks: list[Facts] = []
    for stage in replica.stages:
        ranks = [rank[d] for first, end in stage.devices for d in range(first, end)]
        stages.append({"ranks": ranks, "tp": stage.tp, "dp": stage.dp})  # type: ignore[dict-item]
        chunks.append(
            {
                "stage": stage.index,
                "embedding": stage.embedding,
                "head": stage.head,
                "runs": _runs(stage, names),
            }
        )
    return {
        "num_microbatches": replica.num_microbatches,
        "first_micro_batch": done,
        "stages": stages,
        "chunks": chunks,
    }


def _runs(stage: MixedStage, names: list[str]) -> list[list[str | int | float | bool | None]]:
    """[layer type, recomputation, count] of equal neighbours."""
    runs: list[list[str | int | float | bool | None]] = []
    rule = stage.recompute
    for index in range(stage.num_layers):
        kind = "full" if index < rule.full else "none"
        if rule.full <= index < rule.full + rule.selective:
            kind = "selective"
        name = names[stage.first_layer + index]
        if runs and runs[-1][:2] == [name, kind]:
            runs[-1][2] = int(runs[-1][2] or 0) + 1
        else:
            runs.append([name, kind, 1])
    return runs


def _launch(plan: MixedPlan) -> str:
    """The launch script; nodes without a used device are left out."""
    used = {d for s in plan.stages for first, end in s.devices for d in range(first, end)}
    hosts, start = [], 0
    for group in plan.cluster.nodes:
        for _ in range(group.count):
            own = sum(d in used for d in range(start, start + group.devices))
            start += group.devices
            if own:
                hosts.append(Host(own, group.device.name))
    title = f"{plan.model.name}: {len(plan.replicas)} replica(s) on {plan.num_devices} devices"
    return script(title, hosts, "launch.sh", "train_mixed.py")

"""PyTorch: a script of device mesh, FSDP2, tensor parallelism and pipelining."""

from __future__ import annotations

from importlib import resources

from optalloc.errors import ExportError
from optalloc.export.base import Artefact
from optalloc.export.chain import layer_types, placed_chunks, require_decoder_only, stage_of
from optalloc.export.launch import torchrun_script
from optalloc.files import canonical_json
from optalloc.model.spec import Attention, Experts, Layer, Mlp
from optalloc.training.plan import TrainingPlan

TARGET = "pytorch"
FORMAT = "optalloc.torch/1"
SCRIPTS = ("train.py", "parallel.py", "task.py", "decoder.py")

Scalar = str | int | float | bool | None
Facts = dict[str, "Scalar | Facts | list[Facts] | list[list[Scalar]]"]


def artefacts(plan: TrainingPlan) -> tuple[Artefact, ...]:
    """``train.py`` and its modules, the plan's facts, and the launch script.

    Raises
    ------
    ExportError
        For encoders, cross-attention, latent attention, fp16 and fp8, what
        ``torch.distributed.pipelining`` has not (ZeRO 2 and 3 inside a pipeline, 1F1B with fewer
        micro-batches than stages), and tensor degrees beyond the key-value heads.
    """
    _require(plan)
    require_layers(plan, TARGET)
    return (
        *(Artefact(name, template(name)) for name in SCRIPTS),
        Artefact("plan_facts.json", canonical_json(facts_of(plan))),
        Artefact(
            "launch.sh", torchrun_script(plan, TARGET, "launch.sh", "train.py"), executable=True
        ),
    )


def template(name: str) -> str:
    """The text of a script that exports copy."""
    return (resources.files("optalloc.export.templates") / name).read_text(encoding="utf-8")


def _require(plan: TrainingPlan) -> None:
    require_decoder_only(plan, TARGET)
    degrees = plan.degrees
    if plan.workload.dtype in ("fp8", "fp16"):
        raise ExportError(TARGET, f"dtype {plan.workload.dtype}", fix="plan with dtype bf16")
    if degrees.pp > 1 and plan.zero_stage >= 2:
        raise ExportError(
            TARGET,
            f"ZeRO stage {plan.zero_stage} inside a pipeline (its stages reduce gradients once a "
            "step and keep weights gathered)",
            stage=0,
            fix="plan with --pin zero_stage=0,1",
        )
    if plan.schedule == "1f1b" and degrees.pp > 1 and plan.num_microbatches < degrees.pp:
        raise ExportError(
            TARGET,
            f"1F1B with {plan.num_microbatches} micro-batches on {degrees.pp} stages",
            stage=degrees.pp - 1,
            fix="plan with --pin schedule=gpipe",
        )


def require_layers(plan: TrainingPlan, target: str) -> None:
    """Refuse layers that the exported decoder cannot build."""
    tp = plan.degrees.tp
    for name, layer in layer_types(plan).items():
        attention, stage = layer.attention, stage_of(plan, name)
        if layer.norm.count != 2:
            raise ExportError(target, f"{layer.norm.count} norms a layer ({name})", stage=stage)
        if not isinstance(attention, Attention):
            raise ExportError(target, f"latent or linear attention ({name})", stage=stage)
        if attention.kv_heads % tp:
            raise ExportError(
                target,
                f"tp {tp} over {attention.kv_heads} key-value heads ({name})",
                stage=stage,
                fix="plan with a tp that divides the key-value heads",
            )
        if attention.sinks or attention.output_gate:
            raise ExportError(target, f"attention sinks or an output gate ({name})", stage=stage)
        if attention.qk_norm == "width" and tp > 1:
            raise ExportError(target, f"query norms over all heads with tp ({name})", stage=stage)
        if isinstance(layer.feed_forward, Experts):
            if layer.feed_forward.bias:
                raise ExportError(target, f"experts with biases ({name})", stage=stage)
            if layer.feed_forward.shared_gate:
                raise ExportError(target, f"a gate of the shared expert ({name})", stage=stage)


def facts_of(plan: TrainingPlan) -> Facts:
    """What the script needs to know, as plain values; ``estimate`` is the plan's prediction."""
    model, degrees, workload = plan.model, plan.degrees, plan.workload
    used = [run.layer for run in model.layers]
    types: Facts = {
        name: layer_facts(layer) for name, layer in layer_types(plan).items() if name in used
    }
    return {
        "format": FORMAT,
        "model": model.name,
        "hidden": model.hidden,
        "vocabulary": -(-model.vocabulary // degrees.tp) * degrees.tp,
        "tied_embeddings": model.tied_embeddings,
        "sequence_length": workload.sequence_length,
        "dtype": workload.dtype,
        "gradient_dtype": workload.gradient_dtype,
        "optimizer": workload.optimizer,
        "degrees": {
            name: getattr(degrees, name)
            for name in ("tp", "cp", "pp", "dp", "ep", "virtual_stages")
        },
        "sequence_parallel": plan.sequence_parallel,
        "zero_stage": plan.zero_stage,
        "shard_group": plan.shard_group,
        "schedule": plan.schedule,
        "micro_batch": plan.micro_batch,
        "num_microbatches": plan.num_microbatches,
        "layer_types": types,
        "chunks": _chunks(plan),
        "estimate": {"cost_model": plan.cost_model, "step_time_s": plan.step_time_s},
    }


def layer_facts(layer: Layer) -> Facts:
    """Shape and choices of one layer type."""
    attention, feed_forward = layer.attention, layer.feed_forward
    assert isinstance(attention, Attention)
    facts: Facts = {
        "norm": layer.norm.kind,
        "heads": attention.heads,
        "kv_heads": attention.kv_heads,
        "head_dim": attention.head_dim,
        "causal": attention.causal,
        "window": attention.window,
        "qkv_bias": attention.qkv_bias,
        "output_bias": attention.output_bias,
        "qk_norm": attention.qk_norm,
        "width": feed_forward.width,
        "gated": feed_forward.gated,
        "mlp_bias": isinstance(feed_forward, Mlp) and feed_forward.bias,
        "experts": None,
    }
    if isinstance(feed_forward, Experts):
        facts["experts"] = {
            "num_experts": feed_forward.num_experts,
            "top_k": feed_forward.top_k,
            "width": feed_forward.width,
            "shared_width": feed_forward.shared_width,
            "gated": feed_forward.gated,
        }
    return facts


def _chunks(plan: TrainingPlan) -> list[Facts]:
    """Chunks in model order; ``runs`` are [layer type, recomputation, count]."""
    chunks: list[Facts] = []
    for chunk in placed_chunks(plan):
        runs: list[list[Scalar]] = []
        for index, name in enumerate(chunk.layers):
            kind = "none"
            if index < chunk.full:
                kind = "full"
            elif index < chunk.full + chunk.selective:
                kind = "selective"
            if runs and runs[-1][:2] == [name, kind]:
                count = runs[-1][2]
                assert isinstance(count, int)
                runs[-1][2] = count + 1
            else:
                runs.append([name, kind, 1])
        chunks.append(
            {"stage": chunk.stage, "embedding": chunk.embedding, "head": chunk.head, "runs": runs}
        )
    return chunks

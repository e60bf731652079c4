"""Megatron-LM: a launch script for ``pretrain_gpt.py`` with the plan's degrees and layout."""

from __future__ import annotations

from optalloc.errors import ExportError
from optalloc.export.base import Artefact
from optalloc.export.chain import PlacedChunk, placed_chunks, require_decoder_only
from optalloc.export.launch import quoted, torchrun_script
from optalloc.export.megatron_model import TARGET, Flags, model_flags
from optalloc.training.plan import TrainingPlan

_BEFORE = """\
# MEGATRON is the folder of Megatron-LM. What a plan does not know (data, tokenizer, rotary base,
# learning rate) is in the two lines below or in further arguments of this script, which win.
: "${{MEGATRON:?set it to the folder of Megatron-LM}}"
: "${{DATA_ARGUMENTS:=--mock-data --tokenizer-type NullTokenizer}}"
: "${{TRAINING_ARGUMENTS:=--train-iters 20 --lr 1e-4}}"
{environment}set -- \\
{flags}  $DATA_ARGUMENTS $TRAINING_ARGUMENTS "$@"
"""


def artefacts(plan: TrainingPlan) -> tuple[Artefact, ...]:
    """One launch script.

    Raises
    ------
    ExportError
        For encoders, schedules other than 1F1B and interleaved 1F1B, recomputation that differs by
        stage in a way ``block`` cannot say, ZeRO 2 and 3 in a pipeline, and layers without a
        Megatron flag.
    """
    require_decoder_only(plan, TARGET)
    flags = [*model_flags(plan), *parallel_flags(plan), *training_flags(plan)]
    lines = "".join(
        f"  {quoted([name] if value is None else [name, value])} \\\n" for name, value in flags
    )
    # Tensor and context parallelism overlap only in launch order; FSDP wants the opposite.
    environment = "" if plan.zero_stage >= 2 else "export CUDA_DEVICE_MAX_CONNECTIONS=1\n"
    before = _BEFORE.format(flags=lines, environment=environment)
    program = '"$MEGATRON/pretrain_gpt.py"'
    script = torchrun_script(plan, TARGET, "launch.sh", program, before=before)
    return (Artefact("launch.sh", script, executable=True),)


def parallel_flags(plan: TrainingPlan) -> Flags:
    """Degrees, layout, recomputation and sharding."""
    degrees = plan.degrees
    flags: Flags = [
        ("--tensor-model-parallel-size", str(degrees.tp)),
        ("--pipeline-model-parallel-size", str(degrees.pp)),
        ("--context-parallel-size", str(degrees.cp)),
    ]
    if plan.sequence_parallel:
        flags.append(("--sequence-parallel", None))
    if any("experts" in _kinds(plan, chunk) for chunk in placed_chunks(plan)):
        flags += [
            ("--expert-model-parallel-size", str(degrees.ep)),
            ("--expert-tensor-parallel-size", "1"),
        ]
    elif degrees.ep > 1:
        raise ExportError(TARGET, "expert parallelism without experts")
    if degrees.pp > 1:
        _require_schedule(plan)
        layout = layout_of(placed_chunks(plan))
        flags.append(("--pipeline-model-parallel-layout", layout))
    return [*flags, *recompute_flags(plan), *_sharding(plan)]


def _kinds(plan: TrainingPlan, chunk: PlacedChunk) -> set[str]:
    tags = {x.name: type(x.feed_forward).__name__.lower() for x in plan.model.layer_types}
    return {tags[name] for name in chunk.layers}


def _require_schedule(plan: TrainingPlan) -> None:
    if plan.schedule not in ("1f1b", "interleaved"):
        raise ExportError(
            TARGET, f"the schedule {plan.schedule}", stage=0, fix="plan with --pin schedule=1f1b"
        )


def layout_of(chunks: tuple[PlacedChunk, ...]) -> str:
    """``Et*3|t*4|t*4|t*2L``: E embedding, t decoder layer, L loss, a bar between chunks."""
    parts = []
    for chunk in chunks:
        count = len(chunk.layers)
        layers = "" if count == 0 else "t" if count == 1 else f"t*{count}"
        parts.append(("E" if chunk.embedding else "") + layers + ("L" if chunk.head else ""))
    return "|".join(parts)


def recompute_flags(plan: TrainingPlan) -> Flags:
    """One rule must serve every chunk: nothing, all attention cores, or the first N layers whole.

    Raises
    ------
    ExportError
        Naming the first stage that departs from the rule the others follow.
    """
    chunks = [chunk for chunk in placed_chunks(plan) if chunk.layers]
    if all(chunk.full == 0 and chunk.selective == 0 for chunk in chunks):
        return []
    if all(chunk.selective == len(chunk.layers) for chunk in chunks):
        return [("--recompute-granularity", "selective"), ("--recompute-modules", "core_attn")]
    for chunk in chunks:
        if chunk.selective:
            raise ExportError(
                TARGET,
                "attention-core recomputation of some layers only",
                stage=chunk.stage,
                fix="plan with --for megatron, or --pin recompute=none,selective,full,equal",
            )
    count = max(chunk.full for chunk in chunks)
    for chunk in chunks:
        if chunk.full != min(count, len(chunk.layers)):
            raise ExportError(
                TARGET,
                f"recomputation of {chunk.full} layers where another stage has {count}",
                stage=chunk.stage,
                fix="plan with --for megatron, or --pin recompute=none,selective,full,equal",
            )
    flags: Flags = [("--recompute-granularity", "full")]
    if all(chunk.full == len(chunk.layers) for chunk in chunks):
        return [*flags, ("--recompute-method", "uniform"), ("--recompute-num-layers", "1")]
    return [*flags, ("--recompute-method", "block"), ("--recompute-num-layers", str(count))]


def _sharding(plan: TrainingPlan) -> Flags:
    degrees, zero = plan.degrees, plan.zero_stage
    replicas = degrees.dp * degrees.cp
    instances = replicas // plan.shard_group if plan.shard_group else 1
    overlap: Flags = [("--overlap-grad-reduce", None)] if replicas > 1 else []
    if zero == 0:
        return overlap
    flags: Flags = [("--use-distributed-optimizer", None), *overlap]
    if replicas > 1:
        flags.append(("--overlap-param-gather", None))
    if zero == 1:
        if instances > 1:
            flags.append(("--num-distributed-optimizer-instances", str(instances)))
        return flags
    if degrees.pp > 1:
        raise ExportError(
            TARGET,
            f"ZeRO stage {zero} inside a pipeline",
            stage=0,
            fix="plan with --pin zero_stage=0,1",
        )
    if instances > 1:
        raise ExportError(TARGET, f"ZeRO stage {zero} over part of the replicas", stage=0)
    strategy = "optim_grads" if zero == 2 else "optim_grads_params"
    return [
        *flags,
        ("--use-megatron-fsdp", None),
        ("--data-parallel-sharding-strategy", strategy),
        ("--no-gradient-accumulation-fusion", None),
        ("--ckpt-format", "fsdp_dtensor"),
    ]


def training_flags(plan: TrainingPlan) -> Flags:
    """Batch, number formats, optimizer and attention kernel."""
    workload = plan.workload
    flags: Flags = [
        ("--micro-batch-size", str(plan.micro_batch)),
        ("--global-batch-size", str(workload.global_batch)),
        ("--optimizer", "adam" if workload.optimizer == "adamw" else "sgd"),
        ("--attention-backend", "flash" if workload.attention_kernel == "fused" else "unfused"),
        ("--attention-dropout", "0"),
        ("--hidden-dropout", "0"),
    ]
    if workload.dtype in ("bf16", "fp8"):
        flags.append(("--bf16", None))
    if workload.dtype == "fp8":
        flags.append(("--fp8-format", "hybrid"))
    if workload.dtype == "fp16":
        flags.append(("--fp16", None))
    if workload.gradient_dtype == "bf16":
        flags.append(("--grad-reduce-in-bf16", None))
    elif workload.dtype != "fp32":
        flags.append(("--accumulate-allreduce-grads-in-fp32", None))
    return flags

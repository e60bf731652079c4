"""DeepSpeed: its configuration, a pipeline cut at the plan's boundaries, a script that runs."""

from __future__ import annotations

from optalloc.errors import ExportError
from optalloc.export.base import Artefact
from optalloc.export.chain import placed_chunks, require_decoder_only
from optalloc.export.launch import torchrun_script
from optalloc.export.pytorch import Facts, facts_of, require_layers, template
from optalloc.files import canonical_json
from optalloc.training.plan import TrainingPlan

TARGET = "deepspeed"


def artefacts(plan: TrainingPlan) -> tuple[Artefact, ...]:
    """``ds_config.json``, ``partition.py``, ``train.py`` with its modules, and the launch script.

    Raises
    ------
    ExportError
        For what DeepSpeed leaves to the model's own layers (tensor, context and expert
        parallelism), what its pipeline has not (schedules other than 1F1B, virtual stages, ZeRO 2
        and 3), ZeRO over part of the replicas, and the layers that
        :mod:`optalloc.export.pytorch` refuses.
    """
    _require(plan)
    return (
        Artefact("ds_config.json", canonical_json(config_of(plan))),
        Artefact("partition.py", template("partition.py")),
        Artefact("train.py", template("train_deepspeed.py")),
        Artefact("task.py", template("task.py")),
        Artefact("decoder.py", template("decoder.py")),
        Artefact("plan_facts.json", canonical_json(facts_of(plan))),
        Artefact(
            "launch.sh", torchrun_script(plan, TARGET, "launch.sh", "train.py"), executable=True
        ),
    )


def _require(plan: TrainingPlan) -> None:
    require_decoder_only(plan, TARGET)
    require_layers(plan, TARGET)
    degrees = plan.degrees
    for name, what in (("tp", "tensor"), ("cp", "context"), ("ep", "expert")):
        if getattr(degrees, name) > 1:
            raise ExportError(
                TARGET,
                f"{what} parallelism, which it leaves to the model's own layers",
                stage=0,
                fix=f"plan with --pin {name}=1",
            )
    if plan.workload.dtype == "fp8":
        raise ExportError(TARGET, "dtype fp8", fix="plan with dtype bf16")
    if plan.shard_group:
        raise ExportError(
            TARGET, "ZeRO over part of the replicas", stage=0, fix="plan with --pin shard_group=0"
        )
    if degrees.pp == 1:
        return
    if plan.schedule != "1f1b":
        raise ExportError(
            TARGET, f"the schedule {plan.schedule}", stage=0, fix="plan with --pin schedule=1f1b"
        )
    if plan.zero_stage >= 2:
        raise ExportError(
            TARGET,
            f"ZeRO stage {plan.zero_stage} inside a pipeline",
            stage=0,
            fix="plan with --pin zero_stage=0,1",
        )


def boundaries_of(plan: TrainingPlan) -> tuple[int, ...]:
    """Stage boundaries in the list embedding, layers, final norm, head; from 0 to its length."""
    boundaries = [0]
    for chunk in placed_chunks(plan):
        boundaries.append(
            boundaries[-1] + len(chunk.layers) + int(chunk.embedding) + 2 * int(chunk.head)
        )
    return tuple(boundaries)


def config_of(plan: TrainingPlan) -> Facts:
    """The DeepSpeed configuration; every key is one of DeepSpeed's."""
    workload = plan.workload
    config: Facts = {
        "train_batch_size": workload.global_batch,
        "train_micro_batch_size_per_gpu": plan.micro_batch,
        "gradient_accumulation_steps": plan.num_microbatches,
        "zero_optimization": {"stage": plan.zero_stage, "overlap_comm": True},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "gradient_clipping": 1.0,
        "steps_per_print": 2**31 - 1,
    }
    if workload.dtype in ("bf16", "fp16"):
        config[workload.dtype] = {"enabled": True}
        config["data_types"] = {"grad_accum_dtype": workload.gradient_dtype}
    return config

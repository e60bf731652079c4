"""DeepSpeed: the configuration passes DeepSpeed's own reader, the boundaries are the plan's."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from optalloc.errors import ExportError
from optalloc.export.base import artefacts
from optalloc.export.deepspeed import boundaries_of, config_of
from optalloc.training.plan import TrainingPlan

MakePlan = Callable[..., TrainingPlan]

# DeepSpeed ignores unknown top-level keys in silence, so we refuse them here.
KNOWN_KEYS = {
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "zero_optimization",
    "zero_allow_untested_optimizer",
    "zero_force_ds_cpu_optimizer",
    "gradient_clipping",
    "steps_per_print",
    "bf16",
    "fp16",
    "data_types",
}


def test_boundaries_count_embedding_norm_and_head(make_plan: MakePlan) -> None:
    """Embedding + 1 layer; 3 layers + final norm + head: [0, 2, 7]. A stage may hold no layer."""
    assert boundaries_of(make_plan(pp=2, layers=(1, 3))) == (0, 2, 7)
    assert boundaries_of(make_plan(pp=3, layers=(0, 4, 0))) == (0, 1, 5, 7)


def test_batch_keys_multiply_to_the_global_batch(make_plan: MakePlan) -> None:
    """dp 4 x micro-batch 2 x 3 accumulation steps = 24, and every key is one of DeepSpeed's."""
    config = config_of(make_plan(dp=4, micro_batch=2, num_microbatches=3, zero_stage=2))
    assert config["train_batch_size"] == 24
    assert config["train_micro_batch_size_per_gpu"] == 2
    assert config["gradient_accumulation_steps"] == 3
    zero = config["zero_optimization"]
    assert isinstance(zero, dict)
    assert zero["stage"] == 2
    assert set(config) <= KNOWN_KEYS


@pytest.mark.parametrize(
    ("shape", "feature"),
    [
        ({"tp": 2}, "tensor parallelism"),
        ({"cp": 2}, "context parallelism"),
        ({"dp": 2, "ep": 2, "moe": True}, "expert parallelism"),
        ({"pp": 2, "layers": (1, 3), "schedule": "gpipe"}, "the schedule gpipe"),
        ({"pp": 2, "dp": 2, "layers": (1, 3), "zero_stage": 2}, "ZeRO stage 2 inside a pipeline"),
        ({"dp": 4, "zero_stage": 3, "shard_group": 2}, "over part of the replicas"),
        (
            {"pp": 2, "virtual_stages": 2, "layers": (1, 1, 1, 1), "schedule": "interleaved"},
            "the schedule interleaved",
        ),
    ],
)
def test_what_deepspeed_has_not_is_refused(
    make_plan: MakePlan, shape: dict[str, object], feature: str
) -> None:
    """Each names the feature and a stage."""
    with pytest.raises(ExportError, match=feature) as caught:
        artefacts(make_plan(**shape), "deepspeed")
    assert caught.value.stage == 0


@pytest.mark.torch
@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_deepspeed_reads_the_configuration(make_plan: MakePlan, zero_stage: int) -> None:
    """DeepSpeed's own reader accepts it for the world it finds here, one process."""
    module = pytest.importorskip("deepspeed.runtime.config", reason="needs deepspeed")
    plan = make_plan(micro_batch=2, num_microbatches=3, zero_stage=zero_stage)
    files = {file.path: file.text for file in artefacts(plan, "deepspeed")}
    config = module.DeepSpeedConfig(json.loads(files["ds_config.json"]))
    assert config.train_batch_size == 6
    assert config.zero_config.stage == zero_stage
    assert config.bfloat16_config.enabled

"""PyTorch: the facts beside the script are the plan's, and what it cannot express is refused."""

from __future__ import annotations

import json
from collections.abc import Callable

import msgspec
import pytest

from optalloc.errors import ExportError
from optalloc.export.base import artefacts
from optalloc.export.pytorch import facts_of
from optalloc.model.spec import (
    Attention,
    Experts,
    LatentAttention,
    Layer,
    LayerRun,
    Mlp,
    ModelSpec,
    Norm,
)
from optalloc.training.plan import TrainingPlan
from optalloc.training.strategy import Recompute

MakePlan = Callable[..., TrainingPlan]


def test_runs_of_each_chunk_say_type_recomputation_and_count(make_plan: MakePlan) -> None:
    """Chunks of 3 and 2 layers, the first layer dense; stage 0 recomputes 2 whole and 1 core."""
    plan = make_plan(
        pp=2,
        layers=(3, 2),
        moe=True,
        dense_first=1,
        recompute=(Recompute(2, 1), Recompute(0, 1)),
    )
    chunks = facts_of(plan)["chunks"]
    assert chunks == [
        {
            "stage": 0,
            "embedding": True,
            "head": False,
            "runs": [
                ["decoder", "full", 1],
                ["decoder_moe", "full", 1],
                ["decoder_moe", "selective", 1],
            ],
        },
        {
            "stage": 1,
            "embedding": False,
            "head": True,
            "runs": [["decoder_moe", "selective", 1], ["decoder_moe", "none", 1]],
        },
    ]


def test_facts_file_holds_degrees_and_the_estimate(make_plan: MakePlan) -> None:
    """Written as JSON; the predicted time is labelled an estimate."""
    plan = make_plan(pp=2, dp=2, layers=(1, 3))
    files = {file.path: file.text for file in artefacts(plan, "pytorch")}
    facts = json.loads(files["plan_facts.json"])
    assert facts["degrees"] == {"tp": 1, "cp": 1, "pp": 2, "dp": 2, "ep": 1, "virtual_stages": 1}
    assert facts["estimate"] == {"cost_model": "roofline-2", "step_time_s": 1.0}
    assert facts["layer_types"]["decoder"]["kv_heads"] == 4


def test_vocabulary_is_padded_to_the_tensor_degree(make_plan: MakePlan) -> None:
    """129 tokens over tp 4 become 132."""
    plan = make_plan(tp=4)
    model = msgspec.structs.replace(plan.model, vocabulary=129)
    assert facts_of(msgspec.structs.replace(plan, model=model))["vocabulary"] == 132


@pytest.mark.parametrize(
    ("shape", "feature", "stage"),
    [
        ({"pp": 2, "dp": 2, "layers": (1, 3), "zero_stage": 3}, "ZeRO stage 3 inside", 0),
        ({"pp": 4, "layers": (1, 1, 1, 1), "num_microbatches": 2}, "1F1B with 2 micro-batches", 3),
        ({"tp": 8}, "tp 8 over 4 key-value heads", 0),
    ],
)
def test_what_torch_has_not_is_refused(
    make_plan: MakePlan, shape: dict[str, object], feature: str, stage: int
) -> None:
    """Each names the feature and the stage."""
    with pytest.raises(ExportError, match=feature) as caught:
        artefacts(make_plan(**shape), "pytorch")
    assert caught.value.stage == stage


def test_latent_attention_names_its_first_stage(make_plan: MakePlan) -> None:
    """Two plain layers on stage 0, two latent ones on stage 1."""
    plain = Layer(
        name="plain",
        stack="decoder",
        hidden=64,
        attention=Attention(heads=4, kv_heads=4, head_dim=16),
        feed_forward=Mlp(width=128),
    )
    latent = msgspec.structs.replace(
        plain,
        name="latent",
        attention=LatentAttention(
            heads=4,
            q_lora_rank=None,
            kv_lora_rank=16,
            nope_head_dim=8,
            rope_head_dim=8,
            value_head_dim=8,
        ),
    )
    model = ModelSpec(
        name="mixed",
        family="llama",
        hidden=64,
        vocabulary=128,
        layer_types=(plain, latent),
        layers=(LayerRun("plain", 2), LayerRun("latent", 2)),
    )
    with pytest.raises(ExportError, match="latent or linear attention") as caught:
        artefacts(make_plan(pp=2, layers=(2, 2), model=model), "pytorch")
    assert caught.value.stage == 1


def test_a_gate_of_the_shared_expert_is_refused(make_plan: MakePlan) -> None:
    """Qwen 2 MoE weighs its shared expert; the script's adds it as it is."""
    plan = make_plan()
    experts = Experts(num_experts=8, top_k=2, width=32, shared_width=32, shared_gate=True)
    layer = msgspec.structs.replace(plan.model.layer_types[0], feed_forward=experts)
    model = msgspec.structs.replace(plan.model, layer_types=(layer,))
    plan = msgspec.structs.replace(plan, model=model)
    for target in ("pytorch", "deepspeed"):
        with pytest.raises(ExportError, match="gate of the shared expert"):
            artefacts(plan, target)


def test_sandwich_norms_are_refused(make_plan: MakePlan) -> None:
    """The script's layer has two norms; four would be another model."""
    plan = make_plan()
    layer = plan.model.layer_types[0]
    layer = msgspec.structs.replace(layer, norm=Norm(count=4))
    model = msgspec.structs.replace(plan.model, layer_types=(layer,))
    with pytest.raises(ExportError, match="4 norms a layer"):
        artefacts(msgspec.structs.replace(plan, model=model), "pytorch")

"""Megatron-LM: every emitted flag is re-read by the documented grammar, and by Megatron-core where
it is installed; what it cannot express is refused.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from tests.export.megatron_flags import read, read_layout

from optalloc.errors import ExportError
from optalloc.export.megatron_model import pattern
from optalloc.model.spec import Attention, LatentAttention, Layer, LayerRun, Mlp, ModelSpec, Norm
from optalloc.training.plan import TrainingPlan
from optalloc.training.strategy import Recompute

MakePlan = Callable[..., TrainingPlan]

PLANS: dict[str, dict[str, object]] = {
    "data parallel": {"dp": 4, "layers": (4,)},
    "uneven": {"pp": 2, "dp": 2, "layers": (1, 3)},
    "empty ends": {"pp": 4, "layers": (0, 2, 2, 0), "num_microbatches": 8},
    "interleaved": {
        "pp": 2,
        "virtual_stages": 2,
        "layers": (1, 2, 3, 1),
        "schedule": "interleaved",
    },
    "tensor": {"tp": 4, "layers": (2,), "sequence_parallel": True},
    "experts": {"pp": 2, "dp": 2, "ep": 2, "layers": (2, 3), "moe": True, "dense_first": 1},
    "context": {"cp": 2, "dp": 2, "layers": (2,), "tied": True},
    "zero 3": {"dp": 4, "layers": (2,), "zero_stage": 3},
}


@pytest.mark.parametrize("name", PLANS)
def test_degrees_and_batch_read_back_are_the_plans(make_plan: MakePlan, name: str) -> None:
    """World size, batch, layers and degrees, and no flag the parser does not know."""
    plan = make_plan(**PLANS[name])
    flags, d = read(plan), plan.degrees
    assert flags.tensor_model_parallel_size == d.tp
    assert flags.pipeline_model_parallel_size == d.pp
    assert flags.context_parallel_size == d.cp
    assert (flags.expert_model_parallel_size or 1) == d.ep
    assert flags.sequence_parallel == plan.sequence_parallel
    assert flags.micro_batch_size * plan.num_microbatches * d.dp == flags.global_batch_size
    assert flags.num_layers == sum(run.count for run in plan.model.layers)
    assert flags.seq_length % (2 * d.cp) == 0
    assert flags.untie_embeddings_and_output_weights is not plan.model.tied_embeddings


@pytest.mark.parametrize("name", [n for n in PLANS if "pp" in PLANS[n]])
def test_layout_read_back_gives_the_stages(make_plan: MakePlan, name: str) -> None:
    """Layers of each rank and chunk, E first and L last, each once."""
    plan = make_plan(**PLANS[name])
    layout = read(plan).pipeline_model_parallel_layout
    assert layout.startswith("E")
    assert layout.endswith("L")
    assert layout.count("E") == layout.count("L") == 1
    ranks = read_layout(layout, plan.degrees.pp)
    for stage, chunks in zip(plan.stages, ranks, strict=True):
        assert [text.count("t") for text in chunks] == [c.num_layers for c in stage.chunks]


def test_layout_of_an_uneven_pipeline(make_plan: MakePlan) -> None:
    """One and three layers: ``Et|t*3L``; empty ends are ``E`` and ``L`` alone."""
    assert read(make_plan(**PLANS["uneven"])).pipeline_model_parallel_layout == "Et|t*3L"
    assert read(make_plan(**PLANS["empty ends"])).pipeline_model_parallel_layout == "E|t*2|t*2|L"
    interleaved = read(make_plan(**PLANS["interleaved"])).pipeline_model_parallel_layout
    assert interleaved == "Et|t*2|t*3|tL"


@pytest.mark.torch
@pytest.mark.parametrize("name", [n for n in PLANS if "pp" in PLANS[n]])
def test_megatron_core_parses_the_layout(make_plan: MakePlan, name: str) -> None:
    """Megatron-core's own parser and its validation accept it and give the same layers."""
    module = pytest.importorskip(
        "megatron.core.transformer.pipeline_parallel_layer_layout", reason="needs megatron-core"
    )
    plan = make_plan(**PLANS[name])
    flags = read(plan)
    parsed = module.PipelineParallelLayerLayout(
        flags.pipeline_model_parallel_layout, plan.degrees.pp
    )
    parsed.validate_layer_layout(num_layers=flags.num_layers, mtp_num_layers=None)
    assert parsed.virtual_pipeline_model_parallel_size == plan.degrees.virtual_stages
    for stage in plan.stages:
        held = parsed.layout[stage.index]
        counts = [sum(layer.name == "decoder" for layer in chunk) for chunk in held]
        assert counts == [chunk.num_layers for chunk in stage.chunks]


# Parameters of the tiny model: a dense layer has 64 x 256 (queries, keys, values) + 128 x 64
# (output) + 3 x 64 x 128 (MLP) = 49152 and two norms of 64; each end 128 x 64; a final norm of 64.
DENSE, NORMS, ENDS, FINAL = 49_152, 128, 8_192, 64
# A sparse layer: attention as above, 8 experts and a shared one of 3 x 64 x 32, a router of 8 x 64.
ATTENTION, EXPERT, ROUTER = 24_576, 6_144, 512
SPARSE = ATTENTION + 9 * EXPERT + ROUTER


@pytest.mark.torch
@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("uneven", [[ENDS + DENSE + NORMS], [3 * (DENSE + NORMS) + FINAL + ENDS]]),
        (
            "interleaved",
            [
                [ENDS + DENSE + NORMS, 3 * (DENSE + NORMS)],
                [2 * (DENSE + NORMS), DENSE + NORMS + FINAL + ENDS],
            ],
        ),
        ("tensor", [[ENDS // 2 + 2 * (DENSE // 4 + NORMS) + FINAL]]),
        (
            "experts",
            [
                [ENDS + DENSE + NORMS + SPARSE - 4 * EXPERT + NORMS],
                [3 * (SPARSE - 4 * EXPERT + NORMS) + FINAL + ENDS],
            ],
        ),
    ],
)
def test_megatron_core_builds_the_stages(
    make_plan: MakePlan, tmp_path: Path, name: str, stages: list[list[int]]
) -> None:
    """Every rank gets the plan's layers and the parameters worked out above.

    ``tensor`` splits all but the norms over 4: two ends of 8192 / 4 are 8192 / 2. ``experts``
    holds 4 of 8 experts on a rank.
    """
    pytest.importorskip("megatron.core", reason="needs megatron-core")
    plan = make_plan(**PLANS[name])
    flags = tmp_path / "flags.json"
    flags.write_text(json.dumps(vars(read(plan))))
    d = plan.degrees
    world = d.tp * d.cp * d.pp * d.dp
    script = Path(__file__).parent / "megatron_ranks.py"
    words = [sys.executable, str(script), str(flags), str(world)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = json.loads(done.stdout.splitlines()[-1])
    for rank, facts in enumerate(ranks):
        stage = rank // (world // d.pp)
        assert facts["pp"] == stage
        assert facts["tp"] == rank % d.tp
        assert facts["layers"] == [chunk.num_layers for chunk in plan.stages[stage].chunks]
        assert facts["parameters"] == stages[stage]


@pytest.mark.parametrize(
    ("recompute", "expected"),
    [
        ((Recompute(), Recompute()), (None, None, None)),
        ((Recompute(9, 0), Recompute(9, 0)), ("full", "uniform", 1)),
        ((Recompute(2, 0), Recompute(3, 0)), ("full", "uniform", 1)),
        ((Recompute(1, 0), Recompute(1, 0)), ("full", "block", 1)),
        ((Recompute(2, 0), Recompute(2, 0)), ("full", "block", 2)),
        ((Recompute(0, 2), Recompute(0, 3)), ("selective", None, None)),
    ],
)
def test_recomputation_that_one_rule_can_say(
    make_plan: MakePlan,
    recompute: tuple[Recompute, Recompute],
    expected: tuple[str | None, str | None, int | None],
) -> None:
    """Stages of 2 and 3 layers; ``block`` 2 recomputes all of the first and two of the second."""
    flags = read(make_plan(pp=2, layers=(2, 3), recompute=recompute))
    found = (flags.recompute_granularity, flags.recompute_method, flags.recompute_num_layers)
    assert found == expected


@pytest.mark.parametrize(
    ("recompute", "stage"),
    [
        ((Recompute(0, 0), Recompute(1, 0)), 0),
        ((Recompute(1, 0), Recompute(2, 0)), 0),
        ((Recompute(2, 0), Recompute(1, 0)), 1),
        ((Recompute(0, 2), Recompute(0, 1)), 0),
        ((Recompute(2, 0), Recompute(2, 1)), 1),
    ],
)
def test_recomputation_that_differs_by_stage_names_the_stage(
    make_plan: MakePlan, recompute: tuple[Recompute, Recompute], stage: int
) -> None:
    """Megatron has one number for all stages."""
    with pytest.raises(ExportError) as caught:
        read(make_plan(pp=2, layers=(2, 3), recompute=recompute))
    assert caught.value.stage == stage


@pytest.mark.parametrize(
    ("shape", "feature"),
    [
        ({"pp": 2, "layers": (1, 3), "schedule": "zb-h1"}, "the schedule zb-h1"),
        ({"pp": 2, "layers": (1, 3), "schedule": "gpipe"}, "the schedule gpipe"),
        ({"pp": 2, "dp": 2, "layers": (1, 3), "zero_stage": 2}, "ZeRO stage 2 inside a pipeline"),
        ({"dp": 4, "zero_stage": 3, "shard_group": 2}, "over part of the replicas"),
        ({"tp": 2, "moe": True}, "experts with tp but no sequence parallelism"),
    ],
)
def test_what_megatron_has_not_is_refused(
    make_plan: MakePlan, shape: dict[str, object], feature: str
) -> None:
    """Each names the feature and a stage."""
    with pytest.raises(ExportError, match=feature) as caught:
        read(make_plan(**shape))
    assert caught.value.stage == 0


def test_sharding_over_a_node_becomes_optimizer_instances(make_plan: MakePlan) -> None:
    """8 replicas sharded over 2 each: 4 instances."""
    flags = read(make_plan(dp=8, zero_stage=1, shard_group=2))
    assert flags.use_distributed_optimizer
    assert flags.num_distributed_optimizer_instances == 4
    assert not read(make_plan(dp=8, zero_stage=0)).use_distributed_optimizer


def model_of(*layers: Layer) -> ModelSpec:
    return ModelSpec(
        name="other",
        family="llama",
        hidden=64,
        vocabulary=128,
        layer_types=layers,
        layers=tuple(LayerRun(layer.name, 2) for layer in layers),
    )


def test_alternating_windows_become_a_pattern(make_plan: MakePlan) -> None:
    """A window of 32 tokens looks 31 back; the first two layers have it."""
    wide = Attention(heads=8, kv_heads=8, head_dim=8)
    near = msgspec.structs.replace(wide, window=32)
    layers = [
        Layer(name=n, stack="decoder", hidden=64, attention=a, feed_forward=Mlp(width=128))
        for n, a in (("near", near), ("wide", wide))
    ]
    flags = read(make_plan(model=model_of(*layers)))
    assert flags.window_size == "31,0"
    assert flags.window_attn_skip_freq == "([1]*2+[0]*2)"
    assert not flags.group_query_attention


def test_latent_attention_becomes_its_flags(make_plan: MakePlan) -> None:
    """The ranks and head dims of the file, one flag each."""
    attention = LatentAttention(
        heads=8,
        q_lora_rank=24,
        kv_lora_rank=16,
        nope_head_dim=12,
        rope_head_dim=4,
        value_head_dim=10,
    )
    layer = Layer(
        name="mla", stack="decoder", hidden=64, attention=attention, feed_forward=Mlp(width=96)
    )
    flags = read(make_plan(layers=(2,), model=model_of(layer)))
    assert flags.multi_latent_attention
    found = (flags.q_lora_rank, flags.kv_lora_rank, flags.qk_head_dim)
    assert found == (24, 16, 12)
    assert (flags.qk_pos_emb_head_dim, flags.v_head_dim) == (4, 10)


def test_four_norms_and_encoders_are_refused(make_plan: MakePlan) -> None:
    """Gemma's sandwich norms and encoder layers have no place in Megatron's GPT."""
    base = Layer(
        name="decoder",
        stack="decoder",
        hidden=64,
        attention=Attention(heads=8, kv_heads=8, head_dim=8),
        feed_forward=Mlp(width=128),
    )
    sandwich = msgspec.structs.replace(base, norm=Norm(count=4))
    with pytest.raises(ExportError, match="4 norms a layer"):
        read(make_plan(layers=(2,), model=model_of(sandwich)))
    encoder = msgspec.structs.replace(base, stack="encoder")
    with pytest.raises(ExportError, match="encoder layers"):
        read(make_plan(layers=(2,), model=model_of(encoder)))


def test_frequency_pattern() -> None:
    """Three dense, two sparse, one dense."""
    marks = [False] * 3 + [True] * 2 + [False]
    assert pattern(marks) == "([0]*3+[1]*2+[0]*1)"
    assert eval(pattern(marks)) == [0, 0, 0, 1, 1, 0]

"""What a target expresses, against its exporter: an engine is written, or not in the space."""

from __future__ import annotations

import functools

import msgspec
import pytest
from tests.export.serving_plans import plan_of, worker

import optalloc as oa
from optalloc.cost.engine.setup import Engine
from optalloc.errors import ExportError, InputError
from optalloc.export.serving.base import SERVING_TARGETS, serving_artefacts
from optalloc.serving.configuration.certify_target import refusal
from optalloc.serving.configuration.limits import SOFTWARE, Limits, parse_limits
from optalloc.serving.configuration.plan import ServingPlan
from optalloc.serving.configuration.space import engines, facts_of, shapes
from optalloc.serving.configuration.targets import TARGETS, for_target


def test_targets_are_those_of_the_exports() -> None:
    assert TARGETS.keys() == SERVING_TARGETS.keys()


@functools.cache
def _whole() -> ServingPlan:
    return plan_of(worker(Engine()), model="deepseek-v3", cluster="32xh100-sxm")


def _written(target: str, engine: Engine) -> bool:
    plan = msgspec.structs.replace(_whole(), workers=(worker(engine),))
    try:
        serving_artefacts(plan, target)
    except ExportError:
        return False
    return True


@pytest.mark.parametrize("software", SOFTWARE)
def test_the_space_of_a_target_is_what_its_exporter_writes(software: str) -> None:
    """Of all shapes on four nodes of eight that the software runs; the check agrees with both."""
    facts = facts_of(oa.load_model("deepseek-v3"))
    group = oa.load_cluster("32xh100-sxm").nodes[0]
    wide = parse_limits([f"software={software}", "tp=1,4,16", "pp=1,4", "moe_tp=1"])
    all_ = [e for _, e in engines(facts, group, wide, "serve")]
    for target in SERVING_TARGETS:
        if software not in TARGETS[target].software:
            assert not any(_written(target, e) for e in all_[:3])
            continue
        left = {e for _, e in engines(facts, group, for_target(wide, target), "serve")}
        for engine in all_:
            assert _written(target, engine) == (engine in left), (target, engine)
            assert (refusal(target, engine, group.devices) == "") == (engine in left)


def test_what_no_software_runs_is_in_no_space() -> None:
    """vLLM: no data-parallel rank over nodes; TensorRT-LLM: no attention in tp and dp."""
    facts = facts_of(oa.load_model("deepseek-v3"))
    group = oa.load_cluster("32xh100-sxm").nodes[0]
    found = {s: list(shapes(facts, group, s, Limits(), "serve")) for s in SOFTWARE}
    assert not [
        s for s in found["vllm"] if s.attention_dp > 1 and 8 % (s.tp * s.pp) and s.num_devices > 8
    ]
    assert not [s for s in found["trtllm"] if s.attention_dp > 1 and s.tp > 1]
    assert [s for s in found["vllm"] if s.attention_dp == 16 and s.num_devices == 32]


def test_software_is_the_target_s_unless_it_is_pinned() -> None:
    """A pin of several keeps those that the target starts; one that it does not is refused."""
    assert for_target(Limits(), "sglang").pin == {"software": ("sglang",)}
    both = parse_limits(["software=trtllm,sglang"])
    assert for_target(both, "lws").pin == {"software": ("sglang",)}
    with pytest.raises(InputError, match=r"llm-d does not start sglang.*--software vllm"):
        for_target(parse_limits(["software=sglang"]), "llm-d")
    with pytest.raises(InputError, match="did you mean 'sglang'"):
        for_target(Limits(), "sglan")


@pytest.mark.parametrize(
    ("target", "cluster"), [("llm-d", "8xh100-sxm+8xl40s"), ("vllm", "16xh100-sxm")]
)
def test_a_plan_for_a_target_is_written_and_certified(target: str, cluster: str) -> None:
    """The plan says its target, and ``certify`` proves it within that space."""
    from optalloc.plan.serving import certify_serving

    work = oa.Serving(input_len=1000, output_len=100, rate_per_s=4.0, ttft_s=2.0)
    model = oa.load_model("qwen3-30b-a3b")
    pin = ["mode=aggregated", "batch=8,32,128"]
    plan = oa.plan_serving(
        model, oa.load_cluster(cluster), work, objective="devices", target=target, pin=pin
    ).plan
    assert plan.limits.target == target
    assert serving_artefacts(plan, target)
    assert certify_serving(plan).is_optimal

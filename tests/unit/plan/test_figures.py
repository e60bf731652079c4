"""figures.py: utilisation in both conventions and prices, against numbers worked out by hand."""

from __future__ import annotations

import pytest

from optalloc.cluster.load import load_cluster
from optalloc.cost.model import CostModel
from optalloc.model.load import load_model
from optalloc.plan.figures import Figures, figures, memory_kinds
from optalloc.training.estimate import estimate
from optalloc.training.plan import TrainingPlan
from optalloc.training.strategy import Recompute, Strategy
from optalloc.workload import Training


def made(strategy: Strategy, cluster: str = "1xh100-sxm") -> tuple[TrainingPlan, Figures]:
    workload = Training(global_batch=8, sequence_length=1024)
    plan = estimate(load_model("gpt2"), load_cluster(cluster), workload, strategy)
    return plan, figures(CostModel(plan.model, plan.cluster, plan.workload), plan)


def test_utilisation_by_hand() -> None:
    """GPT-2: 12 layers of 12 h^2 weights and a head of V h, h = 768, V = 50257, 1,024 tokens.

    A token's forward is 2 FLOPs a weight, and 4 h a position seen: 512.5 on average, or 1,024.
    """
    plan, f = made(Strategy(micro_batch=4))
    weights = 12 * 12 * 768 * 768 + 50257 * 768
    able = 989.4e12 * plan.step_time_s
    causal = 3 * 8 * 1024 * (2 * weights + 12 * 4 * 768 * 512.5)
    square = 3 * 8 * 1024 * (2 * weights + 12 * 4 * 768 * 1024)
    assert f.mfu_causal == pytest.approx(causal / able, rel=1e-3)  # the peak's last digits
    assert f.mfu_square / f.mfu_causal == pytest.approx(square / causal, rel=1e-12)
    assert f.mfu_causal == plan.mfu
    assert f.hfu_causal == f.mfu_causal


def test_recomputation_counts_for_hfu_alone() -> None:
    """Layers recomputed whole add their forward: three become four, the head stays at three."""
    _, f = made(Strategy(micro_batch=4, recompute=(Recompute(12, 0),)))
    head = 2 * 50257 * 768
    layers = 2 * 12 * 12 * 768 * 768 + 12 * 4 * 768 * 512.5
    assert f.hfu_causal / f.mfu_causal == pytest.approx(
        (4 * layers + 3 * head) / (3 * layers + 3 * head), rel=1e-12
    )
    _, core = made(Strategy(micro_batch=4, recompute=(Recompute(0, 12),)))
    attention = 12 * 4 * 768 * 512.5
    assert core.hfu_causal / core.mfu_causal == pytest.approx(
        1 + attention / (3 * layers + 3 * head), rel=1e-12
    )


def test_money_and_energy_of_a_trillion_tokens() -> None:
    """Devices times seconds a token times the price; the source stands beside it."""
    plan, f = made(Strategy(dp=2), "8xh100-sxm")
    device = plan.cluster.nodes[0].device
    assert f.device_price_usd_per_h is not None
    assert f.usd_per_trillion_tokens is not None
    seconds = 1e12 / plan.tokens_per_s
    assert device.price_usd_per_h is not None
    by_hand = 2 * device.price_usd_per_h / 3600 * seconds
    assert f.usd_per_trillion_tokens == pytest.approx(by_hand, rel=1e-12)
    watts = 2 * f.power_share * f.device_power_w.value
    assert f.energy_j_per_trillion_tokens == pytest.approx(watts * seconds, rel=1e-12)
    assert f.tokens_per_s_per_device == plan.tokens_per_s / 2
    assert "EC2" in f.device_price_usd_per_h.source
    assert f.device_price_usd_per_h.date.startswith("20")
    assert f.device_power_w.source


def test_a_device_without_a_price_has_no_cost() -> None:
    _, f = made(Strategy(), "1xmi250x")
    assert f.device_price_usd_per_h is None
    assert f.usd_per_trillion_tokens is None
    assert f.energy_j_per_trillion_tokens > 0


def test_memory_is_in_the_usual_order() -> None:
    """A saved plan has its keys sorted; the screen has not."""
    plan, _ = made(Strategy())
    assert list(memory_kinds(plan.stages[0])) == [
        "weights",
        "gradients",
        "optimizer",
        "activations",
        "logits",
        "buffers",
    ]

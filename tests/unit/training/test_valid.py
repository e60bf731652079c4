"""valid.py: the first rule of the space that a written configuration breaks is named."""

from __future__ import annotations

import pytest

from optalloc.cluster.load import load_cluster
from optalloc.cost.model import CostModel
from optalloc.errors import InputError
from optalloc.model.load import load_model
from optalloc.training.estimate import complete
from optalloc.training.strategy import Recompute, Strategy
from optalloc.training.valid import check_strategy
from optalloc.workload import Training

WORKLOAD = Training(global_batch=24, sequence_length=1000)


def _check(model: str, strategy: Strategy) -> None:
    """12 heads of GPT-2, or 32 heads, 4 key-value heads and 128 experts of Qwen3-30B-A3B."""
    cost = CostModel(load_model(model), load_cluster("16xh100-sxm"), WORKLOAD)
    check_strategy(cost, complete(strategy, cost.num_layers))


@pytest.mark.parametrize(
    "strategy",
    [
        Strategy(tp=2, sequence_parallel=True, cp=2, pp=2, dp=2),
        Strategy(pp=4, layers_per_chunk=(0, 6, 6, 0), schedule="zb-h1"),
        Strategy(pp=2, virtual_stages=2, dp=2, cp=2, shard_group=2, schedule="interleaved"),
        Strategy(tp=3, dp=4, shard_group=4),
    ],
)
def test_valid_strategies_pass(strategy: Strategy) -> None:
    _check("gpt2", strategy)


@pytest.mark.parametrize(
    ("strategy", "rule", "pointer"),
    [
        (Strategy(dp=24), "needs 24 devices", "$.dp"),
        (Strategy(tp=8), "tp 8 does not divide 12 heads", "$.tp"),
        (Strategy(cp=8), "a multiple of 16 tokens, not 1000", "$.cp"),
        (Strategy(tp=6, sequence_parallel=True), "a multiple of 6 tokens", "$.sequence_parallel"),
        (Strategy(sequence_parallel=True), "needs tp > 1", "$.sequence_parallel"),
        (Strategy(ep=2, dp=2), "no experts", "$.ep"),
        (Strategy(dp=2, micro_batch=8), "does not divide the global batch 24", "$.micro_batch"),
        (Strategy(zero_stage=4), "no ZeRO stage 4", "$.zero_stage"),
        (Strategy(dp=4, shard_group=3), "shard group 3 does not divide", "$.shard_group"),
        (Strategy(dp=4, shard_group=-1), "shard group -1 does not divide", "$.shard_group"),
        (Strategy(pp=2, virtual_stages=2), "schedule 1f1b with 2 chunks", "$.virtual_stages"),
        (Strategy(pp=5, virtual_stages=2, schedule="interleaved"), "not 24", "$.schedule"),
        (Strategy(pp=2, layers_per_chunk=(6, 5)), "hold 11 layers", "$.layers_per_chunk"),
        (Strategy(pp=3, layers_per_chunk=(6, 0, 6)), "chunk 1 holds no", "$.layers_per_chunk"),
        (Strategy(recompute=(Recompute(-1),)), "stage 0 recomputes", "$.recompute[0]"),
    ],
)
def test_a_broken_rule_of_a_dense_model_is_named(
    strategy: Strategy, rule: str, pointer: str
) -> None:
    with pytest.raises(InputError, match=rule) as broken:
        _check("gpt2", strategy)
    assert broken.value.pointer == pointer


@pytest.mark.parametrize(
    ("strategy", "rule"),
    [
        (Strategy(tp=2), "experts with tp > 1 need sequence parallelism"),
        (Strategy(ep=3, dp=3), "ep 3 does not divide 128 experts"),
        (Strategy(ep=4, dp=6), "does not divide tp x cp x dp = 6"),
    ],
)
def test_a_broken_rule_of_experts_is_named(strategy: Strategy, rule: str) -> None:
    with pytest.raises(InputError, match=rule):
        _check("qwen3-30b-a3b", strategy)

"""estimate.py: the first rule of recomputation, equal on all stages, that fits."""

from __future__ import annotations

import msgspec
import pytest

from optalloc.cluster.load import load_cluster
from optalloc.cost.model import CostModel
from optalloc.model.load import load_model
from optalloc.training.estimate import build_plan, estimate, with_least_recompute
from optalloc.training.strategy import Recompute, Strategy
from optalloc.workload import Training


def _cost(sequence_length: int = 4096, share: float = 1.0) -> CostModel:
    cluster = load_cluster("8xh100-sxm")
    group = cluster.nodes[0]
    device = msgspec.structs.replace(
        group.device, memory_bytes=int(share * group.device.memory_bytes)
    )
    cluster = msgspec.structs.replace(
        cluster, nodes=(msgspec.structs.replace(group, device=device),)
    )
    work = Training(global_batch=64, sequence_length=sequence_length)
    return CostModel(load_model("llama-3.1-8b"), cluster, work)


def least_recompute(cost: CostModel, strategy: Strategy) -> tuple[Recompute, ...]:
    return with_least_recompute(cost, strategy).recompute


def _fits(cost: CostModel, strategy: Strategy) -> bool:
    room = cost.device.memory_bytes - cost.reserve_bytes
    return all(s.memory_bytes["total"] <= room + 8 for s in build_plan(cost, strategy).stages)


def test_nothing_is_recomputed_where_everything_fits() -> None:
    """An 8B model over eight devices."""
    strategy = Strategy(tp=2, pp=2, dp=2, sequence_parallel=True)
    assert least_recompute(_cost(), strategy) == (Recompute(), Recompute())


@pytest.mark.parametrize("share", [0.4, 0.5, 0.6])
@pytest.mark.parametrize("pp", [1, 2, 4])
def test_the_rule_fits_and_the_one_before_does_not(share: float, pp: int) -> None:
    """Whole layers are added one by one until all stages fit."""
    cost = _cost(sequence_length=16384, share=share)
    strategy = Strategy(tp=2, pp=pp, dp=4 // pp, sequence_parallel=True)
    rule = least_recompute(cost, strategy)
    assert len(set(rule)) == 1
    assert rule[0].selective == 0
    full = rule[0].full
    most = 32 // pp
    assert 0 <= full <= most
    if full < most:
        assert _fits(cost, msgspec.structs.replace(strategy, recompute=rule))
    if full:
        before = (Recompute(full=full - 1),) * pp
        assert not _fits(cost, msgspec.structs.replace(strategy, recompute=before))


def test_everything_is_recomputed_where_nothing_fits() -> None:
    """A tenth of the memory."""
    assert least_recompute(_cost(share=0.1), Strategy()) == (Recompute(full=32),)


def test_estimate_takes_the_rule_on_demand() -> None:
    """As written nothing is recomputed, and eight devices are too small for it."""
    cost = _cost(sequence_length=32768)
    strategy = Strategy(tp=2, dp=4, sequence_parallel=True)
    inputs = (cost.model, cost.cluster, cost.workload, strategy)
    assert not estimate(*inputs).fits
    plan = estimate(*inputs, recompute="auto")
    assert plan.fits
    assert plan.stages[0].recompute == least_recompute(cost, strategy)[0]

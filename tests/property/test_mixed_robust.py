"""Robust plans on mixed clusters: the stated worst case covers every corner of every group."""

from __future__ import annotations

import itertools

import msgspec
import numpy as np
import pytest
from tests.property.mixed_problems import instance

import optalloc as oa
from optalloc.cost.uncertainty import scaled, stated_uncertainty
from optalloc.training.mixed.build import MixedCosts
from optalloc.training.mixed.estimate import posed
from optalloc.training.mixed.problem import MixedProblem, Wire
from optalloc.training.mixed.robust import plan_mixed_robust, slowest, worst_s
from optalloc.training.mixed.search import Search
from optalloc.training.mixed.solve import plan_mixed

_TIMES = [0, 1, 2, 3, 4, 11, 12, 13]


def _at_other_speeds(problem: MixedProblem, seed: int) -> MixedProblem:
    """The problem with other times and rates, and the same bytes."""
    rng = np.random.default_rng(seed)
    layers = problem.layers.copy()
    layers[:, :, _TIMES] *= rng.uniform(0.5, 2.0, layers[:, :, _TIMES].shape)
    return msgspec.structs.replace(
        problem,
        layers=layers,
        network=tuple(
            Wire(w.latency_s, w.bandwidth_bytes_per_s * rng.uniform(0.5, 2.0))
            for w in problem.network
        ),
        fixed_s=tuple((np.array(problem.fixed_s) * rng.uniform(0.5, 2.0)).tolist()),
    )


@pytest.mark.parametrize("seed", range(8))
def test_no_mixture_of_speeds_is_slower_than_the_slowest_of_all(seed: int) -> None:
    """Each group at the speeds of a corner of its own: J is at most that of :func:`slowest`."""
    problem = instance(seed)
    found = Search([problem]).run()
    if found.value is None:
        return
    corners = [problem, *(_at_other_speeds(problem, 100 * seed + k) for k in range(3))]
    most = slowest(corners).evaluate(found.replicas)
    for own in itertools.product(corners, repeat=len(problem.available)):
        rows = [own[g].layers[k] for k, g in enumerate(problem.group)]
        mixed = msgspec.structs.replace(
            problem,
            layers=np.stack(rows),
            network=tuple(p.network[g] for g, p in enumerate(own)),
            fixed_s=tuple(p.fixed_s[g] for g, p in enumerate(own)),
        )
        assert mixed.evaluate(found.replicas) <= most * (1.0 + 1e-12)


def test_the_robust_plan_is_proven_and_no_worse_than_the_nominal_one() -> None:
    """With a wide box of links the choice changes: less at worst, more where the model is right;
    bound and worst case meet, and the worst case is that of the plan at the slowest corner."""
    model, cluster = oa.load_model("gpt2"), oa.load_cluster("2xh100-sxm+2xa100-sxm-80g")
    work = oa.Training(global_batch=16, sequence_length=1024)
    box = msgspec.structs.replace(stated_uncertainty(), compute=0.1, node_link=20.0, network=20.0)
    result = plan_mixed_robust(model, cluster, work, box=box)
    robust, nominal = result.robustness, plan_mixed(model, cluster, work).plan
    assert robust is not None
    assert result.termination is oa.Termination.OPTIMAL
    assert robust.worst == result.bounds.primal == result.bounds.dual
    assert robust.worst < robust.nominal_worst
    assert robust.price == pytest.approx(result.plan.step_time_s / nominal.step_time_s - 1.0)
    assert robust.price > 0.0
    costs = [MixedCosts(model, scaled(cluster, corner), work) for corner in box.corners()]
    for strategy in (result.plan.strategy, nominal.strategy):
        values = []
        for cost in costs:
            problem, _, replicas = posed(cost, strategy)
            values.append(problem.evaluate(replicas))
        assert worst_s(costs, strategy) == pytest.approx(max(values))
    assert result.plan.certificate is not None
    assert result.plan.certificate.bound == nominal.step_time_s

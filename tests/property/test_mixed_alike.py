"""Plans of equal degrees on mixed clusters: the search equals brute force, and is proved again."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from tests.property.mixed_problems import instance

from optalloc.errors import CertificateError
from optalloc.training.mixed.alike import search_alike, with_rule
from optalloc.training.mixed.enumerate import best_by_enumeration
from optalloc.training.mixed.parts import chosen
from optalloc.training.mixed.problem import MixedProblem, Replica, Stage
from optalloc.training.mixed.prove.alike import prove_alike
from optalloc.training.strategy import Recompute


def alike(problem: MixedProblem, rules: tuple[str, ...]) -> list[MixedProblem]:
    """One problem for each size of stage and each rule."""
    return [
        with_rule(chosen(problem, np.flatnonzero(problem.devices == size).tolist()), rule)
        for size in np.unique(problem.devices).tolist()
        for rule in rules
    ]


def best_side_by_side(problem: MixedProblem) -> float:
    """Any numbers of one-stage replicas of several groups, and each recomputation."""
    size, best = problem.num_layers, math.inf
    rules = [Recompute(f, s) for f in range(size + 1) for s in range(size - f + 1)]
    room = [problem.available[g] // d for g, d in zip(problem.group, problem.devices, strict=True)]
    for counts in itertools.product(*(range(most + 1) for most in room)):
        total, used = sum(counts), [k for k, count in enumerate(counts) if count]
        if len(used) < 2 or problem.num_microbatches % total:
            continue
        for chosen_rules in itertools.product(rules, repeat=len(used)):
            replicas = [
                Replica(problem.num_microbatches // total, (Stage(k, size, rule),))
                for k, rule in zip(used, chosen_rules, strict=True)
                for _ in range(counts[k])
            ]
            best = min(best, problem.evaluate(replicas))
    return best


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("rules", [("stage",), ("none", "selective", "full")])
def test_the_search_equals_brute_force(seed: int, rules: tuple[str, ...]) -> None:
    """One pipeline of equal degrees, or replicas of one stage with equal shares."""
    problems = alike(instance(seed, most_layers=3), rules)
    value = min(
        min(best_by_enumeration(p, most_replicas=1)[0], best_side_by_side(p)) for p in problems
    )
    outcome = search_alike(problems)
    assert not outcome.stopped
    assert (outcome.value or math.inf) == pytest.approx(value, rel=1e-9)
    if outcome.value is not None and outcome.problem is not None:
        assert outcome.bound == outcome.value
        assert outcome.problem.evaluate(outcome.replicas) == pytest.approx(value, rel=1e-9)
        prove_alike(problems, value)
        with pytest.raises(CertificateError):
            prove_alike(problems, value * (1.0 + 1e-6))

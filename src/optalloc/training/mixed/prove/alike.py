"""prove_alike_bound: no plan whose stages all have the same degrees is better than a plan says.

For every micro-batch size, choice of degrees and rule of recomputation, two kinds of plans are
closed, each computed anew:

    one pipeline               as a part of one replica, whose price is just below all micro-batches
    replicas of one stage      m tau + tail of every set of groups and number of replicas
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import msgspec
import numpy as np

from optalloc.cost.meshes import LAYER_FIELDS
from optalloc.errors import CertificateError
from optalloc.training.mixed.plan import MixedPlan
from optalloc.training.mixed.problem import BY_KIND, MixedProblem
from optalloc.training.mixed.proof import PartProof
from optalloc.training.mixed.prove.bound import TOLERANCE, fits, work_s
from optalloc.training.mixed.prove.part import Prover
from optalloc.training.mixed.prove.tables import Tables
from optalloc.training.mixed.prove.words import SINGLE, Stages

_PASSES = ("forward", "backward")
_HELD = {"none": "held_bytes", "selective": "held_selective_bytes", "full": "held_full_bytes"}


def prove_alike_bound(plan: MixedPlan) -> int:
    """Prove the bound of the certificate of a plan of equal degrees; returns how many shapes and
    sets of replicas were looked at.

    Raises
    ------
    CertificateError
        If the bound is not proved: naming the plans that are left.

    Complexity: O(sets of groups * stages^groups) array operations a choice of degrees.
    """
    if plan.certificate is None or plan.proof is None:
        raise CertificateError("the plan has no proof of its bound")
    tables, bound_s = Tables(plan, plan.proof), plan.certificate.bound
    problems = [
        one
        for size in tables.micro_batches()
        if (whole := tables.problem(size)) is not None
        for own in _alike(tables, size)
        for one in ruled(_only(whole, own), plan.proof.rules)
    ]
    return prove_alike(problems, bound_s)


def prove_alike(problems: list[MixedProblem], bound_s: float) -> int:
    """Prove that no plan of problems of one kind a group takes less than ``bound_s``."""
    target_s, looked, words = bound_s * (1.0 - TOLERANCE), 0, None
    for problem in problems:
        prover = Prover(problem, words)
        words = prover.words
        kinds = range(len(problem.group))
        for size in range(1, len(kinds) + 1):
            for used in itertools.combinations(kinds, size):
                groups = tuple(sorted(int(problem.group[k]) for k in used))
                if work_s(prover, groups) > target_s:
                    continue
                if fits(problem, groups, 1):
                    price = problem.num_microbatches - 1e-3
                    part = PartProof(
                        micro_batch=problem.micro_batch,
                        groups=groups,
                        least=1,
                        most=1,
                        prices=(*(0.0 for _ in groups), price),
                    )
                    looked += prover.prove(part, target_s)
                if size > 1:
                    looked += _prove_beside(prover, used, groups, target_s)
    return looked


def _prove_beside(
    prover: Prover, used: tuple[int, ...], groups: tuple[int, ...], target_s: float
) -> int:
    """Every number of replicas of one stage, on each of the groups at least one."""
    p = prover.problem
    room = sum(p.available[int(p.group[k])] // int(p.devices[k]) for k in used)
    counts = np.bincount(p.sequence, minlength=p.layers.shape[1]).astype(float)
    counts[[0, -1]] = 1.0
    passes = p.layers[list(used)][:, :, [LAYER_FIELDS.index(f"{n}_s") for n in _PASSES]].sum(axis=2)
    least_s = float((passes @ counts).max()) * (1.0 - 1e-12)  # of one micro-batch
    looked = 0
    for replicas in range(len(used), min(room, p.num_microbatches) + 1):
        if p.num_microbatches % replicas:
            continue
        looked += 1
        if p.num_microbatches // replicas * least_s >= target_s:
            continue
        stages = Stages(p, prover.words, prover.ways, groups, replicas, replicas)
        whole = prover.words.at[0, len(p.sequence)]
        step_s = stages.fixed_s + max(
            float(tau[whole]) * (p.num_microbatches // replicas) + float(tail[whole])
            for tau, tail in (stages.times(k, 1, SINGLE) for k in used)
        )
        if step_s < target_s:
            raise CertificateError(
                f"{replicas} replicas of one stage with micro-batches of {p.micro_batch} on groups "
                f"{list(groups)} take {step_s:.9g} s"
            )
    return looked


def _alike(tables: Tables, micro_batch: int) -> Iterator[list[int]]:
    """The kinds of a problem that differ in the group alone, together."""
    kinds = [k for g in range(len(tables.models)) for k in tables.kinds(g, micro_batch)]
    for degrees in dict.fromkeys(kinds):
        yield [index for index, kind in enumerate(kinds) if kind == degrees]


def _only(problem: MixedProblem, kinds: list[int]) -> MixedProblem:
    return msgspec.structs.replace(problem, **{n: getattr(problem, n)[kinds] for n in BY_KIND})


def ruled(problem: MixedProblem, rules: tuple[str, ...]) -> Iterator[MixedProblem]:
    """The problem under each rule: layers keep what others leave out in more than a device has."""
    for rule in rules:
        layers = problem.layers.copy()
        for name in _HELD.values() if rule != "stage" else ():
            if name != _HELD[rule]:
                column = layers[:, 1:-2, LAYER_FIELDS.index(name)]
                column[:] = 2.0 * problem.capacity_bytes[:, None]
        yield msgspec.structs.replace(problem, layers=layers)

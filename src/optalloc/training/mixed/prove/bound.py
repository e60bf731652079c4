"""prove_mixed_bound: no plan on the cluster is better than the bound of a mixed plan says.

Every micro-batch size, every set of groups and every number of replicas is closed in one of three
ways, each computed anew:

    by work      all devices at their best rates take longer than the bound
    by memory    that many replicas hold more bytes than the devices of the groups have
    by prices    that the search logged: :mod:`optalloc.training.mixed.prove.part`

Costs depend on the groups that a plan uses only through the slowest link among them and the fixed
time, so a plan belongs to the part of exactly the groups it uses. In a part of several numbers of
replicas each cost is the least of them. Kinds of stage, their costs, shapes, cuts, recomputation
and packing are written anew; the statement of the problem and the cost model are shared.
"""

from __future__ import annotations

import itertools

import numpy as np

from optalloc.cost.meshes import LAYER_FIELDS
from optalloc.errors import CertificateError
from optalloc.training.mixed.plan import MixedPlan
from optalloc.training.mixed.problem import MixedProblem
from optalloc.training.mixed.proof import MixedProof
from optalloc.training.mixed.prove.part import Prover
from optalloc.training.mixed.prove.tables import Tables

#: Relative difference by which the bound that is proved is below the one that is claimed.
TOLERANCE = 2e-9


def prove_mixed_bound(plan: MixedPlan) -> int:
    """Prove the bound of the plan's certificate; returns how many shapes were looked at.

    Raises
    ------
    CertificateError
        If the bound is not proved: naming the part of the space that is left, or the shape.

    Complexity: O(shapes) array operations a part, and O(stages * layers^2) for each shape that no
    bound decides.
    """
    if plan.certificate is None or plan.proof is None:
        raise CertificateError("the plan has no proof of its bound")
    tables = Tables(plan, plan.proof)
    problems = [tables.problem(size) for size in tables.micro_batches()]
    return prove_problems(
        [p for p in problems if p is not None], plan.proof, plan.certificate.bound
    )


def prove_problems(problems: list[MixedProblem], proof: MixedProof, bound_s: float) -> int:
    """Prove that no plan of the problems, one a micro-batch size, takes less than ``bound_s``."""
    target_s = bound_s * (1.0 - TOLERANCE)
    shapes, words = 0, None
    for problem in problems:
        prover = Prover(problem, words)
        words = prover.words
        groups = sorted({int(g) for g in problem.group})
        for size in range(1, len(groups) + 1):
            for used in itertools.combinations(groups, size):
                shapes += _prove_groups(prover, used, proof, target_s)
    return shapes


def _prove_groups(prover: Prover, used: tuple[int, ...], proof: MixedProof, target_s: float) -> int:
    """All plans of one micro-batch size on exactly these groups."""
    p = prover.problem
    if work_s(prover, used) > target_s:
        return 0
    own = [e for e in proof.parts if (e.micro_batch, e.groups) == (p.micro_batch, used)]
    most = min(p.num_microbatches, sum(p.available[g] for g in used))
    priced = {r for e in own for r in range(e.least, e.most + 1)}
    fewest = -(-len(used) // p.most_blocks)  # a replica has no more groups than blocks
    for replicas in range(fewest, most + 1):
        if replicas not in priced and fits(p, used, replicas):
            raise CertificateError(
                f"nothing proves the bound for micro-batches of {p.micro_batch} on groups "
                f"{list(used)} with {replicas} replicas"
            )
    return sum(
        prover.prove(entry, target_s)
        for entry in own
        if any(fits(p, used, replicas) for replicas in range(entry.least, entry.most + 1))
    )


def work_s(prover: Prover, used: tuple[int, ...]) -> float:
    """Seconds of a step in which every device of the groups does its best work all the time."""
    p = prover.problem
    bounds = prover.bounds(used, 1, 1, 1.0)
    speed = sum(p.available[g] * rate for g, rate in zip(used, bounds.device_rates, strict=True))
    fixed = max(p.fixed_s[g] for g in used)
    return p.num_microbatches / speed * (1.0 - 1e-12) + fixed if speed > 0.0 else float("inf")


def fits(problem: MixedProblem, used: tuple[int, ...], replicas: int) -> bool:
    """Whether the devices may have room for the least that so many replicas hold together."""
    own = np.isin(problem.group, used)
    field = {name: problem.layers[own, :, k] for k, name in enumerate(LAYER_FIELDS)}
    shards = replicas if replicas <= 8 else 1 << (replicas.bit_length() - 1)
    kept = np.minimum(field["held_bytes"], field["held_full_bytes"])
    kept = np.minimum(kept, field["held_selective_bytes"]) + field["state_bytes"]
    kept = kept + problem.optimizer_bytes[own] / shards
    least = (kept * problem.devices[own, None]).min(axis=0)
    least[-2] = min(least[-2], least[-1])
    counts = np.bincount(problem.sequence, minlength=len(least) - 1).astype(float)
    counts[[0, -1]] = 1.0
    capacity = [
        problem.available[g] * float(problem.capacity_bytes[problem.group == g].max(initial=0.0))
        for g in used
    ]
    return replicas * float(counts @ least[:-1]) <= sum(capacity) * (1.0 + 1e-9)

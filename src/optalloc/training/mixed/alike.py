"""plan_alike: the best plan on a mixed cluster whose stages all have the same degrees.

This is what Megatron-LM and DeepSpeed can run: they give all stages the same tp, cp, dp and ep and
all replicas the same stages and number of micro-batches, while stages may hold unequal numbers of
layers and lie on different devices.

Formulation
-----------
That of :mod:`optalloc.training.mixed.problem` with one choice of (tp, sequence parallelism, cp, dp,
ep) for all stages, and

    one pipeline, every stage on one group, groups in any order        :class:`Search`, R = 1
    or R replicas of one stage each, on two groups or more, m_r = M/R  :func:`side_by_side`
    recomputation by one rule for all layers where the tool has no other      :func:`with_rule`

Equal pipelines beside each other are one pipeline with a larger dp inside its stages, and a
micro-batch that counts the sequences of all of them.

Why it is exact
---------------
Each choice of degrees, micro-batch and rule is a problem of its own with one kind a group. The
search proves the best pipeline over all of these problems. Replicas of one stage have no cuts: the
time of R of them depends on the groups used alone, and every set of groups and every R is tried
whose m tau on the slowest group is below the best value known. Not in the space: several replicas
of several stages on different groups.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import msgspec
import numpy as np

from optalloc.cluster.topology import Cluster
from optalloc.cost.constants import DEFAULT
from optalloc.cost.meshes import LAYER_FIELDS
from optalloc.model.spec import ModelSpec
from optalloc.result import Incumbent
from optalloc.stop import OnProgress, StopRule
from optalloc.training.mixed.build import MixedCosts
from optalloc.training.mixed.parts import chosen
from optalloc.training.mixed.problem import (
    MOST_BLOCKS,
    MOST_STAGES,
    MixedProblem,
    Replica,
    Stage,
    Wire,
)
from optalloc.training.mixed.search import Outcome, Search
from optalloc.training.mixed.solve import MixedResult, posed_and_solved
from optalloc.training.mixed.space import limits_words
from optalloc.training.mixed.strategy import Degrees
from optalloc.training.space import divisors
from optalloc.training.strategy import Recompute
from optalloc.workload import Training

#: Rules of recomputation: counted per stage, or one for all layers.
ALIKE_RULES = ("stage", "none", "selective", "full")
_KEPT = {"none": "held_bytes", "selective": "held_selective_bytes", "full": "held_full_bytes"}


def plan_alike(
    model: ModelSpec,
    cluster: Cluster,
    workload: Training,
    *,
    rules: Sequence[str] = ("stage",),
    target_step_time_s: float | None = None,
    pin: list[str] | tuple[str, ...] = (),
    forbid: list[str] | tuple[str, ...] = (),
    stop: StopRule | None = None,
    on_progress: OnProgress | None = None,
    cost_model: str = DEFAULT,
) -> MixedResult:
    """The fastest step on a mixed cluster with the same degrees on every stage, proven.

    Parameters are those of :func:`~optalloc.training.mixed.solve.plan_mixed`; ``rules`` are the
    rules of recomputation that may be chosen, of :data:`ALIKE_RULES`.

    Raises
    ------
    InputError
        For more than eight groups of nodes, or an unknown decision.

    Complexity: exponential in the number of groups in the worst case.
    """

    def pose(
        problem: MixedProblem, kinds: Sequence[Degrees]
    ) -> Iterator[tuple[MixedProblem, list[int]]]:
        for own in _alike(kinds):
            part = chosen(problem, own)
            yield from ((with_rule(part, rule), own) for rule in rules)

    def space(costs: MixedCosts) -> str:
        words = ", ".join("counted per stage" if rule == "stage" else rule for rule in rules)
        return (
            f"on {cluster.num_devices} devices the same tp (a power of two in one domain), sequence"
            " parallelism, cp (a power of two), dp and ep for all stages: one pipeline of at most "
            f"{MOST_STAGES} stages under 1f1b, each on one of at most {MOST_BLOCKS} of the "
            f"{len(costs.costs)} node groups, these in any order, all cuts; or replicas of one "
            f"stage on several groups with equal shares; recomputation {words}; every micro-batch "
            "size; optimizer shared by replicas"
            f"{limits_words(costs.limits)}"
        )

    return posed_and_solved(
        model,
        cluster,
        workload,
        pose=pose,
        search=search_alike,
        space=space,
        target_step_time_s=target_step_time_s,
        pin=pin,
        forbid=forbid,
        stop=stop,
        on_progress=on_progress,
        cost_model=cost_model,
        rules=rules,
    )


def search_alike(
    problems: Sequence[MixedProblem],
    *,
    stop: StopRule | None = None,
    on_progress: OnProgress | None = None,
    ceiling_s: float = float("inf"),
) -> Outcome:
    """The best plan over problems of one kind a group."""
    search = Search(
        problems, most_replicas=1, stop=stop, on_progress=on_progress, ceiling_s=ceiling_s
    )
    found = msgspec.structs.replace(search.run(), closed=None)  # not a proof of unequal stages
    return _with_replicas(found, problems, ceiling_s)


def _alike(kinds: Sequence[Degrees]) -> list[list[int]]:
    """Kinds that differ in the group alone, together."""
    alike: dict[Degrees, list[int]] = {}
    for index, kind in enumerate(kinds):
        alike.setdefault(msgspec.structs.replace(kind, group=0), []).append(index)
    return list(alike.values())


def with_rule(problem: MixedProblem, rule: str) -> MixedProblem:
    """The problem in which all layers follow one rule of recomputation: what it leaves out keeps
    more bytes than the device has."""
    if rule == "stage":
        return problem
    layers = problem.layers.copy()
    inside = layers[:, 1:-2]
    for name in _KEPT.values():
        if name != _KEPT[rule]:
            inside[:, :, LAYER_FIELDS.index(name)] = 2.0 * problem.capacity_bytes[:, None]
    return msgspec.structs.replace(problem, layers=layers)


def _with_replicas(outcome: Outcome, problems: Sequence[MixedProblem], ceiling: float) -> Outcome:
    """The better of the best pipeline and the best replicas of one stage."""
    known = ceiling if outcome.value is None else outcome.value
    best: tuple[float, MixedProblem, tuple[Replica, ...]] | None = None
    for least, index, micro, spread in sorted(side_by_side(problems)):
        if least >= known:
            break
        problem = problems[index]
        given = _recomputed(problem, micro, dict(spread))
        value = float("inf") if given is None else problem.evaluate(given)
        if given is not None and value < known:
            known, best = value, (value, problem, given)
    if best is None:
        return outcome
    value, problem, replicas = best
    bound = value if outcome.bound is None else min(outcome.bound, value)
    last = outcome.incumbents[-1].elapsed_s if outcome.incumbents else 0.0
    return msgspec.structs.replace(
        outcome,
        value=value,
        problem=problem,
        replicas=replicas,
        bound=bound,
        incumbents=(*outcome.incumbents, Incumbent(elapsed_s=last, value=value)),
        stopped=outcome.stopped and bound < value,
    )


def side_by_side(
    problems: Sequence[MixedProblem],
) -> Iterator[tuple[float, int, int, tuple[tuple[int, int], ...]]]:
    """Replicas of one stage on at least two groups: a lower bound of their step, the index of their
    problem, the micro-batches of each, and how many there are of each kind.

    Complexity: O(sets of groups * divisors of the micro-batches) a problem.
    """
    for index, problem in enumerate(problems):
        counts = np.bincount(problem.sequence, minlength=problem.layers.shape[1]).astype(float)
        counts[[0, -1]] = 1.0
        passes = problem.layers[:, :, LAYER_FIELDS.index("forward_s")]
        passes = passes + problem.layers[:, :, LAYER_FIELDS.index("backward_s")]
        tau = (passes @ counts).tolist()
        room = [
            problem.available[g] // int(size)
            for g, size in zip(problem.group, problem.devices, strict=True)
        ]
        for size in range(2, problem.num_kinds + 1):
            for used in itertools.combinations(range(problem.num_kinds), size):
                slowest = max(tau[k] for k in used)
                fixed = max(problem.fixed_s[problem.group[k]] for k in used)
                for count in divisors(problem.num_microbatches):
                    spread = _spread([room[k] for k in used], count)
                    if spread is not None:
                        micro = problem.num_microbatches // count
                        least = (micro * slowest + fixed) * (1.0 - 1e-12)
                        yield least, index, micro, tuple(zip(used, spread, strict=True))


def _spread(room: Sequence[int], count: int) -> list[int] | None:
    """So many replicas over groups that each take at least one; None where they do not fit."""
    if not len(room) <= count <= sum(room) or min(room) < 1:
        return None
    spread = [1] * len(room)
    left = count - len(room)
    for index, most in enumerate(room):
        more = min(left, most - 1)
        spread[index] += more
        left -= more
    return spread


def _recomputed(
    problem: MixedProblem, micro: int, counts: dict[int, int]
) -> tuple[Replica, ...] | None:
    """So many replicas of one stage of each kind, with the recomputation of least time that fits;
    None if none does."""
    link = problem.exchange_link([int(problem.group[k]) for k in counts])
    total = sum(counts.values())
    replicas: list[Replica] = []
    for kind, count in counts.items():
        rule = least_recompute(problem, kind, total, link)
        if rule is None:
            return None
        replicas += [Replica(micro, (Stage(kind, problem.num_layers, rule),))] * count
    return tuple(replicas)


def least_recompute(
    problem: MixedProblem, kind: int, replicas: int, link: Wire
) -> Recompute | None:
    """The recomputation of least time with which a stage of all layers fits, or None.

    Complexity: O(layers^2), vectorised.
    """
    size = problem.num_layers
    rows = problem.layers[kind][problem.sequence]
    field = {name: rows[:, k] for k, name in enumerate(LAYER_FIELDS)}

    def summed(name: str) -> np.ndarray:
        return np.concatenate([[0.0], np.cumsum(field[name])])

    full, core = np.meshgrid(np.arange(size + 1), np.arange(size + 1), indexing="ij")
    end = np.minimum(full + core, size)
    whole, partly, stored = (summed(f"held_{kept}bytes") for kept in ("full_", "selective_", ""))
    held = whole[full] + partly[end] - partly[full] + stored[-1] - stored[end]
    scratch = np.zeros((size + 1, size + 1))
    for first in range(size):
        running = np.maximum.accumulate(field["scratch_selective_bytes"][first:])
        scratch[first, 1 : size - first + 1] = running
    most = np.concatenate([[0.0], np.maximum.accumulate(field["scratch_full_bytes"])])
    scratch = np.maximum(scratch, most[:, None])
    extra = summed("extra_full_s")[full]
    extra = extra + summed("extra_selective_s")[end] - summed("extra_selective_s")[full]
    plain = problem.stage((Stage(kind, size),), 0, replicas, link)
    ends = problem.layers[kind][[0, -1], LAYER_FIELDS.index("held_bytes")].sum()
    total = plain.state_bytes + plain.logits_bytes + ends + held + scratch
    fits = (full + core <= size) & (total <= plain.capacity_bytes)
    if not fits.any():
        return None
    at = int(np.argmin(np.where(fits, extra, np.inf)))
    return Recompute(int(full.flat[at]), int(core.flat[at]))

"""Edited plans: a file that no longer says the truth is read as a written configuration.

A plan is a text that people change: one number, and its figures and its certificate are those of
another plan. Whoever reads a plan to show, replay or export it takes the decisions in it, computes
its figures anew, and says what did not hold. :func:`optalloc.certify` refuses such a plan.
"""

from __future__ import annotations

from optalloc.cost.model import CostModel
from optalloc.errors import CertificateError, InputError
from optalloc.training.certify import check_plan
from optalloc.training.estimate import build_plan
from optalloc.training.mixed.build import MixedCosts
from optalloc.training.mixed.certify import check_mixed_plan
from optalloc.training.mixed.estimate import build_mixed_plan
from optalloc.training.mixed.plan import MixedPlan
from optalloc.training.plan import TrainingPlan


def as_written(plan: TrainingPlan) -> tuple[TrainingPlan, str]:
    """The plan with true figures, and what it says that is not true (empty: all of it is).

    An edited plan keeps its decisions; its figures are predicted anew and it has no certificate.

    Raises
    ------
    InputError
        If its stages and chunks do not fit together, or its decisions break a rule of the space.

    Complexity: O(stages * chunks a stage * micro-batches).
    """
    try:
        check_plan(plan)
    except CertificateError as error:
        cost = CostModel(plan.model, plan.cluster, plan.workload, name=plan.cost_model)
        check_shape(plan, cost.num_layers)
        return build_plan(cost, plan.strategy), str(error)
    return plan, ""


def mixed_as_written(plan: MixedPlan) -> tuple[MixedPlan, str]:
    """The same for a plan on a mixed cluster.

    Raises
    ------
    InputError
        If its decisions break a rule.

    Complexity: O(stages * layers).
    """
    try:
        check_mixed_plan(plan)
    except CertificateError as error:
        costs = MixedCosts(plan.model, plan.cluster, plan.workload, name=plan.cost_model)
        return build_mixed_plan(costs, plan.strategy), str(error)
    return plan, ""


def edited_line(reason: str) -> str:
    """What to tell the reader of an edited plan."""
    return (
        f"the plan does not match its figures and its certificate: {reason}. It was edited, or "
        "made by another release. Its decisions are taken as written and its figures computed "
        "anew; nothing is proven about it"
    )


def check_shape(plan: TrainingPlan, num_layers: int) -> None:
    """Raise if stages, chunks, layers and micro-batches do not add up.

    Raises
    ------
    InputError
        With the place in the plan.
    """
    degrees = plan.degrees
    if len(plan.stages) != degrees.pp:
        raise InputError(
            f"the plan has {len(plan.stages)} stages for pp = {degrees.pp}",
            pointer="$.stages",
            fix="give one entry a stage, or make the plan again",
        )
    done = 0
    for number in range(degrees.pp * degrees.virtual_stages):
        turn, index = divmod(number, degrees.pp)
        chunks = plan.stages[index].chunks
        if len(chunks) != degrees.virtual_stages:
            raise InputError(
                f"stage {index} has {len(chunks)} chunks for virtual_stages = "
                f"{degrees.virtual_stages}",
                pointer=f"$.stages[{index}].chunks",
                fix="give every stage as many chunks, or make the plan again",
            )
        if chunks[turn].first_layer != done:
            raise InputError(
                f"the chunk begins at layer {chunks[turn].first_layer}, but the one before ends at "
                f"{done}",
                pointer=f"$.stages[{index}].chunks[{turn}].first_layer",
                fix="let chunks follow one another in model order, or make the plan again",
            )
        done += chunks[turn].num_layers
    if done != num_layers:
        raise InputError(
            f"the stages hold {done} layers of the model's {num_layers}",
            pointer="$.stages",
            fix="place every layer on one chunk, or make the plan again",
        )
    sequences = degrees.dp * plan.micro_batch * plan.num_microbatches
    if sequences != plan.workload.global_batch:
        raise InputError(
            f"dp * micro_batch * num_microbatches is {sequences} for a global batch of "
            f"{plan.workload.global_batch}",
            pointer="$.num_microbatches",
            fix="let the micro-batches make up the batch, or make the plan again",
        )

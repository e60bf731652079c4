"""The space of plans on a mixed cluster: what limits it takes, and the words for it."""

from __future__ import annotations

from optalloc.errors import InputError
from optalloc.training.mixed.build import MixedCosts
from optalloc.training.mixed.problem import MOST_BLOCKS, MOST_STAGES
from optalloc.training.space import Limits, parse_limits

#: Decisions that --pin and --forbid take on a mixed cluster.
MIXED_PINNABLE = ("tp", "cp", "dp", "ep", "sequence_parallel", "micro_batch")


def parse_mixed_limits(
    pin: list[str] | tuple[str, ...], forbid: list[str] | tuple[str, ...]
) -> Limits:
    """The limits of a plan on a mixed cluster.

    Raises
    ------
    InputError
        For an unknown decision, and for one that such plans do not take.
    """
    limits = parse_limits(list(pin), list(forbid))
    for name in (*limits.pin, *limits.forbid):
        if name not in MIXED_PINNABLE:
            raise InputError(
                f"{name} cannot be fixed on a mixed cluster",
                path="--pin",
                fix=f"use one of {', '.join(MIXED_PINNABLE)}",
            )
    return limits


def describe_mixed_space(costs: MixedCosts) -> str:
    """The decision space in words, stated with each answer."""
    return (
        f"any number of replicas on {costs.cluster.num_devices} devices, each a pipeline of at "
        f"most {MOST_STAGES} stages under 1f1b: one block of equal stages for each of the node "
        f"groups it uses, at most {MOST_BLOCKS} of {len(costs.costs)}, in any order; tp (a power "
        "of two in one domain), sequence parallelism, cp (a power of two), dp and ep inside the "
        "stages of a block; all cuts; recomputation whole, of the attention core or none, counted "
        "per stage; every micro-batch size, and every share of the micro-batches; optimizer shared "
        "by replicas"
        f"{limits_words(costs.limits)}"
    )


def limits_words(limits: Limits) -> str:
    """What was fixed and excluded, to end the description of a space with."""
    words = [f"{name} {' or '.join(map(str, own))}" for name, own in limits.pin.items()]
    words += [f"no {name} {' or '.join(map(str, own))}" for name, own in limits.forbid.items()]
    return f"; with {', '.join(words)}" if words else ""

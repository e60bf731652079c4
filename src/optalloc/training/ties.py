"""Plans that may be as good as the best: what differs, and how much room each leaves.

A cost model has an error. Plans whose value lies within it of the optimum are ties in practice, and
the choice among them is better made by what the model does not see.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from optalloc.cost.model import CostModel
from optalloc.cost.uncertainty import Uncertainty
from optalloc.training.estimate import BREAKDOWN, build_plan
from optalloc.training.found import Found
from optalloc.training.mixed.plan import MixedPlan
from optalloc.training.plan import Rival, TrainingPlan
from optalloc.training.strategy import Strategy


class Alternative(msgspec.Struct, frozen=True, kw_only=True):
    """The best plan of other degrees, and why it lost.

    ``tie`` is True if its value is within the stated error of the cost model. ``differences`` names
    each decision that is not the best plan's, with both values. ``headroom_bytes`` is what is left
    on the fullest device.
    """

    plan: TrainingPlan
    value: float
    reason: str
    tie: bool = False
    differences: tuple[str, ...] = ()
    headroom_bytes: int = 0

    @property
    def brief(self) -> Rival:
        """What a saved plan keeps of it."""
        return Rival(
            value=self.value,
            step_time_s=self.plan.step_time_s,
            num_devices=self.plan.num_devices,
            tie=self.tie,
            differences=self.differences,
            headroom_bytes=self.headroom_bytes,
            strategy=self.plan.strategy,
        )


class Robustness(msgspec.Struct, frozen=True, kw_only=True):
    """What the robust plan is worth, in the unit of the objective.

    ``worst`` is its value at the worst corner of the box ``box``, ``bound`` proven for every plan
    of the space; ``nominal_worst`` is the worst of the plan that is best for the model as it is.
    ``price`` is what the robust plan costs there: its nominal value over the optimum, less one.
    """

    box: Uncertainty
    worst: float
    bound: float
    nominal_worst: float
    price: float


def alternatives(
    cost: CostModel, best: TrainingPlan, found: Sequence[Found], objective: str, error: float
) -> tuple[Alternative, ...]:
    """What a search found behind its best (the first of ``found``), best first."""
    value = found[0].value
    return tuple(
        alternative(best, value, build_plan(cost, one.strategy), one.value, objective, error)
        for one in found[1:]
    )


def alternative(
    best: TrainingPlan,
    best_value: float,
    plan: TrainingPlan,
    value: float,
    objective: str,
    error: float,
) -> Alternative:
    """One plan against the best one."""
    return Alternative(
        plan=plan,
        value=value,
        reason=why_slower(best, plan, objective),
        tie=value <= best_value * (1.0 + error),
        differences=differences(best.strategy, plan.strategy),
        headroom_bytes=headroom_bytes(plan),
    )


def headroom_bytes(plan: TrainingPlan | MixedPlan) -> int:
    """Memory left on the fullest device, bytes."""
    return min(stage.capacity_bytes - stage.memory_bytes["total"] for stage in plan.stages)


_WORDS = {"virtual_stages": "vpp", "zero_stage": "ZeRO", "sequence_parallel": "sequence parallel"}


def differences(first: Strategy, second: Strategy) -> tuple[str, ...]:
    """Decisions of the second that are not the first's, such as ``"tp 8, not 4"``."""
    words = []
    for name in first.__struct_fields__:
        old, new = getattr(first, name), getattr(second, name)
        if old == new or name in ("layers_per_chunk", "recompute"):
            continue
        words.append(f"{_WORDS.get(name, name.replace('_', ' '))} {new}, not {old}")
    if first.layers_per_chunk != second.layers_per_chunk and len(first.layers_per_chunk) == len(
        second.layers_per_chunk
    ):
        words.append("other cuts")
    more = [
        sum(r.full + r.selective for r in s.recompute) / max(1, len(s.recompute))
        for s in (first, second)
    ]
    if more[0] != more[1]:
        words.append(f"{'more' if more[1] > more[0] else 'less'} recomputation")
    return tuple(words)


_CAUSES = {
    "compute": "compute",
    "recompute": "recomputation",
    "tensor_parallel": "tensor-parallel exchange",
    "context_parallel": "context-parallel exchange",
    "expert_parallel": "expert exchange",
    "pipeline_idle": "pipeline idle time",
    "data_parallel": "gradient and weight exchange",
    "optimizer": "optimizer time",
    "fixed": "fixed overhead",
}


def why_slower(
    best: TrainingPlan | MixedPlan, other: TrainingPlan | MixedPlan, objective: str
) -> str:
    """One line on why a plan lost: what it spends more on, against the best plan."""
    change = other.step_time_s - best.step_time_s
    if objective == "devices" and other.num_devices != best.num_devices:
        return f"uses {other.num_devices} devices"
    if objective in ("price", "energy") and other.num_devices > best.num_devices:
        return f"uses {other.num_devices} devices for a step of {other.step_time_s:.4g} s"
    if abs(change) <= 1e-6 * best.step_time_s:
        return "ties within 1e-6"
    more = {k: other.breakdown_s[k] - best.breakdown_s[k] for k in BREAKDOWN}
    worst = sorted(more, key=lambda k: -more[k])[:2]
    parts = [f"{more[k]:+.3g} s {_CAUSES[k]}" for k in worst if more[k] > 0.05 * abs(change)]
    gain = min(more, key=lambda k: more[k])
    text = f"{change:+.3g} s: " + ", ".join(parts)
    if more[gain] < -0.2 * abs(change):
        text += f", though {more[gain]:+.3g} s {_CAUSES[gain]}"
    return text

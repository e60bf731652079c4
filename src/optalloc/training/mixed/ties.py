"""Mixed plans that may be as good as the best: what differs, and how much room each leaves."""

from __future__ import annotations

import msgspec

from optalloc.training.mixed.plan import MixedPlan, MixedRival, MixedStage
from optalloc.training.ties import headroom_bytes, why_slower


class MixedAlternative(msgspec.Struct, frozen=True, kw_only=True):
    """The best plan of another set of groups, number of replicas or micro-batch size.

    Fields are those of :class:`~optalloc.training.ties.Alternative`.
    """

    plan: MixedPlan
    value: float
    reason: str
    tie: bool
    differences: tuple[str, ...]
    headroom_bytes: int

    @property
    def brief(self) -> MixedRival:
        """What a saved plan keeps of it."""
        return MixedRival(
            value=self.value,
            num_devices=self.plan.num_devices,
            tie=self.tie,
            differences=self.differences,
            headroom_bytes=self.headroom_bytes,
            strategy=self.plan.strategy,
        )


def mixed_alternative(best: MixedPlan, plan: MixedPlan, error: float) -> MixedAlternative:
    """One plan against the best one; ``error`` is the share within which values are ties."""
    return MixedAlternative(
        plan=plan,
        value=plan.step_time_s,
        reason=why_slower(best, plan, "step_time"),
        tie=plan.step_time_s <= best.step_time_s * (1.0 + error),
        differences=mixed_differences(best, plan),
        headroom_bytes=headroom_bytes(plan),
    )


def mixed_differences(first: MixedPlan, second: MixedPlan) -> tuple[str, ...]:
    """Decisions of the second that are not the first's, such as ``"2 replicas, not 3"``."""
    words = []
    if len(first.replicas) != len(second.replicas):
        words.append(f"{_count(len(second.replicas), 'replica')}, not {len(first.replicas)}")
    if first.micro_batch != second.micro_batch:
        words.append(f"micro-batch {second.micro_batch}, not {first.micro_batch}")
    old, new = (" + ".join(str(len(r.stages)) for r in p.replicas) for p in (first, second))
    if old != new and len(first.replicas) + len(second.replicas) <= 12:
        words.append(f"stages {new}, not {old}")
    for group, nodes in enumerate(second.cluster.nodes):
        of = nodes.device.name + (f" in {nodes.zone}" if len(second.cluster.zones) > 1 else "")
        used, was = (sum(s.num_devices for s in own) for own in _of_group(first, second, group))
        if used != was:
            words.append(f"{was} {of}, not {used}")
        mine, theirs = (_degrees(own) for own in _of_group(first, second, group))
        if mine and theirs and mine != theirs:
            words.append(f"{of} with {theirs}, not {mine}")
    again, more = (
        sum(s.recompute.full + s.recompute.selective for s in p.stages) / len(p.replicas)
        for p in (first, second)
    )
    if again != more:
        words.append(f"{'more' if more > again else 'less'} recomputation")
    return tuple(words) or ("other cuts or shares",)


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def _of_group(first: MixedPlan, second: MixedPlan, group: int) -> list[list[MixedStage]]:
    return [[s for s in plan.stages if s.group == group] for plan in (first, second)]


def _degrees(stages: list[MixedStage]) -> str:
    """The degrees of some stages, each choice once."""
    return " and ".join(dict.fromkeys(degrees_text(stage) for stage in stages))


def degrees_text(stage: MixedStage) -> str:
    """Degrees other than 1, tp always."""
    words = [f"tp {stage.tp}"]
    for name in ("cp", "dp", "ep"):
        degree = getattr(stage, name)
        words += [f"{name} {degree}"] if degree > 1 else []
    return " ".join(words)

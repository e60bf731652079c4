"""Explanation: where the time of a plan goes, what binds it, and what a little more would bring.

Every figure is the cost model's: changes are made to the inputs and evaluated again, none is a
derivative or a rule of thumb.
"""

from __future__ import annotations

import msgspec

from optalloc.cluster.topology import Cluster, Link, NodeGroup
from optalloc.cost.model import CostModel
from optalloc.plan.compare import Section, section_text
from optalloc.stop import StopRule
from optalloc.training.estimate import build_plan, last_stage
from optalloc.training.plan import TrainingPlan
from optalloc.training.solve import plan_training
from optalloc.training.strategy import Recompute
from optalloc.units import GIB, format_bytes, format_seconds

# What limits a plan, and the parts of its breakdown that count as it.
_LIMITS = {
    "compute": ("compute", "optimizer"),
    "memory (recomputation)": ("recompute",),
    "links": ("tensor_parallel", "context_parallel", "expert_parallel", "data_parallel"),
    "bubble": ("pipeline_idle",),
    "overhead": ("fixed",),
}
_SHOWN = 6


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds of the step that one cause takes, and their share of it."""

    name: str
    time_s: float
    share: float


class StageMemory(msgspec.Struct, frozen=True, kw_only=True):
    """The fullest device of one stage.

    ``free_bytes`` is negative where the stage does not fit. ``next_layer_bytes`` is what storing
    one recomputed layer more would take (None: nothing is recomputed); memory ``binds`` where that
    is more than what is free.
    """

    stage: int
    total_bytes: int
    capacity_bytes: int
    free_bytes: int
    largest_kind: str
    next_layer_bytes: int | None
    binds: bool


class Marginal(msgspec.Struct, frozen=True, kw_only=True):
    """What one change of the cluster would bring, seconds a step.

    ``step_time_s`` and ``gain_s`` keep the strategy (for memory: its degrees; cuts and
    recomputation are chosen again, against the same without the change). ``replanned_step_time_s``
    and ``replanned_gain_s`` come from new searches. None: not computed, or no plan.
    """

    change: str
    step_time_s: float | None
    gain_s: float | None
    replanned_step_time_s: float | None = None
    replanned_gain_s: float | None = None


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Why a plan takes the time it takes; ``str()`` of it is for people.

    ``causes`` and ``limits`` each sum to ``step_time_s``, largest first, and describe
    ``last_stage``, the stage that ends last. ``degrees_step_time_s`` is the best step of the plan's
    degrees, and ``replanned_step_time_s`` the best of all (None without a new search).
    """

    model: str
    cluster: str
    cost_model: str
    step_time_s: float
    fits: bool
    last_stage: int
    causes: tuple[Share, ...]
    limits: tuple[Share, ...]
    memory: tuple[StageMemory, ...]
    marginals: tuple[Marginal, ...]
    degrees_step_time_s: float | None = None
    replanned_step_time_s: float | None = None

    @property
    def summary(self) -> str:
        """The findings, one sentence a line."""
        return "\n".join(_findings(self))

    def sections(self) -> list[Section]:
        """The parts of the printed form: time, memory, what a little more would bring."""
        replanned = any(m.replanned_gain_s is not None for m in self.marginals)
        columns = ("change", "step", "gain") + (("replanned", "gain then") if replanned else ())
        return [
            (
                f"Where the time goes (stage {self.last_stage} ends last)",
                ("cause", "time", "share"),
                tuple(
                    (c.name.replace("_", " "), format_seconds(c.time_s), f"{c.share:.1%}")
                    for c in self.causes
                    if c.share >= 0.0005
                ),
            ),
            (
                "Memory, the tightest stages first",
                ("stage", "total", "free", "largest kind", "storing one layer more", ""),
                tuple(_memory_row(m) for m in _tightest(self.memory)),
            ),
            (
                "What a little more would bring (seconds a step)",
                columns,
                tuple(_marginal_row(m, replanned) for m in self.marginals),
            ),
        ]

    def __str__(self) -> str:
        return "\n\n".join([self.summary, *(section_text(*s) for s in self.sections())])


def explain(
    plan: TrainingPlan, *, replan: bool = False, stop: StopRule | None = None
) -> Explanation:
    """Where the time of a plan goes, what binds it, and what a little more would bring.

    Parameters
    ----------
    plan : TrainingPlan
        Found or written.
    replan : bool
        Also search the whole space again for each change: a few searches.
    stop : StopRule, optional
        Ends each of these searches early.

    Returns
    -------
    Explanation
        Estimates of the plan's cost model, seconds and bytes.

    Complexity: about ten evaluations and two searches of one mesh; with ``replan`` seven searches.
    """
    cost = CostModel(plan.model, plan.cluster, plan.workload, name=plan.cost_model)
    same = [f"{name}={value}" for name, value in _degrees(plan).items()]
    base_s = _best_s(plan, plan.cluster, same, stop)
    replanned_s = _best_s(plan, plan.cluster, [], stop) if replan else None
    marginals = []
    for change, cluster in _changes(plan.cluster):
        if "GiB" in change:
            time_s = _best_s(plan, cluster, same, stop)
            gain_s = None if time_s is None or base_s is None else base_s - time_s
        else:
            changed = CostModel(plan.model, cluster, plan.workload, name=plan.cost_model)
            time_s = build_plan(changed, plan.strategy).step_time_s
            gain_s = plan.step_time_s - time_s
        again_s = _best_s(plan, cluster, [], stop) if replan else None
        more_s = None if again_s is None or replanned_s is None else replanned_s - again_s
        marginals.append(
            Marginal(
                change=change,
                step_time_s=time_s,
                gain_s=gain_s,
                replanned_step_time_s=again_s,
                replanned_gain_s=more_s,
            )
        )
    return Explanation(
        model=plan.model.name,
        cluster=plan.cluster.name,
        cost_model=plan.cost_model,
        step_time_s=plan.step_time_s,
        fits=plan.fits,
        last_stage=last_stage(cost, plan.strategy),
        causes=_shares({name: (name,) for name in plan.breakdown_s}, plan),
        limits=_shares(_LIMITS, plan),
        memory=_memory(cost, plan),
        marginals=tuple(marginals),
        degrees_step_time_s=base_s,
        replanned_step_time_s=replanned_s,
    )


def _degrees(plan: TrainingPlan) -> dict[str, int | str]:
    """Every decision that pins the mesh; cuts and recomputation stay free."""
    d = plan.degrees
    replicas = d.dp * d.cp
    # Where there is nothing to shard or to order, the space has one way to say so.
    sharded = replicas > 1 or d.tp * replicas > d.ep
    return {
        **msgspec.structs.asdict(d),
        "micro_batch": plan.micro_batch,
        "zero_stage": plan.zero_stage if sharded else 0,
        "shard_group": plan.shard_group if plan.shard_group < replicas else 0,
        "schedule": plan.schedule if d.pp > 1 else "1f1b",
        "sequence_parallel": "on" if plan.sequence_parallel else "off",
    }


def _best_s(
    plan: TrainingPlan, cluster: Cluster, pin: list[str], stop: StopRule | None
) -> float | None:
    """The best step on a cluster under some pins, seconds; None where nothing fits."""
    result = plan_training(
        plan.model, cluster, plan.workload, pin=pin, stop=stop, cost_model=plan.cost_model
    )
    return None if result.best is None else result.best.step_time_s


def _changes(cluster: Cluster) -> list[tuple[str, Cluster]]:
    """The changes tried, in words, and the changed clusters."""
    group = cluster.nodes[0]
    device = group.device
    peaks = {dtype: 1.1 * peak for dtype, peak in device.peak_flops_per_s.items()}
    changes: list[tuple[str, dict[str, object]]] = [
        (
            "1 GiB more on each device",
            {"device": msgspec.structs.replace(device, memory_bytes=device.memory_bytes + GIB)},
        ),
        (
            "10 % more peak FLOP/s",
            {"device": msgspec.structs.replace(device, peak_flops_per_s=peaks)},
        ),
        (
            "10 % more memory bandwidth",
            {
                "device": msgspec.structs.replace(
                    device,
                    memory_bandwidth_bytes_per_s=1.1 * device.memory_bandwidth_bytes_per_s,
                )
            },
        ),
    ]
    names = [level.name for level in cluster.levels()]
    if group.domain > 1:
        changes.append(("10 % more node-link bandwidth", {"node_link": _faster(group.node_link)}))
    if "network" in names:
        changes.append(("10 % more network bandwidth", {"network": _faster(group.network)}))
    changes.append(("one more node", {"count": group.count + 1}))
    return [
        (words, msgspec.structs.replace(cluster, nodes=_replaced(cluster, fields)))
        for words, fields in changes
    ]


def _replaced(cluster: Cluster, fields: dict[str, object]) -> tuple[NodeGroup, ...]:
    """Every group changed; another count in the first alone."""
    first, *rest = cluster.nodes
    kept = {name: value for name, value in fields.items() if name != "count"}
    return (
        msgspec.structs.replace(first, **fields),
        *(msgspec.structs.replace(group, **kept) for group in rest),
    )


def _faster(link: Link) -> Link:
    return msgspec.structs.replace(link, bandwidth_bytes_per_s=1.1 * link.bandwidth_bytes_per_s)


def _shares(parts: dict[str, tuple[str, ...]], plan: TrainingPlan) -> tuple[Share, ...]:
    shares = []
    for name, members in parts.items():
        seconds = sum(plan.breakdown_s.get(member, 0.0) for member in members)
        shares.append(Share(name=name, time_s=seconds, share=seconds / plan.step_time_s))
    return tuple(sorted(shares, key=lambda s: -s.time_s))


def _memory(cost: CostModel, plan: TrainingPlan) -> tuple[StageMemory, ...]:
    """Memory by stage, with what one recomputed layer less would take."""
    fewer = tuple(_one_less(stage.recompute) for stage in plan.stages)
    less = plan
    if fewer != tuple(stage.recompute for stage in plan.stages):
        less = build_plan(cost, msgspec.structs.replace(plan.strategy, recompute=fewer))
    rows = []
    for stage, then in zip(plan.stages, less.stages, strict=True):
        total = stage.memory_bytes["total"]
        kinds = {kind: size for kind, size in stage.memory_bytes.items() if kind != "total"}
        free = stage.capacity_bytes - total
        takes = None
        if stage.recompute != then.recompute:
            takes = then.memory_bytes["total"] - total
        rows.append(
            StageMemory(
                stage=stage.index,
                total_bytes=total,
                capacity_bytes=stage.capacity_bytes,
                free_bytes=free,
                largest_kind=max(kinds, key=lambda kind: kinds[kind]),
                next_layer_bytes=takes,
                binds=takes is not None and takes > free,
            )
        )
    return tuple(rows)


def _one_less(rule: Recompute) -> Recompute:
    if rule.full:
        return Recompute(full=rule.full - 1, selective=rule.selective)
    return Recompute(full=0, selective=max(0, rule.selective - 1))


# -- words ---------------------------------------------------------------------------------------


def _findings(e: Explanation) -> list[str]:
    first = e.limits[0]
    second = e.limits[1]
    lines = [
        f"{e.model} on {e.cluster}: {format_seconds(e.step_time_s)} a step (estimate of "
        f"{e.cost_model}).",
        f"{first.name.capitalize()} limits it: {first.share:.1%} of the step, then {second.name} "
        f"with {second.share:.1%}.",
    ]
    over = [m for m in e.memory if m.free_bytes < 0]
    binding = [m for m in e.memory if m.binds]
    if over:
        worst = min(over, key=lambda m: m.free_bytes)
        lines.append(
            f"It does not fit: stage {worst.stage} lacks {format_bytes(-worst.free_bytes)} "
            "on each device."
        )
    elif binding:
        lines.append(
            f"Memory binds on {_stages([m.stage for m in binding])}: it recomputes because storing "
            "one layer more does not fit."
        )
    else:
        least = min(e.memory, key=lambda m: m.free_bytes)
        lines.append(
            f"Memory does not bind: the fullest stage, {least.stage}, has "
            f"{format_bytes(least.free_bytes)} free."
        )
    better = e.degrees_step_time_s
    if better is not None and better < e.step_time_s * (1.0 - 1e-6):
        lines.append(
            "Other cuts or recomputation at the same degrees take "
            f"{format_seconds(e.step_time_s - better)} less."
        )
    best = e.replanned_step_time_s
    if best is not None and best < e.step_time_s * (1.0 - 1e-6):
        lines.append(f"The fastest plan of the whole space takes {format_seconds(best)} a step.")
    gains = [m for m in e.marginals if m.gain_s is not None and m.gain_s > 1e-6 * e.step_time_s]
    if gains:
        most = max(gains, key=lambda m: m.gain_s or 0.0)
        lines.append(
            f"Of the changes tried, {most.change} brings most: "
            f"{format_seconds(most.gain_s or 0.0)} a step."
        )
    return lines


def _stages(numbers: list[int]) -> str:
    """``stage 3``, ``stages 0-5 and 7``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    words = [str(a) if a == b else f"{a}-{b}" for a, b in runs]
    text = words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
    return ("stage " if len(numbers) == 1 else "stages ") + text


def _tightest(memory: tuple[StageMemory, ...]) -> list[StageMemory]:
    return sorted(memory, key=lambda m: (m.free_bytes, m.stage))[:_SHOWN]


def _memory_row(m: StageMemory) -> tuple[int | str, ...]:
    takes = "-" if m.next_layer_bytes is None else format_bytes(m.next_layer_bytes)
    word = "does not fit" if m.free_bytes < 0 else "binds" if m.binds else ""
    return (
        m.stage,
        format_bytes(m.total_bytes),
        format_bytes(m.free_bytes),
        m.largest_kind,
        takes,
        word,
    )


def _marginal_row(m: Marginal, replanned: bool) -> tuple[str, ...]:
    row = (m.change, _seconds(m.step_time_s), _seconds(m.gain_s))
    if not replanned:
        return row
    return (*row, _seconds(m.replanned_step_time_s), _seconds(m.replanned_gain_s))


def _seconds(value: float | None) -> str:
    return "-" if value is None else format_seconds(value)

"""explain_serving: what binds a serving plan, and what relaxing each limit brings, re-solved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

import msgspec

from optalloc.cluster.topology import Cluster, Link, NodeGroup
from optalloc.cost.engine.constants import read_engine_constants
from optalloc.cost.engine.step import step_model
from optalloc.plan.compare import section_text
from optalloc.plan.edited import edited_line
from optalloc.plan.sensitivity_serving import serving_turns
from optalloc.plan.turns import Turn, turn_section
from optalloc.serving.configuration.certify import objective_of
from optalloc.serving.configuration.infeasible import SMALLER, grown, with_workload
from optalloc.serving.configuration.plan import ServingPlan, Worker
from optalloc.serving.configuration.problem import OBJECTIVES, Problem
from optalloc.serving.configuration.search import Search
from optalloc.serving.configuration.written import serving_as_written
from optalloc.stop import StopRule
from optalloc.units import format_seconds

_MORE = 1.1
_FULL = 0.95

_WORDS = {
    "weights": "reading weights",
    "kv": "room for the cache",
    "bandwidth": "memory bandwidth",
    "compute": "compute",
    "prefill": "prefill compute",
    "latency": "launches, exchanges and the host",
}


class EngineTime(msgspec.Struct, frozen=True, kw_only=True):
    """One decoding iteration of an engine at its mean batch, seconds: ``fixed_s`` is that of one
    sequence without its cache (weights, launches), ``cache_s`` reads keys and values, ``growth_s``
    is what more sequences add. A prefill worker has ``prompt_s`` alone."""

    role: str
    device: str
    binds: str
    memory_share: float
    kv_use: float
    fixed_s: float = 0.0
    cache_s: float = 0.0
    growth_s: float = 0.0
    prompt_s: float = 0.0


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """A limit of the load and how much of it is used; it ``binds`` where nearly all is."""

    name: str
    value: float
    limit: float
    used: float
    binds: bool


class Relaxation(msgspec.Struct, frozen=True, kw_only=True):
    """The whole space searched again after one change; ``gain`` is relative, more is better."""

    change: str
    value: float | None
    gain: float | None


class ServingExplanation(msgspec.Struct, frozen=True, kw_only=True):
    """Why a serving plan is as good as it is; ``str()`` of it is for people.

    ``value`` is the plan's; ``best_value`` that of the best plan of its space, which the gains of
    ``relaxations`` are beside (None: there is none). ``edited`` says what an edited plan said that
    is not true; the explanation is then of its decisions. ``turns`` say where the choice of engines
    changes (None: not asked for, empty: other engines are better already).
    """

    format_version: str = "1.1"
    model: str
    cluster: str
    objective: str
    unit: str
    value: float
    best_value: float | None = None
    edited: str = ""
    summary: str
    engines: tuple[EngineTime, ...]
    targets: tuple[Target, ...]
    relaxations: tuple[Relaxation, ...]
    turns: tuple[Turn, ...] | None = None

    def __str__(self) -> str:
        lines = [self.summary]
        lines += [
            f"  {t.name}: {t.value:.4g} of {t.limit:.4g} ({t.used:.0%})" for t in self.targets
        ]
        for one in self.relaxations:
            gain = "no plan" if one.gain is None else f"{one.gain:+.1%}"
            lines.append(f"  {one.change}: {gain}")
        if self.turns:
            lines += ["", section_text(*turn_section(self.turns, "better", "other engines"))]
        return "\n".join(lines)


def explain_serving(
    plan: ServingPlan,
    *,
    sensitivity: bool = False,
    stop: StopRule | None = None,
    on_turn: Callable[[Turn], None] | None = None,
) -> ServingExplanation:
    """What binds a serving plan, and what a little more of each resource would bring.

    Parameters
    ----------
    plan : ServingPlan
        Found or edited. An edited one is explained by its decisions, and said to be so.
    sensitivity : bool
        Also find at which load, length, target and bandwidth other engines are better
        (:mod:`optalloc.plan.sensitivity_serving`).
    stop : StopRule, optional
        Ends each search of the sensitivity.
    on_turn : callable, optional
        Called with every turn as it is found.

    Returns
    -------
    ServingExplanation
        Estimates of the plan's cost model. Every change is solved anew over the whole space.

    Raises
    ------
    InputError
        If an edited plan breaks a rule of the space.

    Complexity: about twelve searches, and up to 18 for each turn.
    """
    objective = "throughput" if plan.certificate is None else plan.certificate.objective
    plan, edited = serving_as_written(plan)
    problem = problem_of(plan, objective)
    found = Search(problem).run().best
    best = None if found is None else found.value
    targets = tuple(_targets(plan))
    relaxations = tuple(
        _relaxed(change, changed, best or 0.0) for change, changed in _changes(plan, problem)
    )
    explanation = ServingExplanation(
        model=plan.model.name,
        cluster=plan.cluster.name,
        objective=objective,
        unit=OBJECTIVES[objective][0],
        value=objective_of(plan, objective),
        best_value=best,
        edited=edited,
        summary="",
        engines=tuple(_engine(plan, worker) for worker in plan.workers),
        targets=targets,
        relaxations=relaxations,
        turns=serving_turns(plan, problem, stop, on_turn) if sensitivity else None,
    )
    return msgspec.structs.replace(explanation, summary=_summary(plan, explanation))


def problem_of(plan: ServingPlan, objective: str) -> Problem:
    """The problem that a plan answers."""
    return Problem(
        model=plan.model,
        cluster=plan.cluster,
        workload=plan.workload,
        objective=objective,
        limits=plan.limits,
        headroom=plan.headroom,
        constants=plan.cost_model,
    )


def _engine(plan: ServingPlan, worker: Worker) -> EngineTime:
    group, work = plan.cluster.nodes[worker.group], plan.workload
    file = read_engine_constants(plan.cost_model)
    step = step_model(plan.model, group.device, worker.engine, group=group, file=file)
    share = sum(worker.memory_bytes.values()) / worker.capacity_bytes
    made = EngineTime(
        role=worker.role,
        device=worker.device,
        binds=worker.binds,
        memory_share=share,
        kv_use=worker.kv_use,
        prompt_s=float(step.prefill_s(work.input_len - work.prefix_len)),
    )
    if worker.role == "prefill":
        return made
    context = work.input_len + work.output_len / 2.0
    batch = max(1.0, worker.mean_batch / worker.engine.pp)
    cache = float(step.kv_s_per_token) * batch * context
    fixed = float(step.decode_s(1.0, 0.0))
    whole = float(step.decode_s(batch, context))
    return msgspec.structs.replace(
        made, fixed_s=fixed, cache_s=cache, growth_s=max(0.0, whole - fixed - cache)
    )


def _targets(plan: ServingPlan) -> Iterator[Target]:
    work, said = plan.workload, plan.predicted
    rate = None if work.rate_per_s is None else said.capacity_per_s * (1.0 - plan.headroom)
    rows = (
        ("time to the first token, s", said.ttft_s, work.ttft_s),
        ("time of a token, s", said.tpot_s, work.tpot_s),
        ("requests/s of what the headroom leaves", work.rate_per_s, rate),
    )
    for name, value, limit in rows:
        if value is not None and limit is not None:
            used = value / limit
            yield Target(name=name, value=value, limit=limit, used=used, binds=used >= _FULL)


def _changes(plan: ServingPlan, problem: Problem) -> Iterator[tuple[str, Problem]]:
    """Each limit relaxed alone."""
    work = problem.workload
    for name, field in (("TTFT", "ttft_s"), ("TPOT", "tpot_s")):
        target = getattr(work, field)
        if target is not None:
            yield f"10 % more {name}", with_workload(problem, **{field: target * _MORE})
            yield f"no target of {name}", with_workload(problem, **{field: None})
    for words, change in _DEVICES.items():
        cluster = with_groups(plan.cluster, change)
        yield words, msgspec.structs.replace(problem, cluster=cluster)
    bigger = grown(plan.cluster, 2)
    if bigger is not None and problem.objective in ("throughput", "latency"):
        more = bigger.num_devices - plan.cluster.num_devices
        yield (
            f"{more} device{'s' if more > 1 else ''} more",
            msgspec.structs.replace(problem, cluster=bigger),
        )
    for pins in SMALLER:
        limits = problem.limits
        for word in pins:
            name, _, value = word.partition("=")
            if name not in limits.pin:
                limits = limits.with_pin(name, "bf16", value)
        if limits != problem.limits and len(pins) == 1:
            yield f"{pins[0]} allowed", msgspec.structs.replace(problem, limits=limits)


def with_groups(cluster: Cluster, change: Callable[[NodeGroup], NodeGroup]) -> Cluster:
    """The cluster with every group changed."""
    return msgspec.structs.replace(cluster, nodes=tuple(change(group) for group in cluster.nodes))


def _device(group: NodeGroup, **figures: object) -> NodeGroup:
    device = msgspec.structs.replace(group.device, **figures)
    return msgspec.structs.replace(group, device=device)


def _faster(link: Link) -> Link:
    return msgspec.structs.replace(link, bandwidth_bytes_per_s=link.bandwidth_bytes_per_s * _MORE)


def _links(group: NodeGroup) -> NodeGroup:
    host = None if group.host_link is None else _faster(group.host_link)
    return msgspec.structs.replace(
        group, node_link=_faster(group.node_link), network=_faster(group.network), host_link=host
    )


_DEVICES: dict[str, Callable[[NodeGroup], NodeGroup]] = {
    "10 % more memory": lambda g: _device(g, memory_bytes=round(g.device.memory_bytes * _MORE)),
    "10 % more memory bandwidth": lambda g: _device(
        g, memory_bandwidth_bytes_per_s=g.device.memory_bandwidth_bytes_per_s * _MORE
    ),
    "10 % more compute": lambda g: _device(
        g, peak_flops_per_s={k: v * _MORE for k, v in g.device.peak_flops_per_s.items()}
    ),
    "10 % faster links": _links,
}


def _relaxed(change: str, problem: Problem, value: float) -> Relaxation:
    best = Search(problem).run().best
    if best is None:
        return Relaxation(change=change, value=None, gain=None)
    less = OBJECTIVES[problem.objective][1]
    gain = (value / best.value if less else best.value / value) - 1.0 if value else None
    return Relaxation(change=change, value=best.value, gain=gain)


def _summary(plan: ServingPlan, e: ServingExplanation) -> str:
    lines = []
    if e.edited:
        line = edited_line(e.edited)
        lines += [f"{line[0].upper()}{line[1:]}.", _found(plan, e)]
    counts: Counter[tuple[str, str]] = Counter()
    for w in plan.workers:
        counts[_WORDS.get(w.binds, w.binds), w.role] += w.count
    engines = " and ".join(
        f"{word} on {count} {role} engine{'s' if count > 1 else ''}"
        for (word, role), count in counts.items()
    )
    text = f"What limits an iteration: {engines}."
    missed = [t for t in e.targets if t.used > 1.0 + 1e-9]
    if missed:
        words = (f"{t.name} ({t.value:.4g} of {t.limit:.4g})" for t in missed)
        text += f" Missed: {'; '.join(words)}."
    full = [t.name.partition(",")[0] for t in e.targets if t.binds and t not in missed]
    if full:
        text += f" At its limit: {', '.join(full)}."
    helpful = [r for r in e.relaxations if r.gain is not None and r.gain > 1e-9]
    if helpful:
        best = max(helpful, key=lambda r: r.gain or 0.0)
        text += f" Most would come of: {best.change} ({best.gain:+.1%})."
    else:
        text += " No single change tried brings anything."
    return "\n".join([*lines, text])


def _found(plan: ServingPlan, e: ServingExplanation) -> str:
    """What an edited plan does, and how far that is from the best of its space."""
    said = plan.predicted
    text = (
        f"As written it gives {e.value:,.6g} {e.unit} on {plan.num_devices} devices: the first "
        f"token after {format_seconds(said.ttft_s)}, then {format_seconds(said.tpot_s)} a token, "
        f"and it can serve {said.capacity_per_s:,.4g} requests/s."
    )
    if e.best_value is None:
        return f"{text} No plan of its space meets the targets and the load."
    return f"{text} The best plan of its space gives {e.best_value:,.6g}."

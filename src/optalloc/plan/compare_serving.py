"""compare_serving: what two serving plans decide differently, and what that brings."""

from __future__ import annotations

import msgspec

from optalloc.plan.compare import Decision, Measure, Section, decision_sections, section_text
from optalloc.serving.configuration.plan import ServingPlan, Worker

_INPUTS = ("model", "cluster", "workload", "cost_model", "headroom")


class ServingComparison(msgspec.Struct, frozen=True, kw_only=True):
    """Two serving plans side by side; ``str()`` of it is for people.

    ``different_inputs`` names inputs that are not equal: then the plans answer different questions.
    """

    format_version: str = "1.0"
    summary: str
    different_inputs: tuple[str, ...]
    changed: tuple[str, ...]
    decisions: tuple[Decision, ...]
    measures: tuple[Measure, ...]

    def sections(self) -> list[Section]:
        """The parts of the printed form."""
        return list(decision_sections(self.decisions, self.measures))

    def __str__(self) -> str:
        return "\n\n".join([self.summary, *(section_text(*s) for s in self.sections())])


def compare_serving(first: ServingPlan, second: ServingPlan) -> ServingComparison:
    """What the second plan does differently from the first.

    Complexity: O(engines).
    """
    a, b = _decisions(first), _decisions(second)
    names = [*a, *(name for name in b if name not in a)]
    decided = tuple(Decision(name=n, first=a.get(n, "-"), second=b.get(n, "-")) for n in names)
    mine, other = _measures(first), _measures(second)
    different = tuple(n for n in _INPUTS if getattr(first, n) != getattr(second, n))
    x, y = first.predicted, second.predicted
    ratio = y.output_tokens_per_s / x.output_tokens_per_s
    longer = y.request_s / x.request_s
    summary = (
        f"The second plan gives {_times(ratio, 'as many', 'more', 'fewer')} output tokens/s "
        f"{'as' if _as_much(ratio) else 'than'} the first on {second.num_devices} against "
        f"{first.num_devices} devices, and a request takes "
        f"{_times(longer, 'as long', 'longer', 'less time')}."
    )
    if different:
        summary += f" Mind that the inputs differ: {', '.join(different).replace('_', ' ')}."
    return ServingComparison(
        summary=summary,
        different_inputs=different,
        changed=tuple(d.name for d in decided if d.changed),
        decisions=decided,
        measures=tuple(Measure(name=n, first=mine[n], second=other[n]) for n in mine),
    )


def _as_much(ratio: float) -> bool:
    """Whether the first stands beside a multiple, not beside a difference."""
    return ratio >= 2.0 or round(ratio, 3) == 1.0


def _times(ratio: float, same: str, more: str, less: str) -> str:
    """Twice as many, 20 % more: a ratio in words."""
    if _as_much(ratio):
        return same if round(ratio, 3) == 1.0 else f"{ratio:.3g} times {same}"
    return f"{abs(ratio - 1.0):.1%} {more if ratio > 1.0 else less}"


def _decisions(plan: ServingPlan) -> dict[str, int | str]:
    found: dict[str, int | str] = {"mode": plan.mode, "num_devices": plan.num_devices}
    for worker in plan.workers:
        name = worker.role if len(plan.cluster.nodes) == 1 else f"{worker.role} {worker.device}"
        found |= {f"{name}: {key}": value for key, value in _engine(worker).items()}
    return found


def _engine(worker: Worker) -> dict[str, int | str]:
    e = worker.engine
    return {
        "engines": worker.count,
        "tp": e.tp,
        "pp": e.pp,
        "attention_dp": e.attention_dp,
        "experts": f"tp {e.expert_tp} ep {e.moe_ep}",
        "batch": e.max_batch,
        "chunk": e.chunk_tokens,
        "numbers": f"{e.weight_dtype}, kv {e.kv_dtype}",
        "software": e.software,
    }


def _measures(plan: ServingPlan) -> dict[str, float | None]:
    said = plan.predicted
    names = [n for n in said.__struct_fields__ if n != "errors"]
    fullest = max(sum(w.memory_bytes.values()) / w.capacity_bytes for w in plan.workers)
    return {name: getattr(said, name) for name in names} | {"fullest_memory": fullest}

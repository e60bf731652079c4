"""Comparison: what two plans decide differently, and where the time between them goes."""

from __future__ import annotations

import msgspec

from optalloc.plan.account import part_words
from optalloc.plan.edited import edited_line
from optalloc.plan.view import Plan, View, view
from optalloc.units import format_bytes, format_seconds

Value = int | float | str | None
Section = tuple[str, tuple[str, ...], tuple[tuple[Value, ...], ...]]
"""Title, column names and rows of one part of the printed comparison."""

_INPUTS = ("model", "cluster", "workload", "cost_model")


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """One decision in both plans."""

    name: str
    first: int | str
    second: int | str

    @property
    def changed(self) -> bool:
        return self.first != self.second


class Cause(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds of the step that one cause takes in both plans; ``difference_s`` is second less
    first.
    """

    name: str
    first_s: float
    second_s: float
    difference_s: float


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of one kind on the fullest device; ``total`` and ``capacity`` come last."""

    name: str
    first_bytes: int
    second_bytes: int


class Measure(msgspec.Struct, frozen=True, kw_only=True):
    """A figure of both plans, estimated; its unit is the end of the name. None: not known."""

    name: str
    first: float | None
    second: float | None


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Two plans side by side; ``str()`` of it is for people.

    ``different_inputs`` names the inputs (model, cluster, workload, cost_model) that are not equal:
    then the plans answer different questions. ``changed`` names the decisions that differ.
    ``causes`` of the stage that ends last, and ``parts`` in the mean over the stages (of mixed
    plans: the causes again), are sorted by the size of their difference and sum to that of the step
    times. ``edited`` says of both what is not true in it (empty: nothing).
    """

    format_version: str = "1.0"
    summary: str = ""
    edited: tuple[str, str] = ("", "")
    different_inputs: tuple[str, ...]
    changed: tuple[str, ...]
    decisions: tuple[Decision, ...]
    measures: tuple[Measure, ...]
    causes: tuple[Cause, ...]
    parts: tuple[Cause, ...]
    memory: tuple[Kind, ...]

    def sections(self) -> list[Section]:
        """The parts of the printed form: decisions, figures, time by cause, memory by kind."""
        coarse = self.parts == self.causes  # of a mixed plan
        whose = "stage that ends last" if coarse else "mean of the stages"
        return [
            *decision_sections(self.decisions, self.measures),
            (
                f"Where the time goes ({whose})",
                ("part", "first", "second", "difference"),
                tuple(
                    (
                        part_words(c.name),
                        format_seconds(c.first_s),
                        format_seconds(c.second_s),
                        _signed(c),
                    )
                    for c in self.parts
                    if c.first_s or c.second_s
                ),
            ),
            (
                "Memory of the fullest device",
                ("kind", "first", "second"),
                tuple(
                    (k.name, format_bytes(k.first_bytes), format_bytes(k.second_bytes))
                    for k in self.memory
                ),
            ),
        ]

    def __str__(self) -> str:
        parts = [self.summary, *(section_text(*section) for section in self.sections())]
        return "\n\n".join(parts)


def compare(first: Plan, second: Plan) -> Comparison:
    """What the second plan does differently from the first, and what that brings.

    Parameters
    ----------
    first, second : TrainingPlan or MixedPlan
        Two plans, best of the same model, cluster and workload; where these differ the result says
        so.

    Returns
    -------
    Comparison
        Decisions, figures, time by cause (seconds) and memory by kind (bytes) side by side.

    Raises
    ------
    InputError
        If an edited plan breaks a rule of the space.
    """
    a, b = view(first), view(second)
    names = [*a.decisions, *(name for name in b.decisions if name not in a.decisions)]
    decided = tuple(
        Decision(name=name, first=a.decisions.get(name, "-"), second=b.decisions.get(name, "-"))
        for name in names
    )
    causes = _causes(a.plan.breakdown_s, b.plan.breakdown_s)
    like = type(a.plan) is type(b.plan)  # the parts of a mixed plan are its causes
    made = Comparison(
        edited=(a.edited, b.edited),
        different_inputs=tuple(
            name for name in _INPUTS if getattr(a.plan, name) != getattr(b.plan, name)
        ),
        changed=tuple(decision.name for decision in decided if decision.changed),
        decisions=decided,
        measures=tuple(
            Measure(name=name, first=a.measures[name], second=b.measures[name])
            for name in a.measures
        ),
        causes=causes,
        parts=_causes(a.parts, b.parts) if like else causes,
        memory=_memory(a, b),
    )
    return msgspec.structs.replace(made, summary=_verdict(made))


_LEAST = 1e-9  # of the step: less is the rounding of a difference


def _causes(first: dict[str, float], second: dict[str, float]) -> tuple[Cause, ...]:
    names = [*first, *(name for name in second if name not in first)]
    least = _LEAST * max(sum(first.values()), sum(second.values()))

    def told(seconds: float) -> float:
        return seconds if abs(seconds) > least else 0.0

    causes = [
        Cause(
            name=name,
            first_s=told(first.get(name, 0.0)),
            second_s=told(second.get(name, 0.0)),
            difference_s=told(second.get(name, 0.0) - first.get(name, 0.0)),
        )
        for name in names
    ]
    return tuple(sorted(causes, key=lambda c: -abs(c.difference_s)))


def _memory(a: View, b: View) -> tuple[Kind, ...]:
    rows = [
        Kind(name=kind, first_bytes=a.memory.get(kind, 0), second_bytes=b.memory.get(kind, 0))
        for kind in a.memory | b.memory
    ]
    total = Kind(name="total", first_bytes=a.total_bytes, second_bytes=b.total_bytes)
    capacity = Kind(name="capacity", first_bytes=a.capacity_bytes, second_bytes=b.capacity_bytes)
    return (*rows, total, capacity)


def decision_sections(
    decisions: tuple[Decision, ...], measures: tuple[Measure, ...]
) -> tuple[Section, Section]:
    """What was decided and what it brings, of any two plans side by side."""
    return (
        (
            "Decisions",
            ("decision", "first", "second", "changed"),
            tuple((d.name, d.first, d.second, "changed" if d.changed else "") for d in decisions),
        ),
        (
            "Figures (estimated)",
            ("figure", "first", "second", "second / first"),
            tuple((m.name, m.first, m.second, _ratio(m)) for m in measures),
        ),
    )


def _ratio(measure: Measure) -> float | None:
    if not measure.first or measure.second is None:
        return None
    return measure.second / measure.first


def _signed(cause: Cause) -> str:
    return ("+" if cause.difference_s > 0 else "") + format_seconds(cause.difference_s)


def _verdict(comparison: Comparison) -> str:
    step = comparison.measures[0]
    a, b = step.first or 0.0, step.second or 0.0
    if a == b:
        text = f"Both plans take {format_seconds(a)} a step."
    else:
        word = "slower" if b > a else "faster"
        text = (
            f"The second plan takes {format_seconds(b)} a step, {abs(b / a - 1):.1%} {word} than "
            f"the first with {format_seconds(a)}."
        )
        same = [c for c in comparison.parts if c.difference_s * (b - a) > 0]
        other = [c for c in comparison.parts if c.difference_s * (b - a) < 0]
        if same:
            text += f" Most of it is {part_words(same[0].name)} ({_signed(same[0])})"
            less = f", less {part_words(other[0].name)} ({_signed(other[0])})" if other else ""
            text += f"{less}."
    if comparison.different_inputs:
        names = ", ".join(name.replace("_", " ") for name in comparison.different_inputs)
        text += f" Mind that the inputs differ: {names}."
    for which, reason in zip(("first", "second"), comparison.edited, strict=True):
        text += f"\nThe {which}: {edited_line(reason)}." if reason else ""
    return text


def section_text(title: str, columns: tuple[str, ...], rows: tuple[tuple[Value, ...], ...]) -> str:
    """A section as aligned plain text."""
    cells = [columns, *(tuple(_cell(value) for value in row) for row in rows)]
    widths = [max(len(row[k]) for row in cells) for k in range(len(columns))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]
    return "\n".join([title, *(f"  {line}" for line in lines)])


def _cell(value: Value) -> str:
    if value is None:
        return "-"
    return f"{value:,.4g}" if isinstance(value, float) else str(value)

"""Explanation: the answer of :func:`optalloc.explain` as data, and its printed form."""

from __future__ import annotations

import msgspec

from optalloc.plan.account import Part, part_words
from optalloc.plan.compare import Section, section_text
from optalloc.plan.edited import edited_line
from optalloc.plan.figures import Figures
from optalloc.plan.marginals import Marginal
from optalloc.plan.turns import WORTH, Turn, turn_section
from optalloc.units import GIB, format_bytes, format_seconds

_SHOWN = 6


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds of the step that one cause takes, and their share of it."""

    name: str
    time_s: float
    share: float


class StageMemory(msgspec.Struct, frozen=True, kw_only=True):
    """The fullest device of one stage; ``kinds`` sum to ``total_bytes``.

    ``free_bytes`` is negative where the stage does not fit; ``margin_bytes`` of them a plan leaves
    free against the error of the estimate. ``next_layer_bytes`` is what storing one recomputed
    layer more would take (None: nothing is recomputed); memory ``binds`` where that is more than
    what is free beyond the margin.
    """

    stage: int
    kinds: dict[str, int]
    total_bytes: int
    capacity_bytes: int
    free_bytes: int
    margin_bytes: int
    largest_kind: str
    next_layer_bytes: int | None
    binds: bool


class Rival(msgspec.Struct, frozen=True, kw_only=True):
    """The best plan of other degrees, and why it loses against the best of all."""

    step_time_s: float
    degrees: dict[str, int]
    num_devices: int
    reason: str


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Why a plan takes the time it takes; ``str()`` of it is for people.

    ``parts``, ``causes`` and ``limits`` each sum to ``step_time_s`` and describe ``last_stage``,
    the stage that ends last; a micro-batch takes longest on ``slowest_stage``.
    ``degrees_step_time_s`` is the best step of the plan's mesh, and ``replanned_step_time_s`` the
    best of all, with ``rivals`` (None and empty without a new search). ``turns`` say where the
    choice changes; None: not asked for. ``edited`` says what an edited plan said that is not true;
    the explanation is then of its decisions.
    """

    format_version: str = "1.0"
    model: str
    cluster: str
    cost_model: str
    summary: str = ""
    edited: str = ""
    step_time_s: float
    fits: bool
    last_stage: int
    slowest_stage: int
    parts: tuple[Part, ...]
    causes: tuple[Share, ...]
    limits: tuple[Share, ...]
    figures: Figures
    memory: tuple[StageMemory, ...]
    marginals: tuple[Marginal, ...]
    degrees_step_time_s: float | None = None
    replanned_step_time_s: float | None = None
    rivals: tuple[Rival, ...] = ()
    turns: tuple[Turn, ...] | None = None

    def sections(self) -> list[Section]:
        """The parts of the printed form, in the order in which they are read."""
        made = [
            (
                f"Where the time goes (stage {self.last_stage} ends last)",
                ("part", "time", "share", "mean of stages", "hidden behind computation"),
                tuple(_part_row(part) for part in self.parts if _visible(part, self.step_time_s)),
            ),
            ("Figures (estimated)", ("figure", "value", ""), tuple(_figure_rows(self.figures))),
            (
                f"Memory in GiB of {self.memory[0].capacity_bytes / GIB:.1f}, of which a plan "
                f"leaves {self.memory[0].margin_bytes / GIB:.1f} free; the tightest stages first",
                ("stage", *self.memory[0].kinds, "free", "+1 layer"),
                tuple(_memory_row(m) for m in _tightest(self.memory)),
            ),
            _marginal_section(self.marginals),
        ]
        if self.turns is not None:
            made.append(turn_section(self.turns, "faster", "other cuts or recomputation"))
        if self.rivals:
            made.append(
                (
                    "Next best, and why each loses",
                    ("step", "plan", "why"),
                    tuple(_rival_row(rival) for rival in self.rivals),
                )
            )
        return made

    def __str__(self) -> str:
        texts = [section_text(*section) for section in self.sections()]
        notes = "".join(f"\n  {note}" for note in figure_notes(self.figures))
        return "\n\n".join([self.summary, texts[0], texts[1] + notes, *texts[2:]])


def summarised(e: Explanation) -> Explanation:
    """The explanation with its findings written out, one sentence a line."""
    return msgspec.structs.replace(e, summary="\n".join(_findings(e)))


_UNEVEN = 0.01  # of the step: a larger mean wait for the slowest stage is told


# -- findings ------------------------------------------------------------------------------------


def _findings(e: Explanation) -> list[str]:
    first, second = e.limits[0], e.limits[1]
    lines = []
    if e.edited:
        line = edited_line(e.edited)
        lines.append(f"{line[0].upper()}{line[1:]}.")
    lines += [
        f"{e.model} on {e.cluster}: {format_seconds(e.step_time_s)} a step (estimate of "
        f"{e.cost_model}).",
        f"{first.name.capitalize()} limits it: {first.share:.1%} of the step, then {second.name} "
        f"with {second.share:.1%}.",
        _memory_finding(e),
    ]
    uneven = next((part for part in e.parts if part.name == "imbalance"), None)
    if uneven is not None and uneven.mean_s > _UNEVEN * e.step_time_s:
        lines.append(
            f"The stages are uneven: in the mean they wait {format_seconds(uneven.mean_s)} "
            f"for the slowest, stage {e.slowest_stage}; "
            f"stage {e.last_stage} {format_seconds(uneven.time_s)}."
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
    gains = [
        (gain, m.change)
        for m in e.marginals
        if (gain := max(m.gain_s or 0.0, m.replanned_gain_s or 0.0)) > 1e-6 * e.step_time_s
    ]
    if gains:
        gain, change = max(gains)
        lines.append(f"Of the changes tried, {change} brings most: {format_seconds(gain)} a step.")
    if e.turns == ():
        lines.append(
            f"Another mesh is better by more than {WORTH:.1%} already, so how far this one holds "
            "was not asked."
        )
    return lines


def _memory_finding(e: Explanation) -> str:
    over = [m for m in e.memory if m.free_bytes < 0]
    binding = [m for m in e.memory if m.binds]
    if over:
        worst = min(over, key=lambda m: m.free_bytes)
        return (
            f"It does not fit: stage {worst.stage} lacks {format_bytes(-worst.free_bytes)} "
            "on each device."
        )
    if binding:
        return (
            f"Memory binds on {_stages([m.stage for m in binding])}: it recomputes because storing "
            "one layer more does not fit."
        )
    gain = max(m.replanned_gain_s or 0.0 for m in e.marginals if m.unit == "GiB")
    if gain > 1e-4 * e.step_time_s:
        return (
            "Memory binds the choice: no layer is recomputed for want of it, but with 1 GiB more "
            f"on each device another plan takes {format_seconds(gain)} less."
        )
    least = min(e.memory, key=lambda m: m.free_bytes)
    return (
        f"Memory does not bind: the fullest stage, {least.stage}, has "
        f"{format_bytes(least.free_bytes)} free; a plan leaves {format_bytes(least.margin_bytes)}."
    )


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


# -- rows ----------------------------------------------------------------------------------------


def _visible(part: Part, step_s: float) -> bool:
    hidden = (part.hidden_s or 0.0) >= 0.0005 * part.time_s > 0
    return max(part.time_s, part.mean_s) >= 0.0005 * step_s or hidden


def _part_row(part: Part) -> tuple[str, ...]:
    hidden = "" if not part.hidden_s else format_seconds(part.hidden_s)
    times = format_seconds(part.time_s), f"{part.share:.1%}", format_seconds(part.mean_s)
    return (part_words(part.name), *times, hidden)


def _figure_rows(f: Figures) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [
        ("MFU, causal attention counted half", f"{f.mfu_causal:.1%}", ""),
        ("MFU, attention counted as full square", f"{f.mfu_square:.1%}", ""),
        ("HFU: the first with recomputation", f"{f.hfu_causal:.1%}", ""),
        ("tokens/s", f"{f.tokens_per_s:,.0f}", ""),
        ("tokens/s a device", f"{f.tokens_per_s_per_device:,.0f}", ""),
    ]
    price, usd = f.device_price_usd_per_h, f.usd_per_trillion_tokens
    if price is not None and usd is not None:
        rate = f"at ${price.value:,.4g} a device-hour"
        rows.append(("cost of a trillion tokens", f"${usd:,.0f}", rate))
    else:
        rows.append(("cost of a trillion tokens", "unknown", "the device has no public price"))
    power = f"at {f.power_share:.0%} of {f.device_power_w.value:,.0f} W a device"
    energy = f"{f.energy_j_per_trillion_tokens / 3.6e9:,.1f} MWh"
    return [*rows, ("energy of a trillion tokens", energy, power)]


def figure_notes(f: Figures) -> tuple[str, ...]:
    """Where price and power come from, one sentence each."""
    known = {"Price": f.device_price_usd_per_h, "Power": f.device_power_w}
    return tuple(
        f"{name}: {figure.source}, {figure.date}."
        for name, figure in known.items()
        if figure is not None and figure.source
    )


def _tightest(memory: tuple[StageMemory, ...]) -> list[StageMemory]:
    return sorted(memory, key=lambda m: (m.free_bytes, m.stage))[:_SHOWN]


def _memory_row(m: StageMemory) -> tuple[int | str, ...]:
    takes = "-" if m.next_layer_bytes is None else f"{m.next_layer_bytes / GIB:.1f}"
    takes += " binds" if m.binds else ""
    free = f"{m.free_bytes / GIB:.1f}" + (" OVER" if m.free_bytes < 0 else "")
    return (m.stage, *(f"{size / GIB:.1f}" for size in m.kinds.values()), free, takes)


def _marginal_section(marginals: tuple[Marginal, ...]) -> Section:
    """Gains of the same strategy; with the whole space searched again beside them, where it was."""
    replanned = any(m.replanned_gain_s is not None for m in marginals)
    columns = ("change", "gain", "a unit") + (("replanned", "a unit then") if replanned else ())
    rows: list[tuple[str, ...]] = []
    for m in marginals:
        kept = " (cuts anew)" if m.kept == "mesh" else ""
        row = (m.change + kept, _seconds(m.gain_s), _rate(m.gain_per_unit_s, m.unit))
        if replanned:
            again = (_seconds(m.replanned_gain_s), _rate(m.replanned_gain_per_unit_s, m.unit))
            rows.append((*row, *again))
        else:
            rows.append(row)
    title = "What a little more would bring a step: at the same strategy"
    return (title + (", and planned again" if replanned else ""), columns, tuple(rows))


def _rival_row(rival: Rival) -> tuple[str, ...]:
    kept = [f"{name} {value}" for name, value in rival.degrees.items() if value > 1]
    return (format_seconds(rival.step_time_s), " ".join(kept) or "one device", rival.reason)


def _seconds(value: float | None) -> str:
    return "-" if value is None else format_seconds(value)


def _rate(value: float | None, unit: str) -> str:
    return "-" if value is None else f"{format_seconds(value)}/{unit}"

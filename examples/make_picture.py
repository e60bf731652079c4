"""Draw a training plan as one SVG file: its stages, their memory, and where the time goes.

    python examples/make_picture.py [plan.json] [picture.svg]

Without a plan it plans Llama 3.1 70B on 64 H100s and writes the picture of the README. Every number
drawn is in the plan.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from xml.sax.saxutils import escape

import optalloc as oa
from optalloc.files import write_text
from optalloc.training.plan import StagePlan, TrainingPlan
from optalloc.units import GIB, format_bytes, format_seconds

README_PICTURE = Path(__file__).resolve().parents[1] / "docs" / "_static" / "plan.svg"

WIDTH, MARGIN, ROW = 960, 24, 26
# Okabe and Ito's palette, which colour-blind readers can tell apart.
PALETTE = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#999999")
INK, FAINT, PAPER = "#1b1b1b", "#8a8a8a", "#ffffff"


def picture(plan: TrainingPlan) -> str:
    """The SVG text of a plan."""
    parts = [*_heading(plan)]
    y = 92
    parts += _memory(plan, y)
    y += ROW * len(plan.stages) + 78
    parts += _times(plan, y)
    height = y + 104
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" font-family="system-ui, sans-serif" font-size="13" '
        f'role="img" aria-label="{escape(_title(plan))}">\n'
        f'<rect width="{WIDTH}" height="{height}" fill="{PAPER}"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _title(plan: TrainingPlan) -> str:
    used = plan.num_devices
    return f"{plan.model.name} on {plan.cluster.name}: a training plan on {used} devices"


def _heading(plan: TrainingPlan) -> Iterable[str]:
    d = plan.degrees
    degrees = " · ".join(
        f"{name} {value}"
        for name, value in (
            ("tp", d.tp), ("cp", d.cp), ("pp", d.pp), ("dp", d.dp), ("ep", d.ep),
            ("chunks a stage", d.virtual_stages), ("ZeRO", plan.zero_stage),
            ("micro-batch", plan.micro_batch), ("micro-batches", plan.num_microbatches),
        )
    )  # fmt: skip
    proof = plan.certificate
    claim = "no certificate"
    if proof is not None:
        gap = abs(proof.value - proof.bound) / max(abs(proof.value), abs(proof.bound), 1e-300)
        claim = "proven optimal" if gap <= 1e-9 else f"gap {gap:.2%}"
        claim += f" among {proof.configurations:,} configurations, for cost model {plan.cost_model}"
    yield _text(MARGIN, 32, _title(plan), size=19, weight=600)
    yield _text(MARGIN, 54, f"{degrees} · {plan.schedule}")
    step = format_seconds(plan.step_time_s)
    yield _text(MARGIN, 74, f"estimated step {step}, MFU {plan.mfu:.1%}; {claim}", fill=FAINT)


def _memory(plan: TrainingPlan, top: int) -> Iterable[str]:
    """One bar a stage: what the fullest device holds, against its capacity."""
    left, right = MARGIN + 226, WIDTH - MARGIN - 86
    kinds = [k for k in plan.stages[0].memory_bytes if k != "total"]
    kinds += [k for s in plan.stages for k in s.memory_bytes if k not in (*kinds, "total")]
    most = max(max(s.capacity_bytes, _total(s)) for s in plan.stages)
    scale = (right - left) / most
    yield _text(MARGIN, top + 14, "stage", weight=600)
    yield _text(left, top + 14, "memory of the fullest device", weight=600)
    for row, stage in enumerate(plan.stages):
        y = top + 24 + row * ROW
        yield _text(MARGIN, y + 16, f"{stage.index}   {_contents(stage)}")
        x = float(left)
        for kind in kinds:
            held = stage.memory_bytes.get(kind, 0)
            width = held * scale
            colour = PALETTE[kinds.index(kind) % len(PALETTE)]
            if width > 0:
                label = f"stage {stage.index}, {kind}: {format_bytes(held)}"
                yield _box(x, y, width, ROW - 6, colour, label)
            x += width
        edge = left + stage.capacity_bytes * scale
        yield f'<path d="M{edge:.1f} {y - 2}v{ROW - 2}" stroke="{INK}" stroke-width="2"/>'
        yield _text(right + 8, y + 16, format_bytes(_total(stage)))
    y = top + 24 + len(plan.stages) * ROW
    capacity = plan.stages[0].capacity_bytes / GIB
    yield _text(left, y + 14, f"| capacity {capacity:.0f} GiB", fill=FAINT)
    yield from _legend(left, y + 36, kinds)


def _times(plan: TrainingPlan, top: int) -> Iterable[str]:
    """One bar: the step's time by cause."""
    left, right = MARGIN, WIDTH - MARGIN
    causes = [(name, s) for name, s in plan.breakdown_s.items() if s > 0]
    total = sum(seconds for _, seconds in causes)
    yield _text(left, top + 14, f"where the {format_seconds(total)} go", weight=600)
    x = float(left)
    for index, (name, seconds) in enumerate(causes):
        width = (right - left) * seconds / total
        label = f"{name.replace('_', ' ')}: {format_seconds(seconds)}"
        yield _box(x, top + 24, width, ROW, PALETTE[index % len(PALETTE)], label)
        x += width
    names = [f"{name.replace('_', ' ')} {seconds / total:.1%}" for name, seconds in causes]
    yield from _legend(left, top + 74, names)


def _contents(stage: StagePlan) -> str:
    layers = sum(stage.num_layers.values())
    ends = [name for name in ("embedding", "head") if any(getattr(c, name) for c in stage.chunks)]
    words = [f"{layers} layers", *ends]
    if stage.recompute.full:
        words.append(f"full {stage.recompute.full}")
    if stage.recompute.selective:
        words.append(f"selective {stage.recompute.selective}")
    return ", ".join(words)


def _total(stage: StagePlan) -> int:
    return stage.memory_bytes["total"]


def _legend(x: float, y: float, names: Iterable[str]) -> Iterable[str]:
    for index, name in enumerate(names):
        width = 24 + 7.4 * len(name)
        if x + width > WIDTH - MARGIN:
            x, y = MARGIN, y + 20
        yield _box(x, y - 10, 11, 11, PALETTE[index % len(PALETTE)], name)
        yield _text(x + 16, y, name)
        x += width


def _box(x: float, y: float, width: float, height: float, fill: str, label: str) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height}" fill="{fill}">'
        f"<title>{escape(label)}</title></rect>"
    )


def _text(
    x: float, y: float, text: str, *, size: int = 13, weight: int = 400, fill: str = INK
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y}" font-size="{size}" font-weight="{weight}" fill="{fill}" '
        f'xml:space="preserve">{escape(text)}</text>'
    )


def main(words: list[str]) -> int:
    """Read or make the plan, write the picture."""
    if words:
        plan = oa.load_plan(words[0])
    else:
        model, cluster = oa.load_model("llama-3.1-70b"), oa.load_cluster("64xh100-sxm")
        workload = oa.Training(global_batch=1024, sequence_length=8192)
        plan = oa.plan_training(model, cluster, workload).plan
    target = Path(words[1]) if len(words) > 1 else README_PICTURE
    write_text(target, picture(plan))
    print(f"Wrote {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Explanations on the screen."""

from __future__ import annotations

from optalloc.plan.explanation import Explanation, figure_notes
from optalloc.report.table import Table

# Columns that read as numbers.
_RIGHT = frozenset(
    {
        "time",
        "share",
        "mean of stages",
        "hidden behind computation",
        "value",
        "free",
        "+1 layer",
        "gain",
        "a unit",
        "replanned",
        "a unit then",
        "now",
        "holds to",
        "changes at",
        "step",
        "weights",
        "gradients",
        "optimizer",
        "activations",
        "logits",
        "buffers",
    }
)


def explanation_tables(explanation: Explanation) -> list[Table]:
    """The sections as tables; time comes first and is the CSV."""
    notes = {1: figure_notes(explanation.figures)}
    return [
        Table(
            title=title,
            columns=columns,
            rows=rows,
            notes=notes.get(number, ()),
            right=tuple(name for name in columns if name in _RIGHT),
        )
        for number, (title, columns, rows) in enumerate(explanation.sections())
    ]

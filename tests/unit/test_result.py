"""result.py: what a solver claims."""

from __future__ import annotations

import math

import pytest

from optalloc import files
from optalloc.result import Bounds, Result, Stats, Termination


def test_the_gap_is_zero_only_when_both_sides_meet() -> None:
    """Unknown sides leave it infinite."""
    assert Bounds(primal=5.0, dual=5.0).gap == 0.0
    assert Bounds(primal=5.0, dual=4.0).gap == 0.2
    assert math.isinf(Bounds(primal=5.0).gap)
    assert math.isinf(Bounds().gap)


def test_terminations_are_the_four_of_the_docs() -> None:
    """Their values are what JSON shows."""
    assert [t.value for t in Termination] == ["optimal", "feasible", "infeasible", "limit"]


def test_a_result_is_immutable() -> None:
    """Functions return new values."""
    result = Result(termination=Termination.LIMIT, bounds=Bounds(), stats=Stats())
    with pytest.raises(AttributeError):
        result.termination = Termination.OPTIMAL  # type: ignore[misc]


def test_a_result_is_written_as_plain_json() -> None:
    """Enums by value, missing sides as null."""
    result = Result(
        termination=Termination.OPTIMAL, bounds=Bounds(primal=1.5), stats=Stats(nodes=3)
    )
    text = files.canonical_json(result)
    assert '"termination": "optimal"' in text
    assert '"dual": null' in text
    assert '"nodes": 3' in text

"""A serving search that is stopped or interrupted keeps its plan and a bound."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.serving.configuration.small import PINS, planned

import optalloc as oa
from optalloc.report.serving import headline
from optalloc.result import Termination
from optalloc.serving.configuration.load_floors import LoadFloors
from optalloc.serving.configuration.solve import ServingResult


@pytest.mark.parametrize(
    ("shorthand", "concurrency"), [("8xh100-sxm", None), ("2xh100-sxm+4xl40s", 700)]
)
def test_a_stopped_search_keeps_its_plan_and_a_bound(
    shorthand: str, concurrency: int | None
) -> None:
    result = oa.plan_serving(
        oa.load_model("qwen3-30b-a3b"),
        oa.load_cluster(shorthand),
        oa.Serving(input_len=2000, output_len=200, concurrency=concurrency),
        pin=("mode=aggregated",),
        stop=oa.NodeLimit(1),
    )
    assert result.termination is Termination.LIMIT
    assert result.best is not None
    assert result.bounds.dual is not None
    assert result.bounds.primal is not None
    assert result.bounds.dual >= result.bounds.primal


def test_a_stop_is_asked_for_between_the_sizes_of_split_phases() -> None:
    result = oa.plan_serving(
        oa.load_model("qwen3-8b"),
        oa.load_cluster("264xh100-sxm"),
        oa.Serving(input_len=2000, output_len=200),
        pin=("mode=disaggregated", *PINS),
        stop=oa.NodeLimit(0),
    )
    assert result.termination is Termination.LIMIT
    assert result.bounds.dual is not None
    assert result.bounds.primal is not None
    assert result.bounds.dual >= result.bounds.primal


@pytest.mark.parametrize(
    ("shorthand", "concurrency"), [("8xh100-sxm", None), ("2xh100-sxm+4xl40s", 700)]
)
def test_an_interrupted_search_keeps_its_plan_and_a_bound(
    shorthand: str, concurrency: int | None
) -> None:
    """Ctrl-C after the first block of rows: the best of it, and a bound for the rest."""

    def interrupt(progress: oa.Progress) -> None:  # noqa: ARG001
        raise KeyboardInterrupt

    result = oa.plan_serving(
        oa.load_model("qwen3-30b-a3b"),
        oa.load_cluster(shorthand),
        oa.Serving(input_len=2000, output_len=200, concurrency=concurrency),
        on_progress=interrupt,
    )
    assert result.termination is Termination.LIMIT
    assert result.best is not None
    assert result.bounds.dual is not None
    assert result.bounds.primal is not None
    assert result.bounds.dual >= result.bounds.primal


def test_an_interrupt_before_anything_is_timed_leaves_a_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    whole = planned("1xh100-sxm+2xl40s", concurrency=50)
    monkeypatch.setattr(LoadFloors, "__init__", interrupt)
    result = planned("1xh100-sxm+2xl40s", concurrency=50)
    assert result.termination is Termination.LIMIT
    assert result.best is None
    assert result.bounds.dual is not None
    assert whole.bounds.primal is not None
    assert result.bounds.dual >= whole.bounds.primal
    assert "stopped" in headline(result)
    assert f"nothing is better than {result.bounds.dual:,.1f} output tokens/s" in headline(result)


def test_a_bound_reported_after_an_interrupt_holds_for_both_modes() -> None:
    """Ctrl-C in the search of aggregated deployments, of which split phases then beat some."""
    told: list[float | None] = []

    def once(progress: oa.Progress) -> None:
        told.append(progress.bound)
        if len(told) == 1:
            raise KeyboardInterrupt

    def plan(**given: Any) -> ServingResult:
        return oa.plan_serving(
            oa.load_model("qwen3-8b"),
            oa.load_cluster("2xh100-sxm+4xl40s"),
            oa.Serving(input_len=2000, output_len=200),
            pin=PINS,
            **given,
        )

    best = plan().bounds.primal
    stopped = plan(on_progress=once)
    assert stopped.termination is Termination.LIMIT
    assert len(told) > 1
    assert best is not None
    assert all(bound is not None and bound >= best for bound in (*told[1:], stopped.bounds.dual))

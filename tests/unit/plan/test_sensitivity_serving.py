"""Serving plans: where the choice of engines turns, and the page that shows it."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest

import optalloc as oa
from optalloc.cli.__main__ import main
from optalloc.plan.explain_serving import problem_of
from optalloc.plan.sensitivity_serving import chosen_limits, serving_turns
from optalloc.plan.turns import WORTH
from optalloc.serving.configuration.infeasible import with_workload
from optalloc.serving.configuration.plan import ServingPlan
from optalloc.serving.configuration.search import Search


@pytest.fixture(scope="module")
def small() -> ServingPlan:
    """A plan of few devices and batches."""
    work = oa.Serving(input_len=2000, output_len=200, ttft_s=0.3, tpot_s=0.02)
    pin = ("chunk=8192", "batch=4,32")
    model, cluster = oa.load_model("qwen3-8b"), oa.load_cluster("2xh100-sxm")
    return oa.plan_serving(model, cluster, work, pin=pin).plan


def test_sensitivity_says_where_other_engines_are_better(small: ServingPlan) -> None:
    """At a turn the chosen engines are the best on one side, and others on the other."""
    explanation = oa.explain_serving(small, sensitivity=True)
    assert explanation.turns is not None
    names = {t.quantity for t in explanation.turns}
    assert {"input length", "output length", "memory bandwidth"} <= names
    turned = [t for t in explanation.turns if t.quantity == "output length" and t.changes_at]
    assert turned
    for turn in turned:
        assert turn.changes_at is not None
        for value, best in ((turn.holds_at, True), (turn.changes_at, False)):
            problem = with_workload(problem_of(small, "throughput"), output_len=round(value))
            own = Search(msgspec.structs.replace(problem, limits=chosen_limits(small))).run().best
            whole = Search(problem).run().best
            assert whole is not None
            lost = 1.0 if own is None else 1.0 - own.value / whole.value
            assert (lost <= WORTH) == best, turn


def test_page_holds_its_plan_and_every_table(small: ServingPlan, tmp_path: Path) -> None:
    """The page is whole by itself, and the plan in it is the plan."""
    path = tmp_path / "plan.json"
    small.save(path)
    assert main(["explain", str(path), "--html", str(tmp_path / "p.html")]) == 0
    text = (tmp_path / "p.html").read_text(encoding="utf-8")
    open_: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:  # noqa: ARG002
            if tag not in ("meta", "rect", "path", "circle", "link"):
                open_.append(tag)

        def handle_endtag(self, tag: str) -> None:
            if tag not in ("rect", "path", "circle"):
                assert open_.pop() == tag

    Reader().feed(text)
    assert not open_
    held = json.loads(text.partition('id="data">')[2].partition("</script>")[0])
    assert held["plan"]["num_devices"] == small.num_devices
    drawn = text.partition('id="data">')[0].replace("http://www.w3.org/2000/svg", "")
    assert "http" not in drawn
    assert text.count("<svg") == 3


def test_a_stopped_sensitivity_says_so(small: ServingPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    """No turn is claimed where the searches were stopped."""
    run = Search.run
    monkeypatch.setattr(
        Search, "run", lambda search: msgspec.structs.replace(run(search), stopped=True)
    )
    turns = serving_turns(small, problem_of(small, "throughput"))
    assert {(t.why, t.changes_at) for t in turns} == {("the search was stopped", None)}

"""The offload study: its rows, its summary, and the peers it compares with."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from benchmarks.__main__ import main
from benchmarks.offload_peers import filled_s, first_fit_s
from tests.unit.serving.test_offload import SHORT, machine

from optalloc.model.load import load_model
from optalloc.serving.offload.parts import chain_of
from optalloc.serving.offload.solve import plan_offload


def test_study_proves_every_row_and_no_peer_is_faster(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Four machines with a model of four layers; HiGHS finds the same optima."""
    out = tmp_path / "rows.csv"
    words = ["offload", "--machines", "4", "--layers", "4", "--model", "llama-3.1-8b"]
    assert main([*words, "--check", "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "proven optimal: 4 of 4" in shown
    assert "HiGHS ended on 4 of 4, with another optimum on 0" in shown
    with out.open() as file:
        assert [row["gap"] for row in csv.DictReader(file)] == ["0.0"] * 4


def test_peers_are_as_fast_where_everything_fits_on_one_gpu() -> None:
    """There is nothing to decide, so all agree."""
    model, box = load_model("llama-3.1-8b"), machine(60.0)
    chain = chain_of(model, SHORT)
    best = plan_offload(model, box, SHORT).plan.request_s
    assert first_fit_s(box, chain) == pytest.approx(best, rel=1e-3)
    assert filled_s(box, chain) == pytest.approx(best, rel=1e-3)


def test_first_fit_leaves_a_hole_of_the_largest_module() -> None:
    """16.9 GB of GPU hold the 16 GB of the model, not with a hole: its head is then streamed."""
    model, box = load_model("llama-3.1-8b"), machine(16.9)
    best = plan_offload(model, box, SHORT).plan.request_s
    assert first_fit_s(box, chain_of(model, SHORT)) > 2.0 * best

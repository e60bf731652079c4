"""``python -m benchmarks layer-flow``: one answer a file, and errors in a row of their own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmarks.__main__ import main
from tests.unit.serving.tiny import best_flow, tiny_problem

from optalloc.serving.flow.instance import save_flow


def test_answers_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Value and bound of each instance; an unreadable file fails alone."""
    problems = {f"i{seed}": tiny_problem(seed, linked=True) for seed in (1, 2)}
    for name, problem in problems.items():
        save_flow(problem, tmp_path / f"{name}.json")
    (tmp_path / "bad.json").write_text("{")
    out = tmp_path / "out"
    names = ["i1", "bad", "i2"]
    paths = [str(tmp_path / f"{name}.json") for name in names]
    assert main(["layer-flow", *paths, "--time-limit", "5", "--out", str(out)]) == 1
    assert "not valid JSON" in capsys.readouterr().out
    for name, problem in problems.items():
        told = json.loads((out / f"{name}.json").read_text())
        best = best_flow(problem)
        assert told["objective"] == pytest.approx(best)
        assert told["bound"] == pytest.approx(best, rel=1e-6)
        assert told["reference"] is None
        assert told["cpu_s"] >= 0.0
        for node, (first, end) in told["placement"].items():
            assert 0 <= first < end <= first + problem.nodes[int(node)].max_layers

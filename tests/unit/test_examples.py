"""The examples run, and say what they should."""

from __future__ import annotations

import importlib.util
import types
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def example(name: str) -> types.ModuleType:
    """The module of one example."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_assign_prints_the_optimum_and_the_overload(capsys: pytest.CaptureFixture[str]) -> None:
    """4 + 3 = 7 on the worked example; 1 + 5 = 6 where pooled capacities promise 1 + 1."""
    example("assign").main()
    assert capsys.readouterr().out.splitlines() == [
        "tasks run on units (0, 1), total cost 7",
        "termination optimal, gap 0",
        "both tasks on unit 0: unit 0 carries 4 of capacity 2",
        "the optimum costs 6",
    ]

"""The examples run, and say what they should."""

from __future__ import annotations

import importlib.util
import re
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


def test_allocate_prints_the_plan_and_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    """Tasks 2 and 4 together need 14 cores; the smaller nodes have at most 12."""
    example("allocate").main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["optimal: nodes (1, 2, 0, 1, 0, -1)", "cost 28, fullest 100.0%"]
    assert lines[3].startswith("tasks 2 and 4 do not fit together in any distribution")
    assert lines[4].startswith("raise the capacity of resource 1 of unit 2 by 2 ")


def test_assign_many_prints_a_small_certified_gap(capsys: pytest.CaptureFixture[str]) -> None:
    example("assign_many").main(num_tasks=800, num_units=20)
    found = re.fullmatch(r"[\d,]+, at most ([\d.]+)% above the optimum\n", capsys.readouterr().out)
    assert found is not None
    assert float(found[1]) < 0.5


@pytest.mark.parametrize(
    ("name", "word"), [("explain", "mlp"), ("serve", "optimal"), ("sweep", "h100-sxm")]
)
def test_python_in_the_how_to_runs(
    name: str, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its blocks one after another, as a reader would type them."""
    text = (EXAMPLES.parent / "docs" / "how-to" / f"{name}.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert blocks
    exec("\n".join(blocks), {})
    assert word in capsys.readouterr().out


def test_serve_prints_a_deployment_for_each_goal(capsys: pytest.CaptureFixture[str]) -> None:
    """Each proven; then what stops a rate that eight GPUs cannot serve."""
    example("serve").main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines[:3]] == ["devices", "price", "latency"]
    assert all(line.endswith("optimal") for line in lines[:3])
    assert "within reach" in lines[3]


def test_mixed_prints_a_proven_plan_and_the_loss_of_a_node(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """All 32 layers are in each replica, and fewer devices are slower."""
    example("mixed").main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "optimal, gap 0"
    assert all("micro-batches" in line for line in lines[1:-3])
    assert lines[-2].startswith("the best worst case costs 0.")
    assert lines[-3].startswith("with equal degrees on all stages: 1.")
    assert lines[-1].startswith("without node 2: slower, gap 0.")


def test_requests_prints_latencies_and_the_greatest_rate(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The greatest rate is above the rate that met the target."""
    example("requests").main()
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"5000 requests at 5\.[5-9]/s", lines[0]) is not None
    found = re.fullmatch(r"90% meet .* up to ([\d.]+) requests/s; (ttft|tpot) binds", lines[-1])
    assert found is not None
    assert float(found[1]) > 6.0


def test_offload_prints_the_plan_and_the_best_change(capsys: pytest.CaptureFixture[str]) -> None:
    """Both GPUs are full; the rest is in CPU memory."""
    example("offload").main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "optimal, gap 0"
    assert lines[1:4] == [
        "gpu0: 10.8 GiB of parts",
        "gpu1: 22.8 GiB of parts",
        "cpu: 3.5 GiB of parts",
    ]


def test_fleet_prints_the_price_of_headroom(capsys: pytest.CaptureFixture[str]) -> None:
    """4.68 USD/h at full load; a spare and a fifth of the time cost another A100."""
    example("fleet").main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("4.68 USD/h, gap 0")
    assert lines[1] == "  100% busy, 0% more load fits"
    assert lines[2].endswith("8.35 USD/h, gap 0")

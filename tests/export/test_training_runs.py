"""Exported scripts are run under gloo: their losses equal those of one process.

SGD with a large rate shows a wrong scale of any gradient; AdamW would hide it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from optalloc.export.export import export
from optalloc.training.plan import TrainingPlan
from optalloc.training.strategy import Recompute

MakePlan = Callable[..., TrainingPlan]
TOLERANCE = 2e-6

pytestmark = [pytest.mark.torch, pytest.mark.slow]


def run(plan: TrainingPlan, target: str, folder: Path) -> dict[str, list[float]]:
    """Losses of three SGD steps and of one process, from the exported script itself."""
    from optalloc.execute.processes import launch

    export(plan, target, folder)
    facts = folder / "plan_facts.json"
    facts.write_text(json.dumps(json.loads(facts.read_text()) | {"optimizer": "sgd"}))
    d = plan.degrees
    words = ["--scale-down", "--cpu", "--compare", "--steps", "3", "--learning-rate", "0.3"]
    words += ["--tolerance", "inf", "--metrics", str(folder / "metrics.json")]
    launch(folder / "train.py", words, processes=d.tp * d.cp * d.pp * d.dp, timeout_s=300)
    metrics: dict[str, list[float]] = json.loads((folder / "metrics.json").read_text())
    return metrics


def check(metrics: dict[str, list[float]]) -> None:
    losses, reference = metrics["losses"], metrics["reference_losses"]
    assert len(losses) == 3
    assert losses == pytest.approx(reference, abs=TOLERANCE)
    assert abs(losses[0] - losses[2]) > 100 * TOLERANCE  # the steps did change the weights


TORCH: dict[str, dict[str, object]] = {
    "pipeline": {"pp": 2, "layers": (1, 3), "recompute": (Recompute(1, 0), Recompute(1, 1))},
    "FSDP": {"dp": 2, "layers": (2,), "zero_stage": 3},
    "hybrid sharding": {"dp": 4, "layers": (2,), "zero_stage": 1, "shard_group": 2},
    "replicas": {"dp": 2, "layers": (2,), "zero_stage": 0, "tied": True},
    "tensor": {"tp": 2, "layers": (2,)},
    "sequence": {"tp": 2, "dp": 2, "layers": (2,), "sequence_parallel": True},
    "context": {"cp": 2, "layers": (2,)},
    "pipeline x data": {"pp": 2, "dp": 2, "layers": (1, 2), "tied": True},
    "interleaved": {
        "pp": 2,
        "virtual_stages": 2,
        "layers": (1, 2, 2, 1),
        "schedule": "interleaved",
    },
    "zero bubble": {"pp": 2, "layers": (1, 3), "schedule": "zb-h1"},
    "GPipe x tensor": {
        "tp": 2,
        "pp": 2,
        "layers": (2, 1),
        "schedule": "gpipe",
        "sequence_parallel": True,
    },
    "experts": {"pp": 2, "dp": 2, "ep": 2, "layers": (2, 1), "moe": True, "dense_first": 1},
    "whole experts x tensor": {"tp": 2, "layers": (2,), "moe": True, "sequence_parallel": True},
    "experts, whole replicas": {
        "dp": 4,
        "ep": 2,
        "layers": (2,),
        "moe": True,
        "zero_stage": 0,
    },
    "experts x tensor": {
        "tp": 2,
        "dp": 2,
        "ep": 2,
        "layers": (2,),
        "moe": True,
        "sequence_parallel": True,
    },
}


@pytest.mark.parametrize("name", TORCH)
def test_torch_losses_equal_one_process(make_plan: MakePlan, tmp_path: Path, name: str) -> None:
    """The plan's own stages, mesh, schedule and recomputation, on tiny widths."""
    pytest.importorskip("torch", reason="needs torch")
    check(run(make_plan(**TORCH[name]), "pytorch", tmp_path))


DEEPSPEED: dict[str, dict[str, object]] = {
    "ZeRO 0": {"dp": 2, "layers": (2,), "zero_stage": 0},
    "ZeRO 2": {"dp": 2, "layers": (2,), "zero_stage": 2},
    "ZeRO 3": {"dp": 2, "layers": (2,), "zero_stage": 3},
    "pipeline": {"pp": 2, "layers": (1, 3), "tied": True},
    "pipeline x data": {"pp": 2, "dp": 2, "layers": (2, 1)},
}


@pytest.mark.parametrize("name", DEEPSPEED)
def test_deepspeed_losses_equal_one_process(make_plan: MakePlan, tmp_path: Path, name: str) -> None:
    """ZeRO and the pipeline cut at the plan's boundaries, on tiny widths."""
    pytest.importorskip("deepspeed", reason="needs deepspeed")
    check(run(make_plan(**DEEPSPEED[name]), "deepspeed", tmp_path))


def test_a_wrong_gradient_scale_would_be_seen(make_plan: MakePlan, tmp_path: Path) -> None:
    """The comparison can fail: with half the gradient the losses differ by far more."""
    pytest.importorskip("torch", reason="needs torch")
    from optalloc.execute.processes import ProcessesFailed, launch

    export(make_plan(dp=2, layers=(1,)), "pytorch", tmp_path)
    script = tmp_path / "train.py"
    text = script.read_text()
    assert "(loss / count).backward()" in text
    script.write_text(text.replace("(loss / count).backward()", "(loss / count / 2).backward()"))
    facts = tmp_path / "plan_facts.json"
    facts.write_text(facts.read_text().replace("adamw", "sgd"))
    words = ["--scale-down", "--cpu", "--compare", "--learning-rate", "0.3"]
    with pytest.raises(ProcessesFailed) as caught:
        launch(script, words, processes=2, timeout_s=300)
    assert "too large" in caught.value.output


def test_the_reference_needs_no_launcher(make_plan: MakePlan, tmp_path: Path) -> None:
    """``python train.py --scale-down --reference`` prints a loss a step."""
    pytest.importorskip("torch", reason="needs torch")
    import subprocess

    export(make_plan(pp=2, layers=(1, 1)), "pytorch", tmp_path)
    words = [sys.executable, "train.py", "--scale-down", "--reference", "--steps", "2"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert [line.split()[:3] for line in done.stdout.splitlines()] == [
        ["step", "0", "loss"],
        ["step", "1", "loss"],
    ]

"""Running a plan here: fewer processes keep the stages; measured and estimate stay apart."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

import optalloc as oa
from optalloc.cli.__main__ import main
from optalloc.errors import InputError, MissingExtra
from optalloc.execute.reduce import reduce_plan
from optalloc.execute.run import chunk_times, run_plan
from optalloc.training.plan import TrainingPlan

MakePlan = Callable[..., TrainingPlan]


def test_fewer_processes_keep_the_stages_and_shrink_the_rest(make_plan: MakePlan) -> None:
    """tp 2, pp 2, dp 4 on 4 processes: 2 a stage, which go to dp; the batch shrinks with it."""
    plan = make_plan(
        tp=2, pp=2, dp=4, layers=(1, 3), sequence_parallel=True, per_node=16, micro_batch=2
    )
    small = reduce_plan(plan, 5)
    d = small.degrees
    assert (d.tp, d.cp, d.pp, d.dp) == (1, 1, 2, 2)
    assert not small.sequence_parallel
    assert small.workload.global_batch == 2 * 2 * 4
    assert [stage.devices for stage in small.stages] == [((0, 2),), ((2, 4),)]
    assert [stage.chunks for stage in small.stages] == [stage.chunks for stage in plan.stages]


def test_four_processes_a_stage_keep_two_axes(make_plan: MakePlan) -> None:
    """Products of 4 are (dp 4), (dp 2, tp 2): two axes in use win."""
    small = reduce_plan(make_plan(tp=2, dp=4, ep=1), 4)
    assert (small.degrees.tp, small.degrees.dp) == (2, 2)


def test_the_expert_degree_divides_what_is_left(make_plan: MakePlan) -> None:
    """ep 8 over dp 8 becomes ep 2 over dp 2; sharding over 4 becomes sharding over all."""
    small = reduce_plan(make_plan(dp=8, ep=8, moe=True, shard_group=4), 2)
    assert (small.degrees.dp, small.degrees.ep, small.shard_group) == (2, 2, 0)


def test_fewer_processes_than_stages_is_an_input_error(make_plan: MakePlan) -> None:
    """A stage cannot be dropped."""
    with pytest.raises(InputError, match="cannot hold 2 pipeline stages"):
        reduce_plan(make_plan(pp=2, layers=(1, 3)), 1)


def test_chunk_times_share_a_stage_by_layers(make_plan: MakePlan) -> None:
    """Stage 0 holds embedding + 1 and 3 layers, 4 s forward: 2/5 and 3/5 of it."""
    plan = make_plan(pp=2, virtual_stages=2, layers=(1, 2, 3, 1), schedule="interleaved")
    forward, backward, weight = chunk_times(plan)
    assert forward == pytest.approx([1.6, 1.5, 2.4, 1.5])
    assert backward == pytest.approx([3.2, 3.0, 4.8, 3.0])
    assert weight == [0.0] * 4


def test_without_torch_the_extra_is_named(
    make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sentence with what to install."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(MissingExtra, match=r"optalloc\[torch\]"):
        run_plan(make_plan())


def test_export_verb_prints_the_files(
    make_plan: MakePlan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """``optalloc export PLAN --to megatron -o DIR``."""
    saved = tmp_path / "plan.json"
    make_plan(pp=2, layers=(1, 3)).save(saved)
    assert main(["export", str(saved), "--to", "megatron", "-o", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out' / 'launch.sh'}\n"
    assert main(["export", str(saved), "--to", "megatorn", "-o", str(tmp_path / "out")]) == 2
    assert "did you mean 'megatron'" in capsys.readouterr().err


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["gpipe", "1f1b", "zb-h1", "interleaved"])
def test_paced_pipeline_takes_the_event_time(make_plan: MakePlan, schedule: str) -> None:
    """Sleeping stages over real sends: the measured step is at most 25 % over the estimate.

    Sleeps never end early, so it is not below it either.
    """
    pytest.importorskip("torch", reason="needs torch")
    from optalloc.execute.run import run_paced

    shape: dict[str, object] = {"pp": 2, "layers": (1, 3)}
    if schedule == "interleaved":
        shape = {"pp": 2, "layers": (1, 2, 2, 1), "virtual_stages": 2}
    pace = run_paced(make_plan(schedule=schedule, **shape), timeout_s=300)
    assert pace.estimate_step_s == pytest.approx(2.0)
    assert 1.0 <= pace.ratio < 1.25


@pytest.mark.torch
@pytest.mark.slow
def test_run_verb_measures_and_compares(
    make_plan: MakePlan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both tables, equal losses, exit status 0."""
    pytest.importorskip("torch", reason="needs torch")
    saved = tmp_path / "plan.json"
    make_plan(pp=2, dp=4, layers=(1, 3)).save(saved)
    assert main(["run", str(saved), "--processes", "2"]) == 0
    out = capsys.readouterr().out
    assert "Losses are equal" in out
    assert "measured / estimate" in out


def test_public_names_win_over_the_packages_behind_them() -> None:
    """``oa.export`` stays the verb after its package was imported."""
    home = importlib.import_module("optalloc.export.export")
    assert vars(home)["export"] is oa.__getattr__("export")
    assert callable(oa.export)

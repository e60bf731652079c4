"""An export is written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

import optalloc as oa
from optalloc.errors import ExportError, InputError
from optalloc.export.base import Artefact, write
from optalloc.training.plan import TrainingPlan

MakePlan = Callable[..., TrainingPlan]


def test_every_target_writes_an_executable_launch_script(
    make_plan: MakePlan, tmp_path: Path
) -> None:
    """The three targets of the list, each with ``launch.sh``."""
    assert oa.export_targets() == ("deepspeed", "megatron", "pytorch")
    assert "sglang" in oa.export_targets("serving")
    for target in oa.export_targets():
        paths = oa.export(make_plan(dp=2), target, tmp_path / target)
        script = tmp_path / target / "launch.sh"
        assert script in paths
        assert os.access(script, os.X_OK)
        assert set((tmp_path / target).iterdir()) == set(paths)


def test_an_unknown_target_names_the_nearest(make_plan: MakePlan, tmp_path: Path) -> None:
    """``megatorn`` is a slip of ``megatron``."""
    with pytest.raises(InputError, match="did you mean 'megatron'"):
        oa.export(make_plan(), "megatorn", tmp_path)


def test_a_refused_plan_leaves_the_folder_untouched(make_plan: MakePlan, tmp_path: Path) -> None:
    """DeepSpeed has no tensor parallelism: not even the folder is made."""
    with pytest.raises(ExportError, match="tensor parallelism"):
        oa.export(make_plan(tp=2), "deepspeed", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_exporting_twice_gives_equal_bytes_and_keeps_other_files(
    make_plan: MakePlan, tmp_path: Path
) -> None:
    """Files of the same names are replaced, others stay."""
    (tmp_path / "notes.txt").write_text("mine")
    first = {
        p: p.read_bytes() for p in oa.export(make_plan(pp=2, layers=(1, 3)), "pytorch", tmp_path)
    }
    second = {
        p: p.read_bytes() for p in oa.export(make_plan(pp=2, layers=(1, 3)), "pytorch", tmp_path)
    }
    assert first == second
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert {p.name for p in tmp_path.iterdir()} == {p.name for p in first} | {"notes.txt"}


def test_a_failed_move_puts_the_old_files_back(tmp_path: Path) -> None:
    """The second file cannot replace a folder: the first is restored."""
    (tmp_path / "a.txt").write_text("old")
    (tmp_path / "b.txt" / "inside").mkdir(parents=True)
    (tmp_path / "b.txt" / "inside" / "kept").write_text("kept")
    blocked = tmp_path / "c.txt"
    blocked.write_text("a file where a folder is needed")
    files = (Artefact("a.txt", "new"), Artefact("c.txt/d.txt", "new"))
    with pytest.raises(InputError, match="cannot write the export"):
        write(files, tmp_path)
    assert (tmp_path / "a.txt").read_text() == "old"
    assert blocked.read_text() == "a file where a folder is needed"
    assert not [p for p in tmp_path.parent.iterdir() if p.name.startswith(f".{tmp_path.name}")]


def test_a_stage_out_of_rank_order_is_refused(make_plan: MakePlan) -> None:
    """Stage 1 on the first device: torchrun numbers ranks by host, stages slowest."""
    import msgspec

    from optalloc.export.base import artefacts

    plan = make_plan(pp=2, layers=(1, 3))
    swapped = tuple(
        msgspec.structs.replace(stage, devices=((1 - stage.index, 2 - stage.index),))
        for stage in plan.stages
    )
    with pytest.raises(ExportError, match="rank order") as caught:
        artefacts(msgspec.structs.replace(plan, stages=swapped), "pytorch")
    assert caught.value.stage == 0


def test_the_last_node_starts_only_the_processes_it_needs(make_plan: MakePlan) -> None:
    """6 devices on nodes of 4: 4 processes on node 0, 2 on node 1."""
    from optalloc.export.launch import hosts_of, torchrun_script

    plan = make_plan(pp=3, dp=2, layers=(1, 1, 1), per_node=4)
    assert [host.processes for host in hosts_of(plan)] == [4, 2]
    text = torchrun_script(plan, "pytorch", "launch.sh", "train.py")
    assert "processes=4\n" in text
    assert 'if [ "${NODE_RANK:-0}" = 1 ]; then processes=2; fi\n' in text
    assert "--nnodes 2 " in text


def test_chunks_that_skip_a_layer_are_refused(make_plan: MakePlan) -> None:
    """Layer 1 is in no chunk."""
    import msgspec

    from optalloc.export.chain import placed_chunks

    plan = make_plan(pp=2, layers=(1, 3))
    chunk = msgspec.structs.replace(plan.stages[1].chunks[0], first_layer=2, num_layers=2)
    stages = (plan.stages[0], msgspec.structs.replace(plan.stages[1], chunks=(chunk,)))
    with pytest.raises(InputError, match="does not continue at layer 1"):
        placed_chunks(msgspec.structs.replace(plan, stages=stages))


@pytest.mark.parametrize("name", ["gemma-3-27b", "qwen2.5-vl-7b"])
@pytest.mark.parametrize("target", ["deepspeed", "megatron", "pytorch"])
def test_a_vision_tower_is_refused_by_name(name: str, target: str) -> None:
    """The plan is whole (its chunks hold the decoder alone), but no target has the tower."""
    workload = oa.Training(global_batch=8, sequence_length=512)
    plan = oa.estimate(oa.load_model(name), oa.load_cluster("1xh100-sxm"), workload)
    with pytest.raises(ExportError, match="vision tower") as refused:
        oa.export(plan, target, "never-written")
    assert refused.value.stage == 0


@pytest.mark.parametrize("target", ["deepspeed", "megatron", "pytorch"])
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"lora_rank": 8}, "low-rank adapters"),
        ({"dropout": True}, "dropout"),
        ({"dtype": "fp4"}, "dtype fp4"),
        ({"optimizer": "lion"}, "lion"),
        ({"moment_dtype": "bf16"}, "moments in bf16"),
    ],
)
def test_a_step_that_no_export_writes_is_refused(
    make_plan: MakePlan, tmp_path: Path, target: str, change: dict[str, object], named: str
) -> None:
    """Else the files would run another step than the plan's."""
    plan = make_plan()
    plan = msgspec.structs.replace(plan, workload=msgspec.structs.replace(plan.workload, **change))
    with pytest.raises(ExportError, match=named):
        oa.export(plan, target, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []

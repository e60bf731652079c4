"""sweep.py, cell.py, front.py: a row a cell, whatever happens to the others."""

from __future__ import annotations

import sys

import msgspec
import pytest

import optalloc as oa
from optalloc.errors import InputError
from optalloc.plan import sweep as sweeping
from optalloc.plan.cell import Cell, Row, solve_cell
from optalloc.plan.cells import sized
from optalloc.plan.front import axes, marked
from optalloc.plan.sweep import grid, sweep
from optalloc.training.solve import plan_training

MODEL = oa.load_model("gpt2")
WORK = oa.Training(global_batch=16, sequence_length=512)


def cells() -> tuple[Cell, ...]:
    """Two kinds of device, one of them unknown, and a batch that three devices cannot share."""
    return grid(MODEL, ["a100-sxm-80g", "a999"], WORK, devices=[1, 2], global_batches=[8, 16])


def test_each_row_is_the_plan_of_its_cell() -> None:
    """Step time, degrees and gap are those of plan_training; the order is that of the grid."""
    rows = sweep(cells())
    assert [(r.device, r.devices, r.global_batch) for r in rows[:4]] == [
        ("a100-sxm-80g", 1, 8),
        ("a100-sxm-80g", 1, 16),
        ("a100-sxm-80g", 2, 8),
        ("a100-sxm-80g", 2, 16),
    ]
    for row in rows[:4]:
        work = msgspec.structs.replace(WORK, global_batch=row.global_batch)
        plan = plan_training(MODEL, oa.load_cluster(f"{row.devices}xa100-sxm-80g"), work).plan
        assert (row.status, row.gap, row.step_time_s) == ("optimal", 0.0, plan.step_time_s)
        assert (row.dp, row.tp, row.num_devices) == (
            plan.degrees.dp,
            plan.degrees.tp,
            plan.num_devices,
        )
    for row in rows[4:]:
        assert (row.status, row.step_time_s, row.front) == ("error", None, False)
        assert "unknown device 'a999'" in row.reason


def test_a_mixed_cluster_is_a_cell_too() -> None:
    """Its step is that of plan_mixed; what differs by stage has no one value."""
    text = "1xa100-sxm-80g+1xh100-sxm"
    (row,) = sweep(grid(MODEL, [text], WORK))
    plan = oa.plan_mixed(MODEL, oa.load_cluster(text), WORK).plan
    assert (row.status, row.step_time_s, row.devices) == ("optimal", plan.step_time_s, 2)
    assert (row.tp, row.schedule) == (None, None)
    assert row.price_usd_per_step == plan.price_usd_per_step
    (cheap,) = sweep(grid(MODEL, [text], WORK, objective="price"))
    assert "planned for the step time" in cheap.reason


def test_processes_give_the_same_rows() -> None:
    """Two at a time or one after another: equal but for the CPU time."""

    def plain(rows: tuple[Row, ...]) -> list[Row]:
        return [msgspec.structs.replace(row, cpu_s=0.0) for row in rows]

    assert plain(sweep(cells(), jobs=2)) == plain(sweep(cells()))


def test_a_process_that_ends_costs_its_own_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that dies at batch 8 is started again for the others."""
    script = (
        "import sys\n"
        "for line in sys.stdin:\n"
        "    if '\"global_batch\":8' in line: sys.exit(7)\n"
        "    from optalloc.plan.cell import *\n"
        "    row = solve_cell(msgspec.json.decode(line, type=Cell))\n"
        "    print(msgspec.json.encode(row).decode(), flush=True)\n"
    )
    monkeypatch.setattr(sweeping, "_WORKER", (sys.executable, "-c", script))
    rows = sweep(cells()[:4], jobs=2)
    assert [row.status for row in rows] == ["error", "optimal", "error", "optimal"]
    assert "ended with status 7" in rows[0].reason


def test_rows_that_are_done_are_not_solved_again() -> None:
    """But errors are; a cell that asks for something else has another digest."""
    rows = sweep(cells())
    seen: list[Row] = []
    assert sweep(cells(), done=rows, on_row=seen.append) == rows
    assert [row.device for row in seen] == ["a999"] * 4
    moved = grid(MODEL, ["a100-sxm-80g"], WORK, devices=[1], pin=["zero_stage=3"])
    assert moved[0].digest not in {row.digest for row in rows}


def test_infeasible_and_stopped_cells_say_so() -> None:
    """405 billion parameters on one device; no time at all."""
    large = oa.load_model("llama-3.1-405b")
    (bad,) = sweep(grid(large, ["1xh100-sxm"], WORK))
    assert bad.status == "infeasible"
    assert bad.reason
    (late,) = sweep(grid(large, ["512xh100-sxm"], WORK, time_limit_s=0.0))
    assert late.status in ("limit", "optimal")
    assert late.status == "optimal" or late.reason


def row(number: int, **fields: float | int | None) -> Row:
    """A row of a given price and step."""
    bare = solve_cell(msgspec.structs.replace(cells()[4], devices=number))
    return msgspec.structs.replace(bare, digest=str(number), **fields)


def test_the_front_is_what_nothing_beats() -> None:
    """By hand: (1, 9), (2, 5), (2, 6), (3, 5), (4, 4); equal points are both on it."""
    steps = [(1.0, 9.0), (2.0, 5.0), (2.0, 6.0), (3.0, 5.0), (4.0, 4.0), (1.0, 9.0), (5.0, None)]
    rows = [row(k, price_usd_per_step=usd, step_time_s=step) for k, (usd, step) in enumerate(steps)]
    assert [r.front for r in marked(rows)] == [True, True, False, False, True, True, False]


def test_different_workloads_compare_by_tokens() -> None:
    """The fewer tokens of a shorter step are not an advantage."""
    one = row(1, tokens_per_s=10.0, usd_per_trillion_tokens=3.0)
    two = msgspec.structs.replace(
        row(2, tokens_per_s=20.0, usd_per_trillion_tokens=2.0), global_batch=64
    )
    assert axes([one, two]).speed == "tokens_per_s"
    assert axes([one]).speed == "step_time_s"
    assert [r.front for r in marked([one, two])] == [False, True]


def test_a_cluster_is_resized_by_nodes() -> None:
    """Two nodes of four, half a node, and what does not fill nodes."""
    base = oa.load_cluster("16xh100-sxm")
    assert sized(base, 32).num_devices == 32
    assert sized(base, 32).nodes[0].count == 4
    assert sized(base, 4).nodes[0].devices == 4
    assert sized(base, 4).nodes[0].domain == 4
    with pytest.raises(InputError, match="12 devices do not fill nodes of 8"):
        sized(base, 12)
    with pytest.raises(InputError, match="mixed"):
        sized(oa.load_cluster("8xh100-sxm+8xa100-sxm-80g"), 8)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"objective": "devices"}, "does not know the objective"),
        ({"pin": ["tq=8"]}, "names no decision"),
        ({"global_batches": [0]}, "global_batch is 0"),
    ],
)
def test_a_grid_without_sense_is_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        grid(MODEL, ["1xh100-sxm"], WORK, **changes)  # type: ignore[arg-type]


def test_no_jobs_are_refused() -> None:
    with pytest.raises(InputError, match="0 jobs"):
        sweep(cells(), jobs=0)

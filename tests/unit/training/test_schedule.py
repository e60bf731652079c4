"""schedule.py: the event simulation of a schedule, by hand and against the closed forms."""

from __future__ import annotations

import pytest

from optalloc.errors import InputError
from optalloc.training.schedule import Operation, PipelineRun, run_pipeline, stage_order
from optalloc.training.strategy import Schedule


def _equal(schedule: Schedule, p: int, v: int, m: int, f: float, b: float, w: float) -> PipelineRun:
    """A run of equal chunks without links."""
    n = p * v
    return run_pipeline(schedule, p, v, m, [f] * n, [b] * n, [w] * n, [0.0] * (n - 1))


def _short(operations: tuple[Operation, ...]) -> str:
    """``F0@0 B0@3``: pass, micro-batch and start."""
    return " ".join(f"{o.kind[0].upper()}{o.micro_batch}@{o.start_s:g}" for o in operations)


def test_two_stages_of_1f1b_by_hand() -> None:
    """F = 1, B = 2, link 0.5, two micro-batches.

    Stage 0 runs F0 0-1, F1 1-2. Stage 1 gets F0 at 1.5 and runs F0 1.5-2.5, B0 2.5-4.5, F1 4.5-5.5,
    B1 5.5-7.5. Stage 0 gets B0 at 5 and runs it 5-7, gets B1 at 8 and runs it 8-10.
    """
    run = run_pipeline("1f1b", 2, 1, 2, [1, 1], [1, 1], [1, 1], [0.5])
    assert _short(run.operations[0]) == "F0@0 F1@1 B0@5 B1@8"
    assert _short(run.operations[1]) == "F0@1.5 B0@2.5 F1@4.5 B1@5.5"
    assert run.stage_end_s == (10.0, 7.5)
    assert run.end_s == 10.0
    assert run.busy_s(0) == 6.0
    sent = [(t.kind, t.from_stage, t.micro_batch, t.start_s, t.end_s) for t in run.transfers]
    assert sorted(sent) == [
        ("backward", 1, 0, 4.5, 5.0),
        ("backward", 1, 1, 7.5, 8.0),
        ("forward", 0, 0, 1.0, 1.5),
        ("forward", 0, 1, 2.0, 2.5),
    ]


def test_two_stages_of_zb_h1_by_hand() -> None:
    """F = B = W = 1, no links, three micro-batches; the last stage starts weight gradients one
    late.

    Stage 1: F0 1, B0 2, F1 3, B1 4, W0 5, F2 6, B2 7, W1 8, W2 9. Stage 0: F0 0, F1 1, B0 at 3, W0
    4, F2 5 (its third forward), B1 6 (ready since 5), W1 7, B2 8, W2 9.
    """
    run = _equal("zb-h1", 2, 1, 3, 1.0, 1.0, 1.0)
    assert _short(run.operations[0]) == "F0@0 F1@1 B0@3 W0@4 F2@5 B1@6 W1@7 B2@8 W2@9"
    assert _short(run.operations[1]) == "F0@1 B0@2 F1@3 B1@4 W0@5 F2@6 B2@7 W1@8 W2@9"
    assert run.end_s == 10.0


def test_interleaved_stage_passes_groups_chunk_by_chunk() -> None:
    """Stage 1 of 2, two chunks, two micro-batches: 2 * 0 + 1 * 2 = 2 forwards of warm-up."""
    order = stage_order("interleaved", 2, 2, 2, 1)
    assert [f"{kind[0]}{chunk}.{micro}" for kind, chunk, micro in order] == (
        ["f1.0", "f1.1", "f3.0", "b3.0", "f3.1", "b3.1", "b1.0", "b1.1"]
    )


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b"])
@pytest.mark.parametrize(("p", "m"), [(1, 4), (2, 2), (4, 8), (8, 24)])
def test_equal_stages_take_the_closed_form(schedule: Schedule, p: int, m: int) -> None:
    """(m + p - 1)(F + B) with F = 1 and B = 0.75 + 1.25; exact, being sums of quarters."""
    run = _equal(schedule, p, 1, m, 1.0, 0.75, 1.25)
    assert run.end_s == (m + p - 1) * 3.0
    assert run.busy_s(p - 1) == m * 3.0


@pytest.mark.parametrize(("p", "v", "m"), [(2, 2, 2), (2, 3, 4), (4, 2, 8), (4, 4, 32), (8, 3, 16)])
def test_equal_interleaved_chunks_take_the_closed_form(p: int, v: int, m: int) -> None:
    """(m + (p - 1) / v) tau, where tau = 3 v is the time of all chunks of a stage."""
    run = _equal("interleaved", p, v, m, 1.0, 0.75, 1.25)
    assert run.end_s == (m + (p - 1) / v) * 3.0 * v


@pytest.mark.parametrize(("p", "m"), [(2, 2), (2, 8), (4, 8), (8, 16)])
def test_equal_stages_of_zb_h1_idle_as_published(p: int, m: int) -> None:
    """m tau + (p - 1)(F + B - W) with F = B = W = 1 (Qi et al. 2024, table 2)."""
    assert _equal("zb-h1", p, 1, m, 1.0, 1.0, 1.0).end_s == m * 3.0 + (p - 1)


def test_slow_first_stage_hides_later_ones() -> None:
    """Four stages, 16 micro-batches, stage 0 twice as slow: 33 stage times, not the closed form's
    35.
    """
    third = [2 / 3, 1 / 3, 1 / 3, 1 / 3]
    run = run_pipeline("1f1b", 4, 1, 16, third, third, third, [0.0] * 3)
    assert run.end_s == pytest.approx(33.0, abs=1e-9)


def test_a_pipeline_of_one_stage_has_no_transfers() -> None:
    """And is busy from start to end."""
    run = _equal("1f1b", 1, 1, 3, 1.0, 1.0, 1.0)
    assert (run.transfers, run.end_s, run.busy_s(0)) == ((), 9.0, 9.0)


@pytest.mark.parametrize(
    ("schedule", "p", "v", "m", "words"),
    [
        ("1f1b", 2, 2, 4, "chunks a stage"),
        ("interleaved", 4, 2, 6, "no multiple of 4 stages"),
        ("1f1b", 0, 1, 4, "num_stages is 0"),
        ("dualpipe", 2, 1, 4, "unknown schedule"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(
    schedule: Schedule, p: int, v: int, m: int, words: str
) -> None:
    """With the argument's name and what to do."""
    with pytest.raises(InputError, match=words):
        _equal(schedule, p, v, m, 1.0, 1.0, 1.0)


def test_missing_times_are_refused() -> None:
    """Two stages need two forward times."""
    with pytest.raises(InputError, match="forward_s is not 2 finite times"):
        run_pipeline("1f1b", 2, 1, 2, [1.0], [1.0, 1.0], [1.0, 1.0], [0.0])

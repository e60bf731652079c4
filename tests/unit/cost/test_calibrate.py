"""calibrate.py and stack.py: fits of rows that the model itself made, and what they leave alone."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from optalloc.cost.calibrate import Fit, Rows, calibrate, cells, fold_of
from optalloc.cost.constants import (
    Cell,
    ConstantsFile,
    expected_error,
    linked,
    read_constants,
    resolved,
    to_toml,
)
from optalloc.cost.measured.cells import Row
from optalloc.cost.measured.problem import Problem, problem_of
from optalloc.cost.predict import predict, problem_keys
from optalloc.errors import InputError

FILE = msgspec.structs.replace(read_constants(), shifts={}, errors=())
ROW: Row = {
    "row_id": "1",
    "source": "made",
    "framework": "Megatron-LM",
    "model": "toy",
    "arch": "dense",
    "layers": "8",
    "hidden": "2048",
    "ffn": "8192",
    "heads": "16",
    "vocab": "50257",
    "gated_mlp": "0",
    "gpu": "A100-80GB",
    "gpus_per_node": "8",
    "n_gpus": "8",
    "precision": "FP16",
    "seq_len": "1024",
    "recompute": "full",
    "zero_stage": "0",
    "schedule": "1f1b",
}


def _problems(file: ConstantsFile, spoiled: float = 1.0) -> list[Problem]:
    """Rows of several shapes on two devices, with the step times that ``file`` predicts."""
    found = []
    for k, (tp, pp, gpu, precision) in enumerate(
        (tp, pp, gpu, precision)
        for tp, pp in ((1, 1), (2, 1), (4, 2), (8, 1))
        for gpu, precision in (("A100-80GB", "FP16"), ("H100", "BF16"))
    ):
        for batch in (8, 32, 128):
            changes = {
                "row_id": f"{k}-{batch}",
                "source": gpu,
                "group": str(k),
                "tp": str(tp),
                "pp": str(pp),
                "gpu": gpu,
                "precision": precision,
                "gbs": str(batch),
                "mbs": "1",
            }
            row = ROW | changes
            time_s = predict(problem_of(row), file).step_time_s
            if k == 0 and batch == 8:
                time_s *= spoiled
            found.append(problem_of(row | {"step_time_s": repr(time_s)}))
    return found


def _with(name: str, value: float) -> ConstantsFile:
    constant = msgspec.structs.replace(FILE.constants[name], value=value)
    return msgspec.structs.replace(FILE, constants=FILE.constants | {name: constant})


def test_a_stack_predicts_what_each_row_does_alone() -> None:
    """Arrays of all rows and numbers of one go through the same formulas: equal to the last bit."""
    rows = Rows(_problems(FILE), FILE)
    fit = Fit(rows, FILE)
    z = fit.prior.copy()
    again = fit.file_of(z)
    alone = [predict(problem, again).step_time_s for problem in rows.problems]
    assert np.exp(fit.log_times(z)) == pytest.approx(alone, rel=1e-12)


def test_a_fit_finds_the_constant_that_made_the_rows() -> None:
    """Rows of a host that takes twice as long as its prior says: predicted within a percent."""
    prior = FILE.constants["layer_host_s"].prior
    assert prior is not None
    free = msgspec.structs.replace(FILE.constants["layer_host_s"], spread=0.7)
    file = msgspec.structs.replace(FILE, constants=FILE.constants | {"layer_host_s": free})
    rows = Rows(_problems(_with("layer_host_s", 2.0 * prior)), file)
    fit = Fit(rows, file)
    before = np.abs(fit.log_times(fit.prior) - rows.log_s).mean()
    z = fit.solve(np.arange(len(rows)), rounds=4)
    after = np.abs(fit.log_times(z) - rows.log_s).mean()
    assert before > 0.1
    assert after < 0.02
    assert fit.file_of(z).constants["layer_host_s"].value > 1.3 * prior


def test_one_mislabelled_row_moves_nothing() -> None:
    """A step a hundred times too long is beyond what a fit believes."""
    rows = Rows(_problems(FILE, spoiled=100.0), FILE)
    fit = Fit(rows, FILE)
    z = fit.solve(np.arange(len(rows)), rounds=2)
    errors = np.abs(fit.log_times(z) - rows.log_s)
    assert np.median(errors) < 0.02


def test_what_no_row_concerns_stays_at_its_prior() -> None:
    """Fitted on one device, the shifts of the other do not move."""
    rows = Rows(_problems(_with("gemm_efficiency", 0.5)), FILE)
    fit = Fit(rows, FILE)
    own = np.array([p.row["gpu"] == "H100" for p in rows.problems])
    file = fit.file_of(fit.solve(np.flatnonzero(own), rounds=2))
    assert "a100-sxm-80g" not in file.shifts.get("gpu", {})


def test_a_set_constant_is_not_fitted() -> None:
    """What a document gives holds for every row of its key."""
    fixed = {"framework": {"megatron-lm": {"layer_host_s": 1e-3}}}
    file = msgspec.structs.replace(FILE, set=fixed)
    fit = Fit(Rows(_problems(FILE), file), file)
    masks = fit.masks[[name == "layer_host_s" for _, _, name in fit.parameters]]
    lm = np.array([keys["framework"] == "megatron-lm" for keys in fit.rows.keys])
    assert not masks[:, lm].any()
    assert masks[:, ~lm].any()
    keys = problem_keys(fit.rows.problems[int(np.flatnonzero(lm)[0])])
    assert resolved(file, keys).layer_host_s == 1e-3


def test_a_fit_that_is_not_judged_keeps_the_errors_of_its_start() -> None:
    """No folds: rows that the start explains leave its constants, and the cells stay."""
    cell = Cell(rows=20, bias=0.0, error_90=0.3)
    start = msgspec.structs.replace(FILE, errors=(cell,))
    fit = Fit(Rows(_problems(FILE), start), start)
    assert np.allclose(fit.given(), _values(fit))
    found = calibrate(2 * _problems(FILE), start, name="mine", date="", folds=0)
    assert found.file.errors == (cell,)
    assert (found.folds, found.sources) == (None, None)
    assert np.abs(found.fitted).max() < 0.03


def test_eight_rows_of_a_slower_machine_are_enough() -> None:
    """All took a fifth more, which they tell; seven are refused."""
    slow = [
        problem_of(p.row | {"step_time_s": repr(1.2 * (p.measured_s or 0.0))})
        for p in _problems(FILE)[:8]
    ]
    found = calibrate(slow, FILE, name="mine", date="", folds=0).fitted
    assert np.abs(found).mean() < 0.01
    with pytest.raises(InputError, match="7 rows have a step time, a fit needs 8"):
        calibrate(slow[:7], FILE, name="mine", date="", folds=0)


def test_groups_are_never_divided() -> None:
    """Each of eight groups lies in one of three folds."""
    problems = _problems(FILE)
    parts = fold_of(problems, 3)
    for group in {p.row["group"] for p in problems}:
        own = {int(k) for k, p in zip(parts, problems, strict=True) if p.row["group"] == group}
        assert len(own) == 1
    assert set(parts.tolist()) == {0, 1, 2}


def test_what_was_not_measured_together_is_stated_wider() -> None:
    """Ten rows of a kind: their own 5 %. Device and framework apart: the wider, 8 %. A device or a
    framework without rows: sources left out, 30 %."""

    def keys(gpu: str, framework: str, precision: str = "p") -> dict[str, str]:
        return {"gpu": gpu, "framework": framework, "precision": precision, "release": ""}

    rows = [keys("a", "f")] * 10 + [keys("b", "g")] * 10
    errors = cells(rows, [0.05] * 10 + [0.08] * 10, [0.3] * 20, ["s"] * 20)
    file = msgspec.structs.replace(FILE, errors=errors)
    asked = [keys("a", "f"), keys("a", "g"), keys("a", "f", "q"), keys("c", "f"), keys("a", "h")]
    found = [expected_error(file, each) for each in asked]
    assert [cell and cell.error_90 for cell in found] == [0.05, 0.08, 0.05, 0.3, 0.3]


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Constants, shifts, set values and cells survive the round trip."""
    file = read_constants()
    path = tmp_path / "fitted.toml"
    path.write_text(to_toml(file, 'A "quoted" heading\nof two lines'), encoding="utf-8")
    assert read_constants(str(path)) == file


def test_a_file_without_a_constant_is_refused(tmp_path: Path) -> None:
    """The missing name is said."""
    less = {name: c for name, c in FILE.constants.items() if name != "launch_s"}
    path = tmp_path / "fitted.toml"
    path.write_text(to_toml(msgspec.structs.replace(FILE, constants=less), "x"), encoding="utf-8")
    with pytest.raises(InputError, match="launch_s"):
        read_constants(str(path))


def test_a_pipeline_of_mixed_devices_is_fitted_as_it_is_predicted() -> None:
    """One entry a stage; a row of its own and among others."""
    notes = "stage gpu types ['A100-40GB', 'A100-80GB']; layers/stage [4, 4]"
    mixed = ROW | {"gpu": "A100-40GB+A100-80GB", "tp": "4", "pp": "2", "gbs": "16", "mbs": "2"}
    mixed |= {"notes": notes, "step_time_s": "1.0"}
    plain = ROW | {"row_id": "2", "tp": "4", "pp": "2", "gbs": "16", "mbs": "2", "step_time_s": "1"}
    problems = [problem_of(row) for row in (plain, mixed, plain)]
    assert [len(problem.clusters) for problem in problems] == [1, 2, 1]
    fit = Fit(Rows(problems, FILE), FILE)
    found = np.exp(fit.log_times(_values(fit)))
    wanted = [predict(problem, FILE).step_time_s for problem in problems]
    assert found == pytest.approx(wanted, rel=1e-6)


def _values(fit: Fit) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """The parameters that the constants' values are."""
    constants = fit.file.constants
    return np.array(
        [
            0.0 if level else linked(constants[name].value, constants[name].link)
            for level, _, name in fit.parameters
        ]
    )

"""engine/rows.py, fit.py and calibrate.py: constants from rows that the model itself made."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from optalloc.cluster import catalog
from optalloc.cost.constants import to_toml
from optalloc.cost.engine.calibrate import calibrate_serving, error_cells, setup_folds
from optalloc.cost.engine.constants import (
    EngineFile,
    expected_errors,
    read_engine_constants,
    resolved,
)
from optalloc.cost.engine.fit import Fit
from optalloc.cost.engine.measured import ServingProblem, Worker
from optalloc.cost.engine.predict import predict_serving
from optalloc.cost.engine.rows import Rows, problem_keys
from optalloc.cost.engine.setup import Engine
from optalloc.errors import InputError
from optalloc.model.load import load_model

MODELS = ("llama-3.1-8b", "qwen3-32b", "llama-3.1-70b")


@pytest.fixture(scope="module")
def file() -> EngineFile:
    """The shipped priors, without any shift, two constants and one level free."""
    shipped = read_engine_constants()
    free = ("memory_efficiency", "step_s", "decode")
    constants = {
        name: msgspec.structs.replace(
            c,
            value=c.prior or c.value,
            prior=c.prior if name in free else None,
            link=c.link if name in free else "log",
            spread=c.spread if name in free else 0.0,
        )
        for name, c in shipped.constants.items()
    }
    return msgspec.structs.replace(
        shipped, constants=constants, spreads={"model": {"decode": 0.3}}, shifts={}, errors=()
    )


def _problems(file: EngineFile) -> list[ServingProblem]:
    """What the model says of three models, three widths and four loads."""
    made = []
    for name in MODELS:
        for tp in (2, 4, 8):
            for load in (1, 8, 32, 64):
                problem = ServingProblem(
                    row_id=f"{name}-{tp}-{load}",
                    scenario="closed",
                    model=load_model(name),
                    device=catalog.device("h100-sxm"),
                    workers=(Worker(engine=Engine(tp=tp, weight_dtype="fp8")),),
                    input_len=1024.0,
                    output_len=256.0,
                    concurrency=float(load),
                    setup=f"{name}-{tp}",
                    campaign="test",
                )
                found = predict_serving(problem, file)
                made.append(
                    msgspec.structs.replace(
                        problem, measured_ttft_s=found.ttft_s, measured_tpot_s=found.tpot_s
                    )
                )
    return made


def _moved(file: EngineFile) -> EngineFile:
    """Another hidden truth: slower memory, a slower host, one model slower than the others."""
    changed = {"memory_efficiency": 0.6, "step_s": 0.003}
    constants = {
        name: msgspec.structs.replace(c, value=changed.get(name, c.value))
        for name, c in file.constants.items()
    }
    shifts = {"model": {"qwen3-32b": {"decode": 0.2}}}
    return msgspec.structs.replace(file, constants=constants, shifts=shifts)


def test_arrays_predict_what_single_rows_do(file: EngineFile) -> None:
    """One formula for the fit and for the planner."""
    problems = _problems(file)
    rows = Rows(problems, file)
    constants = {name: np.full(len(rows), c.value) for name, c in file.constants.items()}
    assert np.allclose(rows.predict(constants)[:, :2], rows.log_measured[:, :2], atol=1e-9)


def test_a_fit_finds_the_constants_behind_the_rows(file: EngineFile) -> None:
    """From the priors to within 3 % of every figure, and of the shift of one model."""
    rows = Rows(_problems(_moved(file)), file)
    fit = Fit(rows, file)
    z = fit.solve(np.arange(len(rows)), rounds=20)
    found = fit.file_of(z)
    error = fit.predict(z) - rows.log_measured
    assert np.nanmax(np.abs(error[:, 1])) < 0.03
    shifts = {key: moved.get("decode", 0.0) for key, moved in found.shifts["model"].items()}
    others = (shifts.get("llama-3.1-8b", 0.0) + shifts.get("llama-3.1-70b", 0.0)) / 2
    assert shifts["qwen3-32b"] - others == pytest.approx(0.2, abs=0.08)


def test_a_key_without_rows_keeps_the_common_constants(file: EngineFile) -> None:
    """A shift of one model moves no other."""
    moved = _moved(file)
    assert resolved(moved, {"model": "qwen3-32b"}).decode == pytest.approx(np.exp(0.2))
    assert resolved(moved, {"model": "glm-5"}).decode == pytest.approx(1.0)


def test_a_calibration_leaves_setups_and_devices_out_and_writes_a_file(
    file: EngineFile, tmp_path: object
) -> None:
    """The file reads back as it was; without other devices nothing is known of an unseen one."""
    problems = _problems(_moved(file))
    found = calibrate_serving(problems, file, name="mine", date="2026-11-27", folds=3)
    assert found.folds is not None
    assert float(np.nanmedian(np.abs(found.folds[:, 1]))) < 0.1
    assert found.file.errors[-1].level == ""
    path = f"{tmp_path}/mine.toml"
    with open(path, "w", encoding="utf-8") as out:
        out.write(to_toml(found.file, "a heading"))
    assert read_engine_constants(path) == found.file


def test_rows_of_one_setup_share_a_fold(file: EngineFile) -> None:
    """Load points of one configuration never stand on both sides."""
    problems = _problems(file)
    parts = setup_folds(problems, 3)
    for setup in {p.setup for p in problems}:
        assert len({int(k) for k, p in zip(parts, problems, strict=True) if p.setup == setup}) == 1
    assert set(parts.tolist()) == {0, 1, 2}


def test_errors_of_a_cell_are_those_of_its_rows(file: EngineFile) -> None:
    """36 rows on one device, all 10 % too slow: 10 % in its cell; 50 % where the device is left
    out, which stands for any other; at least 20 % for a model that was left out."""
    problems = _problems(file)
    rows = Rows(problems, file)
    none = rows.log_measured * 0
    cells = error_cells(rows, none + np.log(1.1), none + np.log(1.5), none + np.log(1.2))
    seen = {"model": {p.model.name: {"decode": 0.1} for p in problems}}
    fitted = msgspec.structs.replace(file, errors=cells, shifts=seen)
    keys = problem_keys(problems[0], file)
    near = expected_errors(fitted, keys)
    assert (near.level, near.tpot, near.ttft) == ("software, device", 0.1, 0.1)
    assert near.throughput == pytest.approx(1 - 1 / 1.1, abs=1e-3)
    far = expected_errors(fitted, keys | {"software, device": "vllm, b200", "device": "b200"})
    assert (far.level, far.tpot) == ("", 0.5)
    new = expected_errors(fitted, keys | {"model": "gpt-5"})
    assert (new.level, new.tpot) == ("software, device", 0.2)


def test_a_plan_knows_no_series_of_measurements(file: EngineFile) -> None:
    """Shifts of a release or a campaign are none for an ordinary client, those of a model stay."""
    spreads = {"model": {"decode": 0.3}, "software, campaign": {"step_s": 0.3}}
    free = msgspec.structs.replace(file, spreads=spreads)
    fit = Fit(Rows(_problems(file), free), free)
    ordinary = fit.ordinary(np.full(len(fit.parameters), 0.5))
    levels = [level for level, _, _ in fit.parameters]
    assert {level for level, z in zip(levels, ordinary, strict=True) if z == 0.0} == {
        "software, campaign"
    }


def test_no_fit_is_made_to_a_row_that_was_taken_for_another(file: EngineFile) -> None:
    """The row and what was not known of it."""
    first, *rest = _problems(file)
    guessed = msgspec.structs.replace(first, row_id="r7", remarks=("device x taken as h100",))
    with pytest.raises(InputError, match="device x taken as h100") as caught:
        calibrate_serving([guessed, *rest], file, name="mine", date="2026-11-27")
    assert caught.value.path == "r7"


def test_fewer_rows_than_constants_are_refused(file: EngineFile) -> None:
    """Two rows for three constants."""
    with pytest.raises(InputError, match="2 rows for 3 constants"):
        calibrate_serving(_problems(file)[:2], file, name="mine", date="2026-11-27")

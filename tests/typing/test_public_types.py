"""What a type checker infers from users' code: mypy checks this file, pytest runs it."""

from __future__ import annotations

from typing import assert_type

import optalloc as oa


def test_loaders_return_values_of_their_types() -> None:
    """A misspelt field of a loaded value is found before the program runs."""
    assert_type(oa.load_cluster("8xh100-sxm"), oa.Cluster)
    assert_type(oa.load_model("llama-3.1-70b"), oa.ModelSpec)
    assert_type(oa.total_parameters(oa.load_model("gpt2")), int)
    assert_type(oa.load_cluster("8xh100-sxm").num_devices, int)


def test_stop_rules_compose() -> None:
    """Every rule is accepted where one is."""
    either = oa.Either(oa.TimeLimit(1.0), oa.NodeLimit(10), oa.Gap(0.1))
    assert_type(either(oa.Progress(elapsed_s=2.0)), bool)


def test_results_are_plain_data() -> None:
    """Termination is an enum, the gap a float, an unknown bound None."""
    result = oa.Result(
        termination=oa.Termination.LIMIT, bounds=oa.Bounds(primal=2.0), stats=oa.Stats()
    )
    assert_type(result.termination, oa.Termination)
    assert_type(result.bounds.gap, float)
    assert_type(result.bounds.dual, float | None)


def test_errors_carry_their_parts() -> None:
    """A program can read where and why."""
    error = oa.InputError("wrong", path="cluster.toml", pointer="$.nodes", fix="mend it")
    assert_type(error.pointer, str)
    assert_type(oa.ExportError("megatron", "zb-h1", stage=2).stage, int | None)


def test_what_is_said_about_plans_is_typed() -> None:
    """Parts, figures and rows are values with fields, not dictionaries."""
    work = oa.Training(global_batch=4, sequence_length=128)
    model = oa.load_model("gpt2")
    plan = oa.estimate(model, oa.load_cluster("1xh100-sxm"), work)
    explanation = oa.explain(plan)
    assert_type(explanation.parts[0].hidden_s, float | None)
    assert_type(explanation.figures.mfu_square, float)
    assert_type(oa.compare(plan, plan).parts[0].difference_s, float)
    (row,) = oa.sweep(oa.grid(model, ["1xh100-sxm"], work))
    assert_type(row.step_time_s, float | None)

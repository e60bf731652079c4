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

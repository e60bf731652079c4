"""Many rows of few setups: the native kernel against the formulas of the step model."""

from __future__ import annotations

import numpy as np
import pytest

import optalloc as oa
from optalloc.cost.engine.constants import DEFAULT
from optalloc.cost.engine.step import StepModel
from optalloc.serving.configuration.limits import parse_limits
from optalloc.serving.configuration.table import engine_table


@pytest.mark.parametrize("model", ["llama-3.1-8b", "gpt-oss-120b", "deepseek-v3", "gemma-2-9b"])
def test_rows_take_the_seconds_of_the_step_model(model: str) -> None:
    """Of prompts alone, sequences alone, both and neither, in few tokens and in very many."""
    limits = parse_limits(["weights=bf16,fp8,nvfp4", "software=vllm,sglang,trtllm"], [])
    cluster = oa.load_cluster("8xb200+8xl40s")
    table = engine_table(oa.load_model(model), cluster, limits, "serve", DEFAULT)
    random = np.random.default_rng(1)
    engine = random.integers(0, len(table), 5000)
    prompt, decoding = (
        np.where(random.random(5000) < 0.2, 0.0, 10.0 ** random.uniform(0.0, most, 5000))
        for most in (5.0, 7.0)
    )
    rows = table.step(engine, np.full(5000, 2048), np.full(5000, 64))
    expected = StepModel.device_s(rows, prompt, decoding)
    np.testing.assert_allclose(rows.device_s(prompt, decoding), expected, rtol=1e-14)


def test_rows_broadcast() -> None:
    """A column of engines beside a row of sequences."""
    cluster = oa.load_cluster("8xh100-sxm")
    table = engine_table(oa.load_model("qwen3-8b"), cluster, parse_limits([], []), "serve", DEFAULT)
    engine = np.arange(len(table))[:, None]
    rows = table.step(engine, np.full(engine.shape, 2048), np.full(engine.shape, 64))
    sequences = np.array([1.0, 7.0, 300.0])
    found = np.asarray(rows.device_s(0.0, sequences))
    assert found.shape == (len(table), 3)
    np.testing.assert_allclose(found, StepModel.device_s(rows, 0.0, sequences), rtol=1e-14)
    assert np.all(np.diff(found, axis=1) > 0.0)

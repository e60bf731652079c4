"""Stated errors: each cost model has them, and a scaled cluster is slower where it should be."""

from __future__ import annotations

import importlib.resources

import numpy as np
import pytest
from benchmarks.training_uncertainty import deviations

from optalloc.cluster.load import load_cluster
from optalloc.cost.uncertainty import Uncertainty, scaled, stated_uncertainty
from optalloc.errors import InputError


def test_every_cost_model_states_its_errors() -> None:
    """One file beside each; the engine model has its errors within."""
    folder = importlib.resources.files("optalloc.cost") / "fitted"
    names = [file.name for file in folder.iterdir() if file.name.endswith(".toml")]
    models = [n.removesuffix(".toml") for n in names if n.startswith("roofline-")]
    models = [n for n in models if not n.endswith(".uncertainty")]
    assert models
    for name in models:
        assert 0.0 < stated_uncertainty(name).step_time < 1.0


def test_corners_begin_with_the_slowest() -> None:
    """A side of 1 is a factor of two either way."""
    box = Uncertainty(
        step_time=0.1, compute=1.0, node_link=0.0, network=3.0, source="s", date="2026-11-27"
    )
    corners = list(box.corners())
    assert len(corners) == 8
    assert corners[0] == (0.5, 1.0, 0.25)
    assert corners[-1] == (2.0, 1.0, 4.0)
    with pytest.raises(InputError, match="no share"):
        Uncertainty(
            step_time=-0.1, compute=0.0, node_link=0.0, network=0.0, source="s", date="2026-11-27"
        )


def test_a_scaled_cluster_keeps_its_memory() -> None:
    """Rates change by their factors, all else stays."""
    cluster = load_cluster("16xh100-sxm")
    group, slow = cluster.nodes[0], scaled(cluster, (0.5, 0.25, 2.0)).nodes[0]
    assert slow.device.peak_flops_per_s["bf16"] == 0.5 * group.device.peak_flops_per_s["bf16"]
    assert slow.device.memory_bytes == group.device.memory_bytes
    assert slow.node_link.bandwidth_bytes_per_s == 0.25 * group.node_link.bandwidth_bytes_per_s
    assert slow.network.bandwidth_bytes_per_s == 2.0 * group.network.bandwidth_bytes_per_s
    assert slow.network.latency_s == group.network.latency_s


def test_deviations_are_found_again() -> None:
    """Residuals drawn from three errors of known size; the third is none."""
    random = np.random.default_rng(0)
    slope = random.random((40_000, 3))
    true = np.array([0.1, 0.3, 0.0])
    residual = (slope * random.normal(size=slope.shape) * true).sum(axis=1)
    found = deviations(residual, slope, np.ones(len(slope)))
    assert found[0] == pytest.approx(0.1, abs=0.03)
    assert found[1] == pytest.approx(0.3, rel=0.25)  # the largest tenth counts as its least
    assert found[2] < 0.1

"""Small serving searches for the tests."""

from __future__ import annotations

from typing import Any

import optalloc as oa
from optalloc.serving.configuration.solve import ServingResult

PINS = ("chunk=8192", "batch=1,4,16,64")


def planned(cluster: str = "4xh100-sxm", model: str = "qwen3-8b", **given: Any) -> ServingResult:
    """A small search; ``pin`` is added to the few batches, the rest goes to the workload."""
    goal = given.pop("objective", "throughput")
    pins = (*PINS, *given.pop("pin", ()))
    lengths = {"input_len": 2000, "output_len": 200} | given
    return oa.plan_serving(
        oa.load_model(model),
        oa.load_cluster(cluster),
        oa.Serving(**lengths),
        objective=goal,
        pin=pins,
    )

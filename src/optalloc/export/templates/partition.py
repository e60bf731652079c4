"""A pipeline of DeepSpeed with the plan's own stage boundaries.

DeepSpeed balances layers by count or by weights; this class puts them where the plan does. Use it
with your own list of layers: embedding, every layer, final norm, head.
"""

from __future__ import annotations

from typing import Any

from deepspeed.runtime.pipe import module as pipe_module
from deepspeed.runtime.pipe.module import PipelineModule


class PlannedPipeline(PipelineModule):
    """``boundaries`` has one entry more than stages: first 0, last the number of layers."""

    def __init__(self, layers: list[Any], *, boundaries: list[int], **settings: Any) -> None:
        if boundaries[0] != 0 or boundaries[-1] != len(layers):
            raise ValueError(f"{boundaries} does not cover {len(layers)} layers")
        self.boundaries = list(boundaries)
        num_stages = len(boundaries) - 1
        super().__init__(layers, num_stages=num_stages, partition_method="uniform", **settings)

    def _planned(self, num_items: int, num_parts: int) -> list[int]:
        assert (num_items, num_parts) == (self.boundaries[-1], len(self.boundaries) - 1)
        return self.boundaries

    def _partition_layers(self, method: str = "uniform") -> None:
        balanced = pipe_module.ds_utils.partition_uniform
        pipe_module.ds_utils.partition_uniform = self._planned
        try:
            super()._partition_layers(method=method)
        finally:
            pipe_module.ds_utils.partition_uniform = balanced

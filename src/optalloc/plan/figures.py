"""Figures: utilisation in the conventions in use, and what training on tokens costs."""

from __future__ import annotations

import msgspec
import numpy as np

from optalloc.cluster.device import DeviceSpec
from optalloc.cost.compute import peak_flops_per_s
from optalloc.cost.flops import Convention, forward_flops
from optalloc.cost.model import CostModel
from optalloc.training.mixed.plan import MixedStage
from optalloc.training.plan import StagePlan, TrainingPlan

_TRILLION = 1e12
_CONVENTIONS: tuple[Convention, Convention] = ("causal", "square")
# Kinds of memory in the order in which they are shown; a saved plan has them sorted.
_KINDS = ("weights", "gradients", "optimizer", "activations", "logits", "buffers")


class Quoted(msgspec.Struct, frozen=True, kw_only=True):
    """A figure of the catalogue with its source; both texts are empty where none is known."""

    value: float
    source: str
    date: str


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What a plan reaches, and what it costs.

    ``mfu_causal`` counts the half of the scores that causal attention computes, ``mfu_square`` the
    full square that many frameworks print; ``hfu_causal`` adds what is recomputed to the first.
    Money and energy are those of the devices the plan uses: list price a device and hour, and power
    at ``power_share`` of the rating. None: the catalogue has no public price.
    """

    mfu_causal: float
    mfu_square: float
    hfu_causal: float
    tokens_per_s: float
    tokens_per_s_per_device: float
    usd_per_trillion_tokens: float | None
    energy_j_per_trillion_tokens: float
    device_price_usd_per_h: Quoted | None
    device_power_w: Quoted
    power_share: float


def figures(cost: CostModel, plan: TrainingPlan) -> Figures:
    """The figures of a plan whose step time is true.

    Complexity: O(number of layers).
    """
    peak = peak_flops_per_s(cost.device, cost.workload.dtype)
    able = plan.step_time_s * plan.num_devices * peak
    causal = cost.model_flops_per_step
    halved, whole = (
        float(cost.type_counts @ forward_flops(cost.graph, cost.workload, convention)[0])
        for convention in _CONVENTIONS
    )
    tokens = plan.tokens_per_s * plan.step_time_s
    usd = plan.price_usd_per_step
    price = cost.device.price_usd_per_h
    return Figures(
        mfu_causal=causal / able,
        mfu_square=causal / able * whole / halved,
        hfu_causal=(causal + _recomputed_flops(cost, plan)) / able,
        tokens_per_s=plan.tokens_per_s,
        tokens_per_s_per_device=plan.tokens_per_s / plan.num_devices,
        usd_per_trillion_tokens=None if usd is None else usd / tokens * _TRILLION,
        energy_j_per_trillion_tokens=plan.energy_j_per_step / tokens * _TRILLION,
        device_price_usd_per_h=(
            None if price is None else _quoted(cost.device, "price_usd_per_h", price)
        ),
        device_power_w=_quoted(cost.device, "power_w", cost.device.power_w),
        power_share=cost.constants.power_share,
    )


def _recomputed_flops(cost: CostModel, plan: TrainingPlan) -> float:
    """Forward FLOPs that one step does twice, on all devices."""
    whole, core = forward_flops(cost.graph, cost.workload)
    total = 0.0
    for stage in plan.stages:
        rule = stage.recompute
        for chunk in stage.chunks:
            layers = cost.sequence[chunk.first_layer : chunk.first_layer + chunk.num_layers]
            total += float(np.sum(whole[layers[: rule.full]]))
            total += float(np.sum(core[layers[rule.full : rule.full + rule.selective]]))
    return total * cost.workload.global_batch


def _quoted(device: DeviceSpec, name: str, value: float) -> Quoted:
    source = device.sources.get(name)
    if source is None:
        return Quoted(value=value, source="", date="")
    return Quoted(value=value, source=source.title, date=source.date)


def memory_kinds(stage: StagePlan | MixedStage) -> dict[str, int]:
    """Memory of a stage by kind in the usual order, without the total, bytes."""
    sizes = {kind: size for kind, size in stage.memory_bytes.items() if kind != "total"}
    first = {kind: sizes[kind] for kind in _KINDS if kind in sizes}
    return first | sizes

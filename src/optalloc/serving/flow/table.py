"""A placement problem of a model on a cluster: T(k) by a roofline of decoding.

A device that holds ``k`` of ``L`` layers, ``W`` bytes each, has room for the cache of ``A``
requests, ``c`` bytes a token and layer:

    A = (0.9 memory - workspace - k W) / (k c context)

While a request runs through the other layers its cache stays here, so of ``A`` requests the share
``k / L`` is here at once: ``b = A k / L``. One step of ``b`` tokens through ``k`` layers takes

    t = k ( max(2 P b / (e_f peak), touched W / (e_m bandwidth))
            + b c context / (e_m bandwidth) + launches )
    T(k) = b / t                                        (b below 1: that share of one token's rate)

with ``P`` the parameters a token uses, ``touched = 1 - (1 - P / P_all)^b`` (all weights of a dense
layer; of experts, drawn independently, those that some token draws), and the efficiencies of the
cost model; ``t`` is also what a token waits here for its step. Prefill is not part of it, layers of
several types count as their mean, and embedding and head are left out: an estimate for planning, to
be replaced by measured tables where there are.
"""

from __future__ import annotations

import math

from optalloc.cluster.device import DeviceSpec
from optalloc.cluster.topology import Cluster, Link, NodeGroup
from optalloc.cost.compute import peak_flops_per_s
from optalloc.cost.constants import read_constants, values
from optalloc.errors import InputError
from optalloc.model.facts import DTYPE_BITS, facts
from optalloc.model.lower import lower
from optalloc.model.spec import ModelSpec
from optalloc.serving.flow.problem import FlowLink, FlowNode, FlowProblem

_USABLE = 0.9  # of the memory, as serving engines set it
_CACHE_BYTES = 2  # of a number in the cache, and of an activation
_TOKEN_BYTES = 4


class _LayerCost:
    """The mean layer of a model at one context length."""

    def __init__(self, model: ModelSpec, context: int, dtype: str) -> None:
        known = facts(model, sequence_length=context)
        rows = [row for row in known.layer_types if row.kv_cache_bytes_per_token]
        self.num_layers = sum(row.count for row in rows)
        if self.num_layers != known.num_layers or not rows:
            raise InputError(
                f"{model.name} has layers that keep no cache",
                path="model",
                fix="place a decoder-only model",
            )
        mean = 1.0 / self.num_layers
        self.parameters = sum(row.count * row.parameters for row in rows) * mean
        self.active = sum(row.count * row.active_parameters for row in rows) * mean
        self.bytes = self.parameters * DTYPE_BITS[dtype] / 8.0
        cache = sum(row.count * (row.kv_cache_bytes_per_token or 0) for row in rows) * mean
        self.cache_bytes = cache * context
        graph = lower(model)
        counts = {run.layer: run.count for run in graph.sequence}
        self.launches = sum(len(one.ops) * counts.get(one.name, 0) for one in graph.layers) * mean


def flow_problem(
    model: ModelSpec,
    cluster: Cluster,
    *,
    context: int = 1024,
    dtype: str = "bf16",
    partial_inference: bool = False,
) -> FlowProblem:
    """The placement problem of a model on the devices of a cluster.

    Parameters
    ----------
    context : int
        Tokens of a request that are cached, on average over its life.
    dtype : str
        Of weights and matrix multiplications: fp32, bf16, fp8 or fp4.

    Returns
    -------
    FlowProblem
        One node a device, in the order of the cluster; ``T(k)`` is an estimate.

    Raises
    ------
    InputError
        If the model is not decoder-only, or a device cannot compute in ``dtype``.
    """
    if context < 1:
        raise InputError(f"context is {context}", path="context", fix="give at least 1 token")
    if dtype not in DTYPE_BITS:
        raise InputError(
            f"there is no dtype {dtype!r}", path="dtype", fix=f"use one of {', '.join(DTYPE_BITS)}"
        )
    layer = _LayerCost(model, context, dtype)
    places: list[tuple[NodeGroup, int, int]] = []  # group, number of its node, device in the node
    nodes: list[FlowNode] = []
    links: list[FlowLink] = []
    tables = {group.device.name: _table(layer, group.device, dtype) for group in cluster.nodes}
    for group in cluster.nodes:
        for number in range(group.count):
            for device in range(group.devices):
                place = len(nodes)
                places.append((group, number, device))
                nodes.append(
                    FlowNode(
                        type=group.device.name,
                        throughput_tokens_per_s=tables[group.device.name][0],
                        step_s=tables[group.device.name][1],
                    )
                )
                links.append(_link(None, place, group.network))
                links.append(_link(place, None, group.network))
    for a, (left, node_a, place_a) in enumerate(places):
        for b, (right, node_b, place_b) in enumerate(places):
            if a != b:
                same = left is right
                link = _between(cluster, left, right, (node_a, place_a), (node_b, place_b), same)
                links.append(_link(a, b, link))
    return FlowProblem(
        name=f"{model.name} on {cluster.name}",
        num_layers=layer.num_layers,
        token_bytes=_TOKEN_BYTES,
        activation_bytes=_CACHE_BYTES * model.hidden,
        nodes=tuple(nodes),
        links=tuple(links),
        partial_inference=partial_inference,
    )


def _link(a: int | None, b: int | None, link: Link) -> FlowLink:
    return FlowLink(
        begin=a,
        end=b,
        bandwidth_bytes_per_s=link.shared_bandwidth_bytes_per_s,
        latency_s=link.latency_s,
    )


def _between(
    cluster: Cluster,
    left: NodeGroup,
    right: NodeGroup,
    one: tuple[int, int],
    other: tuple[int, int],
    same_group: bool,
) -> Link:
    """The link on which two devices meet."""
    if left.zone != right.zone and cluster.zone_link is not None:
        return cluster.zone_link
    if same_group:
        place = [node * left.devices + device for node, device in (one, other)]
        if place[0] // left.domain == place[1] // left.domain:
            return left.node_link
        if one[0] == other[0] and left.host_link is not None:
            return left.host_link
    ends = (left.network, right.network)
    return min(ends, key=lambda link: link.shared_bandwidth_bytes_per_s)


def _table(
    layer: _LayerCost, device: DeviceSpec, dtype: str
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Tokens/s and seconds of a step, for every number of layers."""
    constants = values(read_constants())
    peak = peak_flops_per_s(device, dtype) * constants.gemm_efficiency
    bandwidth = device.memory_bandwidth_bytes_per_s * constants.memory_efficiency
    table, steps = [], []
    for k in range(1, layer.num_layers + 1):
        room = _USABLE * device.memory_bytes - constants.workspace_bytes - k * layer.bytes
        here = math.floor(max(0.0, room) / (k * layer.cache_bytes)) * k / layer.num_layers
        if here <= 0.0:
            break
        batch = max(1.0, here)
        touched = 1.0 - (1.0 - layer.active / layer.parameters) ** batch
        compute = 2.0 * layer.active * batch / peak
        weights = touched * layer.bytes / bandwidth
        cache = batch * layer.cache_bytes / bandwidth
        launches = layer.launches * constants.launch_s
        steps.append(k * (max(compute, weights) + cache + launches))
        table.append(here / steps[-1])
    return tuple(table), tuple(steps)

"""Work: what one device of an engine holds, computes, reads and sends, before any efficiency.

All figures are sums over the whole depth of the model; a pipeline of ``pp`` stages holds them in
parts. A token is one of the requests of the device's own data-parallel group; experts see the
tokens of all groups.

Per layer and token, with t = tp, r = attention data parallelism, e = moe_ep, s = ways an expert is
cut: projections 2 P / t FLOPs for P parameters, routed experts 2 k p / (e s) of every token of r
groups (p parameters an expert, k visited), attention 2 H (d_qk + d_v) / t a pair of query and key
for H heads. Latent attention keeps ``kv_lora_rank + rope`` values a token whatever t; otherwise a
device keeps ``max(1, kv_heads / t)`` heads.
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache

import msgspec

from optalloc.cluster.device import DeviceSpec
from optalloc.cluster.topology import Link
from optalloc.cost.engine.constants import Value
from optalloc.cost.engine.setup import KV_BYTES, WEIGHT_BYTES, Engine, WeightDtype
from optalloc.model.parameters import (
    embedding_parameters,
    head_parameters,
    layer_parameters,
    vision_parameters,
)
from optalloc.model.spec import Experts, LatentAttention, Layer, LinearAttention, ModelSpec


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes, FLOPs and messages of one device; every field may be an array of one entry a setup.

    ``stage_share`` is the part of the depth in the longest stage. ``routed_bytes`` are those of all
    experts of the device and ``routed_flops`` those of a token of any group, balanced; ``visited``
    is the share of all experts that one token visits. ``fixed_kv_bytes`` and ``window_flops`` are
    of layers with a short window, a sequence and a prompt token each. ``weights_bytes`` are held by
    the stage that holds most. ``reduces`` are all-reduces over ``tp`` devices, ``exchanges``
    gathers and scatters of tokens among the groups, of which a token reaches the share ``reach`` of
    the devices. ``over_network`` is 1 where the devices of a stage talk over the network, else 0.
    """

    layers: Value
    expert_layers: Value
    stage_share: Value
    groups: Value
    dense_bytes: Value
    dense_flops: Value
    routed_bytes: Value
    routed_flops: Value
    visited: Value
    head_bytes: Value
    head_flops: Value
    kv_bytes: Value
    fixed_kv_bytes: Value
    weights_bytes: Value
    pair_flops: Value
    window_flops: Value
    reduces: Value
    exchanges: Value
    reach: Value
    hidden_bytes: Value
    tp: Value
    wide: Value
    pp: Value
    matrix_flops_per_s: Value = 0.0
    expert_flops_per_s: Value = 0.0
    plain_flops_per_s: Value = 0.0
    bandwidth_bytes_per_s: Value = 0.0
    link_bytes_per_s: Value = 0.0
    link_latency_s: Value = 0.0
    over_network: Value = 0.0
    capacity_bytes: Value = 0.0


# Layers whose window is at most this long are charged by the sequence, as if the window were full.
_SHORT = 2048
# Engines send tokens to the devices of their experts alone where those lie on more devices than
# this; over fewer, every device gathers all tokens.
_GATHERED = 8


def engine_work(
    model: ModelSpec, device: DeviceSpec, engine: Engine, link: Link, *, over_network: bool
) -> Work:
    """The work of one device of ``engine``.

    Parameters
    ----------
    link : Link
        The slowest one that devices of one stage talk over.
    over_network : bool
        Whether that is the network among nodes.

    Complexity: O(number of layer types).
    """
    return msgspec.structs.replace(
        _work_of(model, engine),
        matrix_flops_per_s=_peak(device, engine.weight_dtype),
        expert_flops_per_s=_peak(device, engine.expert_dtype or engine.weight_dtype),
        plain_flops_per_s=_peak(device, "bf16"),
        bandwidth_bytes_per_s=device.memory_bandwidth_bytes_per_s,
        link_bytes_per_s=link.shared_bandwidth_bytes_per_s,
        link_latency_s=link.latency_s,
        over_network=float(over_network),
        capacity_bytes=engine.memory_fraction * device.memory_bytes,
    )


@lru_cache(maxsize=4096)
def _work_of(model: ModelSpec, engine: Engine) -> Work:
    """The fields that do not depend on the device; its own are zero."""
    tp, wide = engine.tp, engine.tp * engine.attention_dp
    one_weight = WEIGHT_BYTES[engine.weight_dtype]
    one_expert = WEIGHT_BYTES[engine.expert_dtype or engine.weight_dtype]
    one_value = KV_BYTES[engine.kv_dtype]
    dense = routed = active = kv = fixed = pairs = window = reduces = 0.0
    depth, expert_layers, visited, reach = 0, 0, 0.0, 1.0
    for layer, n in _counted(model):
        depth += n
        p = layer_parameters(layer)
        dense += n * (p.attention + p.feed_forward + p.shared + p.router) / tp
        blocks = 2
        if isinstance(layer.feed_forward, Experts):
            cut = engine.moe_ep * engine.expert_tp
            routed += n * p.routed / cut
            active += n * p.routed_active / cut
            expert_layers += n
            visited = layer.feed_forward.top_k / layer.feed_forward.num_experts
            if engine.moe_ep > _GATHERED:
                reach = min(1.0, layer.feed_forward.top_k / engine.moe_ep)
            blocks = 1 if engine.attention_dp > 1 else 2
        reduces += n * blocks if tp > 1 else 0
        of = _attention(layer, tp, one_value)
        kv, fixed = kv + n * of[0], fixed + n * of[1]
        pairs, window = pairs + n * of[2], window + n * of[3]
    share = -(-depth // engine.pp) / depth
    head = model.vocabulary * model.hidden / tp
    ends = 2.0 * (embedding_parameters(model) + head_parameters(model)) / tp
    end = ends if engine.pp == 1 else ends / 2.0
    return Work(
        layers=float(depth),
        expert_layers=float(expert_layers),
        stage_share=share,
        groups=float(engine.attention_dp),
        dense_bytes=dense * one_weight,
        dense_flops=2.0 * dense,
        routed_bytes=routed * one_expert,
        routed_flops=2.0 * active,
        visited=visited,
        head_bytes=2.0 * head,
        head_flops=2.0 * head,
        kv_bytes=kv,
        fixed_kv_bytes=fixed,
        weights_bytes=(dense * one_weight + routed * one_expert) * share
        + end
        + 2.0 * vision_parameters(model),
        pair_flops=pairs,
        window_flops=window,
        reduces=reduces,
        exchanges=float(expert_layers) if engine.attention_dp > 1 else 0.0,
        reach=reach,
        hidden_bytes=2.0 * model.hidden,
        tp=float(tp),
        wide=float(wide),
        pp=float(engine.pp),
    )


def _counted(model: ModelSpec) -> list[tuple[Layer, int]]:
    """The layers of the language model by type, and how many there are of each."""
    counts = Counter[str]()
    for run in model.layers:
        counts[run.layer] += run.count
    return [(t, counts[t.name]) for t in model.layer_types if t.stack != "vision"]


def _attention(layer: Layer, tp: int, one: float) -> tuple[float, float, float, float]:
    """Of one layer and device: cached bytes a token and, for windows and states, a sequence; FLOPs
    a pair of query and key and, for windows and states, a prompt token. ``one`` is the size of a
    value; a state is read and written, in 32 bits."""
    attention = layer.attention
    if isinstance(attention, LinearAttention):
        return 0.0, 8.0 * attention.state / tp, 0.0, 6.0 * attention.state / tp
    if isinstance(attention, LatentAttention):
        values = one * (attention.kv_lora_rank + attention.rope_head_dim)
        width = attention.nope_head_dim + attention.rope_head_dim + attention.value_head_dim
        pairs = 2.0 * attention.heads / tp * width
        if not attention.indexer_heads:
            return values, 0.0, pairs, 0.0
        keys, top = attention.indexer_head_dim, attention.indexer_top_k
        index = 2.0 * attention.indexer_heads * keys / tp
        return one * keys, top * values, index, top * pairs
    heads = max(1.0, attention.kv_heads / tp)
    values = 2.0 * one * heads * attention.head_dim
    pairs = 4.0 * max(1.0, attention.heads / tp) * attention.head_dim
    if attention.window is None or attention.window > _SHORT:
        return values, 0.0, pairs, 0.0
    return 0.0, attention.window * values, 0.0, attention.window * pairs


def _peak(device: DeviceSpec, dtype: WeightDtype) -> float:
    """Dense peak of products with such weights; where a device lacks the type they are unpacked to
    16 bits."""
    peaks = device.peak_flops_per_s
    plain = max(peaks.get("bf16", 0.0), peaks.get("fp16", 0.0)) or max(peaks.values())
    if dtype in ("nvfp4", "mxfp4"):
        return max(plain, peaks.get("fp4", 0.0))
    if dtype in ("fp8", "fp8-block"):
        return max(plain, peaks.get("fp8", 0.0))
    return plain

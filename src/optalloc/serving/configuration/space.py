"""The declared space: which engines may run on the nodes of one group of a cluster.

Rules (those of the engines)

    tp | attention heads;  tp <= devices joined by the node link, tp | node or node | tp
    attention_dp > 1 only with experts
    wide = tp * attention_dp:  wide | node or node | wide
    moe_tp * moe_ep = wide;  moe_ep | experts;  moe_tp | width of an expert
        vLLM has either one part of the experts (moe_ep = 1) or as many as devices (moe_tp = 1)
    what the software runs, and the target that is asked for can express (:mod:`targets`)
    pp <= layers
    d = wide * pp devices:  d | node or node | d;  d <= devices of the group
    chunk in CHUNKS, batch in BATCHES (per attention rank), unless pinned to other values
    weights and kv in 16 bits, software vLLM, unless others are asked for

The space is finite and every batch in it is evaluated or bounded: nothing is assumed of how
throughput grows with the batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import msgspec

from optalloc.cluster.topology import NodeGroup
from optalloc.cost.engine.setup import Engine
from optalloc.errors import UnsupportedModel
from optalloc.model.spec import Attention, Experts, ModelSpec
from optalloc.serving.configuration.limits import WORDS, Limits
from optalloc.serving.configuration.targets import software_runs, target_of

CHUNKS = (2048, 4096, 8192, 16384)
BATCHES = (
    *range(1, 16),
    *(2**k + 2**k // 8 * part for k in range(4, 11) for part in range(8)),
    2048,
)
"""Decoding sequences of an attention rank: each number to 16, then eight an octave to 2,048."""


class Shape(msgspec.Struct, frozen=True):
    """Widths of one engine."""

    tp: int
    pp: int
    attention_dp: int
    moe_tp: int
    moe_ep: int

    @property
    def num_devices(self) -> int:
        """Devices of the engine."""
        return self.tp * self.pp * self.attention_dp


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What the rules need of a model."""

    heads: tuple[int, ...]
    num_layers: int
    experts: tuple[int, ...]
    expert_widths: tuple[int, ...]


def facts_of(model: ModelSpec) -> Facts:
    """Heads, layers and experts of a decoder-only model.

    Raises
    ------
    UnsupportedModel
        If it has an encoder, or layers that keep no cache.
    """
    used = {run.layer for run in model.layers}
    layers = [layer for layer in model.layer_types if layer.name in used]
    decoders = [layer for layer in layers if layer.stack != "vision"]
    if not decoders or any(
        layer.stack != "decoder"
        or layer.cross_attention is not None
        or (isinstance(layer.attention, Attention) and not layer.attention.causal)
        for layer in decoders
    ):
        raise UnsupportedModel(
            f"{model.name} is not a decoder-only model",
            path="model",
            fix="serving plans are for models that generate text token by token",
        )
    mixtures = [x.feed_forward for x in decoders if isinstance(x.feed_forward, Experts)]
    names = {layer.name for layer in decoders}
    return Facts(
        heads=tuple(sorted({layer.attention.heads for layer in decoders})),
        num_layers=sum(run.count for run in model.layers if run.layer in names),
        experts=tuple(sorted({m.num_experts for m in mixtures})),
        expert_widths=tuple(sorted({m.width for m in mixtures})),
    )


def shapes(
    facts: Facts, group: NodeGroup, software: str, limits: Limits, role: str
) -> Iterator[Shape]:
    """All widths that the rules and limits leave, smallest engines first."""
    found, target, node = [], target_of(limits), group.devices
    for tp in _fitting(min(group.domain, group.num_devices), group.devices):
        if any(heads % tp for heads in facts.heads) or not limits.allows("tp", tp, role):
            continue
        ranks = group.num_devices // tp if facts.experts else 1
        for dp in range(1, ranks + 1):
            wide = tp * dp
            if not fits_node(wide, group.devices) or not limits.allows("attention_dp", dp, role):
                continue
            for pp in range(1, min(facts.num_layers, group.num_devices // wide) + 1):
                size = wide * pp
                if not fits_node(size, node) or not limits.allows("pp", pp, role):
                    continue
                if not software_runs(
                    software, tp=tp, pp=pp, attention_dp=dp, devices=size, node=node
                ) or not target.expresses(tp=tp, pp=pp, devices=size, node=node):
                    continue
                found += [
                    Shape(tp, pp, dp, moe_tp, moe_ep)
                    for moe_tp, moe_ep in expert_splits(facts, wide, software)
                    if limits.allows("moe_tp", moe_tp, role)
                    and limits.allows("moe_ep", moe_ep, role)
                ]
    yield from sorted(found, key=lambda s: (s.num_devices, msgspec.structs.astuple(s)))


def engines(
    facts: Facts, group: NodeGroup, limits: Limits, role: str
) -> Iterator[tuple[Shape, Engine]]:
    """Engines but for chunk and batch: every software, shape and type of numbers."""
    chosen = {n: limits.choices(n, usual, role) for n, (_, usual) in WORDS.items()}
    if not limits.allows("device", group.device.name, role):
        return
    for software in chosen["software"]:
        for shape in shapes(facts, group, software, limits, role):
            for weights in chosen["weights"]:
                for experts in (chosen["experts"] or (None,)) if facts.experts else (None,):
                    for kv in chosen["kv"]:
                        yield (
                            shape,
                            msgspec.convert(
                                {
                                    "software": software,
                                    **msgspec.structs.asdict(shape),
                                    "weight_dtype": weights,
                                    "expert_dtype": experts,
                                    "kv_dtype": kv,
                                },
                                Engine,
                            ),
                        )


def chunks(limits: Limits, role: str) -> tuple[int, ...]:
    """Tokens of an iteration that are tried."""
    return tuple(sorted(int(v) for v in limits.choices("chunk", CHUNKS, role)))


def batches(limits: Limits, role: str) -> tuple[int, ...]:
    """Decoding sequences of an attention rank that are tried."""
    return tuple(sorted(int(v) for v in limits.choices("batch", BATCHES, role)))


def expert_splits(facts: Facts, wide: int, software: str) -> list[tuple[int, int]]:
    """``(moe_tp, moe_ep)`` over the devices of a stage; dense layers are cut over all of them."""
    if not facts.experts:
        return [(wide, 1)]
    return [
        (wide // ep, ep)
        for ep in range(1, wide + 1)
        if wide % ep == 0
        and not any(count % ep for count in facts.experts)
        and not any(width % (wide // ep) for width in facts.expert_widths)
        and (software != "vllm" or ep in (1, wide))
    ]


def fits_node(devices: int, node: int) -> bool:
    """True if so many devices are an even part of a node, or whole nodes."""
    return node % devices == 0 or devices % node == 0


def _fitting(most: int, node: int) -> list[int]:
    return [n for n in range(1, most + 1) if fits_node(n, node)]


def most_engines(group: NodeGroup, devices: int) -> int:
    """Engines of so many devices that a group holds: none crosses a node it does not fill."""
    return _whole(group.devices, group.count, devices)


@lru_cache(maxsize=65536)
def most_beside(node: int, count: int, first: int, number: int, second: int) -> int:
    """Engines of ``second`` devices that fit beside ``number`` of ``first``; below 0: too many.

    Both sizes divide the node or are whole nodes. An engine of whole nodes shares them with none.
    Of two sizes that divide the node, where one divides the other, the larger ones are placed side
    by side and the rest is whole places of the smaller: only the sum counts. Otherwise a node that
    holds ``a`` of the first has room for ``floor((node - a first) / second)`` of the second:
    dynamic programming over nodes.

    Complexity: O(1), or O(count * number * node / first).
    """
    if first >= node:
        return _whole(node, count - number * (first // node), second)
    if second >= node:
        return _whole(node, count - -(-number // (node // first)), second)
    if first % second == 0:
        return (node * count - number * first) // second
    if second % first == 0:
        return node * count // second - -(-number * first // second)
    best = [0] + [-1] * number
    for _ in range(count):
        best = [
            max(
                (
                    best[held - a] + (node - a * first) // second
                    for a in range(min(held, node // first) + 1)
                    if best[held - a] >= 0
                ),
                default=-1,
            )
            for held in range(number + 1)
        ]
    return best[number]


def _whole(node: int, nodes: int, devices: int) -> int:
    """Engines of so many devices in whole nodes."""
    return nodes * (node // devices) if devices <= node else nodes // (devices // node)

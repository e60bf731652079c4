"""The decision space: which meshes are valid for a model, a cluster and a workload.

Rules (those of the export targets)

    tp * cp * pp * dp <= num_devices                     devices may stay idle
    tp | attention heads, tp | MLP width;  tp | kv heads or kv heads | tp
    sequence parallel only with tp > 1, then tp | s / cp;  required with experts and tp > 1
    2 cp | s for causal layers, cp | s for the others
    dp * micro_batch | global_batch
    ep | experts, ep | tp * cp * dp
    zero_stage 0..3, over all replicas or over those of one node; where there is nothing to shard
        only the least that is left, for all are the same
    gpipe, 1f1b, zb-h1, interleaved with v >= 2 chunks where pp > 1 and pp | num_microbatches;
        pp = 1: only 1f1b where it is left, for none of the others is better
    every stage but the first and the last holds a layer

Inside a mesh the exact inner search chooses the cuts and the recomputation: all cuts, but of those
with several chunks a stage, where there are more than 1,000, the ones with q layers in each middle
chunk and at most q in the first and in the last. One rule of recomputation for all stages
("equal"): as many layers of each chunk, up to two more than the mean chunk has.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property, lru_cache

import msgspec
import numpy as np
from numpy.typing import NDArray

from optalloc.cluster.topology import Cluster
from optalloc.cost.meshes import SCHEDULES, Meshes
from optalloc.errors import InputError, known_fix
from optalloc.model.graph import Graph
from optalloc.workload import Training

Ints = NDArray[np.int64]

MAX_VIRTUAL_STAGES = 32
GPIPE, ONE_F_ONE_B, INTERLEAVED, ZB_H1 = range(4)
RECOMPUTE_RULES = {"stage": 0, "none": 1, "selective": 2, "full": 3, "equal": 4}
PINNABLE = (
    "tp",
    "cp",
    "pp",
    "dp",
    "ep",
    "virtual_stages",
    "micro_batch",
    "zero_stage",
    "shard_group",
    "schedule",
    "sequence_parallel",
    "recompute",
    "num_devices",
)


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What the user fixed or forbade: name -> allowed (``pin``) or excluded (``forbid``) values."""

    pin: dict[str, tuple[int, ...]] = {}
    forbid: dict[str, tuple[int, ...]] = {}

    def allows(self, name: str, value: int) -> bool:
        """True if the value of one decision is left in the space."""
        if name in self.pin and value not in self.pin[name]:
            return False
        return value not in self.forbid.get(name, ())

    def keep(self, name: str, values: Ints) -> NDArray[np.bool_]:
        """The same for an array of values."""
        kept = np.ones(values.shape, bool)
        if name in self.pin:
            kept &= np.isin(values, self.pin[name])
        if name in self.forbid:
            kept &= ~np.isin(values, self.forbid[name])
        return kept

    def without(self, kind: str, name: str) -> Limits:
        """These limits less one entry."""
        entries = {k: v for k, v in getattr(self, kind).items() if k != name}
        return msgspec.structs.replace(self, **{kind: entries})


def parse_limits(pins: list[str], forbids: list[str]) -> Limits:
    """Limits from words such as ``tp=8``, ``schedule=1f1b``, ``zero_stage=2,3``.

    Raises
    ------
    InputError
        If a name is unknown or a value is not of its kind.
    """
    return Limits(pin=_parse(pins, "--pin"), forbid=_parse(forbids, "--forbid"))


def _parse(words: list[str], flag: str) -> dict[str, tuple[int, ...]]:
    limits: dict[str, tuple[int, ...]] = {}
    for word in words:
        name, equals, text = word.partition("=")
        name = name.strip().replace("-", "_")
        name = {"vpp": "virtual_stages", "zero": "zero_stage", "sp": "sequence_parallel"}.get(
            name, name
        )
        if not equals or name not in PINNABLE:
            raise InputError(
                f"{word!r} names no decision",
                path=flag,
                fix=known_fix(name, PINNABLE, "{}=..."),
            )
        if name == "recompute" and flag == "--forbid":
            raise InputError(
                "recompute cannot be forbidden: layers are counted, and each count is a choice",
                path=flag,
                fix="pin the rules that are left, for example --pin recompute=none,selective",
            )
        values = tuple(_value(name, part.strip(), flag) for part in text.split(","))
        limits[name] = limits.get(name, ()) + values
    return limits


def _value(name: str, text: str, flag: str) -> int:
    words: dict[str, int] = {}
    if name == "schedule":
        words = {schedule: index for index, schedule in enumerate(SCHEDULES)}
    elif name == "sequence_parallel":
        words = {"on": 1, "off": 0, "true": 1, "false": 0, "yes": 1, "no": 0, "1": 1, "0": 0}
    elif name == "recompute":
        words = RECOMPUTE_RULES
    if words:
        if text.lower() in words:
            return words[text.lower()]
        raise InputError(
            f"{text!r} is no value of {name}", path=flag, fix=f"use one of {', '.join(words)}"
        )
    try:
        return int(text)
    except ValueError:
        raise InputError(
            f"{text!r} is no whole number", path=flag, pointer=name, fix=f"write {name}=8"
        ) from None


class Space:
    """The meshes of one problem, enumerated in two steps: shapes first, then what refines them."""

    def __init__(
        self, graph: Graph, cluster: Cluster, workload: Training, limits: Limits | None = None
    ) -> None:
        self.graph, self.cluster, self.workload = graph, cluster, workload
        self.limits = limits or Limits()
        self.num_layers = graph.num_layers
        self.num_devices = cluster.num_devices
        self.domain = cluster.levels()[0].num_devices
        ops = [op for layer in graph.layers for op in layer.ops]
        self.experts = math.gcd(*[op.experts for op in ops if op.experts] or [0])
        self.attention = [op for op in ops if op.kind == "attention" and op.shard == "tensor"]
        self.widths = [op.k for op in ops if op.kind == "gemm" and op.shard == "row"]

    # -- degrees ---------------------------------------------------------------------------------

    def tensor_degrees(self) -> list[int]:
        heads = math.gcd(*(op.heads for op in self.attention)) if self.attention else 1
        return [
            tp
            for tp in divisors(heads)
            if tp <= self.num_devices
            and self.limits.allows("tp", tp)
            and all(width % tp == 0 for width in self.widths)
            and all(op.kv_heads % tp == 0 or tp % op.kv_heads == 0 for op in self.attention)
        ]

    def context_degrees(self) -> list[int]:
        causal = any(op.causal for op in self.attention)
        lengths = [self.workload.sequence_length]
        if self.graph.encoder_decoder and self.workload.decoder_sequence_length:
            lengths.append(self.workload.decoder_sequence_length)
        length = math.gcd(*lengths)
        unit = 2 if causal else 1
        return [
            cp
            for cp in divisors(length)
            if (cp == 1 or length % (unit * cp) == 0)
            and cp <= self.num_devices
            and self.limits.allows("cp", cp)
        ]

    def sequence_choices(self, tp: int, cp: int) -> list[int]:
        if tp == 1:
            choices = [0]
        else:
            divides = self.workload.sequence_length % (tp * cp) == 0
            target = self.workload.decoder_sequence_length
            if self.graph.encoder_decoder and target:
                divides = divides and target % (tp * cp) == 0
            choices = [1] if divides else []
            if not self.experts:
                choices = [0, *choices]
        return [c for c in choices if self.limits.allows("sequence_parallel", c)]

    # -- stems: tp, sequence, cp, dp, ep, micro_batch; with pp a shape ----------------------------

    @property
    def most_stages(self) -> int:
        """Stages of the longest pipeline: every stage but the first and the last holds a layer."""
        return min(self.num_devices, self.num_layers + 2)

    def stems(self) -> Meshes:
        """Every combination of the degrees but pp, which is the largest that the devices allow.

        Complexity: O(number of stems), vectorised over dp, ep and micro-batch.
        """
        blocks = [np.zeros((7, 0), np.int64), *self._stem_blocks()]
        rows = np.concatenate(blocks, axis=1)
        names = ("tp", "sequence", "cp", "pp", "dp", "ep", "micro_batch")
        columns = {name: rows[k] for k, name in enumerate(names)}
        zeros = np.zeros(rows.shape[1], np.int64)
        return Meshes(
            **columns,
            zero_stage=zeros,
            shard_group=zeros,
            virtual_stages=zeros + 1,
            schedule=zeros + ONE_F_ONE_B,
            recompute_rule=zeros,
        )

    def _stem_blocks(self) -> Iterator[NDArray[np.int64]]:
        """Stems of each tp, cp and sequence parallelism, by dp, ep and micro-batch ascending."""
        batch, limits = self.workload.global_batch, self.limits
        dp = np.array([d for d in divisors(batch) if limits.allows("dp", d)], np.int64)
        ep = np.array(divisors(self.experts) or [1], np.int64)
        micros = [
            [b for b in divisors(batch // d) if limits.allows("micro_batch", b)]
            for d in dp.tolist()
        ]
        micro = np.array([b for some in micros for b in some], np.int64)
        count = np.array([len(some) for some in micros], np.int64)
        begin = np.cumsum(count) - count
        for tp in self.tensor_degrees():
            for cp in self.context_degrees():
                ranks = tp * cp * dp
                fits = (ranks[:, None] % ep == 0) & (ranks <= self.num_devices)[:, None]
                row, column = np.nonzero(fits & limits.keep("ep", ep))
                many = count[row]  # micro-batches of each dp and ep
                before = np.cumsum(many) - many
                some = np.repeat(row, many)
                block = np.empty((7, len(some)), np.int64)
                block[0], block[2] = tp, cp
                block[3] = np.minimum(self.num_devices // ranks[some], self.most_stages)
                block[4] = dp[some]
                block[5] = np.repeat(ep[column], many)
                block[6] = micro[np.arange(len(some)) + np.repeat(begin[row] - before, many)]
                for sequence in self.sequence_choices(tp, cp):
                    block[1] = sequence
                    yield block.copy()

    # -- refinements: ZeRO stage and shard group, schedule and chunks, recomputation ---------------

    def sharded(self, shapes: Meshes) -> tuple[Meshes, Ints]:
        """Every choice of ZeRO stage and shard group, and the shape of each."""
        parts, rows = [shapes.take(np.zeros(0, np.int64))], [np.zeros(0, np.int64)]
        for zero, shard, fits in self._shardings(shapes):
            some = np.flatnonzero(fits)
            part = shapes.take(some)
            zeros = np.full(len(part), zero)
            parts.append(msgspec.structs.replace(part, zero_stage=zeros, shard_group=shard[some]))
            rows.append(some)
        return joined(parts), np.concatenate(rows)

    def num_shardings(self, shapes: Meshes) -> Ints:
        """How many choices of ZeRO stage and shard group each shape, or each stem, has."""
        total = np.zeros(len(shapes), np.int64)
        for *_, fits in self._shardings(shapes):
            total += fits
        return total

    @cached_property
    def schedule_choices(self) -> tuple[Ints, NDArray[np.uint8], Ints]:
        """Choices by pp and by whether pp divides the number of micro-batches (0 or 1).

        How many of schedule, chunks and recomputation there are, which schedules (a bit for each),
        and the most chunks of an interleaved one; each of shape (most_stages + 1, 2).
        """
        pp = np.arange(self.most_stages + 1)
        total = np.zeros((len(pp), 2), np.int64)
        kinds, chunks = np.zeros(total.shape, np.uint8), np.ones_like(total)
        for divides in (0, 1):
            for schedule, v, _, fits in self._schedules(pp, np.full(len(pp), divides, bool)):
                total[:, divides] += fits
                kinds[fits, divides] |= 1 << schedule
                chunks[fits, divides] = np.maximum(chunks[fits, divides], v)
        return total, kinds, chunks

    def schedules(self, shapes: Meshes) -> Iterator[tuple[int, int, int, NDArray[np.bool_]]]:
        """Schedule, chunks per stage, recomputation rule, and the shapes that can have them."""
        micro = self.workload.global_batch // (shapes.dp * shapes.micro_batch)
        yield from self._schedules(shapes.pp, micro % shapes.pp == 0)

    def _schedules(
        self, pp: Ints, divides: NDArray[np.bool_]
    ) -> Iterator[tuple[int, int, int, NDArray[np.bool_]]]:
        limits = self.limits
        pipelined = pp > 1
        rules = [0]
        if "recompute" in limits.pin:
            rules = list(limits.pin["recompute"])
            if RECOMPUTE_RULES["equal"] in rules:
                rules.remove(RECOMPUTE_RULES["equal"])
                rules += [4 + k for k in range(self.num_layers + 1)]
        most_chunks = min(MAX_VIRTUAL_STAGES, self.num_layers + 2)
        schedules = [(ONE_F_ONE_B, 1), (GPIPE, 1), (ZB_H1, 1)]
        schedules += [(INTERLEAVED, v) for v in range(2, most_chunks + 1)]
        one_stage = limits.allows("schedule", ONE_F_ONE_B)
        for schedule, v in schedules:
            if not (limits.allows("schedule", schedule) and limits.allows("virtual_stages", v)):
                continue
            fits = pipelined
            if schedule == ONE_F_ONE_B or not one_stage:
                fits = np.ones(len(pp), bool)
            if schedule == INTERLEAVED:
                fits = pipelined & divides & (pp * v <= self.num_layers + 2)
            for rule in rules:
                most = -(-self.num_layers // np.maximum(1, pp * v)) + 2
                yield schedule, v, rule, fits if rule <= 4 else fits & (rule - 4 <= most)

    def _shardings(self, shapes: Meshes) -> Iterator[tuple[int, Ints, NDArray[np.bool_]]]:
        """ZeRO stage, shard group (0: all replicas), and the shapes that can have them."""
        group = shapes.dp * shapes.cp
        any_group = (group > 1) | (shapes.tp * group > shapes.ep)
        all_replicas, per_node = np.zeros(len(shapes), np.int64), self._node_shards(shapes)
        left = [zero for zero in range(4) if self.limits.allows("zero_stage", zero)]
        for zero in left:
            rows = np.ones(len(shapes), bool) if zero == left[0] else any_group
            yield zero, all_replicas, rows & self.limits.keep("shard_group", all_replicas)
            if zero:
                rows = rows & (per_node > 0) & self.limits.keep("shard_group", per_node)
                yield zero, per_node, rows

    def _node_shards(self, shapes: Meshes) -> Ints:
        """Replicas inside one node, where sharding over them alone is a choice; else 0."""
        inside = np.maximum(1, self.domain // shapes.tp)
        group = shapes.dp * shapes.cp
        choice = (inside > 1) & (group > inside) & (group % inside == 0)
        return np.where(choice, inside, 0)


def joined(parts: list[Meshes]) -> Meshes:
    """All meshes of the parts, in their order."""
    return Meshes(
        **{
            name: np.concatenate([getattr(part, name) for part in parts])
            for name in Meshes.__struct_fields__
        }
    )


@lru_cache(maxsize=4096)
def divisors(number: int) -> tuple[int, ...]:
    """All divisors, ascending; O(sqrt(number))."""
    small = [d for d in range(1, math.isqrt(number) + 1) if number % d == 0] if number else []
    return tuple(sorted({*small, *(number // d for d in small)}))

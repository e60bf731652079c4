"""The rules a written configuration must meet: those of the decision space, one error each."""

from __future__ import annotations

from collections.abc import Iterator

from optalloc.cost.model import CostModel
from optalloc.errors import InputError
from optalloc.training.strategy import Strategy


def check_strategy(cost: CostModel, strategy: Strategy) -> None:
    """Raise for the first rule that a complete strategy breaks.

    Raises
    ------
    InputError
        Names the value, the rule and a value that meets it.
    """
    for what, name, fix in _broken(cost, strategy):
        raise InputError(what, path="strategy", pointer=f"$.{name}", fix=fix)


def _broken(cost: CostModel, s: Strategy) -> Iterator[tuple[str, str, str]]:
    graph, workload, total = cost.graph, cost.workload, cost.cluster.num_devices
    if s.num_devices > total:
        yield (
            f"tp {s.tp} x cp {s.cp} x pp {s.pp} x dp {s.dp} needs {s.num_devices} devices, "
            f"the cluster has {total}",
            "dp",
            "use smaller degrees or more devices",
        )
    ops = [op for layer in graph.layers for op in layer.ops]
    for op in ops:
        if op.kind == "attention" and op.shard == "tensor":
            if op.heads % s.tp:
                yield f"tp {s.tp} does not divide {op.heads} heads", "tp", "use a divisor"
            if op.kv_heads % s.tp and s.tp % op.kv_heads:
                yield (
                    f"tp {s.tp} neither divides nor is a multiple of {op.kv_heads} key-value heads",
                    "tp",
                    "use a divisor or a multiple",
                )
        if op.kind == "gemm" and op.shard == "row" and op.k % s.tp:
            yield f"tp {s.tp} does not divide the width {op.k}", "tp", "use a divisor"
    lengths = [workload.sequence_length]
    if graph.encoder_decoder and workload.decoder_sequence_length:
        lengths.append(workload.decoder_sequence_length)
    causal = any(op.kind == "attention" and op.shard == "tensor" and op.causal for op in ops)
    for length in lengths:
        unit = 2 * s.cp if causal and s.cp > 1 else s.cp
        if length % unit:
            yield (
                f"cp {s.cp} needs sequences of a multiple of {unit} tokens, not {length}",
                "cp",
                "use a smaller cp",
            )
        if s.sequence_parallel and length % (s.tp * s.cp):
            yield (
                f"sequence parallelism needs sequences of a multiple of {s.tp * s.cp} tokens, "
                f"not {length}",
                "sequence_parallel",
                "turn it off",
            )
    experts = {op.experts for op in ops if op.experts}
    if s.sequence_parallel and s.tp == 1:
        yield "sequence parallelism needs tp > 1", "sequence_parallel", "turn it off"
    if experts and s.tp > 1 and not s.sequence_parallel:
        yield (
            "experts with tp > 1 need sequence parallelism",
            "sequence_parallel",
            "turn it on",
        )
    if s.ep > 1 and not experts:
        yield f"ep is {s.ep} but the model has no experts", "ep", "use ep = 1"
    for count in experts:
        if count % s.ep:
            yield f"ep {s.ep} does not divide {count} experts", "ep", "use a divisor"
    if (s.tp * s.cp * s.dp) % s.ep:
        yield (
            f"ep {s.ep} does not divide tp x cp x dp = {s.tp * s.cp * s.dp}",
            "ep",
            "use a divisor",
        )
    if workload.global_batch % (s.dp * s.micro_batch):
        yield (
            f"dp {s.dp} x micro-batch {s.micro_batch} does not divide the global batch "
            f"{workload.global_batch}",
            "micro_batch",
            "use divisors of the global batch",
        )
    if s.zero_stage not in range(4):
        yield f"there is no ZeRO stage {s.zero_stage}", "zero_stage", "use 0, 1, 2 or 3"
    if s.shard_group < 0 or (s.shard_group and (s.dp * s.cp) % s.shard_group):
        yield (
            f"shard group {s.shard_group} does not divide dp x cp = {s.dp * s.cp}",
            "shard_group",
            "use a divisor, or 0 for all replicas",
        )
    yield from _broken_pipeline(cost, s)


def _broken_pipeline(cost: CostModel, s: Strategy) -> Iterator[tuple[str, str, str]]:
    micro = cost.workload.global_batch // max(1, s.dp * s.micro_batch)
    if (s.schedule == "interleaved") != (s.virtual_stages > 1):
        yield (
            f"schedule {s.schedule} with {s.virtual_stages} chunks per stage",
            "virtual_stages",
            "use several chunks with the interleaved schedule and one with the others",
        )
    if s.schedule == "interleaved" and s.pp == 1:
        yield "the interleaved schedule needs pp > 1", "schedule", "use 1f1b"
    if s.schedule == "interleaved" and micro % s.pp:
        yield (
            f"the interleaved schedule needs a multiple of pp {s.pp} micro-batches, not {micro}",
            "schedule",
            "use another micro-batch or 1f1b",
        )
    if any(size < 0 for size in s.layers_per_chunk) or sum(s.layers_per_chunk) != cost.num_layers:
        yield (
            f"the chunks hold {sum(s.layers_per_chunk)} layers, the model has {cost.num_layers}",
            "layers_per_chunk",
            f"give numbers that sum to {cost.num_layers}",
        )
    if 0 in s.layers_per_chunk[1:-1]:
        yield (
            f"chunk {s.layers_per_chunk.index(0, 1)} holds no layer",
            "layers_per_chunk",
            "only the first and the last chunk may be empty of layers",
        )
    for i, r in enumerate(s.recompute):
        if r.full < 0 or r.selective < 0:
            yield f"stage {i} recomputes {r}", f"recompute[{i}]", "use counts of at least 0"

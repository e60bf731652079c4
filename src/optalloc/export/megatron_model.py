"""Megatron-LM's flags for the shape of a model, and what its GPT class cannot hold."""

from __future__ import annotations

import msgspec

from optalloc.errors import ExportError
from optalloc.export.chain import layer_types, stage_of
from optalloc.model.spec import Attention, Experts, LatentAttention, Layer, LinearAttention, Mlp
from optalloc.training.plan import TrainingPlan

TARGET = "megatron"

LEARNED_POSITIONS = ("gpt2", "bert")
Flags = list[tuple[str, str | None]]


def model_flags(plan: TrainingPlan) -> Flags:
    """Flags of the architecture; None marks a switch.

    Raises
    ------
    ExportError
        If layers differ in more than window and feed-forward, or hold what Megatron's GPT has no
        flag for.
    """
    model = plan.model
    types = layer_types(plan)
    names = [run.layer for run in model.layers for _ in range(run.count)]
    first = types[names[0]]
    for name in dict.fromkeys(names):
        _require_alike(plan, first, types[name])
    norm = "RMSNorm" if first.norm.kind == "rms" else "LayerNorm"
    learned = model.family in LEARNED_POSITIONS
    flags: Flags = [
        ("--num-layers", str(len(names))),
        ("--hidden-size", str(model.hidden)),
        ("--seq-length", str(plan.workload.sequence_length)),
        ("--max-position-embeddings", str(_positions(plan))),
        ("--position-embedding-type", "learned_absolute" if learned else "rope"),
        ("--normalization", norm),
        ("--vocab-size", str(model.vocabulary)),
    ]
    flags += _attention(plan, first)
    flags += _windows([types[name] for name in names])
    flags += _feed_forward(plan, [types[name] for name in names])
    if not model.tied_embeddings:
        flags.append(("--untie-embeddings-and-output-weights", None))
    return flags


def _positions(plan: TrainingPlan) -> int:
    return max(plan.model.max_positions or 0, plan.workload.sequence_length)


def _require_alike(plan: TrainingPlan, first: Layer, other: Layer) -> None:
    """One layer specification serves all layers: attention, norms and biases must not change."""
    stage = stage_of(plan, other.name)
    if other.norm.count != 2:
        raise ExportError(TARGET, f"{other.norm.count} norms a layer ({other.name})", stage=stage)
    a, b = first.attention, other.attention
    if isinstance(a, Attention) and isinstance(b, Attention):
        a = msgspec.structs.replace(a, window=None)
        b = msgspec.structs.replace(b, window=None)
    if a != b or first.norm != other.norm or first.hidden != other.hidden:
        raise ExportError(
            TARGET, f"attention that differs between {first.name} and {other.name}", stage=stage
        )


def _attention(plan: TrainingPlan, layer: Layer) -> Flags:
    attention, stage = layer.attention, stage_of(plan, layer.name)
    if isinstance(attention, LinearAttention):
        raise ExportError(TARGET, f"linear attention ({layer.name})", stage=stage)
    flags: Flags = [("--num-attention-heads", str(attention.heads))]
    if isinstance(attention, LatentAttention):
        if attention.indexer_heads:
            raise ExportError(TARGET, f"a sparse-attention indexer ({layer.name})", stage=stage)
        flags += [
            ("--multi-latent-attention", None),
            ("--kv-lora-rank", str(attention.kv_lora_rank)),
            ("--qk-head-dim", str(attention.nope_head_dim)),
            ("--qk-pos-emb-head-dim", str(attention.rope_head_dim)),
            ("--v-head-dim", str(attention.value_head_dim)),
            ("--qk-layernorm", None),
        ]
        if attention.q_lora_rank is not None:
            flags.append(("--q-lora-rank", str(attention.q_lora_rank)))
        return [*flags, *_biases(plan, layer, attention.bias, attention.bias)]
    if attention.output_gate:
        raise ExportError(TARGET, f"an output gate ({layer.name})", stage=stage)
    if attention.qk_norm == "width":
        raise ExportError(TARGET, f"query norms over all heads ({layer.name})", stage=stage)
    if not attention.causal:
        raise ExportError(TARGET, f"attention that is not causal ({layer.name})", stage=stage)
    flags.append(("--kv-channels", str(attention.head_dim)))
    if attention.kv_heads != attention.heads:
        flags += [
            ("--group-query-attention", None),
            ("--num-query-groups", str(attention.kv_heads)),
        ]
    if attention.qk_norm == "head":
        flags.append(("--qk-layernorm", None))
    if attention.sinks:
        flags.append(("--softmax-type", "learnable"))
    return [*flags, *_biases(plan, layer, attention.qkv_bias, attention.output_bias)]


def _biases(plan: TrainingPlan, layer: Layer, qkv: bool, output: bool) -> Flags:
    feed_forward = layer.feed_forward
    if qkv and output and feed_forward.bias:
        return []
    if output or feed_forward.bias:
        raise ExportError(
            TARGET, f"biases of some matrices only ({layer.name})", stage=stage_of(plan, layer.name)
        )
    flags: Flags = [("--disable-bias-linear", None)]
    if qkv:
        flags.append(("--add-qkv-bias", None))
    return flags


def _windows(layers: list[Layer]) -> Flags:
    windows = [
        layer.attention.window if isinstance(layer.attention, Attention) else None
        for layer in layers
    ]
    sizes = sorted({window for window in windows if window is not None})
    if not sizes:
        return []
    if len(sizes) > 1:
        raise ExportError(TARGET, f"several window lengths ({', '.join(map(str, sizes))})")
    # Both ends of Megatron's window are inclusive: a window of w tokens looks w - 1 to the left.
    flags: Flags = [("--window-size", f"{sizes[0] - 1},0")]
    if None in windows:
        flags.append(("--window-attn-skip-freq", pattern([w is not None for w in windows])))
    return flags


def pattern(marks: list[bool]) -> str:
    """``[0]*3+[1]*58`` for a list of marks: the form of Megatron's frequency flags."""
    runs: list[tuple[int, int]] = []
    for mark in marks:
        if runs and runs[-1][0] == int(mark):
            runs[-1] = (int(mark), runs[-1][1] + 1)
        else:
            runs.append((int(mark), 1))
    return "(" + "+".join(f"[{mark}]*{count}" for mark, count in runs) + ")"


def _feed_forward(plan: TrainingPlan, layers: list[Layer]) -> Flags:
    dense = list(dict.fromkeys(x.feed_forward for x in layers if isinstance(x.feed_forward, Mlp)))
    sparse = list(
        dict.fromkeys(x.feed_forward for x in layers if isinstance(x.feed_forward, Experts))
    )
    gates = {mlp.gated for mlp in dense} | {experts.gated for experts in sparse}
    if len(dense) > 1 or len(sparse) > 1 or len(gates) > 1:
        raise ExportError(TARGET, "feed-forward widths or gates that differ between layers")
    flags: Flags = []
    if True in gates:
        flags.append(("--swiglu", None))
    width = dense[0].width if dense else sparse[0].width
    flags.append(("--ffn-hidden-size", str(width)))
    if sparse:
        experts = sparse[0]
        flags += [
            ("--num-experts", str(experts.num_experts)),
            ("--moe-router-topk", str(experts.top_k)),
            ("--moe-ffn-hidden-size", str(experts.width)),
            ("--moe-grouped-gemm", None),
            ("--moe-token-dispatcher-type", "alltoall"),
        ]
        if dense:
            marks = [isinstance(layer.feed_forward, Experts) for layer in layers]
            flags.append(("--moe-layer-freq", pattern(marks)))
        if experts.shared_width:
            flags.append(("--moe-shared-expert-intermediate-size", str(experts.shared_width)))
        if experts.shared_gate:
            flags.append(("--moe-shared-expert-gate", None))
        stage = stage_of(plan, next(x.name for x in layers if x.feed_forward == experts))
        if plan.degrees.tp > 1 and not plan.sequence_parallel:
            raise ExportError(TARGET, "experts with tp but no sequence parallelism", stage=stage)
    return flags

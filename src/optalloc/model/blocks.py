"""The operations of each block of a layer: attention of each kind, MLP and experts.

Values per token follow Korthikanti et al., "Reducing Activation Recomputation in Large Transformer
Models" (2022), section 4, generalised to grouped-query and latent attention, gated MLPs and
experts. Stored values are those autograd keeps when SwiGLU and the norms are fused.
"""

from __future__ import annotations

from optalloc.model.graph import Op
from optalloc.model.spec import Attention, Experts, LatentAttention, LinearAttention, Mlp


def attention_ops(attention: Attention, h: int, name: str) -> list[Op]:
    cross = name == "cross"
    a, k, g = attention.heads, attention.kv_heads, attention.head_dim
    projections = [
        Op(
            name=f"{name}_q",
            kind="gemm",
            shard="column",
            k=h,
            n=a * g,
            kept=float(a * g),
            again=0.0,
            parameters=h * a * g,
        ),
        Op(
            name=f"{name}_kv",
            kind="gemm",
            shard="column",
            k=h,
            n_kv=2 * k * g,
            kv_heads=k,
            source=True,
            saved=2.0 * k * g,
            kept=float(k * g),
            again=0.5,
            parameters=2 * h * k * g,
        ),
    ]
    if not cross:
        queries = a * g * (1 + attention.output_gate)
        size = h * (queries + 2 * k * g)
        projections = [
            Op(
                name="qkv",
                kind="gemm",
                shard="column",
                k=h,
                n=queries,
                n_kv=2 * k * g,
                kv_heads=k,
                kept=float((a + k) * g),  # of queries, keys and values the first and the last
                again=k / (a + 2 * k),
                parameters=size,
            )
        ]
    core = Op(
        name=f"{name}_attention",
        kind="attention",
        shard="tensor",
        heads=a,
        kv_heads=k,
        qk_dim=g,
        v_dim=g,
        causal=attention.causal and not cross,
        window=attention.window or 0,
        cross=cross,
        # rotary embedding and norms of queries and keys
        elements=2.0 * (a + (0 if cross else k)) * g,
        saved=2.0 * a * g + (0.0 if cross else 2.0 * k * g),
        inputs=-float(a * g),
        kept=float(a * g),
        again=0.0,
    )
    out = Op(name=f"{name}_out", kind="gemm", shard="row", k=a * g, n=h, parameters=a * g * h)
    return [*projections, core, out]


def latent_attention_ops(mla: LatentAttention, h: int) -> list[Op]:
    a, q, c = mla.heads, mla.q_lora_rank, mla.kv_lora_rank
    nope, rope, value = mla.nope_head_dim, mla.rope_head_dim, mla.value_head_dim
    qk = nope + rope
    ops = []
    if q is None:
        ops.append(Op(name="q", kind="gemm", shard="column", k=h, n=a * qk, parameters=h * a * qk))
    else:
        ops += [
            Op(
                name="q_down",
                kind="gemm",
                shard="replicated",
                k=h,
                n=q,
                saved=2.0 * q,
                kept=float(q),
                again=0.0,
                parameters=h * q,
            ),
            Op(name="q_up", kind="gemm", shard="column", k=q, n=a * qk, parameters=q * a * qk),
        ]
    ops += [
        Op(
            name="kv_down",
            kind="gemm",
            shard="replicated",
            k=h,
            n=c + rope,
            saved=2.0 * c + rope,
            kept=float(c + rope),
            again=0.0,
            parameters=h * (c + rope),
        ),
        Op(
            name="kv_up",
            kind="gemm",
            shard="column",
            k=c,
            n=a * (nope + value),
            parameters=c * a * (nope + value),
        ),
    ]
    if mla.indexer_heads:
        d = mla.indexer_head_dim
        source = q or h
        width = mla.indexer_heads * d
        ops += [
            Op(
                name="index_q",
                kind="gemm",
                shard="replicated",
                k=source,
                n=width,
                saved=float(width),
                parameters=source * width,
            ),
            Op(
                name="index_k",
                kind="gemm",
                shard="replicated",
                k=h,
                n=d + mla.indexer_heads,
                saved=float(d + mla.indexer_heads),
                parameters=h * (d + mla.indexer_heads),
            ),
            Op(
                name="index_scores",
                kind="attention",
                shard="sequence",
                heads=mla.indexer_heads,
                kv_heads=1,
                qk_dim=d,
                v_dim=0,
            ),
        ]
    ops += [
        Op(
            name="self_attention",
            kind="attention",
            shard="tensor",
            heads=a,
            kv_heads=a,
            qk_dim=qk,
            v_dim=value,
            window=mla.indexer_top_k,
            elements=2.0 * a * 2 * rope,
            saved=2.0 * a * (qk + value),
            inputs=-float(a * value),
            kept=float(a * value),
            again=0.0,
        ),
        Op(
            name="self_out",
            kind="gemm",
            shard="row",
            k=a * value,
            n=h,
            parameters=a * value * h,
        ),
    ]
    return ops


def linear_attention_ops(linear: LinearAttention, h: int) -> list[Op]:
    """Projections, the delta rule (read, correct and update the state: three products of a key
    with it), and the output; a kernel keeps its inputs and the state once a chunk of 64 tokens."""
    values = linear.value_heads * linear.value_head_dim
    width = linear.projected
    return [
        Op(name="qkvz", kind="gemm", shard="column", k=h, n=width, parameters=h * width),
        Op(
            name="delta_rule",
            kind="gemm",
            shard="column",
            k=linear.key_head_dim,
            n=3 * values,
            elements=2.0 * width + 2.0 * linear.state / 64,
            saved=float(width) + 2.0 * linear.state / 64,
        ),
        Op(name="self_out", kind="gemm", shard="row", k=values, n=h, parameters=values * h),
    ]


def mlp_ops(mlp: Mlp, h: int, name: str) -> list[Op]:
    matrices = 2 if mlp.gated else 1
    f = mlp.width
    return [
        Op(
            name=f"{name}_up",
            kind="gemm",
            shard="column",
            k=h,
            n=matrices * f,
            kept=float(f),
            again=(matrices - 1) / matrices,
            parameters=matrices * h * f,
        ),
        Op(
            name=f"{name}_act",
            kind="elementwise",
            shard="tensor",
            elements=float((matrices + 1) * f),
            saved=float((matrices + 1) * f),
            inputs=float(f),
            eager=_eager(mlp.gated) * f,
        ),
        _down(name, f, h, gated=mlp.gated),
    ]


def _eager(gated: bool) -> float:
    """16-bit values per value of the MLP that an activation of several kernels keeps besides.

    SiLU's output before it meets the other half; of the tanh form of GELU, which runs in fp32, the
    input, x cubed, the scaled sum, the tanh, one more than it, the half of x and their product.
    """
    return 1.0 if gated else 14.0


def _down(name: str, f: int, h: int, *, gated: bool) -> Op:
    """The MLP's last matrix: of seven products in a gated layer the last is kept, of six not."""
    return Op(
        name=f"{name}_down",
        kind="gemm",
        shard="row",
        k=f,
        n=h,
        kept=float(h) if gated else 0.0,
        again=0.0 if gated else 1.0,
        parameters=h * f,
    )


def experts_ops(moe: Experts, h: int) -> list[Op]:
    matrices = 2 if moe.gated else 1
    e, top, f = moe.num_experts, moe.top_k, moe.width
    ops = [
        Op(name="router", kind="gemm", shard="sequence", k=h, n=e, parameters=h * e),
        Op(
            name="dispatch",
            kind="dispatch",
            shard="expert",
            k=h,
            copies=top,
            experts=e,
            elements=4.0 * h,
            saved=float(h),  # the router's weights meet the activation: outputs are not kept
            inputs=float(h),
        ),
        Op(
            name="experts_up",
            kind="gemm",
            k=h,
            n=matrices * f,
            parameters=e * matrices * h * f,
            shard="expert",
            experts=e,
            copies=top,
        ),
        Op(
            name="experts_act",
            kind="elementwise",
            elements=float((matrices + 1) * f),
            saved=float((matrices + 1) * f),
            inputs=float(f),
            eager=_eager(moe.gated) * f,
            shard="expert",
            experts=e,
            copies=top,
        ),
        Op(
            name="experts_down",
            kind="gemm",
            k=f,
            n=h,
            parameters=e * f * h,
            shard="expert",
            experts=e,
            copies=top,
        ),
    ]
    if moe.bias:
        ops.append(
            Op(
                name="experts_bias",
                kind="bias",
                n=matrices * f + h,
                shard="expert",
                experts=e,
                copies=top,
            )
        )
    if moe.shared_width:
        ops += mlp_ops(Mlp(width=moe.shared_width, gated=moe.gated), h, "shared")
    return ops

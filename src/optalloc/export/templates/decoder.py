"""A decoder-only Transformer built chunk by chunk from plan_facts.json.

Widths, heads, experts and the layers of each chunk are the plan's. Positions are rotary, weights
are random (each tensor has its own seed, so that any split of the model starts from equal weights).
Gated layers use SiLU, others GELU; experts are routed by softmax and top-k, with no auxiliary loss.
"""

from __future__ import annotations

import zlib
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Partial
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

Facts = dict[str, Any]


def shared(weight: Tensor) -> Tensor:
    """The local value of a weight whose gradient is a sum over the tensor-parallel group."""
    if isinstance(weight, DTensor):
        return weight.to_local(grad_placements=[Partial()] * weight.device_mesh.ndim)
    return weight


def initialise(module: nn.Module, prefix: str, seed: int) -> None:
    """Equal weights for equal names, whatever rank builds the module."""
    for name, parameter in module.named_parameters():
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}/{prefix}{name}".encode()))
        with torch.no_grad():
            if parameter.dim() > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)
            else:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)


class GatherSequence(torch.autograd.Function):
    """All shards of the sequence on every context-parallel rank; gradients are summed back."""

    @staticmethod
    def forward(ctx: Any, shard: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        parts = [torch.empty_like(shard) for _ in range(dist.get_world_size(group))]
        dist.all_gather(parts, shard.contiguous(), group=group)
        return torch.cat(parts, dim=1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        grad = grad.contiguous()
        dist.all_reduce(grad, group=ctx.group)
        return grad.chunk(dist.get_world_size(ctx.group), dim=1)[dist.get_rank(ctx.group)], None


class Exchange(torch.autograd.Function):
    """Rows sent between the expert-parallel ranks; gradients travel back the same way."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, send: list[int], receive: list[int], group: dist.ProcessGroup
    ) -> Tensor:
        ctx.send, ctx.receive, ctx.group = send, receive, group
        out = rows.new_empty((sum(receive), *rows.shape[1:]))
        dist.all_to_all_single(out, rows.contiguous(), receive, send, group=group)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        out = grad.new_empty((sum(ctx.send), *grad.shape[1:]))
        dist.all_to_all_single(out, grad.contiguous(), ctx.send, ctx.receive, group=ctx.group)
        return out, None, None, None


class HeadNorm(nn.Module):
    """RMS norm over the last dim of queries or keys."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x, x.shape[-1:], shared(self.weight), eps=1e-6)


def rotate(x: Tensor, positions: Tensor) -> Tensor:
    """Rotary positions; x is [batch, tokens, heads, head_dim]."""
    half = x.shape[-1] // 2
    frequency = 10000.0 ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angle = positions.float()[:, None, None] * frequency
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    left, right = x[..., :half], x[..., half : 2 * half]
    turned = [left * cos - right * sin, right * cos + left * sin]
    return torch.cat([*turned, x[..., 2 * half :]], dim=-1)


class Attention(nn.Module):
    """Softmax attention; with a context-parallel group, keys and values are gathered over it."""

    def __init__(self, hidden: int, facts: Facts, context: dist.ProcessGroup | None) -> None:
        super().__init__()
        self.head_dim, self.window, self.causal = (
            facts["head_dim"],
            facts["window"],
            facts["causal"],
        )
        self.context = context
        q_width, kv_width = (facts[name] * self.head_dim for name in ("heads", "kv_heads"))
        self.q = nn.Linear(hidden, q_width, bias=facts["qkv_bias"])
        self.k = nn.Linear(hidden, kv_width, bias=facts["qkv_bias"])
        self.v = nn.Linear(hidden, kv_width, bias=facts["qkv_bias"])
        self.out = nn.Linear(q_width, hidden, bias=facts["output_bias"])
        self.qk_norm = facts["qk_norm"]
        if self.qk_norm != "none":
            head = self.qk_norm == "head"
            self.q_norm = HeadNorm(self.head_dim if head else q_width)
            self.k_norm = HeadNorm(self.head_dim if head else kv_width)
        self.recompute_core = False

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        q, k, v = self.q(x), self.k(x), self.v(x)
        if self.qk_norm == "width":
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = (t.unflatten(-1, (-1, self.head_dim)) for t in (q, k, v))
        if self.qk_norm == "head":
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = rotate(q, positions), rotate(k, positions)
        keys = positions
        if self.context is not None:
            k = GatherSequence.apply(k, self.context)
            v = GatherSequence.apply(v, self.context)
            parts = [torch.empty_like(positions) for _ in range(dist.get_world_size(self.context))]
            dist.all_gather(parts, positions, group=self.context)
            keys = torch.cat(parts)
        if self.recompute_core and self.training:
            y = checkpoint(self.core, q, k, v, positions, keys, use_reentrant=False)
        else:
            y = self.core(q, k, v, positions, keys)
        return self.out(y)

    def core(self, q: Tensor, k: Tensor, v: Tensor, positions: Tensor, keys: Tensor) -> Tensor:
        mask, plain = None, self.causal and self.window is None and self.context is None
        if not plain and (self.causal or self.window is not None):
            distance = positions[:, None] - keys[None, :]
            mask = distance >= 0 if self.causal else torch.ones_like(distance, dtype=torch.bool)
            if self.window is not None:
                mask &= distance.abs() < self.window
        groups = q.shape[2] // k.shape[2]
        k, v = (t.repeat_interleave(groups, dim=2) for t in (k, v))
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        y = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=plain)
        return y.transpose(1, 2).flatten(2)


class Mlp(nn.Module):
    """Two matrices, or three when gated."""

    def __init__(self, hidden: int, width: int, *, gated: bool, bias: bool) -> None:
        super().__init__()
        self.up = nn.Linear(hidden, width, bias=bias)
        self.gate = nn.Linear(hidden, width, bias=bias) if gated else None
        self.down = nn.Linear(width, hidden, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.gate is None:
            return self.down(functional.gelu(self.up(x)))
        return self.down(functional.silu(self.gate(x)) * self.up(x))


class LocalExperts(nn.Module):
    """The experts that live on this rank."""

    def __init__(self, hidden: int, facts: Facts, first: int, count: int) -> None:
        super().__init__()
        self.first, self.gated = first, facts["gated"]
        self.up = nn.Parameter(torch.empty(count, facts["width"] * (1 + self.gated), hidden))
        self.down = nn.Parameter(torch.empty(count, hidden, facts["width"]))

    def initialise(self, prefix: str, seed: int) -> None:
        for name, parameter in self.named_parameters():
            for index in range(parameter.shape[0]):
                key = f"{seed}/{prefix}{name}.{self.first + index}"
                generator = torch.Generator().manual_seed(zlib.crc32(key.encode()))
                value = torch.randn(parameter.shape[1:], generator=generator) * 0.02
                with torch.no_grad():
                    parameter[index].copy_(value)

    def forward(self, x: Tensor, counts: list[int]) -> Tensor:
        rows = []
        for part, up, down in zip(x.split(counts), self.up, self.down, strict=True):
            y = part @ up.T
            if self.gated:
                gate, y = y.chunk(2, dim=-1)
                y = functional.silu(gate) * y
            else:
                y = functional.gelu(y)
            rows.append(y @ down.T)
        return torch.cat(rows)


class Experts(nn.Module):
    """Top-k routed experts, exchanged over the expert-parallel group, plus a shared expert."""

    def __init__(self, hidden: int, facts: Facts, group: dist.ProcessGroup | None) -> None:
        super().__init__()
        size = 1 if group is None else dist.get_world_size(group)
        rank = 0 if group is None else dist.get_rank(group)
        self.num_experts, self.top_k, self.group = facts["num_experts"], facts["top_k"], group
        self.local = self.num_experts // size
        self.router = nn.Parameter(torch.empty(self.num_experts, hidden))
        self.experts = LocalExperts(hidden, facts, rank * self.local, self.local)
        width = facts["shared_width"]
        self.shared_up = nn.Parameter(torch.empty(2 * width, hidden)) if width else None
        self.shared_down = nn.Parameter(torch.empty(hidden, width)) if width else None

    def forward(self, x: Tensor) -> Tensor:
        shape, x = x.shape, x.flatten(0, -2)
        scores = (x @ shared(self.router).T).float().softmax(-1)
        weight, chosen = scores.topk(self.top_k, dim=-1)
        weight = weight / weight.sum(-1, keepdim=True)
        order = chosen.flatten().argsort(stable=True)
        counts = torch.bincount(chosen.flatten(), minlength=self.num_experts)
        rows = self.visit(x[order // self.top_k], counts)
        rows = rows * weight.flatten()[order].unsqueeze(-1).to(rows.dtype)
        y = torch.zeros_like(x).index_add(0, order // self.top_k, rows)
        if self.shared_up is not None and self.shared_down is not None:
            gate, up = (x @ shared(self.shared_up).T).chunk(2, dim=-1)
            y = y + (functional.silu(gate) * up) @ shared(self.shared_down).T
        return y.view(shape)

    def visit(self, rows: Tensor, counts: Tensor) -> Tensor:
        """Send rows, sorted by expert, to their experts and bring the answers back in order."""
        if self.group is None:
            return self.experts(rows, counts.tolist())
        size = dist.get_world_size(self.group)
        theirs = torch.empty_like(counts)
        dist.all_to_all_single(theirs, counts, group=self.group)
        send = counts.view(size, -1).sum(1).tolist()
        arrived = theirs.view(size, self.local)
        receive = arrived.sum(1).tolist()
        rows = Exchange.apply(rows, send, receive, self.group)
        expert = torch.arange(self.local, device=rows.device).repeat(size)
        by_expert = expert.repeat_interleave(arrived.flatten()).argsort(stable=True)
        answers = self.experts(rows[by_expert], arrived.sum(0).tolist())
        answers = torch.empty_like(answers).index_copy(0, by_expert, answers)
        return Exchange.apply(answers, receive, send, self.group)


def norm(kind: str, hidden: int) -> nn.Module:
    return nn.RMSNorm(hidden, eps=1e-6) if kind == "rms" else nn.LayerNorm(hidden)


class Layer(nn.Module):
    """Attention and feed-forward, each after a norm; ``recompute`` is none, selective or full."""

    def __init__(
        self,
        hidden: int,
        facts: Facts,
        recompute: str,
        context: dist.ProcessGroup | None = None,
        experts: dist.ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        self.attention_norm = norm(facts["norm"], hidden)
        self.attention = Attention(hidden, facts, context)
        self.attention.recompute_core = recompute == "selective"
        self.mlp_norm = norm(facts["norm"], hidden)
        self.mlp: nn.Module
        if facts["experts"]:
            self.mlp = Experts(hidden, facts["experts"], experts)
        else:
            self.mlp = Mlp(hidden, facts["width"], gated=facts["gated"], bias=facts["mlp_bias"])
        self.recompute = recompute == "full"

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        if self.recompute and self.training:
            return checkpoint(self.body, x, positions, use_reentrant=False)
        return self.body(x, positions)

    def body(self, x: Tensor, positions: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x), positions)
        return x + self.mlp(self.mlp_norm(x))


class Chunk(nn.Module):
    """Consecutive layers, with the embedding before the first and the head after the last."""

    def __init__(self, positions: Tensor) -> None:
        super().__init__()
        self.positions = positions
        self.embedding: nn.Module | None = None
        self.layers = nn.ModuleList()
        self.final_norm: nn.Module | None = None
        self.head: nn.Module | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.embedding is not None:
            x = self.embedding(x)
        for layer in self.layers:
            x = layer(x, self.positions)
        if self.final_norm is not None and self.head is not None:
            x = self.head(self.final_norm(x))
        return x


def loss_of(logits: Tensor, target: Tensor) -> Tensor:
    """Mean cross entropy over the tokens of one micro-batch."""
    return functional.cross_entropy(logits.flatten(0, 1).float(), target.flatten())

"""Times of the operations of one layer type on one device, for many mesh keys at once.

Forward, input gradient and weight gradient are added up apart; what tensor-parallel ranks exchange
and the floor that the host sets come last.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import numpy as np
from numpy.typing import NDArray

from optalloc.cost.collective import Group, all_to_all_s, gather_s
from optalloc.cost.compute import Unit
from optalloc.cost.flops import attended
from optalloc.cost.keys import Keys
from optalloc.cost.memory import core_bytes_per_token
from optalloc.cost.shares import Shares
from optalloc.model.graph import Op

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

# Bytes moved per logit by a fused cross entropy in fp32 over 16-bit logits: read 2, write the fp32
# copy 4, read it again 4; backward read 4, write the 16-bit gradient 2.
_LOSS_FORWARD_BYTES = 10.0
_LOSS_BACKWARD_BYTES = 6.0


# Bytes that adding a 16-bit gradient to a 16-bit sum moves: two read, one written.
_SUM_BYTES = 6.0

# What operations add to.
_SUMS = (
    "forward",
    "backward",
    "weight",
    "core_s",
    "core_bytes",
    "held",
    "dense",
    "expert",
    "experts",
    "fallbacks",
    "trained_dense",
    "trained_experts",
    "kept",
    "again_s",
)


class Operations(Shares):
    """Accumulates the operations of one layer type over all keys."""

    def add(self, ops: Iterable[Op]) -> None:
        """Add some operations of the layer."""
        for op in ops:
            if self.layer.op_class(op) in self.free:
                continue
            before = self.forward.copy()
            {
                "gemm": self._gemm,
                "attention": self._attention,
                "elementwise": self._elementwise,
                "lookup": self._elementwise,
                "dispatch": self._dispatch,
                "bias": self._bias,
                "loss": self._loss,
            }[op.kind](op)
            self.again_s += op.again * (self.forward - before)
            self._parameters(op)
            self._store(op)

    @staticmethod
    def divides_experts(op: Op) -> bool:
        """Whether what the op costs depends on expert parallelism."""
        return op.shard == "expert" or op.kind == "dispatch"

    def spread(self, keys: Keys, row: Ints) -> Operations:
        """What was added so far for other keys, each of which costs as much as a row of these."""
        graph, network = self.graph, self.network
        other = Operations(self.layer, graph, self.setting, self.unit, network, keys, self.free)
        for name in _SUMS:
            values = getattr(self, name)
            setattr(other, name, values[row] if isinstance(values, np.ndarray) else values)
        return other

    def row(self) -> dict[str, Array]:
        """The columns of the layer when all its operations and exchanges have been added."""
        if self.setting.dropout:
            self.held += self._masks()
        if "host" not in self.free:
            self._host()
        held = self.held + self.core_bytes
        core_s, core_bytes = self.core_s, self.core_bytes
        if self.by_operator:
            core_s, core_bytes = self.again_s, np.maximum(0.0, held - self.kept)
        return {
            "forward_s": self.forward,
            "backward_s": self.backward,
            "weight_s": self.weight,
            "core_s": core_s,
            "held_bytes": held,
            "core_bytes": core_bytes,
            "input_bytes": self.size * self.layer.hidden * self.tokens * self.sequence_share,
            "dense_parameters": self.dense,
            "expert_parameters": self.expert,
            "trained_dense": self.trained_dense if self.frozen else self.dense,
            "trained_experts": self.trained_experts if self.frozen else self.expert,
        }

    def _gemm(self, op: Op) -> None:
        # The router and the logits stay in 16 bits.
        inner = self.layer.stack != "head" and op.name != "router"
        unit = self.unit if inner else self.unit.plain()
        if self.layer.stack == "head":
            unit = self._over_vocabulary(unit, op)
        m = self._rows(op)
        n = self._columns(op)
        k = op.k / self.tp if op.shard == "row" else op.k + np.zeros_like(self.tp)
        groups: Array | float = 1.0
        if op.shard == "expert":
            groups = np.maximum(1.0, op.experts / self.ep)
            m = m / groups
        self.forward += unit.gemm_s(m, n, k, groups)
        self.backward += unit.gemm_s(m, k, n, groups)
        if not self.frozen:
            self.weight += self._weight_gradient(unit, groups, m, n, k)
        elif self._adapted(op):
            r = self.rank + np.zeros_like(k)
            self.forward += unit.gemm_s(m, r, k, groups) + unit.gemm_s(m, n, r, groups)
            self.backward += unit.gemm_s(m, r, n, groups) + unit.gemm_s(m, k, r, groups)
            self.weight += unit.gemm_s(r, n, m, groups) + unit.gemm_s(k, r, m, groups)

    def _over_vocabulary(self, unit: Unit, op: Op) -> Unit:
        """Matrix instructions read eight 16-bit values of a row at a time; a rank's part of a
        vocabulary that nobody pads may begin at any, and each halving of what divides it costs.
        """
        part = np.floor(op.n / self.tp).astype(np.int64)
        halvings = np.where(self.setting.padded, 0.0, 3.0 - np.log2(np.gcd(part, 8)))
        share = unit.constants.unaligned_product ** (halvings / 3.0)
        return msgspec.structs.replace(unit, matrix_efficiency=unit.matrix_efficiency * share)

    def _weight_gradient(
        self, unit: Unit, groups: Array | float, m: Array, n: Array, k: Array
    ) -> Array:
        """Product of the weight's gradient, and its sum with that of the step.

        Inside the product the sum is read and written with it; a kernel of its own moves the
        gradient besides. ``accumulate_bytes`` is that of 16-bit sums.
        """
        setting = self.setting
        product: Array = unit.gemm_s(k, n, m, groups)
        values = groups * k * n
        inside = values * (2.0 * setting.gradient_bytes) / unit.bandwidth_bytes_per_s
        wide = (self.size + 2.0 * setting.gradient_bytes) / _SUM_BYTES
        apart = values * wide * unit.constants.accumulate_bytes / unit.bandwidth_bytes_per_s
        return np.where(setting.fused_gradient, np.maximum(product, inside), product + apart)

    def _elementwise(self, op: Op) -> None:
        if not np.any(op.elements):
            return
        moved = self.size * op.elements * self._rows(op) * self._width_share(op)
        self.forward += self.unit.stream_s(moved)
        self.backward += self.unit.stream_s(2.0 * moved)

    def _attention(self, op: Op) -> None:
        unit = self.unit
        share = self.sequence_share if op.shard == "sequence" else 1.0 / self.tp
        heads = op.heads * share
        span = self._attended(op)
        flops = 2.0 * heads * self.tokens * span * (op.qk_dim + op.v_dim)
        width = heads * (op.qk_dim + op.v_dim) + np.maximum(op.kv_heads * share, 1.0) * (
            op.qk_dim + op.v_dim
        )
        moved = self.size * self.tokens * width
        length = self.source_length if op.cross else self.length
        scores = np.where(self.setting.fused, 0.0, self.size * heads * self.tokens * length)
        # The fused softmax of Megatron-LM takes matrices in groups of four; else it is left to
        # several kernels.
        alone = ~np.asarray(self.setting.fused) & (
            np.remainder(heads * self.keys.micro_batch, 4.0) > 0.0
        )
        self.fallbacks = np.where(alone, 1.0, self.fallbacks)
        scores = scores * np.where(alone, unit.constants.softmax_fallback, 1.0)
        forward, backward = unit.attention_s(flops, moved, scores, op.qk_dim)
        exchanged_f, exchanged_b = self._ring(op, forward, backward)
        self.forward += forward + exchanged_f
        self.backward += backward + exchanged_b
        self.core_s += forward
        if self.setting.workload is not None:
            self.core_bytes += self.tokens * core_bytes_per_token(
                op, heads, float(length), self.setting.workload
            )
        self._elementwise(op)

    def _attended(self, op: Op) -> Array | float:
        """Mean number of positions the kernel computes for a token; an unfused one masks later."""
        if op.cross:
            return self.source_length
        mean: Array | float = np.where(self.setting.fused, attended(op, self.length), self.length)
        return mean

    def _ring(self, op: Op, forward: Array, backward: Array) -> tuple[Array, Array]:
        """What stays visible of the exchange of keys and values between context-parallel ranks."""
        c = self.unit.constants
        heads = np.maximum(op.kv_heads / self.tp, 1.0)
        tokens = self.source_tokens if op.cross else self.tokens
        block = self.size * tokens * heads * (op.qk_dim + op.v_dim)
        # All-gather of every rank's block: each rank receives (cp - 1) blocks.
        moved = gather_s(self.cp_network, self.keys.cp, self.keys.tp, block * self.cp)
        hidden_f, hidden_b = c.context_overlap * forward, c.context_overlap * backward
        return np.maximum(0.0, moved - hidden_f), np.maximum(0.0, 2.0 * moved - hidden_b)

    def _dispatch(self, op: Op) -> None:
        self._elementwise(op)
        sent = self.size * op.k * self._rows(op)
        seen = 1.0 - self.unit.constants.expert_overlap
        exchange = 2.0 * seen * all_to_all_s(self.ep_network, self.keys.ep, 1, sent, op.copies)
        self.experts = np.maximum(1.0, op.experts / self.ep)
        self.forward += exchange
        self.backward += exchange

    def _bias(self, op: Op) -> None:
        """Biases and activations of experts that have biases, where kernels apart apply them."""
        moved = self.size * op.n * self._rows(op)
        passes, apart = (
            self.unit.constants.bias_passes,
            np.where(self.setting.biases_apart, 1.0, 0.0),
        )
        self.forward += apart * self.unit.stream_s(passes * moved)
        self.backward += apart * self.unit.stream_s(2.0 * passes * moved)

    def _loss(self, op: Op) -> None:
        logits = self.tokens * op.n / self.tp
        self.forward += self.unit.stream_s(_LOSS_FORWARD_BYTES * logits, 3.0)
        self.backward += self.unit.stream_s(_LOSS_BACKWARD_BYTES * logits, 1.0)

    def _host(self) -> None:
        """A pass over a layer takes at least as long as the host needs to launch its kernels.

        Each collective and each expert of a rank is launched by itself, and routing to experts
        takes kernels of its own. Input and weight gradients
        launch half of a backward each. What one has left does not shorten the other: a faster
        device must not make either of them longer. The ends of the model launch few kernels, but
        a micro-batch begins and ends there.
        """
        c = self.unit.constants
        if self.layer.stack in ("embedding", "head"):
            self.forward += c.micro_s
            self.backward += c.micro_s
            return
        host = c.layer_host_s + c.expert_host_s * self.experts
        host = host + np.where(np.greater(self.experts, 0.0), c.router_host_s, 0.0)
        host = host + np.where(self.tp > 1, c.tp_host_s * self.layer.tp_reduces, 0.0)
        host = host + c.fallback_host_s * self.fallbacks
        half = c.backward_host / 2.0
        self.forward = np.maximum(self.forward + c.layer_gap_s, host)
        self.backward = np.maximum(self.backward + c.layer_gap_s, half * host)
        if not self.frozen:
            self.weight = np.maximum(self.weight + c.layer_gap_s, half * host)

    def tensor_parallel(self) -> None:
        """Sums over the tensor-parallel group.

        Without sequence parallelism: one all-reduce forward after every row-sharded matrix, one
        backward before its block. With it: gather and scatter in each direction, and the backward
        gathers the block's input again. The lookup has a sum forward and no block before it; the
        head a block and no sum after it.
        """
        full = self.size * self.tokens * self.layer.hidden
        keys = self.keys
        c = self.unit.constants
        seen, begun = 1.0 - c.tp_overlap, np.where(keys.tp > 1, c.collective_s, 0.0)
        if self.tp_network.is_free:
            begun = np.zeros_like(self.tp)
        group = Group(self.tp_network, keys.tp, 1)
        gather = seen * group.gather_s(full) + begun
        reduce = seen * group.all_reduce_s(full) + begun
        sharded = keys.sequence > 0
        if self.layer.stack == "head":
            self.forward += np.where(sharded, gather, 0.0)
            self.backward += np.where(sharded, 2.0 * gather, reduce)
        elif self.layer.stack == "embedding":
            self.forward += np.where(sharded, gather, reduce)
            self.backward += np.where(sharded, gather, 0.0)
        else:
            count = self.layer.tp_reduces
            self.forward += count * np.where(sharded, 2.0 * gather, reduce)
            self.backward += count * np.where(sharded, 3.0 * gather, reduce)

"""Cost of every layer type on one device, for many meshes at once.

One row per mesh key (tp, sequence parallel, cp, ep, micro-batch), one column per layer type of the
graph. Everything else a plan decides (pipeline, ZeRO, recomputation) builds on these numbers.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from optalloc.cost.collective import Network, all_reduce_s, all_to_all_s, gather_s
from optalloc.cost.compute import Unit
from optalloc.cost.memory import core_bytes_per_token
from optalloc.cost.setting import Setting
from optalloc.model.graph import Graph, LayerGraph, Op
from optalloc.workload import Training

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

# Bytes moved per logit by a fused cross entropy in fp32 over 16-bit logits: read 2, write the fp32
# copy 4, read it again 4; backward read 4, write the 16-bit gradient 2.
_LOSS_FORWARD_BYTES = 10.0
_LOSS_BACKWARD_BYTES = 6.0


# Bytes that adding a 16-bit gradient to a 16-bit sum moves: two read, one written.
_SUM_BYTES = 6.0


class Keys(msgspec.Struct, frozen=True, kw_only=True):
    """Mesh keys: integer arrays of shape (num_keys,)."""

    tp: Ints
    sequence: Ints
    cp: Ints
    ep: Ints
    micro_batch: Ints


class LayerTable(msgspec.Struct, frozen=True, kw_only=True):
    """Arrays of shape (num_keys, num_types) for one device.

    Times of one micro-batch in seconds (``core_s``: what selective recomputation repeats of the
    forward pass), stored bytes of one micro-batch (``core_bytes``: the part that it saves),
    parameters, and those of them that are trained. Selective is the attention core; under FSDP it
    goes operator by operator.
    """

    forward_s: Array
    backward_s: Array
    weight_s: Array
    core_s: Array
    held_bytes: Array
    core_bytes: Array
    input_bytes: Array
    dense_parameters: Array
    expert_parameters: Array
    trained_dense: Array
    trained_experts: Array


def tokens_of(layer: LayerGraph, graph: Graph, workload: Training) -> tuple[int, int]:
    """Tokens of one sequence that pass the layer, and those its cross-attention reads."""
    source = workload.sequence_length
    if not graph.encoder_decoder:
        return source, source
    target = workload.decoder_sequence_length or source
    if layer.stack == "embedding":
        return source + target, source
    return (source if layer.stack == "encoder" else target), source


def attended(op: Op, length: Array | float) -> Array | float:
    """Mean number of the ``length`` positions of its own sequence that a token attends to.

    A causal window of w positions is still growing over the first w tokens: w - w (w-1) / (2 s).
    """
    window = np.minimum(np.where(np.equal(op.window, 0), length, op.window), length)
    mean: Array | float = window
    if op.causal:
        mean = window - window * (window - 1.0) / (2.0 * length)
    return mean


def layer_table(
    graph: Graph,
    work: Training | Setting,
    unit: Unit,
    network: Network,
    keys: Keys,
    free: tuple[str, ...] = (),
) -> LayerTable:
    """Evaluate every layer type for every key.

    The figures of ``graph``, ``work``, ``unit`` and ``network`` are numbers, or arrays of one entry
    a key where the keys belong to different problems of equal structure. ``free`` names what an
    account of time leaves out: the exchanges of an axis ("tp", "cp", "ep"), the floor that the host
    sets ("host"), or a class of operations, with all they hold.

    Complexity: O(num_keys * number of operations over all layer types), vectorised.
    """
    setting = Setting.of(work) if isinstance(work, Training) else work
    columns = [
        _Layer(layer, graph, setting, unit, network, keys, free).row() for layer in graph.types
    ]
    return LayerTable(
        **{
            name: np.stack([column[name] for column in columns], axis=1)
            for name in LayerTable.__struct_fields__
        }
    )


class _Layer:
    """Accumulates the operations of one layer type over all keys."""

    def __init__(
        self,
        layer: LayerGraph,
        graph: Graph,
        setting: Setting,
        unit: Unit,
        network: Network,
        keys: Keys,
        free: tuple[str, ...],
    ) -> None:
        self.layer, self.setting, self.unit = layer, setting, unit
        self.free = free
        idle = network.free()
        self.tp_network, self.cp_network, self.ep_network = (
            idle if axis in free else network for axis in ("tp", "cp", "ep")
        )
        self.tp = keys.tp.astype(np.float64)
        self.cp = keys.cp.astype(np.float64)
        self.ep = keys.ep.astype(np.float64)
        self.keys = keys
        self.length = setting.tokens(layer, encoder_decoder=graph.encoder_decoder)
        self.source_length = setting.source
        batch = keys.micro_batch.astype(np.float64)
        self.tokens: Array = batch * self.length / self.cp
        self.source_tokens: Array = batch * self.source_length / self.cp
        self.sequence_share = np.where(keys.sequence > 0, 1.0 / self.tp, 1.0)
        self.size = setting.element_bytes
        zero = np.zeros_like(self.tp)
        self.forward, self.backward, self.weight = zero.copy(), zero.copy(), zero.copy()
        self.core_s, self.core_bytes, self.held = zero.copy(), zero.copy(), zero.copy()
        self.dense, self.expert = zero.copy(), zero.copy()
        self.experts: Array | float = 0.0  # of one rank
        self.fallbacks: Array | float = 0.0
        self.trained_dense, self.trained_experts = zero.copy(), zero.copy()
        self.kept, self.again_s = zero.copy(), zero.copy()
        self.by_operator = setting.by_operator
        self.input_share = setting.input_share
        self.frozen = setting.frozen
        # Adapters sit beside the matrices of the layers.
        self.adapted = setting.frozen and layer.stack not in ("embedding", "head")
        self.rank = setting.lora_rank

    def row(self) -> dict[str, Array]:
        for op in self.layer.ops:
            if self.layer.op_class(op) in self.free:
                continue
            before = self.forward.copy()
            {
                "gemm": self._gemm,
                "attention": self._attention,
                "elementwise": self._elementwise,
                "lookup": self._elementwise,
                "dispatch": self._dispatch,
                "loss": self._loss,
            }[op.kind](op)
            self.again_s += op.again * (self.forward - before)
            self._parameters(op)
            self._store(op)
        if self.setting.dropout:
            self.held += self._masks()
        self._tensor_parallel()
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

    # -- shares ----------------------------------------------------------------------------------

    def _rows(self, op: Op) -> Array:
        """Rows the op processes on one rank."""
        tokens = self.source_tokens if op.source else self.tokens
        if op.shard in ("sequence", "replicated"):
            return tokens * self.sequence_share
        if op.shard == "expert":
            balance = self.unit.constants.expert_imbalance
            return tokens * self.sequence_share * op.copies * balance
        return tokens

    def _width_share(self, op: Op) -> Array:
        """Share of the op's values that one rank holds."""
        if op.shard not in ("column", "tensor"):
            return np.ones_like(self.tp)
        if np.all(op.kv_heads) and op.kind == "attention" and not op.cross:
            # queries and outputs divide; keys and values stop dividing at one head a rank
            q = op.heads * (op.qk_dim + op.v_dim)
            kv = op.kv_heads * (op.qk_dim + op.v_dim)
            local = q / self.tp + kv * np.maximum(1.0 / self.tp, 1.0 / op.kv_heads)
            share: Array = local / (q + kv)
            return share
        return 1.0 / self.tp

    def _columns(self, op: Op) -> Array:
        if op.shard != "column":
            return op.n + np.zeros_like(self.tp)
        kv = op.n_kv * np.maximum(1.0 / self.tp, 1.0 / np.maximum(1, op.kv_heads))
        columns: Array = op.n / self.tp + kv
        return columns

    def _store(self, op: Op) -> None:
        """What the op keeps for the backward pass, and what of it recomputation by operator does.

        The output of a row-sharded product lies on the sequence's shards.
        """
        saved = op.saved + (op.eager if self.setting.eager else 0.0)
        if np.all(op.inputs > 0.0):
            saved -= (1.0 - self.input_share) * op.inputs
        elif self.input_share < 1.0:
            saved -= self.input_share * op.inputs
        self.held += self.size * saved * self._rows(op) * self._width_share(op)
        if np.any(op.kept):
            rows = self.tokens * self.sequence_share if op.shard == "row" else self._rows(op)
            self.kept += self.size * op.kept * rows * self._width_share(op)

    def _masks(self) -> Array:
        """Dropout masks of a byte a value: behind attention and MLP, or behind the embedding.

        The attention core counts its own.
        """
        count = {"embedding": 1.0, "head": 0.0}.get(self.layer.stack, 2.0)
        masks: Array = count * self.layer.hidden * self.tokens * self.sequence_share
        return masks

    def _parameters(self, op: Op) -> None:
        if self.adapted and op.kind == "gemm":
            self._adapters(op)
        if op.shard == "expert":
            self.expert += op.parameters / self.ep
        elif np.any(op.n_kv):  # key and value heads are repeated where tp exceeds them
            self.dense += op.parameters * self._columns(op) / (op.n + op.n_kv)
        elif op.shard in ("column", "row", "tensor"):
            self.dense += op.parameters / self.tp
        else:
            self.dense += op.parameters

    def _adapters(self, op: Op) -> None:
        """Two matrices of the adapter's rank beside a frozen one, divided as it is."""
        wide = self._columns(op) + (op.k / self.tp if op.shard == "row" else op.k)
        if op.shard == "expert":
            count = op.experts / self.ep * self.rank * (op.k + op.n)
            self.expert += count
            self.trained_experts += count
        else:
            self.dense += self.rank * wide
            self.trained_dense += self.rank * wide

    # -- operations ------------------------------------------------------------------------------

    def _gemm(self, op: Op) -> None:
        # The router and the logits stay in 16 bits.
        inner = self.layer.stack != "head" and op.name != "router"
        unit = self.unit if inner else self.unit.plain()
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
        elif self.adapted:
            r = self.rank + np.zeros_like(k)
            self.forward += unit.gemm_s(m, r, k, groups) + unit.gemm_s(m, n, r, groups)
            self.backward += unit.gemm_s(m, r, n, groups) + unit.gemm_s(m, k, r, groups)
            self.weight += unit.gemm_s(r, n, m, groups) + unit.gemm_s(k, r, m, groups)

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

    def _tensor_parallel(self) -> None:
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
        gather = seen * gather_s(self.tp_network, keys.tp, 1, full) + begun
        reduce = seen * all_reduce_s(self.tp_network, keys.tp, 1, full) + begun
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

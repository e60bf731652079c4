"""What one rank holds of the operations of a layer: rows, columns, parameters, stored values.

One entry per mesh key (tp, sequence parallel, cp, ep, micro-batch).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from optalloc.cost.collective import Network
from optalloc.cost.compute import Unit
from optalloc.cost.keys import Keys
from optalloc.cost.setting import Setting
from optalloc.model.graph import Graph, LayerGraph, Op

Array = NDArray[np.float64]
Ints = NDArray[np.int64]


class Shares:
    """One layer type over all keys: what a rank holds of it, added up operation by operation."""

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
        self.graph, self.network, self.free = graph, network, free
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
        self.rank = setting.lora_rank

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
        if self._adapted(op):
            self._adapters(op)
        if op.shard == "expert":
            self.expert += op.parameters / self.ep
        elif np.any(op.n_kv):  # key and value heads are repeated where tp exceeds them
            self.dense += op.parameters * self._columns(op) / (op.n + op.n_kv)
        elif op.shard in ("column", "row", "tensor"):
            self.dense += op.parameters / self.tp
        else:
            self.dense += op.parameters

    def _adapted(self, op: Op) -> bool:
        """Whether an adapter sits beside the op, a matrix of a layer."""
        if (
            not self.setting.frozen
            or op.kind != "gemm"
            or self.layer.stack in ("embedding", "head")
        ):
            return False
        inputs = self.layer.op_class(op) == "projections" and not op.name.endswith("_out")
        return inputs or not self.setting.narrow

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

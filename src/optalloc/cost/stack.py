"""Many problems of equal structure evaluated at once: one mesh each, every figure an array.

A fit evaluates all measurements some hundred times, so the formulas must run over all of them
together. They are those of :class:`~optalloc.cost.model.CostModel`, given arrays of one entry a
problem where a single problem has numbers; nothing is written twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from optalloc.cluster.topology import Level
from optalloc.cost.collective import Network, copies_through_host
from optalloc.cost.compute import Unit, peak_flops_per_s
from optalloc.cost.constants import Constants
from optalloc.cost.keys import Keys
from optalloc.cost.layers import LayerTable, layer_table
from optalloc.cost.memory import StateBytes
from optalloc.cost.meshes import Meshes
from optalloc.cost.model import CostModel
from optalloc.cost.setting import Setting
from optalloc.model.graph import Graph, LayerGraph, Op

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

_FIGURES = (
    "k",
    "n",
    "n_kv",
    "kv_heads",
    "heads",
    "qk_dim",
    "v_dim",
    "window",
    "experts",
    "copies",
    "elements",
    "saved",
    "eager",
    "inputs",
    "kept",
    "again",
    "parameters",
)


def structure(cost: CostModel) -> tuple[object, ...]:
    """Equal for problems whose layer types have the same operations, whatever their sizes."""
    graph, setting = cost.graph, cost.setting
    kind = (setting.frozen, setting.narrow, setting.by_operator)
    return kind + tuple(
        (
            layer.stack,
            *(
                (
                    op.kind,
                    op.shard,
                    op.source,
                    op.cross,
                    op.causal,
                    op.n_kv > 0,
                    op.elements > 0,
                    op.kept > 0,
                )
                for op in layer.ops
            ),
        )
        for layer in graph.types
    )


class Stack(CostModel):
    """Cost models of equal structure, one mesh each; evaluates times alone.

    Parameters
    ----------
    costs : sequence of CostModel
        Of one :func:`structure`.
    meshes : Meshes
        The mesh of each.
    """

    def __init__(self, costs: Sequence[CostModel], meshes: Meshes) -> None:
        self.costs, self.meshes = tuple(costs), meshes
        self.graph = _graph([cost.graph for cost in costs])
        settings = [cost.setting for cost in costs]
        self.setting = Setting(
            source=_array(settings, lambda s: s.source),
            target=_array(settings, lambda s: s.target),
            element_bytes=_array(settings, lambda s: s.element_bytes),
            fused=_array(settings, lambda s: s.fused).astype(bool),
            lora_rank=_array(settings, lambda s: s.lora_rank),
            frozen=settings[0].frozen,
            narrow=settings[0].narrow,
            by_operator=settings[0].by_operator,
            eager=False,
            dropout=False,
            input_share=1.0,
            gradient_bytes=_array(settings, lambda s: s.gradient_bytes),
            fused_gradient=_array(settings, lambda s: s.fused_gradient).astype(bool),
            biases_apart=_array(settings, lambda s: s.biases_apart).astype(bool),
            padded=_array(settings, lambda s: s.padded).astype(bool),
            workload=None,
        )
        states = [cost.states for cost in costs]
        fields: dict[str, Any] = {
            name: _array(states, attrgetter(name))
            for name in ("weights", "gradients", "optimizer", "reduced")
        }
        self.states = StateBytes(**fields)
        self.fragmentation = 1.0
        self.scatters = np.array([cost.scatters for cost in costs])
        self._batches = _array(costs, lambda c: c.workload.global_batch).astype(np.int64)
        self._units = [Unit.of(cost.device, cost.workload.dtype, cost.constants) for cost in costs]
        self._dtypes = [cost.workload.dtype for cost in costs]
        self._small = np.array([dtype in ("fp8", "fp4") for dtype in self._dtypes])
        self._peak = _array(costs, lambda c: peak_flops_per_s(c.device, c.workload.dtype))
        self._attention = _array(self._units, lambda u: u.attention_flops_per_s)
        self._memory = _array(costs, lambda c: c.device.memory_bandwidth_bytes_per_s)
        self._processors = _array(self._units, lambda u: u.multiprocessors)
        self._levels = _levels(costs)
        # The outermost level of one node is its own links.
        self._joined = np.array([cost.cluster.levels()[-1].name == "network" for cost in costs])
        self._bus = np.array([copies_through_host(cost.device.link) for cost in costs])
        self._named = [self._is_dtype("fp8"), self._is_dtype("fp4"), self._is_dtype("fp32")]

    def _is_dtype(self, name: str) -> NDArray[np.bool_]:
        return np.array([dtype == name for dtype in self._dtypes])

    def set_constants(self, constants: Constants) -> None:
        """Take constants whose fields are arrays of one entry a problem."""
        self.constants = c = constants
        small: Any = np.where(self._small, c.cast_passes, 0.0)
        efficiency: Any = np.select(
            self._named,
            [c.gemm_efficiency_fp8, c.gemm_efficiency_fp4, c.gemm_efficiency_fp32],
            c.gemm_efficiency,
        )
        self.unit = Unit(
            matrix_flops_per_s=self._peak,  # type: ignore[arg-type]
            matrix_efficiency=efficiency,
            attention_flops_per_s=self._attention,  # type: ignore[arg-type]
            bandwidth_bytes_per_s=self._memory * c.memory_efficiency,  # type: ignore[arg-type]
            multiprocessors=self._processors,  # type: ignore[arg-type]
            element_bytes=self.setting.element_bytes,  # type: ignore[arg-type]
            cast_passes=small,
            constants=c,
        )
        inside = np.where(self._bus, c.host_link_efficiency, c.node_link_efficiency)
        between = np.where(self._joined, c.network_efficiency, inside)
        self.network = Network(
            tuple(
                msgspec.structs.replace(
                    level,
                    bandwidth_bytes_per_s=level.bandwidth_bytes_per_s
                    * (between if level.name == "network" else inside),
                )
                for level in self._levels
            )
        )

        far = self._levels[-1]
        sends = np.where(self._joined, c.send_efficiency, inside)
        self.far = msgspec.structs.replace(
            far, bandwidth_bytes_per_s=far.bandwidth_bytes_per_s * sends
        )

    def layer_costs(self, meshes: Meshes, free: tuple[str, ...] = ()) -> tuple[LayerTable, Ints]:
        """The layer table with one key a problem."""
        names = ("tp", "sequence", "cp", "ep", "micro_batch")
        keys = Keys(**{name: getattr(meshes, name) for name in names})
        table = layer_table(self.graph, self.setting, self.unit, self.network, keys, free)
        return table, np.arange(len(meshes))

    def num_microbatches(self, meshes: Meshes) -> Ints:
        count: Ints = self._batches // (meshes.dp * meshes.micro_batch)
        return count

    def _bytes(self, *_: object) -> dict[str, Array]:
        names = ("held", "held_selective", "held_full", "scratch_selective", "scratch_full")
        zero = np.zeros((len(self.costs), len(self.graph.types)))
        return {f"{name}_bytes": zero for name in (*names, "state")}

    def _capacity_bytes(self, meshes: Meshes, parameters: Array) -> Array:  # noqa: ARG002
        return np.full(len(meshes), np.inf)

    def logits_bytes(self, meshes: Meshes) -> Array:
        return np.zeros(len(meshes))


def _array(items: Sequence[Any], of: Callable[[Any], Any]) -> Array:
    return np.array([of(item) for item in items], np.float64)


def _graph(graphs: Sequence[Graph]) -> Graph:
    """One graph whose operations have arrays for figures."""
    types = [_layer(layers) for layers in zip(*(graph.types for graph in graphs), strict=True)]
    tied: Any = _array(graphs, lambda g: g.tied_parameters)
    return Graph(
        model="stack",
        embedding=types[0],
        layers=tuple(types[1:-1]),
        head=types[-1],
        sequence=(),
        tied_parameters=tied,
        encoder_decoder=False,
    )


def _layer(layers: Sequence[LayerGraph]) -> LayerGraph:
    hidden: Any = _array(layers, lambda layer: layer.hidden)
    reduces: Any = _array(layers, lambda layer: layer.tp_reduces)
    return LayerGraph(
        name=layers[0].name,
        stack=layers[0].stack,
        hidden=hidden,
        tp_reduces=reduces,
        ops=tuple(_op(ops) for ops in zip(*(layer.ops for layer in layers), strict=True)),
    )


def _op(ops: Sequence[Op]) -> Op:
    figures: dict[str, Any] = {name: _array(ops, attrgetter(name)) for name in _FIGURES}
    return msgspec.structs.replace(ops[0], **figures)


def _levels(costs: Sequence[CostModel]) -> list[Level]:
    """Three levels; a cluster with fewer repeats its last one, where nothing meets any more."""
    rows = []
    for cost in costs:
        levels = list(cost.cluster.levels())
        inner = [level for level in levels if level.name != "network"]
        outer = levels[-1]
        middle = inner[1] if len(inner) > 1 else (inner or [outer])[0]
        rows.append(((inner or [outer])[0], middle, outer))
    names = ("node", "node", "network")
    found = []
    for k, name in enumerate(names):
        level: Any = {
            field: _array([row[k] for row in rows], attrgetter(field))
            for field in ("num_devices", "cuts_groups", "bandwidth_bytes_per_s", "latency_s")
        }
        level["num_devices"] = level["num_devices"].astype(np.int64)
        level["cuts_groups"] = level["cuts_groups"] > 0.0
        found.append(Level(name=name, **level))
    return found

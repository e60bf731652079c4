"""What a step takes besides the passes over its layers: sends, the tied matrix, the update."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from optalloc.cluster.topology import Level
from optalloc.cost.collective import Network, all_reduce_s, gather_s, send_s
from optalloc.cost.compute import Unit
from optalloc.cost.memory import StateBytes
from optalloc.cost.meshes import Meshes
from optalloc.cost.setting import Setting
from optalloc.cost.sharding import column
from optalloc.model.graph import Graph

Array = NDArray[np.float64]

# Bytes per parameter that the constant ``optimizer_bytes`` stands for: 4 + 2 * 12 + 2.
_ADAMW_BYTES = 30.0


def links(
    network: Network,
    far: Level,
    meshes: Meshes,
    *,
    whole_bytes: Array,
    scatters: bool | NDArray[np.bool_],
    begun_s: float,
) -> dict[str, Array]:
    """Latency and transfer of a send between stages, inside a node and between nodes, seconds.

    ``far`` is the outermost level as one message finds it, ``whole_bytes`` are those of a boundary
    for one micro-batch. Each rank of a tensor-parallel group sends a part of them where the
    sequence is parallel or the software ``scatters`` them; in the second case the receivers gather
    the parts. ``begun_s`` is what a send takes to begin.
    """
    parted = np.not_equal(meshes.sequence, 0) | scatters
    sent = np.where(parted, whole_bytes / meshes.tp, whole_bytes)
    gathered = gather_s(network, meshes.tp, 1, whole_bytes)
    gathered = np.where((meshes.sequence == 0) & scatters, gathered, 0.0)
    near = network.levels[0]
    begun = begun_s + np.zeros(len(meshes))
    return {
        "latency_near_s": near.latency_s + begun,
        "latency_far_s": far.latency_s + begun,
        "transfer_near_s": send_s(near, sent) - near.latency_s + gathered,
        "transfer_far_s": send_s(far, sent) - far.latency_s + gathered,
    }


def tied_s(network: Network, graph: Graph, states: StateBytes, meshes: Meshes) -> Array:
    """All-reduce of the tied embedding's gradient between first and last stage, seconds."""
    gradient: Array = graph.tied_parameters * states.reduced / meshes.tp
    two = np.full(len(meshes), 2)
    apart = meshes.num_devices // meshes.pp * np.maximum(1, meshes.pp - 1)
    return np.where(gradient > 0.0, all_reduce_s(network, two, apart, gradient), 0.0)


def update_s(parameters: Array, setting: Setting, states: StateBytes, unit: Unit) -> Array:
    """Optimizer time of the parameters a device updates, seconds.

    The constant is that of AdamW with a master copy and fp32 gradients: gradients read, master
    and moments read and written, weights written. Other layouts move in proportion.
    """
    c = unit.constants
    size = column(setting.element_bytes)
    weights = np.where(np.equal(size, 2.0), size, 2.0 * size)  # fp32: their own master copy
    moved = column(states.gradients) + 2.0 * column(states.optimizer) + weights
    bytes_ = column(c.optimizer_bytes) * moved / _ADAMW_BYTES
    time_s: Array = parameters * bytes_ / column(unit.bandwidth_bytes_per_s)
    return time_s + column(c.update_host_s)

"""Cost of every layer type on one device, for many meshes at once.

One row per mesh key (tp, sequence parallel, cp, ep, micro-batch), one column per layer type of the
graph. Everything else a plan decides (pipeline, ZeRO, recomputation) builds on these numbers.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from optalloc.cost.collective import Network
from optalloc.cost.compute import Unit
from optalloc.cost.keys import Keys
from optalloc.cost.operations import Operations
from optalloc.cost.setting import Setting
from optalloc.model.graph import Graph
from optalloc.workload import Training

Array = NDArray[np.float64]
Ints = NDArray[np.int64]


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


def layer_table(
    graph: Graph,
    work: Training | Setting,
    unit: Unit,
    network: Network,
    keys: Keys,
    free: tuple[str, ...] = (),
    without_ep: tuple[Keys, Ints] | None = None,
) -> LayerTable:
    """Evaluate every layer type for every key.

    The figures of ``graph``, ``work``, ``unit`` and ``network`` are numbers, or arrays of one entry
    a key where the keys belong to different problems of equal structure. ``free`` names what an
    account of time leaves out: the exchanges of an axis ("tp", "cp", "ep"), the floor that the host
    sets ("host"), or a class of operations, with all they hold. ``without_ep`` are the distinct
    keys but for expert parallelism, and each key's row in them: what does not depend on it is
    evaluated for those.

    Complexity: O(num_keys * number of operations over all layer types), vectorised.
    """
    setting = Setting.of(work) if isinstance(work, Training) else work
    few = keys if without_ep is None else without_ep[0]
    columns = []
    for layer in graph.types:
        part = Operations(layer, graph, setting, unit, network, few, free)
        experts = [op for op in layer.ops if part.divides_experts(op)]
        part.add(op for op in layer.ops if not part.divides_experts(op))
        part.tensor_parallel()
        if without_ep is not None and experts:
            part = part.spread(keys, without_ep[1])
        part.add(experts)
        column = part.row()
        if without_ep is not None and not experts:
            column = {name: values[without_ep[1]] for name, values in column.items()}
        columns.append(column)
    return LayerTable(
        **{
            name: np.stack([column[name] for column in columns], axis=1)
            for name in LayerTable.__struct_fields__
        }
    )

"""CostModel: from a model, a cluster and a workload to the cost of any mesh.

The cost model is data (a name, a version, constants) and four sets of formulas (compute,
collective, memory, price). Planners see only :class:`MeshTables`, so a fitted model can replace the
constants without touching them.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from optalloc import files
from optalloc.cluster.topology import Cluster
from optalloc.cost import price
from optalloc.cost.collective import effective
from optalloc.cost.compute import Unit
from optalloc.cost.constants import (
    DEFAULT,
    Constants,
    expected_error,
    keys_of,
    read_constants,
    resolved,
)
from optalloc.cost.flops import forward_flops, tokens_of
from optalloc.cost.keys import Keys, codes_of, distinct_keys
from optalloc.cost.layers import LayerTable, layer_table
from optalloc.cost.memory import StateBytes, fragmentation, logit_bytes, working_bytes
from optalloc.cost.meshes import LAYER_FIELDS, REAL_FIELDS, Meshes, MeshTables
from optalloc.cost.setting import Setting
from optalloc.cost.sharding import Groups, Traffic, column
from optalloc.cost.stages import links, tied_s, update_s
from optalloc.errors import InputError
from optalloc.model.graph import Graph
from optalloc.model.lower import lower
from optalloc.model.spec import ModelSpec
from optalloc.workload import Training

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

# Software whose ranks of a tensor-parallel group each send a part of what all of them hold to the
# next stage, which gathers the parts: Megatron-LM (Narayanan et al., 2021, section 4.1), DeepSpeed.
_SCATTERING = ("megatron-lm", "megatron-deepspeed")


class CostModel:
    """The cost of training one model on one uniform cluster with one workload.

    Parameters
    ----------
    model, cluster, workload
        The three inputs of a plan.
    constants : Constants, optional
        Other constants than those of ``name``.
    name : str
        A cost model shipped with the package, or the path of a file that a calibration wrote.
    """

    def __init__(
        self,
        model: ModelSpec,
        cluster: Cluster,
        workload: Training,
        *,
        constants: Constants | None = None,
        name: str = DEFAULT,
    ) -> None:
        if not cluster.is_uniform:
            raise InputError(
                f"the cluster is mixed ({cluster.mixture}), and this cost model is of equal nodes",
                path=cluster.name,
                fix="use plan_mixed, or plan each uniform part by itself",
            )
        self.name = name
        self.model, self.cluster, self.workload = model, cluster, workload
        self.graph: Graph = lower(model)
        self.device = cluster.nodes[0].device
        self.keys = keys_of(self.device.name, workload.framework, workload.release, workload.dtype)
        file = read_constants(name)
        self.constants = constants or resolved(file, self.keys)
        self.error = None if constants else expected_error(file, self.keys)
        self.unit = Unit.of(self.device, workload.dtype, self.constants)
        self.setting = Setting.of(workload)
        self.network, self.far = effective(cluster, self.device.link, self.constants)
        self.states = StateBytes.of(workload, self.constants)
        self.fragmentation = fragmentation(workload, self.constants)
        self.scatters: bool | NDArray[np.bool_] = workload.framework in _SCATTERING
        # Sorted codes of keys already evaluated, and their table, by the free axes.
        self._known: dict[tuple[str, ...], tuple[Ints, LayerTable]] = {}

    # -- the chain -------------------------------------------------------------------------------

    @cached_property
    def sequence(self) -> NDArray[np.int32]:
        """Layer type of every layer between embedding and head, shape (num_layers,)."""
        index = {layer.name: k + 1 for k, layer in enumerate(self.graph.layers)}
        runs = [np.full(run.count, index[run.layer], np.int32) for run in self.graph.sequence]
        return np.concatenate(runs)

    @property
    def num_layers(self) -> int:
        """Layers between embedding and head."""
        return self.graph.num_layers

    @cached_property
    def boundary(self) -> Array:
        """What crosses a cut after e layers over the encoder's activations, (num_layers + 1,).

        Inside the decoder a pipeline also hands on the encoder's output, which every decoder layer
        reads; the head needs the decoder's alone.
        """
        factor = np.ones(len(self.sequence) + 1)
        if self.graph.encoder_decoder:
            source = self.workload.sequence_length
            target = self.workload.decoder_sequence_length or source
            stacks = [layer.stack for layer in self.graph.layers]
            in_decoder = np.array([stacks[t - 1] == "decoder" for t in self.sequence])
            factor[1:][in_decoder] = (source + target) / source
            factor[-1] = target / source
        return factor

    @cached_property
    def type_counts(self) -> Array:
        """How often each type occurs in the chain, embedding and head once, shape (types,)."""
        counts = np.bincount(self.sequence, minlength=len(self.graph.types)).astype(np.float64)
        counts[0] = counts[-1] = 1.0
        return counts

    @property
    def model_flops_per_step(self) -> float:
        """Forward and backward matrix FLOPs of one step, causal attention halved.

        Recomputation is not counted. Frozen weights have no gradient.
        """
        forward, core = forward_flops(self.graph, self.workload)
        backward = forward + core if self.workload.lora_rank else 2.0 * forward
        step = float(self.type_counts @ (forward + backward))
        return step * self.workload.global_batch

    @cached_property
    def digests(self) -> dict[str, str]:
        """Digests of the three inputs."""
        inputs = {"model": self.model, "cluster": self.cluster, "workload": self.workload}
        return {name: files.digest(value) for name, value in inputs.items()}

    # -- meshes ----------------------------------------------------------------------------------

    def layer_costs(self, meshes: Meshes, free: tuple[str, ...] = ()) -> tuple[LayerTable, Ints]:
        """The layer table of the distinct keys among ``meshes``, and each mesh's row in it.

        What ``free`` names costs nothing (see :func:`optalloc.cost.layers.layer_table`): what a
        breakdown compares with.
        """
        known = self._known.get(free)
        if known is not None:
            code = codes_of(meshes)
            row = np.minimum(np.searchsorted(known[0], code), len(known[0]) - 1)
            if np.array_equal(known[0][row], code):
                return known[1], row
        some, row = distinct_keys(meshes)
        few, row_without_ep = distinct_keys(some, but="ep")
        table = layer_table(
            self.graph,
            self.setting,
            self.unit,
            self.network,
            Keys.of(some),
            free,
            (Keys.of(few), row_without_ep),
        )
        if len(some) and (known is None or len(some) > len(known[0])):
            self._known[free] = (codes_of(some), table)
        return table, row

    def tables(self, meshes: Meshes) -> MeshTables:
        """Evaluate meshes; ``bound`` and ``weight`` are left at 0 and 1.

        Complexity: O(n * types), vectorised.
        """
        table, row = self.layer_costs(meshes)
        n = len(meshes)
        dense, expert, trained = self._parameters(meshes, table, row)
        fields = self._times(meshes, table, row, dense, expert, trained)
        fields |= self._bytes(meshes, table, row)
        layers = np.empty((n, len(self.graph.types), len(LAYER_FIELDS)))
        c = self.constants
        for k, name in enumerate(LAYER_FIELDS):
            layers[:, :, k] = fields[name]
            if name.endswith("_bytes"):
                layers[:, :, k] *= self.fragmentation
        # Embedding and head are never recomputed.
        for name in ("extra_selective_s", "extra_full_s", "scratch_full_bytes"):
            layers[:, [0, -1], LAYER_FIELDS.index(name)] = 0.0

        reals = np.zeros((n, len(REAL_FIELDS)))
        put = {
            "capacity_bytes": self._capacity_bytes(meshes, dense + expert),
            "logits_bytes": self.fragmentation * self.logits_bytes(meshes),
            "overlap": c.data_overlap + np.zeros(n),
            "tied_s": tied_s(self.network, self.graph, self.states, meshes),
            "weight": np.ones(n),
            "fixed_s": c.fixed_s + np.zeros(n),
        } | links(
            self.network,
            self.far,
            meshes,
            whole_bytes=self._boundary_bytes(meshes),
            scatters=self.scatters,
            begun_s=c.hop_s,
        )
        for name, values_ in put.items():
            reals[:, REAL_FIELDS.index(name)] = values_
        ints = np.stack(
            [
                meshes.schedule,
                meshes.pp,
                meshes.virtual_stages,
                self.num_microbatches(meshes),
                meshes.num_devices // meshes.pp,
                self.network.levels[0].num_devices + np.zeros(n, np.int64),
                meshes.recompute_rule,
            ],
            axis=1,
        ).astype(np.int32)
        return MeshTables(ints=ints, reals=reals, layers=layers)

    def _times(
        self,
        meshes: Meshes,
        table: LayerTable,
        row: Ints,
        dense: Array,
        expert: Array,
        trained: tuple[Array, Array],
    ) -> dict[str, Array]:
        """The layer fields in seconds, each of shape (n, types)."""
        forward, backward = table.forward_s[row], table.backward_s[row]
        weight = table.weight_s[row]
        groups = groups_of(meshes)
        zero = meshes.zero_stage[:, None].astype(np.float64)
        updated = trained[0] / np.where(zero >= 1, groups.shards, 1.0)
        updated += trained[1] / np.where(zero >= 1, groups.expert_shards, 1.0)
        traffic = Traffic(
            network=self.network.columns(),
            weight_bytes=column(self.setting.element_bytes),
            gradient_bytes=column(self.states.reduced),
            overlap=column(self.constants.data_overlap),
        )
        reduce, gather, more_f, more_b = traffic.times(
            groups, zero, (dense, expert), trained, forward, backward + weight
        )
        return {
            "forward_s": forward + more_f,
            "backward_s": backward + more_b,
            "weight_s": weight,
            "extra_selective_s": table.core_s[row],
            "extra_full_s": forward.copy(),
            "reduce_s": reduce,
            "gather_s": gather,
            "update_s": update_s(updated, self.setting, self.states, self.unit),
        }

    def _bytes(self, meshes: Meshes, table: LayerTable, row: Ints) -> dict[str, Array]:
        """The layer fields in bytes, each of shape (n, types), before fragmentation."""
        held, short = self._stored_bytes(meshes, table, row)
        core_bytes = table.core_bytes[row]
        state = np.zeros_like(held)
        for part in self.state_bytes(meshes).values():
            state += part
        return {
            "held_bytes": held,
            "held_selective_bytes": held - core_bytes,
            "held_full_bytes": np.minimum(short, held),
            "scratch_selective_bytes": core_bytes,
            "scratch_full_bytes": held,
            "state_bytes": state,
        }

    def _capacity_bytes(self, meshes: Meshes, parameters: Array) -> Array:
        """What the states and activations of a device may fill."""
        gathered = meshes.micro_batch * self.workload.sequence_length / meshes.cp
        working = working_bytes(
            self.workload,
            self.states,
            meshes,
            parameters,
            each_stage=parameters @ self.type_counts / meshes.pp,
            block_values=gathered * self.model.hidden,
        )
        capacity: Array = self.room_bytes - self.fragmentation * working
        return capacity

    @property
    def reserve_bytes(self) -> float:
        """Kept free on every device against the error of the memory estimate."""
        return self.constants.memory_margin * self.device.memory_bytes

    @property
    def room_bytes(self) -> float:
        """What the allocator of one device may hold in a plan."""
        room: float = self.device.memory_bytes - self.constants.workspace_bytes - self.reserve_bytes
        return room

    def state_bytes(self, meshes: Meshes) -> dict[str, Array]:
        """Weights, gradients, optimizer of each type on one device, bytes, shape (n, types).

        Frozen parameters have weights alone.
        """
        table, row = self.layer_costs(meshes)
        dense, expert, trained = self._parameters(meshes, table, row)
        zero = meshes.zero_stage[:, None].astype(np.float64)
        groups = groups_of(meshes)
        names = ("weights", "gradients", "optimizer")
        total = {name: np.zeros_like(dense) for name in names}
        for everything, own, shards in (
            (dense, trained[0], groups.shards.astype(float)),
            (expert, trained[1], groups.expert_shards.astype(float)),
        ):
            for name, each in zip(names, self.states.split(zero, shards), strict=True):
                total[name] += own * each
            if self.workload.lora_rank:
                total["weights"] += (everything - own) * self.states.frozen(zero, shards)
        return total

    def _parameters(
        self, meshes: Meshes, table: LayerTable, row: Ints
    ) -> tuple[Array, Array, tuple[Array, Array]]:
        """Dense and expert parameters of each layer type on one device, and those trained.

        Each of shape (n, types).
        """
        dense, expert = table.dense_parameters[row], table.expert_parameters[row]
        trained_dense, trained_experts = table.trained_dense[row], table.trained_experts[row]
        # One stage holds both ends: the head's matrix is the embedding's.
        twice = np.where(meshes.pp == 1, self.graph.tied_parameters / meshes.tp, 0.0)
        dense[:, -1] -= twice
        if not self.setting.frozen:
            trained_dense[:, -1] -= twice
        return dense, expert, (trained_dense, trained_experts)

    def _stored_bytes(self, meshes: Meshes, table: LayerTable, row: Ints) -> tuple[Array, Array]:
        """What a layer stores of one micro-batch, and what it does when recomputed whole.

        DeepSpeed's pipeline also keeps the output of a stage until its backward: one more input
        among the pp / L layers of a stage.
        """
        held, short = table.held_bytes[row], table.input_bytes[row]
        if self.workload.framework == "megatron-deepspeed":
            share = np.where(meshes.pp > 1, meshes.pp / self.num_layers, 0.0)[:, None]
            held[:, 1:-1] += share * short[:, 1:-1]
            short[:, 1:-1] += share * short[:, 1:-1]
        return held, short

    def num_microbatches(self, meshes: Meshes) -> Ints:
        """Micro-batches of one step on one data-parallel replica."""
        return self.workload.global_batch // (meshes.dp * meshes.micro_batch)

    def logits_bytes(self, meshes: Meshes) -> Array:
        """Logits of one micro-batch at the peak of the loss, bytes on the last stage."""
        if not self.model.has_head:
            return np.zeros(len(meshes))
        tokens, _ = tokens_of(self.graph.head, self.graph, self.workload)
        local = meshes.micro_batch * tokens / meshes.cp
        each = logit_bytes(self.workload, self.constants, meshes.tp)
        logits: Array = each * local * self.model.vocabulary / meshes.tp
        return logits

    def _boundary_bytes(self, meshes: Meshes) -> Array:
        """What crosses a boundary between stages for one micro-batch, all ranks together."""
        tokens = meshes.micro_batch * self.setting.source / meshes.cp
        whole: Array = self.setting.element_bytes * tokens * self.graph.head.hidden
        return whole

    # -- money and energy ------------------------------------------------------------------------

    @property
    def usd_per_device_s(self) -> float | None:
        return price.usd_per_device_s(self.cluster)

    @property
    def watts_per_device(self) -> float:
        return price.watts_per_device(self.cluster, self.constants)


def groups_of(meshes: Meshes) -> Groups:
    """The groups over which the states of meshes are sharded."""
    return Groups.of(
        dp=meshes.dp, cp=meshes.cp, tp=meshes.tp, ep=meshes.ep, shard_group=meshes.shard_group
    )

"""The parallel side of the model: device mesh, tensor parallelism, FSDP2, layer by layer."""

from __future__ import annotations

import math

import torch
import torch.distributed as dist
from decoder import Chunk, Experts, Facts, Layer, Mlp
from task import Builder
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)


class Mesh:
    """Groups and coordinates of this rank on every axis (tp varies fastest, pp slowest)."""

    def __init__(self, facts: Facts, device: torch.device) -> None:
        degrees = facts["degrees"]
        self.tp, self.cp, self.pp, self.dp, self.ep = (
            degrees[name] for name in ("tp", "cp", "pp", "dp", "ep")
        )
        replicas = self.dp * self.cp
        shard = (facts["shard_group"] or replicas) if facts["zero_stage"] else 1
        kind = device.type
        sizes = (self.pp, replicas // shard, shard, self.tp)
        names = ("pp", "replicate", "shard", "tp")
        self.root = init_device_mesh(kind, sizes, mesh_dim_names=names)
        self.fsdp = self.root["replicate", "shard"] if shard < replicas else self.root["shard"]
        sizes = (self.pp, self.dp, self.cp, self.tp)
        coordinates = init_device_mesh(kind, sizes, mesh_dim_names=("pp", "dp", "cp", "tp"))
        self.dp_rank = coordinates.get_local_rank("dp")
        self.cp_rank = coordinates.get_local_rank("cp")
        self.pp_rank = coordinates.get_local_rank("pp")
        self.context = coordinates.get_group("cp") if self.cp > 1 else None
        copies = replicas * self.tp // self.ep
        shard = math.gcd(copies, max(1, shard * self.tp // self.ep))
        sizes = (self.pp, copies // shard, shard, self.ep)
        experts = init_device_mesh(kind, sizes, mesh_dim_names=("pp", "replicate", "shard", "ep"))
        self.expert_group = experts.get_group("ep") if self.ep > 1 else None
        self.expert_fsdp = experts["replicate", "shard"] if shard < copies else experts["shard"]
        self.tied_group = self._tied_group(facts)

    def _tied_group(self, facts: Facts) -> dist.ProcessGroup | None:
        """The two ranks that hold a tied embedding, where these are different ranks."""
        mine = None
        if facts["tied_embeddings"] and self.pp > 1:
            inner = self.tp * self.cp * self.dp
            for first in range(inner):
                pair = [first, first + (self.pp - 1) * inner]
                group = dist.new_group(pair)
                if dist.get_rank() in pair:
                    mine = group
        return mine

    def positions(self, length: int) -> Tensor:
        """Tokens of this rank: one part of the sequence and its mirror, for causal balance."""
        if self.cp == 1:
            return torch.arange(length)
        parts = torch.arange(length).chunk(2 * self.cp)
        return torch.cat([parts[self.cp_rank], parts[2 * self.cp - 1 - self.cp_rank]])


class ParallelBuilder(Builder):
    """Builds chunks layer by layer: weights, then tensor parallelism, then sharding."""

    def __init__(self, facts: Facts, seed: int, device: torch.device, mesh: Mesh) -> None:
        super().__init__(facts, seed, device, mesh.positions(facts["sequence_length"]))
        self.mesh, self.context, self.experts = mesh, mesh.context, mesh.expert_group
        dtype = torch.bfloat16 if facts["dtype"] == "bf16" else None
        reduced = torch.bfloat16 if facts["gradient_dtype"] == "bf16" else torch.float32
        self.policy = MixedPrecisionPolicy(
            param_dtype=dtype, reduce_dtype=reduced if dtype else None
        )

    def layer(self, number: int, type_: str, recompute: str) -> nn.Module:
        layer, mesh = super().layer(number, type_, recompute), self.mesh
        if mesh.tp > 1:
            self._split_layer(layer, mesh.root["tp"])
        if isinstance(layer.mlp, Experts) and mesh.tp * mesh.ep > 1:
            self._shard(layer.mlp.experts, mesh.expert_fsdp)
            layer.mlp.experts.set_gradient_divide_factor(float(mesh.dp * mesh.cp))
            # gloo has no scaled sum. A group of one is divided in any case, and twice if forced.
            forced = mesh.expert_fsdp["shard"].size() > 1
            layer.mlp.experts.set_force_sum_reduction_for_comms(forced)
        self._shard(layer, mesh.fsdp)
        return layer

    def finished(self, chunk: Chunk) -> Chunk:
        if self.mesh.tp > 1:
            self._split_ends(chunk, self.mesh.root["tp"])
        chunk = super().finished(chunk)
        self._shard(chunk, self.mesh.fsdp)
        return chunk

    def _shard(self, module: nn.Module, mesh: DeviceMesh) -> None:
        keep = self.facts["zero_stage"] < 3
        fully_shard(module, mesh=mesh, mp_policy=self.policy, reshard_after_forward=not keep)

    def _replicate(self, module: nn.Module, names: list[str], mesh: DeviceMesh) -> None:
        for name in names:
            value = getattr(module, name, None)
            if isinstance(value, nn.Parameter):
                tensor = distribute_tensor(value.detach(), mesh, [Replicate()], src_data_rank=None)
                setattr(module, name, nn.Parameter(tensor))

    def _split_layer(self, layer: Layer, mesh: DeviceMesh) -> None:
        sequence = self.facts["sequence_parallel"]
        styles: dict[str, ParallelStyle] = {
            f"attention.{name}": ColwiseParallel() for name in ("q", "k", "v")
        }
        row = {"output_layouts": Shard(1)} if sequence else {}
        styles["attention.out"] = RowwiseParallel(**row)
        moe = isinstance(layer.mlp, Experts)
        if isinstance(layer.mlp, Mlp):
            styles["mlp.up"], styles["mlp.down"] = ColwiseParallel(), RowwiseParallel(**row)
            if layer.mlp.gate is not None:
                styles["mlp.gate"] = ColwiseParallel()
        if sequence:
            gather = {"input_layouts": (Shard(1),), "desired_input_layouts": (Replicate(),)}
            styles["attention_norm"] = SequenceParallel()
            styles["attention"] = PrepareModuleInput(
                input_layouts=(Shard(1), None), desired_input_layouts=(Replicate(), None)
            )
            styles["mlp_norm"] = SequenceParallel(use_local_output=moe)
            if not moe:
                styles["mlp"] = PrepareModuleInput(**gather)
        parallelize_module(layer, mesh, styles)
        if layer.attention.qk_norm != "none":
            self._replicate(layer.attention.q_norm, ["weight"], mesh)
            self._replicate(layer.attention.k_norm, ["weight"], mesh)
        if moe:
            self._replicate(layer.mlp, ["router", "shared_up", "shared_down"], mesh)

    def _split_ends(self, chunk: Chunk, mesh: DeviceMesh) -> None:
        sequence = self.facts["sequence_parallel"]
        styles: dict[str, ParallelStyle] = {}
        if chunk.embedding is not None:
            split = Shard(1) if sequence else Replicate()
            styles["embedding"] = RowwiseParallel(input_layouts=Replicate(), output_layouts=split)
        if chunk.head is not None:
            if sequence:
                styles["final_norm"] = SequenceParallel()
            split = Shard(1) if sequence else Replicate()
            styles["head"] = ColwiseParallel(input_layouts=split, output_layouts=Replicate())
        if styles:
            parallelize_module(chunk, mesh, styles)

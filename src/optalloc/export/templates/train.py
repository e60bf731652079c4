"""Train with the plan in plan_facts.json: device mesh, FSDP2, tensor, context, expert, pipeline.

    sh launch.sh                                  the plan as it is
    sh launch.sh --scale-down --compare           tiny widths, same stages; checked with one process
    python train.py --scale-down --reference      the one-process run alone

Data are random tokens: replace ``batch`` with your own. Each step prints its loss and seconds.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from decoder import Chunk, Experts, Facts, Layer, Mlp, initialise, loss_of, norm
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining import schedules as pipeline_schedules
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

SCHEDULES = {
    "gpipe": pipeline_schedules.ScheduleGPipe,
    "1f1b": pipeline_schedules.Schedule1F1B,
    "interleaved": pipeline_schedules.ScheduleInterleaved1F1B,
    "zb-h1": pipeline_schedules.ScheduleInterleavedZeroBubble,
}


def scale_down(facts: Facts) -> Facts:
    """Tiny widths, few layers; degrees, stages, schedule and recomputation keep their structure."""
    tp, cp, pp, ep = (facts["degrees"][name] for name in ("tp", "cp", "pp", "ep"))
    deepest = max(run[2] for chunk in facts["chunks"] for run in chunk["runs"])
    divisor = math.ceil(deepest / 3)
    chunks = [
        chunk | {"runs": [[t, r, math.ceil(count / divisor)] for t, r, count in chunk["runs"]]}
        for chunk in facts["chunks"]
    ]
    types = {}
    for name, layer in facts["layer_types"].items():
        small = {"kv_heads": tp, "heads": tp * min(2, layer["heads"] // layer["kv_heads"])}
        small |= {"head_dim": 16, "width": 32 * tp}
        if layer["window"]:
            small["window"] = 8
        if layer["experts"]:
            num_experts = ep * math.ceil(4 / ep)
            small["experts"] = layer["experts"] | {
                "num_experts": num_experts,
                "top_k": min(layer["experts"]["top_k"], 2),
                "width": 32,
                "shared_width": min(layer["experts"]["shared_width"], 32),
            }
        types[name] = layer | small
    return facts | {
        "chunks": chunks,
        "layer_types": types,
        "hidden": 64,
        "vocabulary": 128 * tp,
        "sequence_length": 8 * tp * cp * 2,
        "micro_batch": min(facts["micro_batch"], 2),
        "num_microbatches": min(facts["num_microbatches"], 2 * pp),
        "dtype": "fp32",
    }


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


class Builder:
    """Builds chunks layer by layer: weights, then tensor parallelism, then sharding."""

    def __init__(self, facts: Facts, seed: int, device: torch.device, mesh: Mesh | None) -> None:
        self.facts, self.seed, self.device, self.mesh = facts, seed, device, mesh
        dtype = torch.bfloat16 if facts["dtype"] == "bf16" else None
        reduced = torch.bfloat16 if facts["gradient_dtype"] == "bf16" else torch.float32
        self.policy = MixedPrecisionPolicy(
            param_dtype=dtype, reduce_dtype=reduced if dtype else None
        )
        length = facts["sequence_length"]
        own = torch.arange(length) if mesh is None else mesh.positions(length)
        self.positions = own.to(device)

    def chunk(self, index: int) -> Chunk:
        facts, plan = self.facts, self.facts["chunks"][index]
        hidden, vocabulary = facts["hidden"], facts["vocabulary"]
        chunk = Chunk(self.positions)
        number = sum(run[2] for earlier in facts["chunks"][:index] for run in earlier["runs"])
        if plan["embedding"]:
            chunk.embedding = self._made(nn.Embedding(vocabulary, hidden), "embedding.")
        for type_, recompute, count in plan["runs"]:
            for _ in range(count):
                chunk.layers.append(self._layer(number, type_, recompute))
                number += 1
        if plan["head"]:
            kind = next(iter(facts["layer_types"].values()))["norm"]
            chunk.final_norm = self._made(norm(kind, hidden), "final_norm.")
            name = "embedding." if facts["tied_embeddings"] else "head."
            chunk.head = self._made(nn.Linear(hidden, vocabulary, bias=False), name)
        if self.mesh is not None and self.mesh.tp > 1:
            self._split_ends(chunk, self.mesh.root["tp"])
        if facts["tied_embeddings"] and plan["embedding"] and plan["head"]:
            chunk.head.weight = chunk.embedding.weight
        if self.mesh is not None:
            self._shard(chunk, self.mesh.fsdp)
        return chunk

    def _made(self, module: nn.Module, prefix: str) -> nn.Module:
        module = module.to(self.device)
        initialise(module, prefix, self.seed)
        return module

    def _shard(self, module: nn.Module, mesh: DeviceMesh) -> None:
        keep = self.facts["zero_stage"] < 3
        fully_shard(module, mesh=mesh, mp_policy=self.policy, reshard_after_forward=not keep)

    def _layer(self, number: int, type_: str, recompute: str) -> nn.Module:
        mesh, prefix = self.mesh, f"layers.{number}."
        context = mesh.context if mesh else None
        experts = mesh.expert_group if mesh else None
        layer = Layer(
            self.facts["hidden"], self.facts["layer_types"][type_], recompute, context, experts
        )
        self._made(layer, prefix)
        if isinstance(layer.mlp, Experts):
            layer.mlp.experts.initialise(f"{prefix}mlp.experts.", self.seed)
        if mesh is None:
            return layer
        if mesh.tp > 1:
            self._split_layer(layer, mesh.root["tp"])
        if isinstance(layer.mlp, Experts) and mesh.tp * mesh.ep > 1:
            self._shard(layer.mlp.experts, mesh.expert_fsdp)
            layer.mlp.experts.set_gradient_divide_factor(float(mesh.dp * mesh.cp))
        self._shard(layer, mesh.fsdp)
        return layer

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


def batch(facts: Facts, step: int, seed: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets of one step, [global batch, sequence length]; equal on every rank."""
    count = facts["degrees"]["dp"] * facts["micro_batch"] * facts["num_microbatches"]
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    shape = (count, facts["sequence_length"] + 1)
    tokens = torch.randint(facts["vocabulary"], shape, generator=generator)
    return tokens[:, :-1], tokens[:, 1:]


def optimizer_of(
    facts: Facts, parameters: list[nn.Parameter], rate: float
) -> torch.optim.Optimizer:
    if facts["optimizer"] == "sgd":
        return torch.optim.SGD(parameters, lr=rate, momentum=0.9, foreach=False)
    return torch.optim.AdamW(parameters, lr=rate, foreach=False)


class Trainer:
    """One rank of the distributed run."""

    def __init__(self, facts: Facts, options: argparse.Namespace, device: torch.device) -> None:
        self.facts, self.options, self.device = facts, options, device
        self.mesh = mesh = Mesh(facts, device)
        builder = Builder(facts, options.seed, device, mesh)
        total = len(facts["chunks"])
        self.own = list(range(mesh.pp_rank, total, mesh.pp))
        self.chunks = [builder.chunk(index) for index in self.own]
        parameters = [p for chunk in self.chunks for p in chunk.parameters()]
        self.optimizer = optimizer_of(facts, parameters, options.learning_rate)
        self.schedule: Any = None
        if mesh.pp > 1:
            group = mesh.root.get_group("pp")
            stages = [
                PipelineStage(chunk, index, total, device, group=group)
                for chunk, index in zip(self.chunks, self.own, strict=True)
            ]
            kind = SCHEDULES[facts["schedule"]]
            single = issubclass(kind, pipeline_schedules.PipelineScheduleSingle)
            self.schedule = kind(
                stages[0] if single else stages, facts["num_microbatches"], loss_fn=loss_of
            )

    def step(self, number: int) -> float:
        """One optimizer step; the loss is the mean over the global batch."""
        facts, mesh = self.facts, self.mesh
        inputs, targets = batch(facts, number, self.options.seed)
        rows = facts["micro_batch"] * facts["num_microbatches"]
        columns = mesh.positions(facts["sequence_length"])
        first = mesh.dp_rank * rows
        inputs, targets = (
            part[first : first + rows, columns].to(self.device) for part in (inputs, targets)
        )
        self.optimizer.zero_grad()
        losses: list[Tensor] = []
        if self.schedule is None:
            losses = self._accumulate(inputs, targets)
        else:
            arguments = (inputs,) if 0 in self.own else ()
            if len(facts["chunks"]) - 1 in self.own:
                self.schedule.step(*arguments, target=targets, losses=losses, return_outputs=False)
            else:
                self.schedule.step(*arguments, return_outputs=False)
        if mesh.tied_group is not None:
            self._add_tied(mesh.tied_group)
        self.optimizer.step()
        return self._mean(losses)

    def _accumulate(self, inputs: Tensor, targets: Tensor) -> list[Tensor]:
        """No pipeline: micro-batches in turn, reduced at the end or, from ZeRO 2, each time."""
        count, zero = self.facts["num_microbatches"], self.facts["zero_stage"]
        chunk, losses = self.chunks[0], []
        assert isinstance(chunk, FSDPModule)
        pairs = zip(inputs.chunk(count), targets.chunk(count), strict=True)
        for index, (tokens, target) in enumerate(pairs):
            last = index == count - 1
            chunk.set_is_last_backward(last)
            chunk.set_requires_gradient_sync(last or zero >= 2)
            chunk.set_reshard_after_backward(last or zero >= 3)
            loss = loss_of(chunk(tokens), target)
            (loss / count).backward()
            losses.append(loss.detach())
        return losses

    def _add_tied(self, group: dist.ProcessGroup) -> None:
        """Both copies of a tied embedding get the sum of their gradients."""
        ends = [m for c in self.chunks for m in (c.embedding, c.head) if m is not None]
        for module in ends:
            grad = module.weight.grad
            local = grad.to_local() if isinstance(grad, DTensor) else grad
            dist.all_reduce(local, group=group)

    def _mean(self, losses: list[Tensor]) -> float:
        mesh = self.mesh
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        if losses:
            ranks = mesh.tp * mesh.cp * mesh.dp
            total += torch.stack([loss.detach() for loss in losses]).double().mean() / ranks
        dist.all_reduce(total)
        return float(total)


def reference(facts: Facts, options: argparse.Namespace) -> list[float]:
    """Losses of the same training in one process on the CPU, without any parallelism."""
    facts = facts | {"dtype": "fp32"}
    builder = Builder(facts, options.seed, torch.device("cpu"), None)
    model = nn.Sequential(*(builder.chunk(index) for index in range(len(facts["chunks"]))))
    if facts["tied_embeddings"]:
        model[-1].head.weight = model[0].embedding.weight
    optimizer = optimizer_of(facts, list(model.parameters()), options.learning_rate)
    losses = []
    for step in range(options.steps):
        inputs, targets = batch(facts, step, options.seed)
        optimizer.zero_grad()
        parts = inputs.split(facts["micro_batch"])
        total = 0.0
        for tokens, target in zip(parts, targets.split(facts["micro_batch"]), strict=True):
            loss = loss_of(model(tokens), target) / len(parts)
            loss.backward()
            total += float(loss.detach())
        optimizer.step()
        losses.append(total)
    return losses


def train(facts: Facts, options: argparse.Namespace) -> int:
    """The distributed run; the exit status is 1 if ``--compare`` finds a difference."""
    cuda = torch.cuda.is_available() and not options.cpu
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    dist.init_process_group("nccl" if cuda else "gloo")
    rank, failed = dist.get_rank(), 0
    needed = math.prod(facts["degrees"][name] for name in ("tp", "cp", "pp", "dp"))
    if dist.get_world_size() != needed:
        raise SystemExit(f"the plan needs {needed} processes, not {dist.get_world_size()}")
    trainer = Trainer(facts, options, device)
    losses, seconds, cpu_seconds = [], [], []
    for step in range(options.steps):
        dist.barrier()
        begin, cpu_begin = time.perf_counter(), time.process_time()
        losses.append(trainer.step(step))
        seconds.append(time.perf_counter() - begin)
        cpu_seconds.append(time.process_time() - cpu_begin)
        if rank == 0:
            print(f"step {step} loss {losses[-1]:.6f} measured_s {seconds[-1]:.3f}", flush=True)
    every: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(every, cpu_seconds)
    report: dict[str, Any] = {
        "losses": losses,
        "measured_step_s": seconds,
        "measured_cpu_s_by_rank": every,
    }
    if rank == 0 and options.compare:
        expected = reference(facts, options)
        worst = max(abs(a - b) for a, b in zip(losses, expected, strict=True))
        failed = int(not worst <= options.tolerance)
        report |= {"reference_losses": expected, "largest_difference": worst}
        for step, loss in enumerate(expected):
            print(f"reference step {step} loss {loss:.6f}")
        print(f"largest difference {worst:.2e} ({'too large' if failed else 'equal'})", flush=True)
    if rank == 0 and options.metrics:
        Path(options.metrics).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    dist.barrier()
    dist.destroy_process_group()
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description="Train with the plan in plan_facts.json.")
    beside = Path(__file__).resolve().parent
    parser.add_argument("--facts", type=Path, default=beside / "plan_facts.json")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--scale-down", action="store_true", help="tiny widths, same stages")
    parser.add_argument("--compare", action="store_true", help="check the losses with one process")
    parser.add_argument("--reference", action="store_true", help="run in this one process alone")
    parser.add_argument("--tolerance", type=float, default=1e-4)
    parser.add_argument("--cpu", action="store_true", help="use the CPU even where there is a GPU")
    parser.add_argument("--metrics", help="write losses and step times to this JSON file")
    options = parser.parse_args()
    facts = json.loads(options.facts.read_text(encoding="utf-8"))
    if options.scale_down:
        facts = scale_down(facts)
    if options.reference:
        for step, loss in enumerate(reference(facts, options)):
            print(f"step {step} loss {loss:.6f}")
        return 0
    return train(facts, options)


if __name__ == "__main__":
    sys.exit(main())

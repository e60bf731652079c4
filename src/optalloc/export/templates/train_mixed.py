"""Train with a mixed plan: unequal stages and replicas, unequal shares of the micro-batches.

    sh launch.sh                                  the plan as it is
    sh launch.sh --scale-down --compare           tiny widths, few layers; checked with one process
    python train_mixed.py --scale-down --reference      the one-process run alone

Every stage has its own tensor and data parallelism. Activations go from the parts of a stage to the
parts of the next that hold the same sequences. A gradient is summed over all that hold the
parameter, each weighted with its share of the global batch; each of them keeps the optimizer state
of a piece of the parameter and steps that.
"""

from __future__ import annotations

import argparse
import math
import sys
from typing import Any

import torch
import torch.distributed as dist
from decoder import Chunk, Facts, loss_of
from parallel import ParallelBuilder
from sharded import Holders, SharedOptimizer
from task import Builder, Report, batch, connect, scale_down, start
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh


class StageBuilder(ParallelBuilder):
    """Builds the layers of one stage, split over its tensor-parallel ranks."""

    def __init__(
        self, facts: Facts, seed: int, device: torch.device, tp: DeviceMesh | None
    ) -> None:
        Builder.__init__(self, facts, seed, device, torch.arange(facts["sequence_length"]))
        self.tp = tp

    def layer(self, number: int, type_: str, recompute: str) -> nn.Module:
        layer = Builder.layer(self, number, type_, recompute)
        if self.tp is not None:
            self._split_layer(layer, self.tp)
        return layer

    def finished(self, chunk: Chunk) -> Chunk:
        if self.tp is not None:
            self._split_ends(chunk, self.tp)
        return Builder.finished(self, chunk)


class Place:
    """Where this rank stands: replica, stage, part of the micro-batch, tensor rank."""

    def __init__(self, facts: Facts, rank: int) -> None:
        for replica in facts["replicas"]:
            for index, stage in enumerate(replica["stages"]):
                if rank in stage["ranks"]:
                    self.replica, self.stage, self.index = replica, stage, index
                    self.part, self.tp_rank = divmod(stage["ranks"].index(rank), stage["tp"])
        self.stages = self.replica["stages"]
        self.first = self.index == 0
        self.last = self.index + 1 == len(self.stages)
        size = facts["micro_batch"] // self.stage["dp"]
        self.rows = (self.part * size, (self.part + 1) * size)
        self.size = facts["micro_batch"]

    def peers(self, step: int) -> list[tuple[int, int, int]]:
        """Ranks of the neighbouring stage that share sequences: (rank, first, end) of my rows."""
        other = self.stages[self.index + step]
        size = self.size // other["dp"]
        found = []
        for part in range(other["dp"]):
            low = max(self.rows[0], part * size)
            high = min(self.rows[1], (part + 1) * size)
            if low < high:
                base = self.rows[0]
                rank = other["ranks"][part * other["tp"] + self.tp_rank % other["tp"]]
                found.append((rank, low - base, high - base))
        return found

    def takers(self, step: int) -> list[tuple[int, int, int]]:
        """Ranks of the neighbouring stage that take their rows from this rank."""
        other, tp = self.stages[self.index + step], self.stage["tp"]
        size = self.size // other["dp"]
        found = []
        for part in range(other["dp"]):
            low = max(self.rows[0], part * size)
            high = min(self.rows[1], (part + 1) * size)
            for rank in range(other["tp"]):
                if low < high and rank % tp == self.tp_rank:
                    base = self.rows[0]
                    found.append(
                        (other["ranks"][part * other["tp"] + rank], low - base, high - base)
                    )
        return found


class Trainer:
    """One rank of the distributed run."""

    def __init__(self, facts: Facts, options: argparse.Namespace, device: torch.device) -> None:
        self.facts, self.options, self.device = facts, options, device
        self.place = place = Place(facts, dist.get_rank())
        self.tp = self._tensor_mesh()
        own = facts | {"chunks": place.replica["chunks"], "sequence_parallel": False}
        self.chunk = StageBuilder(own, options.seed, device, self.tp).chunk(place.index)
        self.optimizer = SharedOptimizer(
            facts, self._modules(), options.learning_rate, contributes=place.tp_rank == 0
        )
        self.forwards, self.backwards = dist.new_group(), dist.new_group()
        self.sent: list[Any] = []

    def _tensor_mesh(self) -> DeviceMesh | None:
        """The mesh of my tensor-parallel ranks; every process takes part in making all of them."""
        mine = None
        for replica in self.facts["replicas"]:
            for stage in replica["stages"]:
                for first in range(0, len(stage["ranks"]), stage["tp"]):
                    ranks = stage["ranks"][first : first + stage["tp"]]
                    group = dist.new_group(ranks)
                    if stage["tp"] > 1 and dist.get_rank() in ranks:
                        mine = DeviceMesh.from_group(
                            group,
                            self.device.type,
                            mesh=torch.tensor(ranks),
                            mesh_dim_names=("tp",),
                        )
        return mine

    def _modules(self) -> list[tuple[nn.Module, Holders, dist.ProcessGroup]]:
        """My modules in model order, each with the ranks that hold it and their group.

        A tied head that shares the embedding's weight on one rank counts once.
        """
        facts = self.facts
        holders: dict[str, list[list[int]]] = {}
        mine: dict[str, nn.Module] = {}
        tied = "embedding" if facts["tied_embeddings"] else "head"
        for replica in facts["replicas"]:
            done = 0
            own: dict[str, set[int]] = {}
            for stage, plan in zip(replica["stages"], replica["chunks"], strict=True):
                count = sum(run[2] for run in plan["runs"])
                names = ["embedding"] * plan["embedding"]
                names += [f"layer {done + k}" for k in range(count)]
                names += ["final norm", tied] if plan["head"] else []
                for name in names:
                    own.setdefault(name, set()).update(stage["ranks"])
                if stage is self.place.stage:
                    chunk = self.chunk
                    ends = [chunk.final_norm, chunk.head] if plan["head"] else []
                    built = [
                        *([chunk.embedding] if plan["embedding"] else []),
                        *chunk.layers,
                        *ends,
                    ]
                    for name, module in zip(names, built, strict=True):
                        mine.setdefault(name, module)
                done += count
            for name, ranks in own.items():
                holders.setdefault(name, []).append(sorted(ranks))
        groups: dict[tuple[int, ...], Any] = {}
        found = []
        for name in ["embedding", *(f"layer {k}" for k in range(done)), "final norm", "head"]:
            if name in holders:
                held = Holders(holders[name])
                key = tuple(held.ranks)
                if key not in groups:
                    groups[key] = dist.new_group(held.ranks)
                if name in mine:
                    found.append((mine[name], held, groups[key]))
        return found

    def step(self, number: int) -> float:
        """One optimizer step; the loss is the mean over the global batch."""
        facts, place = self.facts, self.place
        inputs, targets = batch(facts, number, self.options.seed)
        first = place.replica["first_micro_batch"] * facts["micro_batch"]
        micro = place.replica["num_microbatches"]
        parts = [
            (
                inputs[begin + place.rows[0] : begin + place.rows[1]].to(self.device),
                targets[begin + place.rows[0] : begin + place.rows[1]].to(self.device),
            )
            for begin in range(first, first + micro * facts["micro_batch"], facts["micro_batch"])
        ]
        share = (place.rows[1] - place.rows[0]) / facts["global_batch"]
        waiting: list[tuple[Tensor | None, Tensor]] = []
        loss = torch.zeros((), dtype=torch.float64, device=self.device)
        depth = len(place.stages) - place.index
        begun = ended = 0
        while ended < micro:
            if begun < micro and begun - ended < depth:
                given, result = self._forward(parts[begun][0])
                if place.last:
                    result = loss_of(result, parts[begun][1]) * share
                    loss += result.detach().double()
                waiting.append((given, result))
                begun += 1
            else:
                self._backward(*waiting.pop(0))
                ended += 1
        for work, _ in self.sent:
            work.wait()
        self.sent.clear()
        self.optimizer.step()
        if place.tp_rank:
            loss.zero_()
        dist.all_reduce(loss)
        return float(loss)

    def _forward(self, tokens: Tensor) -> tuple[Tensor | None, Tensor]:
        place, facts, given = self.place, self.facts, None
        if not place.first:
            shape = (place.rows[1] - place.rows[0], facts["sequence_length"], facts["hidden"])
            given = torch.empty(shape, dtype=self.optimizer.dtype, device=self.device)
            for rank, low, high in place.peers(-1):
                part = torch.empty_like(given[low:high])
                dist.recv(part, rank, group=self.forwards)
                given[low:high] = part
            given.requires_grad_()
        result = self.chunk(tokens if given is None else given)
        if not place.last:
            for rank, low, high in place.takers(1):
                self._send(result.detach()[low:high], rank, self.forwards)
        return given, result

    def _backward(self, given: Tensor | None, result: Tensor) -> None:
        place = self.place
        if place.last:
            result.backward()
        else:
            grad = torch.empty_like(result)
            for rank, low, high in place.peers(1):
                part = torch.empty_like(grad[low:high])
                dist.recv(part, rank, group=self.backwards)
                grad[low:high] = part
            result.backward(grad)
        if given is not None:
            assert given.grad is not None
            for rank, low, high in place.takers(-1):
                self._send(given.grad[low:high], rank, self.backwards)

    def _send(self, tensor: Tensor, rank: int, group: dist.ProcessGroup | None) -> None:
        tensor = tensor.contiguous()
        self.sent.append((dist.isend(tensor, rank, group=group), tensor))


def small(facts: Facts) -> Facts:
    """Tiny widths, few layers and micro-batches; stages, degrees and unequal shares stay."""
    most = max(len(r["stages"]) for r in facts["replicas"])
    names, count = facts["layers"], min(len(facts["layers"]), 2 * most + 1)
    kept = [names[k * len(names) // count] for k in range(count)]
    sizes = [stage["dp"] for r in facts["replicas"] for stage in r["stages"]]
    micro_batch = math.lcm(*sizes)
    largest = max(r["num_microbatches"] for r in facts["replicas"])
    replicas, done = [], 0
    for replica in facts["replicas"]:
        shares = max(1, math.ceil(4 * replica["num_microbatches"] / largest))
        ends: list[int] = []
        total = 0
        for index, chunk in enumerate(replica["chunks"]):
            total += sum(run[2] for run in chunk["runs"])
            left = len(replica["chunks"]) - 1 - index
            low = (ends[-1] + 1 if ends else 0) if left else count
            ends.append(
                count if not left else min(max(low, total * count // len(names)), count - left)
            )
        chunks, begin = [], 0
        for chunk, end in zip(replica["chunks"], ends, strict=True):
            rules = {run[1] for run in chunk["runs"]}
            rule = "full" if "full" in rules else "selective" if "selective" in rules else "none"
            runs = [[kept[k], rule if k == begin else "none", 1] for k in range(begin, end)]
            chunks.append(chunk | {"runs": runs})
            begin = end
        replicas.append(
            replica | {"chunks": chunks, "num_microbatches": shares, "first_micro_batch": done}
        )
        done += shares
    tp = max(stage["tp"] for r in facts["replicas"] for stage in r["stages"])
    scaled = scale_down(facts | {"degrees": facts["degrees"] | {"tp": tp}})
    return scaled | {
        "degrees": facts["degrees"],
        "replicas": replicas,
        "chunks": replicas[0]["chunks"],
        "micro_batch": micro_batch,
        "num_microbatches": done,
        "global_batch": micro_batch * done,
        "vocabulary": 128 * tp,
    }


def main() -> int:
    """The distributed run; the exit status is 1 if ``--compare`` finds a difference."""
    facts, options = start("Train with the mixed plan in plan_facts.json.", small)
    device = connect(options, facts["num_ranks"])
    trainer, report = Trainer(facts, options, device), Report(options)
    for number in range(options.steps):
        report.step(trainer.step, number)
    failed: int = report.end(facts, trainer.optimizer.state_bytes())
    dist.destroy_process_group()
    return failed


if __name__ == "__main__":
    sys.exit(main())

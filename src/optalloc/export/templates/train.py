"""Train with the plan in plan_facts.json: device mesh, FSDP2, tensor, context, expert, pipeline.

    sh launch.sh                                  the plan as it is
    sh launch.sh --scale-down --compare           tiny widths, same stages; checked with one process
    python train.py --scale-down --reference      the one-process run alone

Data are random tokens: replace ``batch`` in task.py with your own. Each step prints its loss and
seconds.
"""

from __future__ import annotations

import argparse
import math
import sys
from typing import Any

import torch
import torch.distributed as dist
from decoder import Facts, loss_of
from parallel import Mesh, ParallelBuilder
from task import Report, batch, connect, optimizer_of, start
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining import schedules as pipeline_schedules
from torch.distributed.tensor import DTensor

SCHEDULES = {
    "gpipe": pipeline_schedules.ScheduleGPipe,
    "1f1b": pipeline_schedules.Schedule1F1B,
    "interleaved": pipeline_schedules.ScheduleInterleaved1F1B,
    "zb-h1": pipeline_schedules.ScheduleInterleavedZeroBubble,
}


class Trainer:
    """One rank of the distributed run."""

    def __init__(self, facts: Facts, options: argparse.Namespace, device: torch.device) -> None:
        self.facts, self.options, self.device = facts, options, device
        self.mesh = mesh = Mesh(facts, device)
        builder = ParallelBuilder(facts, options.seed, device, mesh)
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


def main() -> int:
    """The distributed run; the exit status is 1 if ``--compare`` finds a difference."""
    facts, options = start("Train with the plan in plan_facts.json.")
    needed = math.prod(facts["degrees"][name] for name in ("tp", "cp", "pp", "dp"))
    device = connect(options, needed)
    trainer, report = Trainer(facts, options, device), Report(options)
    for step in range(options.steps):
        report.step(trainer.step, step)
    failed: int = report.end(facts)
    dist.destroy_process_group()
    return failed


if __name__ == "__main__":
    sys.exit(main())

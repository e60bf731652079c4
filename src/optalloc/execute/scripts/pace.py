"""Run a pipeline schedule with stages that sleep for their planned times, over real sends.

Reads a JSON file: ``order`` (for each rank the cells such as 0F3 in time order), ``forward_s`` and
``backward_s`` of each chunk in model order, ``num_microbatches`` and ``steps``. Rank 0 writes the
measured step times, the slowest rank's of each step, to the file named second.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining.schedules import _PipelineScheduleRuntime

WIDTH = 4


class Sleep(torch.autograd.Function):
    """The identity, taking its time in both directions."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, forward_s: float, backward_s: float) -> Tensor:
        ctx.backward_s = backward_s
        time.sleep(forward_s)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        time.sleep(ctx.backward_s)
        return grad, None, None


class Stage(nn.Module):
    """A tiny linear layer that takes the planned time."""

    def __init__(self, forward_s: float, backward_s: float) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.forward_s, self.backward_s = forward_s, backward_s

    def forward(self, x: Tensor) -> Tensor:
        return Sleep.apply(self.linear(x), self.forward_s, self.backward_s)


def main() -> None:
    task = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    dist.init_process_group("gloo")
    rank, pp = dist.get_rank(), dist.get_world_size()
    total, count = len(task["forward_s"]), task["num_microbatches"]
    own = list(range(rank, total, pp))
    stages = [
        PipelineStage(
            Stage(task["forward_s"][index], task["backward_s"][index]),
            index,
            total,
            torch.device("cpu"),
        )
        for index in own
    ]
    schedule = _PipelineScheduleRuntime(stages, count, loss_fn=nn.functional.mse_loss)
    with tempfile.NamedTemporaryFile("w", suffix=".csv") as file:
        file.write("".join(",".join(cells) + "\n" for cells in task["order"]))
        file.flush()
        schedule._load_csv(file.name, format="compute_only")
    x = torch.ones(count, WIDTH)
    measured = []
    for _ in range(task["steps"]):
        dist.barrier()
        begin = time.perf_counter()
        arguments = (x,) if 0 in own else ()
        if total - 1 in own:
            schedule.step(*arguments, target=x, losses=[], return_outputs=False)
        else:
            schedule.step(*arguments, return_outputs=False)
        slowest = torch.tensor(time.perf_counter() - begin, dtype=torch.float64)
        dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
        measured.append(float(slowest))
    if rank == 0:
        Path(sys.argv[2]).write_text(json.dumps({"measured_step_s": measured}), encoding="utf-8")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()

"""Train with the plan in plan_facts.json on DeepSpeed: ZeRO and a pipeline of the plan's stages.

    sh launch.sh                                  the plan as it is
    sh launch.sh --scale-down --compare           tiny widths, same stages; checked with one process
    python train.py --scale-down --reference      the one-process run alone

Data are random tokens: replace ``batch`` in task.py with your own. Each step prints its loss and
seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from decoder import Facts, loss_of
from task import HERE, Builder, Report, batch, optimizer_of, start
from torch import Tensor, nn


class Built(nn.Module):
    """A part of the model that is made only on the stage that holds it."""

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.part = make()

    def forward(self, x: Tensor) -> Tensor:
        return self.part(x)


class TiedEmbedding(nn.Module):
    """The embedding whose weight is also the head's."""

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.weight = make().weight

    def forward(self, tokens: Tensor) -> Tensor:
        return nn.functional.embedding(tokens, self.weight)


class Block(nn.Module):
    """A layer that makes its own positions, so that tensors alone travel between stages."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x, torch.arange(x.shape[1], device=x.device))


def tied_head(embedding: nn.Module, x: Tensor) -> Tensor:
    return nn.functional.linear(x, embedding.weight)


class Trainer:
    """One rank of the run: a pipeline engine, or a plain one where the plan has no pipeline."""

    def __init__(self, facts: Facts, options: argparse.Namespace, config: Facts) -> None:
        import deepspeed

        self.facts, self.options = facts, options
        positions = torch.arange(facts["sequence_length"])
        device = torch.device("cuda", torch.cuda.current_device()) if cuda(options) else "cpu"
        self.device = torch.device(device)
        self.builder = Builder(facts, options.seed, self.device, positions)
        self.pipelined = facts["degrees"]["pp"] > 1
        model = self._pipeline() if self.pipelined else self.builder.chunk(0)
        parameters = [p for p in model.parameters() if p.requires_grad]
        self.engine: Any = deepspeed.initialize(
            model=model,
            optimizer=optimizer_of(facts, parameters, options.learning_rate),
            config=config,
            dist_init_required=False,
        )[0]

    def _pipeline(self) -> nn.Module:
        from deepspeed.pipe import LayerSpec, TiedLayerSpec
        from partition import PlannedPipeline

        builder, facts = self.builder, self.facts
        tied = facts["tied_embeddings"]
        runs = [run for chunk in facts["chunks"] for run in chunk["runs"]]
        flat = [(type_, kind) for type_, kind, count in runs for _ in range(count)]

        def block(number: int, type_: str, kind: str) -> nn.Module:
            return Block(builder.layer(number, type_, kind))

        makers = [partial(block, n, type_, kind) for n, (type_, kind) in enumerate(flat)]
        specs: list[Any] = [LayerSpec(Built, make) for make in (*makers, builder.final_norm)]
        if tied:
            shared = ("embedding", TiedEmbedding, builder.embedding)
            specs = [TiedLayerSpec(*shared), *specs, TiedLayerSpec(*shared, forward_fn=tied_head)]
        else:
            ends = [LayerSpec(Built, make) for make in (builder.embedding, builder.head)]
            specs = [ends[0], *specs, ends[1]]
        boundaries = [0]
        for chunk in facts["chunks"]:
            size = sum(run[2] for run in chunk["runs"])
            boundaries.append(boundaries[-1] + size + chunk["embedding"] + 2 * chunk["head"])
        return PlannedPipeline(specs, boundaries=boundaries, loss_fn=loss_of)

    def _batches(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The micro-batches of this replica."""
        facts = self.facts
        rows = facts["micro_batch"] * facts["num_microbatches"]
        replica = dist.get_rank() % facts["degrees"]["dp"]
        parts = [
            part[replica * rows : (replica + 1) * rows].to(self.device)
            for part in batch(facts, number, self.options.seed)
        ]
        return zip(*(part.split(facts["micro_batch"]) for part in parts), strict=True)

    def step(self, number: int) -> float:
        """One optimizer step; the loss is the mean over the global batch."""
        if self.pipelined:
            return float(self.engine.train_batch(data_iter=self._batches(number)))
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for tokens, target in self._batches(number):
            loss = loss_of(self.engine(tokens), target)
            self.engine.backward(loss)
            self.engine.step()
            total += loss.detach().double()
        total /= self.facts["num_microbatches"] * dist.get_world_size()
        dist.all_reduce(total)
        return float(total)


def cuda(options: argparse.Namespace) -> bool:
    return torch.cuda.is_available() and not options.cpu


def main() -> int:
    """The distributed run; the exit status is 1 if ``--compare`` finds a difference."""
    facts, options = start("Train with the plan in plan_facts.json on DeepSpeed.")
    if not cuda(options):
        os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed
    import deepspeed.ops

    if cuda(options):
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    else:  # a compiled helper of the CPU backend, which is not needed
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed("nccl" if cuda(options) else "gloo")
    config = json.loads((HERE / "ds_config.json").read_text(encoding="utf-8"))
    if options.scale_down:
        config = {key: config[key] for key in config if key not in ("bf16", "fp16", "data_types")}
        config["train_micro_batch_size_per_gpu"] = facts["micro_batch"]
        config["gradient_accumulation_steps"] = facts["num_microbatches"]
        config["gradient_clipping"] = 0.0  # as in the one-process run
        del config["train_batch_size"]
    trainer, report = Trainer(facts, options, config), Report(options)
    for step in range(options.steps):
        report.step(trainer.step, step)
    failed: int = report.end(facts)
    dist.barrier()
    dist.destroy_process_group()
    return failed


if __name__ == "__main__":
    sys.exit(main())

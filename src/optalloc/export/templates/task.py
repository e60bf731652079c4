"""The task of the exported scripts: the model of the plan, its batches, and the one-process run."""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from decoder import Chunk, Experts, Facts, Layer, initialise, loss_of, norm
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent


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


class Builder:
    """Builds chunks of the model with their weights; parallel runs extend it."""

    context: dist.ProcessGroup | None = None
    experts: dist.ProcessGroup | None = None

    def __init__(self, facts: Facts, seed: int, device: torch.device, positions: Tensor) -> None:
        self.facts, self.seed, self.device = facts, seed, device
        self.positions = positions.to(device)

    def made(self, module: nn.Module, prefix: str) -> nn.Module:
        """The module on the device, with the weights its name calls for."""
        module = module.to(self.device)
        initialise(module, prefix, self.seed)
        if isinstance(module, Layer) and isinstance(module.mlp, Experts):
            module.mlp.experts.initialise(f"{prefix}mlp.experts.", self.seed)
        return module

    def embedding(self) -> nn.Module:
        hidden, vocabulary = self.facts["hidden"], self.facts["vocabulary"]
        return self.made(nn.Embedding(vocabulary, hidden), "embedding.")

    def layer(self, number: int, type_: str, recompute: str) -> nn.Module:
        hidden, facts = self.facts["hidden"], self.facts["layer_types"][type_]
        layer = Layer(hidden, facts, recompute, self.context, self.experts)
        return self.made(layer, f"layers.{number}.")

    def final_norm(self) -> nn.Module:
        kind = next(iter(self.facts["layer_types"].values()))["norm"]
        return self.made(norm(kind, self.facts["hidden"]), "final_norm.")

    def head(self) -> nn.Module:
        name = "embedding." if self.facts["tied_embeddings"] else "head."
        linear = nn.Linear(self.facts["hidden"], self.facts["vocabulary"], bias=False)
        return self.made(linear, name)

    def chunk(self, index: int) -> Chunk:
        """One chunk in model order, with the ends of the model where it holds them."""
        chunks, plan = self.facts["chunks"], self.facts["chunks"][index]
        chunk = Chunk(self.positions)
        if plan["embedding"]:
            chunk.embedding = self.embedding()
        number = sum(run[2] for earlier in chunks[:index] for run in earlier["runs"])
        for type_, recompute, count in plan["runs"]:
            for _ in range(count):
                chunk.layers.append(self.layer(number, type_, recompute))
                number += 1
        if plan["head"]:
            chunk.final_norm, chunk.head = self.final_norm(), self.head()
        return self.finished(chunk)

    def finished(self, chunk: Chunk) -> Chunk:
        """Tie what is tied inside one chunk."""
        if self.facts["tied_embeddings"] and chunk.embedding is not None and chunk.head is not None:
            chunk.head.weight = chunk.embedding.weight
        return chunk


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


def reference(facts: Facts, options: argparse.Namespace) -> list[float]:
    """Losses of the same training in one process on the CPU, without any parallelism."""
    positions = torch.arange(facts["sequence_length"])
    builder = Builder(facts, options.seed, torch.device("cpu"), positions)
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


def arguments(description: str) -> argparse.ArgumentParser:
    """Flags of the exported scripts."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--facts", type=Path, default=HERE / "plan_facts.json")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--scale-down", action="store_true", help="tiny widths, same stages")
    parser.add_argument("--compare", action="store_true", help="check the losses with one process")
    parser.add_argument("--reference", action="store_true", help="run in this one process alone")
    parser.add_argument("--tolerance", type=float, default=1e-4)
    parser.add_argument("--cpu", action="store_true", help="use the CPU even where there is a GPU")
    parser.add_argument("--metrics", help="write losses and step times to this JSON file")
    return parser


def start(
    description: str, smaller: Callable[[Facts], Facts] = scale_down
) -> tuple[Facts, argparse.Namespace]:
    """Read the flags and the facts; a one-process run ends here."""
    options = arguments(description).parse_args()
    facts = json.loads(options.facts.read_text(encoding="utf-8"))
    if options.scale_down:
        facts = smaller(facts)
    if options.reference:
        for step, loss in enumerate(reference(facts, options)):
            print(f"step {step} loss {loss:.6f}")
        raise SystemExit(0)
    return facts, options


def connect(options: argparse.Namespace, needed: int) -> torch.device:
    """Join the ``needed`` processes of the run; returns the device of this one."""
    local = int(os.environ["LOCAL_RANK"])
    cuda = torch.cuda.is_available() and not options.cpu
    if cuda:
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if cuda else "gloo")
    if dist.get_world_size() != needed:
        raise SystemExit(f"the plan needs {needed} processes, not {dist.get_world_size()}")
    return torch.device("cuda", local) if cuda else torch.device("cpu")


class Report:
    """What rank 0 prints and writes: losses, measured seconds, the comparison."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.losses: list[float] = []
        self.step_s: list[float] = []
        self.cpu_s: list[float] = []

    def step(self, run: Callable[[int], float], number: int) -> None:
        """Run and time one step, all ranks together."""
        dist.barrier()
        begin, cpu_begin = time.perf_counter(), time.process_time()
        self.losses.append(run(number))
        self.step_s.append(time.perf_counter() - begin)
        self.cpu_s.append(time.process_time() - cpu_begin)
        if dist.get_rank() == 0:
            line = f"step {number} loss {self.losses[-1]:.6f} measured_s {self.step_s[-1]:.3f}"
            print(line, flush=True)

    def end(self, facts: Facts, state_bytes: int | None = None) -> int:
        """Compare and write where asked; 1 if the losses differ too much."""
        every: list[list[float]] = [[] for _ in range(dist.get_world_size())]
        dist.all_gather_object(every, self.cpu_s)
        states: list[int | None] = [None] * dist.get_world_size()
        dist.all_gather_object(states, state_bytes)
        failed = 0
        if dist.get_rank() == 0:
            values: Facts = {"losses": self.losses, "measured_step_s": self.step_s}
            values["measured_cpu_s_by_rank"] = every
            if state_bytes is not None:
                values["measured_state_bytes_by_rank"] = states
            if self.options.compare:
                expected = reference(facts, self.options)
                worst = max(abs(a - b) for a, b in zip(self.losses, expected, strict=True))
                failed = int(not worst <= self.options.tolerance)
                values |= {"reference_losses": expected, "largest_difference": worst}
                for step, loss in enumerate(expected):
                    print(f"reference step {step} loss {loss:.6f}")
                verdict = "too large" if failed else "equal"
                print(f"largest difference {worst:.2e} ({verdict})", flush=True)
            if self.options.metrics:
                text = json.dumps(values, indent=1) + "\n"
                Path(self.options.metrics).write_text(text, encoding="utf-8")
        dist.barrier()
        return failed

"""Optimizer state shared by all that hold a parameter (ZeRO-1), whatever the degrees of each."""

from __future__ import annotations

import itertools
import math

import torch
import torch.distributed as dist
from decoder import Facts
from task import optimizer_of
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor


class Holders:
    """The ranks that hold a module: replicas own equal shares of it, ranks equal parts of these."""

    def __init__(self, by_replica: list[list[int]]) -> None:
        self.ranks = sorted(rank for ranks in by_replica for rank in ranks)
        parts = math.lcm(*(len(ranks) for ranks in by_replica))
        share = {rank: parts // len(ranks) for ranks in by_replica for rank in ranks}
        self.ends = [0]
        for rank in self.ranks:
            self.ends.append(self.ends[-1] + share[rank])

    def cuts(self, size: int) -> list[int]:
        """Where the pieces of ``size`` elements begin, and the end of the last."""
        return [size * end // self.ends[-1] for end in self.ends]


class SharedOptimizer:
    """Sums gradients over all that hold a parameter, and steps a piece of each parameter a rank.

    A rank keeps the weights it computes with and the gradients of its own micro-batches, in the
    plan's number formats; of the full-precision weights and the moments only its pieces.
    """

    def __init__(
        self,
        facts: Facts,
        modules: list[tuple[nn.Module, Holders, dist.ProcessGroup]],
        rate: float,
        contributes: bool,
    ) -> None:
        self.contributes = contributes
        mixed = facts["dtype"] == "bf16"
        self.dtype = torch.bfloat16 if mixed else torch.float32
        half = mixed and facts["gradient_dtype"] == "bf16"
        self.sum_dtype = torch.bfloat16 if half else torch.float32
        self.pieces: list[nn.Parameter] = []
        self.parameters: list[nn.Parameter] = []
        self.places: list[tuple[list[int], int, dist.ProcessGroup]] = []
        self.sums: list[Tensor] = []
        for module, holders, group in modules:
            mine = holders.ranks.index(dist.get_rank())
            for parameter in module.parameters():
                cuts = holders.cuts(parameter.numel())
                own = _whole(parameter.detach()).flatten()[cuts[mine] : cuts[mine + 1]]
                self.pieces.append(nn.Parameter(own.float().clone()))
                self.places.append((cuts, mine, group))
            module.to(self.dtype)
            for parameter in module.parameters():
                self.sums.append(torch.zeros_like(parameter, dtype=self.sum_dtype))
                parameter.register_post_accumulate_grad_hook(self._adder(len(self.sums) - 1))
                self.parameters.append(parameter)
        self.optimizer = optimizer_of(facts, self.pieces, rate)

    def _adder(self, index: int):  # type: ignore[no-untyped-def]
        def add(parameter: nn.Parameter) -> None:
            assert parameter.grad is not None
            self.sums[index] += parameter.grad.to(self.sum_dtype)
            parameter.grad = None

        return add

    def step(self) -> None:
        """One step from the gradients since the last one.

        Processes meet in the order of the modules, which is that of the model. One rank of each
        tensor-parallel group contributes.
        """
        for piece, total, (cuts, mine, group) in zip(
            self.pieces, self.sums, self.places, strict=True
        ):
            whole = _whole(total)
            whole = whole.clone() if self.contributes else torch.zeros_like(whole)
            dist.all_reduce(whole, group=group)
            piece.grad = whole.flatten()[cuts[mine] : cuts[mine + 1]].float().clone()
            total.zero_()
        self.optimizer.step()
        for piece, parameter, (cuts, _, group) in zip(
            self.pieces, self.parameters, self.places, strict=True
        ):
            piece.grad = None
            self._gather(piece, parameter, cuts, group)

    def _gather(
        self,
        piece: nn.Parameter,
        parameter: nn.Parameter,
        cuts: list[int],
        group: dist.ProcessGroup,
    ) -> None:
        """The whole parameter from the pieces of all that hold it."""
        sizes = [end - begin for begin, end in itertools.pairwise(cuts)]
        mine = torch.zeros(max(sizes), dtype=self.dtype, device=piece.device)
        mine[: piece.numel()] = piece.detach()
        every = [torch.empty_like(mine) for _ in sizes]
        dist.all_gather(every, mine, group=group)
        parts = [part[:size] for part, size in zip(every, sizes, strict=True)]
        whole = torch.cat(parts).view(parameter.shape)
        if isinstance(parameter, DTensor):
            mesh, placements = parameter.device_mesh, parameter.placements
            whole = distribute_tensor(whole, mesh, placements, src_data_rank=None)
        parameter.detach().copy_(whole)

    def state_bytes(self) -> int:
        """Weights, sums of gradients, full-precision weights and moments of this rank."""
        kept: list[Tensor] = [*self.parameters, *self.sums]
        if self.dtype != torch.float32:
            kept += self.pieces
        for state in self.optimizer.state.values():
            kept += [value for value in state.values() if torch.is_tensor(value) and value.dim()]
        local = (t.to_local() if isinstance(t, DTensor) else t for t in kept)
        return sum(t.numel() * t.element_size() for t in local)


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

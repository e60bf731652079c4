"""One cell of a sweep: solve it, and a loop that solves cells for another process.

python -m optalloc.plan.cell     reads a cell as JSON a line, writes its row as JSON a line
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import msgspec

from optalloc import __version__, files
from optalloc.cluster.topology import Cluster
from optalloc.cost.constants import read_constants
from optalloc.errors import InputError
from optalloc.model.spec import ModelSpec
from optalloc.plan.cells import answer, row_of
from optalloc.result import Termination
from optalloc.stop import StopRule
from optalloc.training.mixed.solve import MixedResult, plan_mixed
from optalloc.training.plan import TrainingPlan
from optalloc.training.solve import TrainingResult, plan_training
from optalloc.workload import Training

Status = Literal["optimal", "limit", "infeasible", "error"]


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """A problem of the grid; ``broken`` says what is wrong where its cluster could not be made."""

    model: ModelSpec
    device: str
    devices: int
    cluster: Cluster | None
    workload: Training
    objective: str = "step_time"
    pin: tuple[str, ...] = ()
    forbid: tuple[str, ...] = ()
    time_limit_s: float | None = None
    broken: str = ""

    @property
    def digest(self) -> str:
        """What the answer depends on, in short: the cell, the release and its cost model."""
        plain = {"cell": msgspec.to_builtins(self), "tool": __version__, "cost": _cost_digest()}
        return files.digest(plain)


@lru_cache(maxsize=1)
def _cost_digest() -> str:
    return files.digest(read_constants())


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of a cell; the fields are the columns of the CSV.

    ``status`` is optimal, limit (a plan with a gap, or none yet), infeasible (proven) or error;
    ``reason`` says why where there is no optimum. ``gap`` is relative. ``front`` is True where no
    other row is both faster and cheaper. Money and energy are estimates like the times. None: no
    plan, no price, or on a mixed cluster, whose stages differ, no one value.
    """

    digest: str
    model: str
    device: str
    devices: int
    sequence_length: int
    global_batch: int
    dtype: str
    objective: str
    status: Status
    reason: str = ""
    step_time_s: float | None = None
    gap: float | None = None
    tokens_per_s: float | None = None
    mfu_causal: float | None = None
    price_usd_per_step: float | None = None
    usd_per_trillion_tokens: float | None = None
    energy_j_per_step: float | None = None
    num_devices: int | None = None
    tp: int | None = None
    cp: int | None = None
    pp: int | None = None
    dp: int | None = None
    ep: int | None = None
    virtual_stages: int | None = None
    schedule: str | None = None
    zero_stage: int | None = None
    micro_batch: int | None = None
    configurations: int | None = None
    cpu_s: float = 0.0
    front: bool = False


def empty_row(cell: Cell, status: Status, reason: str) -> Row:
    """The row of a cell without a plan."""
    work = cell.workload
    return Row(
        digest=cell.digest,
        model=cell.model.name,
        device=cell.device,
        devices=cell.devices,
        sequence_length=work.sequence_length,
        global_batch=work.global_batch,
        dtype=work.dtype,
        objective=cell.objective,
        status=status,
        reason=reason,
    )


def solve_cell(cell: Cell) -> Row:
    """Solve one cell; what goes wrong is said in its row.

    Raises
    ------
    KeyboardInterrupt
        If the keyboard ended the search.

    Complexity: that of :func:`optalloc.plan_training`.
    """
    if cell.cluster is None:
        return empty_row(cell, "error", cell.broken)
    cluster = cell.cluster
    return row_of(
        lambda stop: _planned(cell, cluster, stop),
        time_limit_s=cell.time_limit_s,
        row=lambda result: _row(cell, result),
        failed=lambda why: empty_row(cell, "error", why),
    )


def _planned(cell: Cell, cluster: Cluster, stop: StopRule | None) -> TrainingResult | MixedResult:
    """The best plan, on equal nodes or on a mixed cluster."""
    model, work, pin, forbid = cell.model, cell.workload, cell.pin, cell.forbid
    if cluster.is_uniform:
        return plan_training(
            model, cluster, work, objective=cell.objective, pin=pin, forbid=forbid, stop=stop
        )
    if cell.objective != "step_time":
        raise InputError(
            f"mixed clusters are planned for the step time, not for {cell.objective}",
            path="--objective",
            fix="leave it out, or sweep equal devices",
        )
    return plan_mixed(model, cluster, work, pin=pin, forbid=forbid, stop=stop)


def _row(cell: Cell, result: TrainingResult | MixedResult) -> Row:
    stats = {"configurations": result.stats.configurations}
    if result.best is None:
        if result.termination is Termination.INFEASIBLE:
            bare = empty_row(cell, "infeasible", "; ".join(result.conflict))
        else:
            bare = empty_row(cell, "limit", "the search was stopped before it found a plan")
        return msgspec.structs.replace(bare, **stats)
    plan, proven = result.best, result.termination is Termination.OPTIMAL
    usd, gap = plan.price_usd_per_step, result.bounds.gap
    decided = {}
    if isinstance(plan, TrainingPlan):
        decided = {
            **msgspec.structs.asdict(plan.degrees),
            "schedule": plan.schedule,
            "zero_stage": plan.zero_stage,
        }
    return msgspec.structs.replace(
        empty_row(cell, "optimal" if proven else "limit", "" if proven else "stopped early"),
        step_time_s=plan.step_time_s,
        gap=None if gap == float("inf") else gap,
        tokens_per_s=plan.tokens_per_s,
        mfu_causal=plan.mfu,
        price_usd_per_step=usd,
        usd_per_trillion_tokens=(
            None if usd is None else usd / (plan.tokens_per_s * plan.step_time_s) * 1e12
        ),
        energy_j_per_step=plan.energy_j_per_step,
        num_devices=plan.num_devices,
        micro_batch=plan.micro_batch,
        **decided,
        **stats,
    )


if __name__ == "__main__":
    answer(Cell, solve_cell)

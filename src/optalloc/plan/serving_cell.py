"""One cell of a sweep of serving plans: solve it, and a loop that solves cells for another process.

python -m optalloc.plan.serving_cell     reads a cell as JSON a line, writes its row as JSON a line
"""

from __future__ import annotations

from functools import lru_cache

import msgspec

from optalloc import __version__, files
from optalloc.cluster.topology import Cluster
from optalloc.cost.engine.constants import read_engine_constants
from optalloc.model.spec import ModelSpec
from optalloc.plan.cell import Status
from optalloc.plan.cells import answer, row_of
from optalloc.result import Termination
from optalloc.serving.configuration.solve import ServingResult, plan_serving
from optalloc.workload import Serving


class ServingCell(msgspec.Struct, frozen=True, kw_only=True):
    """A problem of the grid; ``broken`` says what is wrong where its cluster could not be made."""

    model: ModelSpec
    device: str
    devices: int
    cluster: Cluster | None
    workload: Serving
    objective: str = "throughput"
    pin: tuple[str, ...] = ()
    forbid: tuple[str, ...] = ()
    headroom: float = 0.1
    time_limit_s: float | None = None
    broken: str = ""

    @property
    def digest(self) -> str:
        """What the answer depends on, in short: the cell, the release and its engine model."""
        plain = {"cell": msgspec.to_builtins(self), "tool": __version__, "cost": _cost_digest()}
        return files.digest(plain)


@lru_cache(maxsize=1)
def _cost_digest() -> str:
    return files.digest(read_engine_constants())


class ServingRow(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of a cell; the fields are the columns of the CSV. What is not known is None.

    ``front``: no other row is as good in tokens/s for a user and a device, and better in one.
    """

    digest: str
    model: str
    device: str
    devices: int
    input_len: int
    output_len: int
    rate_per_s: float | None = None
    concurrency: int | None = None
    objective: str
    status: Status
    reason: str = ""
    value: float | None = None
    gap: float | None = None
    mode: str | None = None
    num_devices: int | None = None
    engines: str = ""
    ttft_s: float | None = None
    tpot_s: float | None = None
    output_tokens_per_s: float | None = None
    tokens_per_s_per_user: float | None = None
    tokens_per_s_per_device: float | None = None
    usd_per_mtoken: float | None = None
    cpu_s: float = 0.0
    front: bool = False


def empty_serving_row(cell: ServingCell, status: Status, reason: str) -> ServingRow:
    """The row of a cell without a plan."""
    work = cell.workload
    return ServingRow(
        digest=cell.digest,
        model=cell.model.name,
        device=cell.device,
        devices=cell.devices,
        input_len=work.input_len,
        output_len=work.output_len,
        rate_per_s=work.rate_per_s,
        concurrency=work.concurrency,
        objective=cell.objective,
        status=status,
        reason=reason,
    )


def solve_serving_cell(cell: ServingCell) -> ServingRow:
    """Solve one cell; what goes wrong is said in its row.

    Raises
    ------
    KeyboardInterrupt
        If the keyboard ended the search.

    Complexity: that of :func:`optalloc.plan_serving`.
    """
    if cell.cluster is None:
        return empty_serving_row(cell, "error", cell.broken)
    cluster = cell.cluster
    return row_of(
        lambda stop: plan_serving(
            cell.model,
            cluster,
            cell.workload,
            objective=cell.objective,
            pin=cell.pin,
            forbid=cell.forbid,
            headroom=cell.headroom,
            stop=stop,
        ),
        time_limit_s=cell.time_limit_s,
        row=lambda result: _row(cell, result),
        failed=lambda why: empty_serving_row(cell, "error", why),
    )


def _row(cell: ServingCell, result: ServingResult) -> ServingRow:
    plan, proven = result.best, result.termination is Termination.OPTIMAL
    if plan is None:
        if result.termination is Termination.INFEASIBLE:
            return empty_serving_row(cell, "infeasible", "; ".join(result.conflict))
        return empty_serving_row(cell, "limit", "the search was stopped before it found a plan")
    said, gap = plan.predicted, result.bounds.gap
    return msgspec.structs.replace(
        empty_serving_row(
            cell, "optimal" if proven else "limit", "" if proven else "stopped early"
        ),
        value=result.bounds.primal,
        gap=None if gap == float("inf") else gap,
        mode=plan.mode,
        num_devices=plan.num_devices,
        engines=" + ".join(
            f"{w.count} x tp{w.engine.tp}"
            + (f" pp{w.engine.pp}" if w.engine.pp > 1 else "")
            + (f" dp{w.engine.attention_dp}" if w.engine.attention_dp > 1 else "")
            for w in plan.workers
        ),
        ttft_s=said.ttft_s,
        tpot_s=said.tpot_s,
        output_tokens_per_s=said.output_tokens_per_s,
        tokens_per_s_per_user=said.tokens_per_s_per_user,
        tokens_per_s_per_device=said.tokens_per_s_per_device,
        usd_per_mtoken=said.usd_per_mtoken,
    )


if __name__ == "__main__":
    answer(ServingCell, solve_serving_cell)

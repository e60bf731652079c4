"""sweep_serving: the best serving plan for every cell of a grid of devices, lengths and loads."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterable, Sequence

import msgspec

from optalloc.model.spec import ModelSpec
from optalloc.plan.cells import Kind, cluster_of, solved
from optalloc.plan.serving_cell import (
    ServingCell,
    ServingRow,
    empty_serving_row,
    solve_serving_cell,
)
from optalloc.serving.configuration.limits import parse_limits
from optalloc.workload import Serving

_WORKER = (sys.executable, "-m", "optalloc.plan.serving_cell")


def serving_grid(
    model: ModelSpec,
    clusters: Sequence[str],
    workload: Serving,
    *,
    devices: Sequence[int] = (),
    input_lens: Sequence[int] = (),
    output_lens: Sequence[int] = (),
    rates: Sequence[float] = (),
    concurrencies: Sequence[int] = (),
    objective: str = "throughput",
    pin: Iterable[str] = (),
    forbid: Iterable[str] = (),
    headroom: float = 0.1,
    time_limit_s: float | None = None,
) -> tuple[ServingCell, ...]:
    """The cells of a grid, in the order of the parameters.

    Parameters
    ----------
    clusters : sequence of str
        Device names with ``devices``; without, shorthands or cluster files.
    workload : Serving
        What the cells share; an axis that is empty keeps what it says.

    Raises
    ------
    InputError
        If a limit is unknown, or a length or load makes no sense. A cluster that cannot be made is
        the error of its own cells.
    """
    parse_limits(pin := tuple(pin), forbid := tuple(forbid))
    loads: list[dict[str, float | int | None]] = [
        {"rate_per_s": r, "concurrency": None} for r in rates
    ]
    loads += [{"rate_per_s": None, "concurrency": q} for q in concurrencies]
    cells = []
    for text, count, i, o, load in itertools.product(
        clusters,
        devices or (0,),
        input_lens or (workload.input_len,),
        output_lens or (workload.output_len,),
        loads or [{}],
    ):
        cluster, broken = cluster_of(text, count)
        cells.append(
            ServingCell(
                model=model,
                device="+".join(cluster.device_names) if cluster is not None else text,
                devices=cluster.num_devices if cluster is not None else count,
                cluster=cluster,
                workload=msgspec.structs.replace(workload, input_len=i, output_len=o, **load),
                objective=objective,
                pin=pin,
                forbid=forbid,
                headroom=headroom,
                time_limit_s=time_limit_s,
                broken=broken,
            )
        )
    return tuple(cells)


def sweep_serving(
    cells: Sequence[ServingCell],
    *,
    jobs: int = 1,
    done: Sequence[ServingRow] = (),
    on_row: Callable[[ServingRow], None] | None = None,
) -> tuple[ServingRow, ...]:
    """The best plan of every cell of a :func:`serving_grid`, with those on the front marked.

    The parameters are those of :func:`optalloc.sweep`.

    Raises
    ------
    InputError
        If ``jobs`` is less than 1.
    """
    kind = Kind(
        solve_serving_cell,
        lambda cell, why: empty_serving_row(cell, "error", why),
        ServingRow,
        _WORKER,
    )
    return _marked(solved(cells, kind, jobs=jobs, done=done, on_row=on_row))


def _marked(rows: Sequence[ServingRow]) -> tuple[ServingRow, ...]:
    """The rows with those on the front marked."""
    points = [(r.tokens_per_s_per_user or 0.0, r.tokens_per_s_per_device or 0.0) for r in rows]

    def beaten(a: tuple[float, float]) -> bool:
        return any(b != a and b[0] >= a[0] and b[1] >= a[1] for b in points)

    return tuple(
        msgspec.structs.replace(row, front=row.value is not None and not beaten(point))
        for row, point in zip(rows, points, strict=True)
    )

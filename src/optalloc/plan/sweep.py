"""sweep: the best plan for every cell of a grid of devices, sequence lengths, batches and kinds."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Sequence

import msgspec

from optalloc.errors import InputError
from optalloc.model.spec import ModelSpec
from optalloc.plan.cell import Cell, Row, empty_row, solve_cell
from optalloc.plan.cells import Kind, cluster_of, solved
from optalloc.plan.front import marked
from optalloc.training.solve import OBJECTIVES
from optalloc.training.space import parse_limits
from optalloc.workload import Training

OnRow = Callable[[Row], None]

_WORKER = (sys.executable, "-m", "optalloc.plan.cell")


class Sweep(msgspec.Struct, frozen=True, kw_only=True):
    """A solved grid as it is printed in JSON: a row a cell."""

    format_version: str = "1.0"
    rows: tuple[Row, ...]


def grid(
    model: ModelSpec,
    clusters: Sequence[str],
    workload: Training,
    *,
    devices: Sequence[int] = (),
    sequence_lengths: Sequence[int] = (),
    global_batches: Sequence[int] = (),
    objective: str = "step_time",
    pin: Sequence[str] = (),
    forbid: Sequence[str] = (),
    time_limit_s: float | None = None,
) -> tuple[Cell, ...]:
    """The cells of a grid, in the order of the parameters.

    Parameters
    ----------
    clusters : sequence of str
        Device names with ``devices``; without, shorthands or paths of cluster files. A cluster file
        with ``devices`` is taken with as many of its nodes.
    workload : Training
        What the cells share.
    devices, sequence_lengths, global_batches : sequence of int
        The axes; an empty one keeps what cluster or workload say.

    Raises
    ------
    InputError
        If objective or a limit is unknown, or a number of tokens or sequences makes no sense. A
        cluster that cannot be made is the error of its own cells.
    """
    if objective not in OBJECTIVES or objective == "devices":
        known = ", ".join(name for name in OBJECTIVES if name != "devices")
        raise InputError(
            f"a sweep does not know the objective {objective!r}",
            path="--objective",
            fix=f"use one of {known}",
        )
    parse_limits(list(pin), list(forbid))
    cells = []
    for text, count, length, batch in itertools.product(
        clusters,
        devices or (0,),
        sequence_lengths or (workload.sequence_length,),
        global_batches or (workload.global_batch,),
    ):
        work = msgspec.structs.replace(workload, sequence_length=length, global_batch=batch)
        cluster, broken = cluster_of(text, count)
        cells.append(
            Cell(
                model=model,
                device="+".join(cluster.device_names) if cluster is not None else text,
                devices=cluster.num_devices if cluster is not None else count,
                cluster=cluster,
                workload=work,
                objective=objective,
                pin=tuple(pin),
                forbid=tuple(forbid),
                time_limit_s=time_limit_s,
                broken=broken,
            )
        )
    return tuple(cells)


def sweep(
    cells: Sequence[Cell],
    *,
    jobs: int = 1,
    done: Sequence[Row] = (),
    on_row: OnRow | None = None,
) -> tuple[Row, ...]:
    """The best plan of every cell, with those on the front marked.

    Parameters
    ----------
    cells : sequence of Cell
        A :func:`grid`.
    jobs : int
        Processes that solve cells at the same time; 1 solves them in this one.
    done : sequence of Row
        Rows of an earlier sweep: cells with their digest are not solved again, but for errors.
    on_row : callable, optional
        Called with every new row as it comes, in the thread of the caller.

    Returns
    -------
    tuple of Row
        One row a cell, in their order.

    Raises
    ------
    InputError
        If ``jobs`` is less than 1.
    """
    kind = Kind(solve_cell, lambda cell, why: empty_row(cell, "error", why), Row, _WORKER)
    return marked(solved(cells, kind, jobs=jobs, done=done, on_row=on_row))

"""sweep: the best plan for every cell of a grid of devices, sequence lengths, batches and kinds.

Cells are solved by processes of their own, so that one that fails, or that the system ends, costs
its own row alone.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

import msgspec

from optalloc.cluster.load import is_file_name, load_cluster
from optalloc.cluster.topology import Cluster
from optalloc.errors import InputError, OptallocError
from optalloc.model.spec import ModelSpec
from optalloc.plan.cell import Cell, Row, empty_row, solve_cell
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
        cluster, broken = _cluster(text, count)
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
    if jobs < 1:
        raise InputError(f"{jobs} jobs solve nothing", path="--jobs", fix="use at least 1")
    rows = {row.digest: row for row in done if row.status != "error"}
    left = {cell.digest: cell for cell in cells if cell.digest not in rows}
    solved = map(solve_cell, left.values()) if jobs == 1 else _parallel(list(left.values()), jobs)
    for row in solved:
        rows[row.digest] = row
        if on_row is not None:
            on_row(row)
    return marked([rows[cell.digest] for cell in cells])


def _cluster(text: str, count: int) -> tuple[Cluster | None, str]:
    """A cluster of ``count`` devices (0: as it is), or None and what is wrong."""
    try:
        if not count:
            return load_cluster(text), ""
        if is_file_name(text):
            return sized(load_cluster(text), count), ""
        return load_cluster(f"{count}x{text}"), ""
    except OptallocError as error:
        return None, str(error)


def sized(cluster: Cluster, count: int) -> Cluster:
    """A uniform cluster with so many devices: as many nodes, or a part of one.

    Raises
    ------
    InputError
        If it is mixed, or the devices do not fill its nodes.
    """
    group = cluster.nodes[0]
    nodes, rest = divmod(count, group.devices)
    if not cluster.is_uniform or count < 1 or (rest and nodes):
        what = f"{count} devices do not fill nodes of {group.devices}"
        raise InputError(
            what if cluster.is_uniform else f"the cluster is mixed ({cluster.mixture})",
            path=cluster.name,
            fix="give a multiple of a node's devices, or the cluster without --devices",
        )
    if rest:
        part = {"count": 1, "devices": rest, "domain": min(group.domain, rest)}
        if group.domain < rest and rest % group.domain:
            part["domain"] = 1
    else:
        part = {"count": nodes, "domain": min(group.domain, count)}
    name = f"{cluster.name} with {count} devices"
    return msgspec.structs.replace(
        cluster, name=name, nodes=(msgspec.structs.replace(group, **part),)
    )


def _parallel(cells: list[Cell], jobs: int) -> Iterator[Row]:
    """Rows as they come, from ``jobs`` processes; one that ends early costs its cell alone."""
    workers = _Workers()
    try:
        with ThreadPoolExecutor(min(jobs, max(1, len(cells)))) as pool:
            open_: set[Future[Row]] = {pool.submit(workers.solve, cell) for cell in cells}
            try:
                while open_:
                    ended, open_ = wait(open_, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in ended)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                workers.close()
                raise
    finally:
        workers.close()


class _Workers:
    """One process a thread, started when it is first needed and again after it ended."""

    def __init__(self) -> None:
        self.mine = threading.local()
        self.all: list[subprocess.Popen[bytes]] = []

    def solve(self, cell: Cell) -> Row:
        process = getattr(self.mine, "process", None)
        if process is None or process.poll() is not None:
            # A session of its own: the keyboard interrupts the sweep, and the sweep ends it.
            process = subprocess.Popen(
                _WORKER,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,
            )
            self.mine.process = process
            self.all.append(process)
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(msgspec.json.encode(cell) + b"\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = b""
        if not line:
            return empty_row(cell, "error", f"its process ended with status {process.wait()}")
        return msgspec.json.decode(line, type=Row)

    def close(self) -> None:
        for process in self.all:
            if process.poll() is None:
                process.terminate()
        for process in self.all:
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()

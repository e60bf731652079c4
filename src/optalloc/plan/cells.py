"""Cells of a grid solved side by side: rows that are there are kept, others come from processes.

A cell that fails, or whose process the system ends, costs its own row alone.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import ClassVar, Generic, NamedTuple, Protocol, TypeVar

import msgspec

from optalloc.cluster.load import is_file_name, load_cluster
from optalloc.cluster.topology import Cluster
from optalloc.errors import InputError, OptallocError
from optalloc.result import Result, Termination
from optalloc.stop import StopRule, TimeLimit


class AnyCell(Protocol):
    """A problem of a grid."""

    @property
    def digest(self) -> str:
        """What the answer depends on, in short."""


class AnyRow(Protocol):
    """The answer of a cell, a struct; its fields are the columns of the CSV."""

    __struct_fields__: ClassVar[tuple[str, ...]]

    @property
    def digest(self) -> str:
        """That of its cell."""

    @property
    def status(self) -> str:
        """optimal, limit, infeasible or error."""

    @property
    def cpu_s(self) -> float:
        """Seconds of CPU that it took."""


C = TypeVar("C", bound=AnyCell)
R = TypeVar("R", bound=AnyRow)
Planned = TypeVar("Planned", bound=Result)
RowStruct = TypeVar("RowStruct", bound=msgspec.Struct)


class Kind(NamedTuple, Generic[C, R]):
    """A kind of cell: how one is solved, the row of one that failed with a reason, and the command
    of a process that solves cells for this one (:func:`answer`)."""

    solve: Callable[[C], R]
    failed: Callable[[C, str], R]
    row: type[R]
    worker: tuple[str, ...]


def row_of(
    plan: Callable[[StopRule | None], Planned],
    *,
    time_limit_s: float | None,
    row: Callable[[Planned], RowStruct],
    failed: Callable[[str], RowStruct],
) -> RowStruct:
    """The row of what ``plan`` finds within the limit, or of what went wrong, with its CPU seconds.

    Raises
    ------
    KeyboardInterrupt
        If the keyboard ended the search.
    """
    begin = time.process_time()
    try:
        result = plan(None if time_limit_s is None else TimeLimit(time_limit_s))
        in_time = time_limit_s is None or result.stats.wall_s < time_limit_s
        if result.termination is Termination.LIMIT and in_time:
            raise KeyboardInterrupt  # which the search takes for a stop
        answered = row(result)
    except OptallocError as error:
        answered = failed(str(error))
    return msgspec.structs.replace(answered, cpu_s=round(time.process_time() - begin, 3))


def solved(
    cells: Sequence[C],
    kind: Kind[C, R],
    *,
    jobs: int,
    done: Sequence[R] = (),
    on_row: Callable[[R], None] | None = None,
) -> list[R]:
    """One row a cell, in their order.

    Parameters
    ----------
    jobs : int
        Processes that solve cells at the same time; 1 solves them in this one.
    done : sequence of rows
        Cells with their digest are not solved again, but for errors.
    on_row : callable, optional
        Called with every new row as it comes, in the thread of the caller.

    Raises
    ------
    InputError
        If ``jobs`` is less than 1.
    """
    if jobs < 1:
        raise InputError(f"{jobs} jobs solve nothing", path="--jobs", fix="use at least 1")
    rows = {row.digest: row for row in done if row.status != "error"}
    left = {cell.digest: cell for cell in cells if cell.digest not in rows}
    many = list(left.values())
    for row in map(kind.solve, many) if jobs == 1 else _parallel(many, kind, jobs):
        rows[row.digest] = row
        if on_row is not None:
            on_row(row)
    return [rows[cell.digest] for cell in cells]


def answer(cell: type[C], solve: Callable[[C], object]) -> None:
    """Answer cells, JSON a line, until the input ends."""
    decode = msgspec.json.Decoder(cell).decode
    for line in sys.stdin.buffer:
        sys.stdout.buffer.write(msgspec.json.encode(solve(decode(line))) + b"\n")
        sys.stdout.buffer.flush()


# -- clusters of a grid


def cluster_of(text: str, count: int) -> tuple[Cluster | None, str]:
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


# -- processes


def _parallel(cells: list[C], kind: Kind[C, R], jobs: int) -> Iterator[R]:
    """Rows as they come, from ``jobs`` processes; one that ends early costs its cell alone."""
    workers = _Workers(kind)
    try:
        with ThreadPoolExecutor(min(jobs, max(1, len(cells)))) as pool:
            open_: set[Future[R]] = {pool.submit(workers.solve, cell) for cell in cells}
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


class _Workers(Generic[C, R]):
    """One process a thread, started when it is first needed and again after it ended."""

    def __init__(self, kind: Kind[C, R]) -> None:
        self.kind = kind
        self.mine = threading.local()
        self.all: list[subprocess.Popen[bytes]] = []

    def solve(self, cell: C) -> R:
        process = getattr(self.mine, "process", None)
        if process is None or process.poll() is not None:
            # A session of its own: the keyboard interrupts the sweep, and the sweep ends it.
            process = subprocess.Popen(
                self.kind.worker,
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
            return self.kind.failed(cell, f"its process ended with status {process.wait()}")
        return msgspec.json.decode(line, type=self.kind.row)

    def close(self) -> None:
        for process in self.all:
            if process.poll() is None:
                process.terminate()
        for process in self.all:
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()

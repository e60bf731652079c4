"""Run a command in its own process group under a limit of CPU time."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

_LOOK_S = 0.1
_THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


class Usage(NamedTuple):
    """What a command printed and cost.

    ``cpu_s`` is the user and system time of the whole process group; ``killed`` says that it was
    ended because it went on after its limit.
    """

    output: str
    status: int
    cpu_s: float
    wall_s: float
    killed: bool


def run_limited(
    command: Sequence[str], cpu_limit_s: float, log: Path, *, threads: int = 1
) -> Usage:
    """Run until the command ends, or its group has used ``cpu_limit_s`` of CPU time.

    Parameters
    ----------
    command : sequence of str
        The program and its arguments.
    cpu_limit_s : float
        Seconds, over all processes and threads of the group. It is killed when they are used up:
        give a program that keeps the time itself some seconds to write its answer.
    log : Path
        Where standard output goes (it is read back); standard error is passed on.
    threads : int
        Threads that the libraries of linear algebra start, which else take every core.
    """
    begin = time.perf_counter()
    environment = os.environ | dict.fromkeys(_THREAD_VARIABLES, str(threads))
    with log.open("wb") as out:
        child = subprocess.Popen(list(command), stdout=out, start_new_session=True, env=environment)
    killed = False
    try:
        while True:
            pid, status, usage = os.wait4(child.pid, os.WNOHANG)
            if pid:
                break
            if group_cpu_s(child.pid) > cpu_limit_s:
                killed = True
                _kill_group(child.pid)
                _, status, usage = os.wait4(child.pid, 0)
                break
            time.sleep(_LOOK_S)
    except BaseException:
        _kill_group(child.pid)
        raise
    child.returncode = os.waitstatus_to_exitcode(status)  # wait4 has taken it
    _kill_group(child.pid)
    return Usage(
        output=log.read_text(encoding="utf-8", errors="replace"),
        status=child.returncode,
        cpu_s=usage.ru_utime + usage.ru_stime,
        wall_s=time.perf_counter() - begin,
        killed=killed,
    )


def group_cpu_s(group: int) -> float:
    """CPU seconds of the running processes of a group and of the children they waited for.

    0 where the system has no ``/proc``.
    """
    ticks = 0
    for place in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # The name in brackets may hold spaces; fields are counted after it.
            fields = place.read_text().rpartition(")")[2].split()
            if int(fields[2]) == group:
                ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def _kill_group(group: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)

"""Start a script in several local processes, and end all of them when it takes too long."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

from optalloc.errors import MissingExtra, OptallocError


class ProcessesFailed(OptallocError):
    """The started processes failed or took too long; ``output`` is what they wrote last."""

    def __init__(self, what: str, output: str) -> None:
        self.output = output
        tail = "\n".join(output.strip().splitlines()[-15:])
        super().__init__(f"{what}.\n{tail}" if tail else f"{what}.")


def require_torch() -> None:
    """Raise MissingExtra where torch is absent."""
    if importlib.util.find_spec("torch") is None:
        raise MissingExtra("torch", "torch")


def launch(script: Path, arguments: list[str], *, processes: int, timeout_s: float) -> str:
    """Run ``script`` with torchrun's module in ``processes`` local processes over gloo.

    Returns
    -------
    str
        What the processes wrote.

    Raises
    ------
    ProcessesFailed
        If a process fails, or all of them take longer than ``timeout_s`` seconds.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(processes), str(script), *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command,
        cwd=script.parent,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as started:
        try:
            output, _ = started.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(started.pid, signal.SIGKILL)
            output, _ = started.communicate()
            raise ProcessesFailed(f"the run took longer than {timeout_s:g} s", output) from None
        except BaseException:
            os.killpg(started.pid, signal.SIGTERM)
            raise
    if started.returncode:
        raise ProcessesFailed(f"the run failed with status {started.returncode}", output)
    return output

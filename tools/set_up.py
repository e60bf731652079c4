"""Make ``.venv`` and install what is pinned and what is built, with the standard library alone.

Each step is done once per digest of what it is made from, and its stamp is written after it; a
set-up that was interrupted is made again from nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = BIN / ("python.exe" if os.name == "nt" else "python")
STAMPS = VENV / "stamps"
UNFINISHED = VENV / "set-up-unfinished"
TORCH = "2.13.0"


class StepFailed(Exception):
    """A step of the set-up failed; its output was shown."""


def environment() -> dict[str, str]:
    """This process's environment with the virtual environment's commands first."""
    env = dict(os.environ)
    env["PATH"] = os.pathsep.join(part for part in (str(BIN), env.get("PATH", "")) if part)
    env["VIRTUAL_ENV"] = str(VENV)
    env["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
    env.pop("PYTHONHOME", None)
    return env


def step(title: str, command: Sequence[object], advice: str, env: dict[str, str]) -> None:
    """Run a set-up step quietly; if it fails, show its output and what to do."""
    say(f"{title} ...")
    begin = time.perf_counter()
    words = [str(word) for word in command]
    done = subprocess.run(
        words, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    if done.returncode:
        sys.stderr.write(done.stdout.decode(errors="replace"))
        say(f"This step failed: {title}\nCommand: {' '.join(words)}\nWhat to do: {advice}")
        raise StepFailed
    say(f"  done in {time.perf_counter() - begin:.1f} s")


def say(text: str) -> None:
    """Tell the person at the terminal; standard output stays with the task."""
    print(text, file=sys.stderr, flush=True)


def digest(*parts: Path | str) -> str:
    """One digest of files, folders (every file below them, in order) and words."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            total.update(part.encode())
            continue
        for file in sorted(part.rglob("*")) if part.is_dir() else [part]:
            if file.is_file() and "__pycache__" not in file.parts:
                total.update(file.relative_to(ROOT).as_posix().encode() + b"\0")
                total.update(file.read_bytes() + b"\0")
    return total.hexdigest()


def stamped(name: str, wanted: str) -> bool:
    """True if the step ``name`` was done for exactly this digest."""
    stamp = STAMPS / name
    return stamp.is_file() and stamp.read_text() == wanted


def write_stamp(name: str, value: str) -> None:
    """Record a finished step, whole or not at all."""
    STAMPS.mkdir(parents=True, exist_ok=True)
    partial = STAMPS / f".{name}.partial"
    partial.write_text(value)
    partial.replace(STAMPS / name)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Keep two set-ups of one checkout from running at once (where the system has file locks)."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    handle = os.open(ROOT, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def set_up(*, torch: bool = False) -> dict[str, str]:
    """Bring ``.venv`` up to date and return the environment in which to run tasks."""
    with alone():
        version = ".".join(str(part) for part in sys.version_info[:3])
        if UNFINISHED.exists() or not PYTHON.exists() or not _same_python(version):
            say("Making the virtual environment .venv ...")
            _make_venv()
        env = environment()
        todo = _pending(version, torch)
        if todo:
            UNFINISHED.write_text("removed when the set-up has finished\n")
            for name, wanted in todo.items():
                _install(name, env)
                write_stamp(name, wanted)
            UNFINISHED.unlink()
        return env


def _same_python(version: str) -> bool:
    config = VENV / "pyvenv.cfg"
    lines = config.read_text().splitlines() if config.is_file() else []
    return any(line.replace(" ", "") == f"version={version}" for line in lines)


def _make_venv() -> None:
    import venv

    try:
        venv.EnvBuilder(clear=True, with_pip=True, symlinks=os.name != "nt").create(VENV)
    except (subprocess.CalledProcessError, OSError) as error:
        say(
            f"The virtual environment could not be made: {error}\n"
            "What to do: install the venv and ensurepip modules of this Python (on Debian and "
            "Ubuntu: the package python3-venv), then run the same command again."
        )
        raise StepFailed from error


def _pending(version: str, torch: bool) -> dict[str, str]:
    """Steps that are not done for the present files, in the order in which to do them."""
    lock = ROOT / "requirements.lock"
    # The editable install remembers where each module was: a module that moves is installed anew.
    modules = " ".join(sorted(str(p.relative_to(ROOT)) for p in (ROOT / "src").rglob("*.py")))
    wanted = {
        "requirements": digest(lock, version),
        "project": digest(
            ROOT / "native",
            ROOT / "CMakeLists.txt",
            ROOT / "pyproject.toml",
            lock,
            version,
            modules,
        ),
    }
    if torch:
        wanted["torch"] = digest(ROOT / "requirements-torch.lock", lock, version)
    return {name: value for name, value in wanted.items() if not stamped(name, value)}


def _install(name: str, env: dict[str, str]) -> None:
    if name == "requirements":
        _pip_install("requirements.lock", "the pinned requirements", env)
    elif name == "torch":
        _pip_install("requirements-torch.lock", f"torch {TORCH} (CPU)", env)
    else:
        with_compiler = env | _compiler(env)
        step(
            "Building the native kernels and installing the project",
            [PYTHON, "-m", "pip", "install", "--no-build-isolation", "--no-deps", "-e", ROOT],
            "read the compiler's message above; deleting the folders build/ and .venv/ starts "
            "afresh. To choose a compiler set CXX, for example CXX=clang++.",
            with_compiler,
        )
        step(
            "Compiling the Python modules",
            [PYTHON, "-m", "compileall", "-q", ROOT / "src"],
            "read the message above.",
            env,
        )


def _pip_install(lock: str, what: str, env: dict[str, str]) -> None:
    advice = (
        "check that the package index can be reached (pip's own settings and PIP_INDEX_URL apply), "
        "then run the same command again; it starts afresh."
    )
    if lock == "requirements-torch.lock":
        advice += " The lock pins CPU builds alone: docs/how-to/develop.md says more."
    step(
        f"Installing {what}",
        [PYTHON, "-m", "pip", "install", "--require-hashes", "--no-deps", "-r", ROOT / lock],
        advice,
        env,
    )


def _compiler(env: dict[str, str]) -> dict[str, str]:
    """Variables that name a C++ compiler: none if there is one, else the ``ziglang`` wheel's."""
    chosen = env.get("CXX", "").split()[:1]
    if any(shutil.which(word, path=env["PATH"]) for word in (*chosen, "c++", "g++", "clang++")):
        return {}
    say("No C++ compiler was found on the PATH: the ziglang package serves as one.")
    _pip_install("requirements-zig.lock", "the ziglang compiler", env)
    tools = VENV / "zig"
    tools.mkdir(exist_ok=True)
    made = {tool: _zig_tool(tools, tool) for tool in ("cc", "c++", "ar", "ranlib")}
    return {
        "CC": str(made["cc"]),
        "CXX": str(made["c++"]),
        "CMAKE_ARGS": " ".join(
            [
                env.get("CMAKE_ARGS", ""),
                f"-DCMAKE_AR={made['ar']}",
                f"-DCMAKE_RANLIB={made['ranlib']}",
            ]
        ).strip(),
        "ZIG_GLOBAL_CACHE_DIR": str(ROOT / "build" / "zig-cache"),
        "ZIG_LOCAL_CACHE_DIR": str(ROOT / "build" / "zig-cache"),
    }


def _zig_tool(folder: Path, tool: str) -> Path:
    """A command that runs one of zig's tools (CMake wants a path, not a command line)."""
    if os.name == "nt":
        script = folder / f"{tool}.bat"
        script.write_text(f'@"{PYTHON}" -m ziglang {tool} %*\n')
    else:
        script = folder / tool
        script.write_text(f'#!/bin/sh\nexec "{PYTHON}" -m ziglang {tool} "$@"\n')
        script.chmod(0o755)
    return script

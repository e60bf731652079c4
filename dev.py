"""Set up, run and check this project with Python 3.11 or newer and nothing else.

    python3 dev.py demo              plan a 70B model on 64 H100s; the files go to a folder it names
    python3 dev.py test              every check and every test
    python3 dev.py test --torch      add torch (CPU) and run the tests that need it
    python3 dev.py test --sanitize   run the native kernels' tests under sanitizers
    python3 dev.py schemas           rewrite schemas/ from the package's types
    python3 dev.py lock              resolve and pin the requirements*.lock files again

Each sets up first: it makes ``.venv``, installs the hash-pinned ``requirements.lock``, builds the
native kernels and installs the project, once per digest of what it is made from. Each stamp is
written after its step; a set-up that was interrupted is made again from nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = BIN / ("python.exe" if os.name == "nt" else "python")
STAMPS = VENV / "stamps"
UNFINISHED = VENV / "set-up-unfinished"
TORCH = "2.13.0"
TRANSFORMERS, ACCELERATE = "transformers==5.23.0", "accelerate==1.15.0"
CHECKED = ("src", "tests", "benchmarks", "examples", "dev.py")
NOT_HERE = "not torch and not gpu and not browser"
# Under the sanitizers the slow tests, of many random instances, add time and no path of the code;
# what the names catch besides, other methods, offload, configurations and lists of names, is Python
# alone.
SANITIZED = f"{NOT_HERE} and not slow"
KERNELS = (
    "(native or kernel or exact or knapsack or rows or threads or partition or pipeline or search"
    " or flow or fleet or requests or mixed or large or patterns)"
    " and not (methods or offload or configuration or exported or measured)"
)


class StepFailed(Exception):
    """A step of the set-up failed; its output was shown."""


# --- steps


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


# --- set-up


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


# --- tasks


def demo(folder: str) -> int:
    """Plan, simulate and export the example of the README."""
    env = set_up()
    return subprocess.run(
        [PYTHON, ROOT / "examples" / "demo.py", folder], env=env, check=False
    ).returncode


def checks() -> dict[str, list[object]]:
    """Every check of the plain ``test``, in the order in which to run them."""
    docs = ROOT / "docs"
    return {
        "ruff check": [PYTHON, "-m", "ruff", "check", "."],
        "ruff format": [PYTHON, "-m", "ruff", "format", "--check", "."],
        "mypy": [PYTHON, "-m", "mypy", "--strict", *CHECKED],
        "imports": [BIN / "lint-imports"],
        "pytest": [PYTHON, "-m", "pytest", "-n", "2", "-m", NOT_HERE],
        "docs": [PYTHON, "-m", "sphinx", "-W", "-q", "-b", "html", docs, docs / "_build" / "html"],
        "doctest": [
            PYTHON,
            "-m",
            "sphinx",
            "-q",
            "-b",
            "doctest",
            docs,
            docs / "_build" / "doctest",
        ],
    }


def test(*, torch: bool, sanitize: bool) -> int:
    """Run the checks, show the output of pytest and of what fails, end with one line a check."""
    env = set_up(torch=torch)
    if torch:
        chosen: dict[str, list[object]] = {
            "pytest (torch)": [PYTHON, "-m", "pytest", "-n", "2", "-m", "torch and not gpu"]
        }
    elif sanitize:
        return _sanitized(env)
    else:
        chosen = checks()
    return _run_all(chosen, env)


def _run_all(chosen: dict[str, list[object]], env: dict[str, str]) -> int:
    lines, failed = [], []
    for name, command in chosen.items():
        say(f"== {name}")
        begin = time.perf_counter()
        shown = name.startswith("pytest")
        done = subprocess.run(
            [str(word) for word in command],
            cwd=ROOT,
            env=env,
            stdout=None if shown else subprocess.PIPE,
            stderr=None if shown else subprocess.STDOUT,
            check=False,
        )
        if done.returncode:
            failed.append(name)
            if not shown:
                print(done.stdout.decode(errors="replace"), flush=True)
        verdict = "FAILED" if done.returncode else "ok"
        lines.append(f"{verdict:7} {time.perf_counter() - begin:7.1f} s  {name}")
    say("\n".join(["", *lines]))
    if failed:
        say(f"Failed: {', '.join(failed)}. The output of each is above.")
    return 1 if failed else 0


def _sanitized(env: dict[str, str]) -> int:
    """Run the native kernels' tests on a build with address and undefined-behaviour checks."""
    compiler = env.get("CXX", "g++")
    if not shutil.which(compiler, path=env["PATH"]):
        say(f"The sanitizers need a compiler that has them; {compiler} is not on the PATH.")
        return 1
    target = ROOT / "build" / "sanitized"
    step(
        "Building with sanitizers",
        [PYTHON, "-m", "pip", "install", "--no-build-isolation", "--no-deps", "--upgrade",
         "--target", target, "-C", "cmake.define.OPTALLOC_SANITIZE=ON",
         "-C", "build-dir=build/sanitized-objects", ROOT],
        "read the compiler's message above.",
        env,
    )  # fmt: skip
    # The C++ library too: the sanitizer looks for its exceptions when the process starts.
    libraries = [
        subprocess.run(
            [compiler, f"-print-file-name={name}"],
            env=env, capture_output=True, text=True, check=True,
        ).stdout.strip()
        for name in ("libasan.so", "libstdc++.so.6")
    ]  # fmt: skip
    # Packages are found through PYTHONPATH, which skips the editable install's hook: the sanitized
    # build comes first. Python itself leaks by design, so only the kernels' errors are looked for.
    packages = VENV / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    checked = env | {
        "LD_PRELOAD": ":".join(libraries),
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
        "PYTHONPATH": os.pathsep.join([str(target), str(packages)]),
    }
    base = Path(sys.base_exec_prefix) / "bin" / "python3"
    # Nothing is captured: a report is written just before the process ends.
    words: list[object] = [base, "-m", "pytest", "-n", "2", "-s", "-k", KERNELS, "-m", SANITIZED]
    return _run_all({"pytest (sanitized)": words}, checked)


def schemas() -> int:
    """Rewrite ``schemas/`` from the package's types."""
    env = set_up()
    return subprocess.run(
        [str(BIN / "optalloc"), "schema", "--write", str(ROOT / "schemas")], env=env, check=False
    ).returncode


# --- locks


def lock() -> int:
    """Pin the requirements again: names, versions and hashes, no addresses."""
    tools = ROOT / "build" / "lock-tools"
    env = environment()
    uv = tools / BIN.name / "uv"
    if not uv.exists():
        step("Making a place for uv", [sys.executable, "-m", "venv", tools], "see above", env)
        step("Installing uv", [uv.with_name("pip"), "install", "uv"], "check the index", env)
    common = [
        uv, "pip", "compile", "--quiet", "--universal", "--python-version", "3.11",
        "--generate-hashes", "--no-header", "--no-annotate", "--no-emit-index-url", "--upgrade",
    ]  # fmt: skip
    main_lock, zig, torch = (ROOT / f"requirements{end}.lock" for end in ("", "-zig", "-torch"))
    advice = "check that the package index can be reached."
    step(
        "Resolving requirements.lock",
        [*common, "pyproject.toml", "--group", "dev", "-o", main_lock],
        advice,
        env,
    )
    step(
        "Resolving requirements-zig.lock",
        [*common, "--group", "zig", "-o", zig],
        advice,
        env,
    )
    _lock_torch(common, main_lock, torch, env)
    return 0


def _lock_torch(
    common: Sequence[object], main_lock: Path, target: Path, env: dict[str, str]
) -> None:
    """Pin the wheels that pip finds here (of torch the CPU's), and the packages that they need."""
    import email
    import tempfile
    import zipfile

    with tempfile.TemporaryDirectory() as folder:
        needed, pinned = [TRANSFORMERS], ""
        for wanted in (f"torch=={TORCH}", ACCELERATE):
            name = wanted.partition("=")[0]
            step(
                f"Finding {wanted}",
                [PYTHON, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "-d",
                 folder, wanted],
                "run 'python3 dev.py demo' first and check that the index can be reached.",
                env,
            )  # fmt: skip
            (wheel,) = Path(folder).glob(f"{name}-*.whl")
            with zipfile.ZipFile(wheel) as archive:
                (metadata,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
                needs = email.message_from_bytes(archive.read(metadata)).get_all(
                    "Requires-Dist", []
                )
            needed += [n for n in needs if "extra ==" not in n and not n.startswith("torch")]
            digest_ = hashlib.sha256(wheel.read_bytes()).hexdigest()
            pinned += f"{wanted} \\\n    --hash=sha256:{digest_}\n"
        inputs = Path(folder) / "torch-needs.in"
        inputs.write_text("\n".join(needed) + "\n")
        step(
            "Resolving requirements-torch.lock",
            [*common, inputs, "-c", main_lock, "-o", target],
            "read the message above.",
            env,
        )
        target.write_text(target.read_text() + pinned)


def main(words: Sequence[str] | None = None) -> int:
    """Run one task; returns the exit status."""
    if sys.version_info < (3, 11):
        say(f"Python 3.11 or newer is needed; this is {sys.version.split()[0]}.")
        return 2
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n\n")[0],
        epilog="The first run sets everything up in .venv; later runs start at once.",
    )
    tasks = parser.add_subparsers(dest="task", required=True)
    demo_task = tasks.add_parser("demo", help="plan a 70B model on 64 H100s and export the plan")
    demo_task.add_argument("--folder", default="optalloc-demo", help="where the files go")
    test_task = tasks.add_parser("test", help="every check and every test")
    kind = test_task.add_mutually_exclusive_group()
    kind.add_argument("--torch", action="store_true", help="the tests that need torch, alone")
    kind.add_argument("--sanitize", action="store_true", help="the kernels under sanitizers, alone")
    tasks.add_parser("schemas", help="rewrite schemas/ from the types")
    tasks.add_parser("lock", help="pin the requirements again")
    chosen = parser.parse_args(words)
    try:
        if chosen.task == "demo":
            return demo(chosen.folder)
        if chosen.task == "test":
            return test(torch=chosen.torch, sanitize=chosen.sanitize)
        return schemas() if chosen.task == "schemas" else lock()
    except StepFailed:
        return 1
    except KeyboardInterrupt:
        say("Interrupted. Run the same command again: it redoes what was not finished.")
        return 130


if __name__ == "__main__":
    sys.exit(main())

"""Set up, run and check this project with Python 3.11 or newer and nothing else.

    python3 dev.py demo              plan a 70B model on 64 H100s; the files go to a folder it names
    python3 dev.py test              every check and every test
    python3 dev.py test --torch      add torch (CPU) and run the tests that need it
    python3 dev.py test --sanitize   run the native kernels' tests under sanitizers
    python3 dev.py schemas           rewrite schemas/ from the package's types
    python3 dev.py lock              resolve and pin the requirements*.lock files again

Each sets up first (``tools/set_up.py``): it makes ``.venv``, installs the hash-pinned
``requirements.lock``, builds the native kernels and installs the project, once per digest of what
it is made from.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tools.lock import lock
from tools.set_up import BIN, PYTHON, ROOT, VENV, StepFailed, say, set_up, step

CHECKED = ("src", "tests", "benchmarks", "examples", "tools", "dev.py")
NOT_HERE = "not torch and not gpu and not browser"
# Under the sanitizers the slow tests, of many random instances, add time and no path of the code;
# what the names catch besides, other methods, offload, configurations and lists of names, is Python
# alone.
SANITIZED = f"{NOT_HERE} and not slow"
KERNELS = (
    "(native or kernel or exact or knapsack or rows or threads or partition or pipeline or search"
    " or flow or fleet or requests or mixed or large or patterns or wave)"
    " and not (methods or offload or configuration or exported or measured)"
)


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
         "--target", target, "--config-settings=cmake.define.OPTALLOC_SANITIZE=ON",
         "--config-settings=build-dir=build/sanitized-objects", ROOT],
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

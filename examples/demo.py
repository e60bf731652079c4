"""Plan a 70B model on 64 H100s, explain and simulate the plan, write launch files: the demo.

Run it with ``python3 dev.py demo``, or ``python examples/demo.py FOLDER`` where the package is
installed.
"""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path

from optalloc.cli.__main__ import main as optalloc

TARGETS = ("megatron", "deepspeed", "pytorch")


def commands(folder: Path) -> list[list[str]]:
    """The commands of the demo, in order."""
    plan = str(folder / "plan.json")
    train = ["train", "llama-3.1-70b", "--cluster", "64xh100-sxm", "--global-batch", "1024",
             "--seq-len", "8192"]  # fmt: skip
    words = [
        [*train, "-o", plan],
        ["explain", plan],
        ["simulate", plan, "--trace", str(folder / "step.trace.json")],
    ]
    for target in TARGETS:
        # The best plan of all need not be one that a tool can run: plan again within its limits.
        own = str(folder / f"plan-{target}.json")
        words += [[*train, "--for", target, "-o", own]]
        words += [["export", own, "--to", target, "-o", str(folder / target)]]
    return words


def run(words: list[str]) -> int:
    """One command; of the plans for a tool, the answer alone is shown."""
    print(f"$ optalloc {' '.join(words)}", flush=True)
    if "--for" not in words:
        return optalloc(words)
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        status = optalloc(words)
    print("\n".join(shown.getvalue().splitlines()[:3]))
    return status


def main(folder: Path) -> int:
    """Run the commands; returns the first status that is not 0."""
    folder.mkdir(parents=True, exist_ok=True)
    for words in commands(folder):
        status = run(words)
        if status:
            return status
        print(flush=True)
    print(f"Everything was written to {folder.resolve()}:")
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        print(f"  {file.relative_to(folder)}")
    print("Open step.trace.json at https://ui.perfetto.dev or in chrome://tracing.")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "optalloc-demo")))

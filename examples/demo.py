"""Plan a 70B model on 64 H100s, simulate the step, write launch files: the demo of the README.

Run it with ``python3 dev.py demo``, or ``python examples/demo.py FOLDER`` where the package is
installed.
"""

from __future__ import annotations

import sys
from pathlib import Path

from optalloc.cli.__main__ import main as optalloc

TARGETS = ("megatron", "deepspeed", "pytorch")


def commands(folder: Path) -> list[list[str]]:
    """The commands of the demo, in order."""
    plan = str(folder / "plan.json")
    return [
        ["train", "llama-3.1-70b", "--cluster", "64xh100-sxm", "--global-batch", "1024",
         "--seq-len", "8192", "-o", plan],
        ["simulate", plan, "--trace", str(folder / "step.trace.json")],
        *(["export", plan, "--to", target, "-o", str(folder / target)] for target in TARGETS),
    ]  # fmt: skip


def main(folder: Path) -> int:
    """Run the commands, each shown before its output; returns the first status that is not 0."""
    folder.mkdir(parents=True, exist_ok=True)
    for words in commands(folder):
        print(f"$ optalloc {' '.join(words)}", flush=True)
        status = optalloc(words)
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

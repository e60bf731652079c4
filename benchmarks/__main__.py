"""``python -m benchmarks STUDY ...``: one runner, one module a study."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from optalloc.errors import InputError

#: study -> (module with ``add_arguments`` and ``run``, what it does)
STUDIES = {
    "gap": ("benchmarks.gap", "solve assignment instances with our methods and with peers"),
    "scale": ("benchmarks.scale", "solve very many tasks and units, with gap and memory"),
    "classes": ("benchmarks.classes", "write an instance of classes of identical devices"),
    "assignment-bruteforce": (
        "benchmarks.assignment_bruteforce",
        "compare assignment methods with brute force on random small instances",
    ),
    "layer-flow": ("benchmarks.layer_flow", "place layers over mixed nodes, with bounds"),
    "flow-instances": ("benchmarks.flow_instances", "write random clusters for layer-flow"),
    "offload": ("benchmarks.offload", "offload on random machines, beside what other tools do"),
    "fleet": ("benchmarks.fleet", "rent the cheapest replicas, beside the programme of Mélange"),
    "serving-accuracy": (
        "benchmarks.serving_accuracy",
        "predict published serving measurements and score the predictions",
    ),
    "request-simulation": (
        "benchmarks.request_simulation",
        "requests a second of CPU that the simulator of requests serves, by workload",
    ),
    "simulation-accuracy": (
        "benchmarks.simulation_accuracy",
        "simulate published serving measurements and compare with them",
    ),
    "serving-search": (
        "benchmarks.serving_search",
        "plan serving at full size: what was counted, excluded and proven, and the time it took",
    ),
    "serve-bruteforce": (
        "benchmarks.serve_bruteforce",
        "plan serving on small random problems, beside brute force",
    ),
    "training-accuracy": (
        "benchmarks.training_accuracy",
        "predict published training measurements and score the predictions",
    ),
    "training-search": (
        "benchmarks.training_search",
        "plan training at any scale: what was counted, pruned and proven, and the time it took",
    ),
    "training-uncertainty": (
        "benchmarks.training_uncertainty",
        "how uncertain compute and link efficiencies are, from published measurements",
    ),
    "training-memory": (
        "benchmarks.training_memory",
        "predict published peaks of memory, with rows and sources left out of the fit",
    ),
    "gap-page": ("benchmarks.gap_page", "make the results page from the rows of gap"),
}


def main(words: Sequence[str] | None = None) -> int:
    """Run one study; returns the exit status."""
    given = list(sys.argv[1:] if words is None else words)
    listing = "\n".join(f"  {name:18} {what}" for name, (_, what) in STUDIES.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure the package on files in the published formats.",
        epilog=f"studies:\n{listing}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("study", choices=STUDIES, metavar="STUDY")
    study = parser.parse_args(given[:1]).study
    module = importlib.import_module(STUDIES[study][0])
    arguments = argparse.ArgumentParser(
        prog=f"python -m benchmarks {study}", description=STUDIES[study][1]
    )
    module.add_arguments(arguments)
    try:
        return int(module.run(arguments.parse_args(given[1:])))
    except InputError as error:
        print(f"python -m benchmarks: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())

"""``optalloc flow``: place the layers of a model over mixed nodes so that most tokens flow."""

from __future__ import annotations

import argparse
from typing import Any

from optalloc.cli.answers import colored, status, stop_rule


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument("file", nargs="?", metavar="FILE", help="instance (.json), or --model")
    parser.add_argument("--model", help="a bundled name, a config.json or its folder")
    parser.add_argument("--cluster", help="shorthand such as 4xa100-sxm-80g+8xl4, or cluster.toml")
    parser.add_argument(
        "--context", type=int, default=1024, help="cached tokens of a request, mean (default 1024)"
    )
    parser.add_argument(
        "--dtype",
        choices=("fp32", "bf16", "fp8", "fp4"),
        default="bf16",
        help="of the weights (default: bf16)",
    )
    parser.add_argument(
        "--partial",
        action="store_true",
        help="let a node serve only the last of its layers for a request",
    )
    parser.add_argument(
        "--time-limit", metavar="TIME", help="stop after this wall-clock time, for example 30s"
    )
    parser.add_argument("--gap-limit", type=float, metavar="GAP", help="stop at this relative gap")
    parser.add_argument("--seed", type=int, default=0, help="of the annealing (default 0)")
    parser.add_argument(
        "--format", choices=("table", "json", "csv"), default="table", help="default: table"
    )
    parser.add_argument("-o", "--output", metavar="PATH", help="also write the answer as JSON")
    parser.add_argument(
        "--instance", metavar="PATH", help="also write the instance made of --model and --cluster"
    )
    parser.add_argument(
        "--require-optimal", action="store_true", help="exit with status 5 if a gap remains"
    )


def run(arguments: argparse.Namespace) -> int:
    """Place, print and write; returns the exit status."""
    from optalloc.cli.progress import progress_line
    from optalloc.files import write_json
    from optalloc.report.flow import flow_tables
    from optalloc.report.table import render
    from optalloc.serving.flow.instance import save_flow
    from optalloc.serving.flow.result import answer_of
    from optalloc.serving.flow.solve import place_layers

    problem = _problem(arguments)
    if arguments.instance is not None:
        save_flow(problem, arguments.instance)
    with progress_line() as line:
        result = place_layers(
            problem, stop=stop_rule(arguments), on_progress=line, seed=arguments.seed
        )
    answer = answer_of(result)
    print(render(flow_tables(problem, result), answer, arguments.format, color=colored()), end="")
    if arguments.output is not None:
        write_json(arguments.output, answer)
    return status(result, result.placed, require_optimal=arguments.require_optimal)


def _problem(arguments: argparse.Namespace) -> Any:
    import msgspec

    from optalloc.errors import InputError
    from optalloc.serving.flow.instance import load_flow

    if (arguments.file is None) == (arguments.model is None):
        raise InputError(
            "give an instance file or a model, one of the two",
            path="optalloc flow",
            fix="for example 'optalloc flow instance.json', or '--model M --cluster C'",
        )
    if arguments.file is not None:
        problem = load_flow(arguments.file)
        if arguments.partial:
            problem = msgspec.structs.replace(problem, partial_inference=True)
        return problem
    from optalloc.cluster.load import load_cluster
    from optalloc.model.load import load_model
    from optalloc.serving.flow.table import flow_problem

    if arguments.cluster is None:
        raise InputError(
            "a model needs devices", path="--cluster", fix="for example --cluster 4xh100-sxm+8xl4"
        )
    return flow_problem(
        load_model(arguments.model),
        load_cluster(arguments.cluster),
        context=arguments.context,
        dtype=arguments.dtype,
        partial_inference=arguments.partial,
    )

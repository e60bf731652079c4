"""``optalloc flow``: place the layers of a model over mixed nodes: most tokens, least latency."""

from __future__ import annotations

import argparse
from typing import Any

from optalloc.cli.answers import add_search, answered, colored, status, stop_rule


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
        "--objective",
        choices=("flow", "latency"),
        default="flow",
        help="most tokens/s, or the fastest route of one token (default: flow)",
    )
    parser.add_argument(
        "--latency-limit",
        metavar="TIME",
        help="most a token may take on any route in use, for example 250ms",
    )
    parser.add_argument(
        "--batch",
        type=float,
        metavar="N",
        help="tokens a node takes at once, where the file gives no step_s (default: the file's, 1)",
    )
    add_search(parser, output="also write the answer as JSON")
    parser.add_argument("--gap-limit", type=float, metavar="GAP", help="stop at this relative gap")
    parser.add_argument("--seed", type=int, default=0, help="of the annealing (default 0)")
    parser.add_argument(
        "--instance", metavar="PATH", help="also write the instance made of --model and --cluster"
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
            problem,
            objective=arguments.objective,
            latency_limit_s=_limit_s(arguments),
            stop=stop_rule(arguments),
            on_progress=line,
            seed=arguments.seed,
        )
    answer = answer_of(result)
    with answered(arguments.output, lambda path: write_json(path, answer)):
        tables = flow_tables(problem, result)
        print(render(tables, answer, arguments.format, color=colored()), end="")
    return status(result, result.placed, require_optimal=arguments.require_optimal)


def _limit_s(arguments: argparse.Namespace) -> float | None:
    from optalloc.errors import InputError
    from optalloc.units import parse_duration

    if arguments.latency_limit is None:
        return None
    seconds = parse_duration(arguments.latency_limit, path="--latency-limit")
    if arguments.objective == "latency" or seconds <= 0.0:
        raise InputError(
            "a limit on latency is a positive time for the objective flow",
            path="--latency-limit",
            fix="for example '--latency-limit 250ms', without '--objective latency'",
        )
    return seconds


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
    stray = ("--cluster", arguments.cluster) if arguments.file else ("--batch", arguments.batch)
    if stray[1] is not None:
        raise InputError(
            f"{stray[0]} has no meaning for {'a file' if arguments.file else 'a model'}",
            path=stray[0],
            fix="leave it out: "
            + ("the file names its nodes" if arguments.file else "the steps are estimated"),
        )
    if arguments.file is not None:
        problem = load_flow(arguments.file)
        if arguments.partial:
            problem = msgspec.structs.replace(problem, partial_inference=True)
        if arguments.batch is not None:
            problem = msgspec.structs.replace(problem, batch_tokens=arguments.batch)
        return problem
    from optalloc.cli.flags import said_by_flags
    from optalloc.cluster.load import load_cluster
    from optalloc.model.load import load_model
    from optalloc.serving.flow.table import flow_problem

    if arguments.cluster is None:
        raise InputError(
            "a model needs devices", path="--cluster", fix="for example --cluster 4xh100-sxm+8xl4"
        )
    with said_by_flags({"context": "--context"}):
        return flow_problem(
            load_model(arguments.model),
            load_cluster(arguments.cluster),
            context=arguments.context,
            dtype=arguments.dtype,
            partial_inference=arguments.partial,
        )

"""``optalloc certify-flow``: check a layer placement and its bound with other code."""

from __future__ import annotations

import argparse

from optalloc.cli.answers import add_format, colored


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument("instance", metavar="INSTANCE", help="the instance that was solved")
    parser.add_argument("answer", metavar="ANSWER", help="written by 'optalloc flow -o'")
    add_format(parser)


def run(arguments: argparse.Namespace) -> int:
    """Check and print; what is not true is raised."""
    from optalloc.cli.plans import checked
    from optalloc.files import read_json
    from optalloc.report.table import Table, render
    from optalloc.serving.flow.certify import certify_flow
    from optalloc.serving.flow.certify_latency import certify_latency
    from optalloc.serving.flow.instance import load_flow
    from optalloc.serving.flow.result import FlowAnswer, placement_of

    problem = load_flow(arguments.instance)
    answer = read_json(arguments.answer, FlowAnswer)
    if answer.partial_inference != problem.partial_inference:
        import msgspec

        problem = msgspec.structs.replace(problem, partial_inference=answer.partial_inference)
    placement = placement_of(answer, arguments.answer)
    proven = answer.bound is not None and answer.witness is not None
    bound = answer.bound if proven else None
    timed = answer.goal == "latency"
    with checked(arguments.answer):
        if timed:
            certify_latency(
                problem,
                placement,
                answer.routes,
                latency_s=answer.objective or 0.0,
                bound=bound,
                witness=answer.witness,
            )
        else:
            certify_flow(
                problem,
                placement,
                value=answer.objective or 0.0,
                bound=bound,
                witness=answer.witness,
                latency_limit_s=answer.latency_limit_s,
                routes=answer.routes,
            )
    data = {
        "valid": True,
        "objective": answer.objective,
        "bound": answer.bound if proven else None,
        "optimal": proven and answer.termination == "optimal",
    }
    table = Table(
        title="The answer says the truth about itself.",
        columns=("checked anew", "seconds" if timed else "tokens/s"),
        rows=(
            (
                "latency of the route, added up again"
                if timed
                else "flow of the placement, routed again",
                f"{answer.objective or 0.0:,.6g}",
            ),
            ("bound, from its witness", f"{answer.bound:,.6g}" if proven else "none claimed"),
        ),
        right=("seconds" if timed else "tokens/s",),
    )
    print(render([table], data, arguments.format, color=colored()), end="")
    return 0

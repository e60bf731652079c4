"""optalloc train: the best training plan for a model on a cluster, with its proof."""

from __future__ import annotations

import argparse
import time

from optalloc.cli.answers import add_search, answered, colored, status, stop_rule

OBJECTIVES = ("step_time", "price", "energy", "devices")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    from optalloc.cli.training_inputs import add_inputs

    add_inputs(parser)
    parser.add_argument(
        "--objective", choices=OBJECTIVES, default="step_time", help="default: step_time"
    )
    parser.add_argument(
        "--target", metavar="TIME", help="only plans whose step takes at most this, for example 30s"
    )
    parser.add_argument(
        "--pin",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="fix a decision, for example tp=8 or schedule=1f1b,gpipe",
    )
    parser.add_argument(
        "--forbid", action="append", default=[], metavar="NAME=VALUE", help="exclude a decision"
    )
    parser.add_argument(
        "--for",
        dest="tool",
        metavar="TOOL",
        help="only plans that 'optalloc export' can write for megatron, deepspeed or pytorch",
    )
    parser.add_argument(
        "--alternatives",
        nargs="?",
        const="",
        metavar="SHARE",
        help="list every combination of degrees (on a mixed cluster of groups, replicas and "
        "micro-batch) this near to the best, for example 5%%; without a share, all that tie within "
        "the cost model's stated error",
    )
    parser.add_argument(
        "--robust",
        action="store_true",
        help="the plan whose worst case is best while efficiencies are uncertain",
    )
    add_search(parser, output="write the plan, plan.json")


def run(arguments: argparse.Namespace) -> int:
    """Plan and print; returns the exit status."""
    from functools import partial

    from optalloc.cli.progress import progress_line
    from optalloc.cli.training_inputs import cost_model, read_inputs
    from optalloc.report import training as report
    from optalloc.report import training_facts as facts
    from optalloc.report.table import render
    from optalloc.training.solve import plan_training
    from optalloc.units import parse_duration

    stop, target_s = stop_rule(arguments), None
    if arguments.target is not None:
        target_s = parse_duration(arguments.target, path="--target")
    plan_with = plan_training
    if arguments.tool is not None:
        from optalloc.export.pins import plan_for_target

        plan_with = partial(plan_for_target, arguments.tool)
    if arguments.robust:
        from optalloc.training.robust import plan_robust

        plan_with = partial(plan_robust, planner=plan_with)
    model, cluster, workload = read_inputs(arguments)
    margin = _margin(arguments.alternatives)
    if not cluster.is_uniform:
        from optalloc.cli import mixed

        return mixed.train(
            arguments,
            (model, cluster, workload),
            stop=stop,
            target_s=target_s,
            margin=margin,
            limits=_limits(arguments),
        )
    with progress_line(lambda value: report.value_text(arguments.objective, value)) as line:
        result = plan_with(
            model,
            cluster,
            workload,
            objective=arguments.objective,
            target_step_time_s=target_s,
            pin=arguments.pin,
            forbid=arguments.forbid,
            margin=margin,
            stop=stop,
            on_progress=line,
            cost_model=cost_model(arguments),
        )
    plan = result.best
    limits = _limits(arguments)
    tables = report.result_tables(result)
    if arguments.format == "csv" and plan is not None:
        tables = [facts.stages_raw(plan)]
    data = facts.result_facts(result, cpu_s=time.process_time(), limits=limits)
    with answered(arguments.output, None if plan is None else plan.save):
        if arguments.format == "table":
            print(report.headline(result, limits))
        print(render(tables, data, arguments.format, color=colored()), end="")
    if arguments.format == "table" and plan is not None:
        from optalloc.export.pins import targets_of

        targets = targets_of(plan)
        if arguments.tool in targets:
            targets = (arguments.tool,)
        print(report.next_command(arguments.output, targets))
    return status(result, plan, require_optimal=arguments.require_optimal)


def _margin(word: str | None) -> float | None:
    """What ``--alternatives`` asks for, as a share."""
    from optalloc.cost.uncertainty import stated_uncertainty
    from optalloc.units import parse_share

    if word is None:
        return None
    return parse_share(word, path="--alternatives") if word else stated_uncertainty().step_time


def _limits(arguments: argparse.Namespace) -> str:
    """What narrowed the space, as typed."""
    words = [f"--pin {word}" for word in arguments.pin]
    words += [f"--forbid {word}" for word in arguments.forbid]
    words += [f"--target {arguments.target}"] if arguments.target else []
    words += [f"--for {arguments.tool}"] if arguments.tool else []
    return " ".join(words)

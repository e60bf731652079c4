"""``optalloc serve``: the best way to serve a model on a cluster, with its proof."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from optalloc.cli.answers import add_search, answered, colored, status, stop_rule

if TYPE_CHECKING:
    from optalloc.serving.configuration.plan import ServingPlan

OBJECTIVES = ("throughput", "price", "devices", "latency")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    from optalloc.cli.serving_inputs import add_choices, add_workload

    parser.add_argument(
        "model", metavar="MODEL", help="a bundled name, a config.json, or its folder"
    )
    parser.add_argument(
        "--cluster", metavar="CLUSTER", help="for example 32xh200-sxm, or a cluster.toml"
    )
    add_workload(parser)
    parser.add_argument(
        "--objective", choices=OBJECTIVES, help="default: throughput; with --recommend: devices"
    )
    add_choices(parser)
    parser.add_argument(
        "--for",
        dest="tool",
        metavar="TARGET",
        help="only plans that 'optalloc export' can write for vllm, sglang, trtllm, dynamo, llm-d "
        "or lws",
    )
    parser.add_argument(
        "--recommend",
        metavar="DEVICE,...",
        help="in place of --cluster: the fewest or cheapest of these devices for the load",
    )
    parser.add_argument(
        "--max-devices", type=int, default=64, metavar="N", help="most of each kind (default 64)"
    )
    add_search(parser, output="write the plan, plan.json")


def run(arguments: argparse.Namespace) -> int:
    """Plan and print; returns the exit status."""
    from optalloc.cli.flags import said_by_flags
    from optalloc.cli.progress import progress_line
    from optalloc.cli.serving_inputs import pins, read_serving
    from optalloc.cluster.load import load_cluster
    from optalloc.cost.engine.constants import DEFAULT
    from optalloc.errors import InputError
    from optalloc.model.load import load_model
    from optalloc.report import serving as report
    from optalloc.report.requests import percentile_facts, percentile_line
    from optalloc.report.table import render
    from optalloc.serving.configuration.recommend import Offer, recommend
    from optalloc.serving.configuration.solve import ServingResult, plan_serving
    from optalloc.simulate.requests.percentiles import PercentileResult, plan_for_percentile
    from optalloc.units import parse_share
    from optalloc.workload import Serving

    if (arguments.cluster is None) == (arguments.recommend is None):
        raise InputError(
            "give a cluster, or devices to choose from: one of the two",
            path="optalloc serve",
            fix="add --cluster 32xh200-sxm, or --recommend h100-sxm,h200-sxm",
        )
    model, workload = load_model(arguments.model), read_serving(arguments)
    if workload.percentile is not None and not (workload.ttft_s or workload.tpot_s):
        raise InputError(
            "a percentile of the requests meets no target, for there is none",
            path="--percentile",
            fix="add --ttft or --tpot",
        )
    goal = arguments.objective or ("devices" if arguments.recommend else "throughput")
    headroom = parse_share(arguments.headroom, path="--headroom")
    constants = arguments.calibration or DEFAULT
    offers: tuple[Offer, ...] = ()
    met: PercentileResult | None = None
    flags = {"headroom": "--headroom", "workload": arguments.workload or "--input-len"}
    with said_by_flags(flags):
        if arguments.recommend is not None:
            result, offers = recommend(
                model,
                [word.strip() for word in arguments.recommend.split(",") if word.strip()],
                workload,
                objective=goal,
                max_devices=arguments.max_devices,
                pin=pins(arguments),
                forbid=arguments.forbid,
                headroom=headroom,
                target=arguments.tool,
                stop=stop_rule(arguments),
                cost_model=constants,
            )
        else:
            cluster = load_cluster(arguments.cluster)

            def plan_of(asked: Serving) -> ServingResult:
                with progress_line(lambda value: report.value_text(goal, value)) as line:
                    return plan_serving(
                        model,
                        cluster,
                        asked,
                        objective=goal,
                        pin=pins(arguments),
                        forbid=arguments.forbid,
                        headroom=headroom,
                        target=arguments.tool,
                        stop=stop_rule(arguments),
                        on_progress=line,
                        cost_model=constants,
                    )

            if workload.percentile is not None:
                met = plan_for_percentile(workload, plan_of)
            result = plan_of(workload) if met is None else met.result
    tables = report.result_tables(result, offers)
    if arguments.format == "csv":
        tables = [report.workers_raw(result)]
    facts = report.facts(result, offers)
    if met is not None:
        facts |= {"percentile": percentile_facts(met)}
    plan = result.best
    with answered(arguments.output, None if plan is None else plan.save):
        if arguments.format == "table":
            print(report.headline(result))
            if met is not None and met.simulation is not None:
                print(percentile_line(met))
        print(render(tables, facts, arguments.format, color=colored()), end="")
        if arguments.format == "table" and plan is not None:
            print(report.front_text(plan), end="")
    if arguments.format == "table" and plan is not None:
        print(report.next_command(arguments.output, plan))
    if met is not None and met.missed:
        return 4
    return status(result, plan, require_optimal=arguments.require_optimal)


def certify(arguments: argparse.Namespace, plan: ServingPlan) -> int:
    """``optalloc certify`` of a serving plan: its figures, and the proof once more."""
    from optalloc.cli.plans import checked
    from optalloc.plan.serving import certify_serving
    from optalloc.report import serving as report
    from optalloc.report.table import render

    with checked(arguments.plan):
        claim = certify_serving(plan)
    table, data = report.claim_table(claim)
    if arguments.format == "table":
        print(f"{arguments.plan} says the truth about itself.")
    print(render([table], data, arguments.format, color=colored()), end="")
    return 0


def explain(arguments: argparse.Namespace, plan: ServingPlan) -> int:
    """``optalloc explain`` of a serving plan."""
    import sys

    from optalloc import files
    from optalloc.cli.explain import next_words, turn_line
    from optalloc.cli.plans import as_it_is
    from optalloc.errors import InputError
    from optalloc.plan.explain_serving import explain_serving
    from optalloc.report import serving as report
    from optalloc.report.serving_page import serving_page
    from optalloc.report.table import render
    from optalloc.serving.configuration.written import serving_as_written

    for flag in ("replan", "pin", "forbid", "tool"):
        if getattr(arguments, flag):
            raise InputError(
                f"a serving plan is explained without --{'for' if flag == 'tool' else flag}",
                path=arguments.plan,
                fix="leave it out: every change is solved anew within the plan's own limits",
            )
    explanation = explain_serving(
        as_it_is(plan, arguments.plan),
        sensitivity=arguments.sensitivity,
        stop=stop_rule(arguments),
        on_turn=turn_line if sys.stderr.isatty() else None,
    )
    if arguments.format == "table":
        print(explanation.summary + "\n")
    tables = report.explanation_tables(explanation)
    print(render(tables, explanation, arguments.format, color=colored()), end="")
    if arguments.html is not None:
        files.write_text(arguments.html, serving_page(serving_as_written(plan)[0], explanation))
    if arguments.format == "table":
        print(next_words(arguments, replans=False))
    return 0


def sweep(arguments: argparse.Namespace) -> int:
    """``optalloc sweep`` over serving plans."""
    from optalloc.cli.serving_inputs import pins
    from optalloc.cli.sweep import Family, clusters_of, numbers_of, solve_grid
    from optalloc.errors import InputError
    from optalloc.model.load import load_model
    from optalloc.plan.serving_cell import ServingRow
    from optalloc.plan.sweep_serving import serving_grid, sweep_serving
    from optalloc.report import serving as report
    from optalloc.report.scatter import serving_sweep_svg
    from optalloc.units import parse_duration
    from optalloc.workload import Serving

    for flag in ("seq_len", "global_batch"):
        if getattr(arguments, flag) is not None:
            raise InputError(
                f"a sweep of serving plans has no --{flag.replace('_', '-')}",
                path="optalloc sweep",
                fix="leave it out",
            )
    inputs = numbers_of(arguments.input_len, "--input-len")
    outputs = numbers_of(arguments.output_len, "--output-len")
    if not outputs:
        raise InputError(
            "--output-len is missing", path="optalloc sweep", fix="add --output-len 500"
        )
    targets = {
        name: parse_duration(value, path=f"--{name[:4]}")
        for name in ("ttft_s", "tpot_s")
        if (value := getattr(arguments, name[:4])) is not None
    }
    prefix = numbers_of(arguments.prefix_len, "--prefix-len")
    workload = Serving(
        input_len=inputs[0],
        output_len=outputs[0],
        prefix_len=prefix[0] if prefix else 0,
        ttft_s=targets.get("ttft_s"),
        tpot_s=targets.get("tpot_s"),
    )
    limit = arguments.time_limit
    cells = serving_grid(
        load_model(arguments.model),
        clusters_of(arguments),
        workload,
        devices=numbers_of(arguments.devices, "--devices"),
        input_lens=inputs,
        output_lens=outputs,
        rates=_rates(arguments.rate),
        concurrencies=numbers_of(arguments.concurrency, "--concurrency"),
        objective=arguments.objective or "throughput",
        pin=pins(arguments),
        forbid=arguments.forbid,
        time_limit_s=None if limit is None else parse_duration(limit, path="--time-limit"),
    )
    title = f"{cells[0].model.name}: the best serving plan of each cell (estimates)"
    return solve_grid(
        arguments,
        cells,
        Family(
            row=ServingRow,
            sweep=lambda cells, jobs, done, book: sweep_serving(
                cells, jobs=jobs, done=done, on_row=book
            ),
            asked=lambda row: (
                f"{row.devices} {row.device}, {row.input_len} to {row.output_len}"
                f" tokens, {report.load_words(row)}"
            ),
            found=lambda row: (
                None if row.value is None else report.value_text(row.objective, row.value)
            ),
            table=report.sweep_table,
            facts=lambda rows: {"rows": rows},
            front=lambda _: "",
            svg=lambda rows: serving_sweep_svg(rows, title),
        ),
    )


def _rates(text: str | None) -> list[float]:
    """Requests per second, separated by commas."""
    from optalloc.errors import InputError

    try:
        return [float(word) for word in (text or "").split(",") if word.strip()]
    except ValueError:
        raise InputError(
            f"{text!r} are no rates", path="--rate", fix="separate numbers by commas: --rate 0.5,2"
        ) from None

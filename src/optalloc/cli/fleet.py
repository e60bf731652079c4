"""``optalloc fleet``: the cheapest replicas that serve a load of requests."""

from __future__ import annotations

import argparse

from optalloc.cli.answers import add_search, answered, colored, status, stop_rule


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    from optalloc.cli.fleet_inputs import add_model_arguments

    parser.add_argument(
        "file", nargs="?", metavar="FILE", help="fleet.toml or .json, or a Mélange profile"
    )
    parser.add_argument(
        "--utilization", metavar="SHARE", help="share of the time that may be planned, such as 80%%"
    )
    parser.add_argument(
        "--redundancy",
        choices=("none", "replica", "replica-of-each", "region"),
        help="what may fail with the load still served",
    )
    parser.add_argument(
        "--explain", action="store_true", help="also say what binds and which fleets come next"
    )
    add_search(parser, output="also write the answer as JSON")
    parser.add_argument("--gap-limit", type=float, metavar="GAP", help="stop at this relative gap")
    add_model_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Plan, print and write; returns the exit status."""
    import msgspec

    from optalloc.cli.flags import said_by_flags
    from optalloc.cli.fleet_inputs import fleet_inputs
    from optalloc.cli.progress import progress_line
    from optalloc.files import write_json
    from optalloc.report.fleet import (
        account_tables,
        fleet_raw,
        fleet_tables,
        simulation_table,
    )
    from optalloc.report.table import render
    from optalloc.serving.mix.account import account_of
    from optalloc.serving.mix.profile import nearest_targets
    from optalloc.serving.mix.result import answer_of
    from optalloc.serving.mix.solve import plan_fleet
    from optalloc.units import parse_share

    problem, profile = fleet_inputs(arguments)
    if arguments.utilization is not None:
        share = parse_share(arguments.utilization, path="--utilization")
        with said_by_flags({"": "--utilization"}):
            problem = msgspec.structs.replace(problem, utilization=share)
    if arguments.redundancy is not None:
        problem = msgspec.structs.replace(problem, redundancy=arguments.redundancy)
    stop = stop_rule(arguments)
    with progress_line(lambda price: f"{price:,.2f} USD/h") as line:
        result = plan_fleet(problem, stop=stop, on_progress=line)
    if result.rented is None and profile is not None and (near := nearest_targets(profile)):
        result = msgspec.structs.replace(result, fixes=near)
    answer = answer_of(problem, result)
    facts = msgspec.to_builtins(answer)
    tables = fleet_tables(problem, result)
    if arguments.explain and result.rented is not None:
        account = account_of(problem, result.rented, stop=stop)
        tables += account_tables(problem, account)
        facts["account"] = account
    if arguments.simulate is not None and profile is not None and result.routes is not None:
        from optalloc.simulate.fleet import simulate_fleet

        with said_by_flags({"num_requests": "--simulate"}):
            found = simulate_fleet(
                profile, result.counts, result.routes, num_requests=arguments.simulate
            )
        tables.append(simulation_table(problem, found))
        facts["simulated"] = found
    if arguments.format == "csv":
        tables = [fleet_raw(problem, result)]
    with answered(arguments.output, lambda path: write_json(path, answer)):
        print(render(tables, facts, arguments.format, color=colored()), end="")
    return status(result, result.rented, require_optimal=arguments.require_optimal)

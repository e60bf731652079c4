"""``optalloc assign``: solve an assignment instance and print the unit of each task."""

from __future__ import annotations

import argparse
from typing import Any

from optalloc.cli.answers import add_search, answered, colored, status, stop_rule

_MOST_ROWS = 60
OBJECTIVES = ("sum", "bottleneck", "sum-then-bottleneck", "bottleneck-then-sum")
METHODS = ("auto", "exact", "dynamic", "enumerate", "milp", "greedy", "anneal", "large")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument(
        "file",
        metavar="FILE",
        help="instance: .json (every form), .csv, .npz, OR-Library text, a folder of .npy arrays",
    )
    parser.add_argument("--method", choices=METHODS, default="auto", help="default: auto")
    add_search(parser, output="also write the answer as JSON")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the lots a method draws (default 0)"
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=1,
        metavar="N",
        help="of exact and large (default 1)",
    )
    parser.add_argument("--node-limit", type=int, metavar="N", help="stop after this many nodes")
    parser.add_argument(
        "--gap-limit",
        type=float,
        metavar="GAP",
        help="stop at this relative gap, for example 0.001",
    )
    parser.add_argument(
        "--start", metavar="ANSWER", help="begin with the assignment of an answer written with -o"
    )
    parser.add_argument(
        "--proof", metavar="PATH", help="write the search tree for certify-assignment (.gz: packed)"
    )
    parser.add_argument(
        "--sense", choices=("min", "max"), help="whether costs are paid or earned (default: file)"
    )
    parser.add_argument(
        "--objective",
        choices=OBJECTIVES,
        help="what to minimise; bottleneck is the largest relative load (default: file)",
    )
    parser.add_argument(
        "--prices",
        action="store_true",
        help="also show what one more unit of each capacity is worth",
    )
    parser.add_argument(
        "--index", type=int, help="which instance of an OR-Library file of several, from 0"
    )


def run(arguments: argparse.Namespace) -> int:
    """Solve and print; returns the exit status."""
    from optalloc.assignment.formats import load_assignment
    from optalloc.assignment.solve import solve_assignment
    from optalloc.cli.assign_mapped import is_mapped, run_mapped
    from optalloc.cli.progress import progress_line
    from optalloc.files import canonical_json, write_text
    from optalloc.report.table import render

    stop = stop_rule(arguments)
    if is_mapped(arguments):
        return run_mapped(arguments, stop)
    problem = load_assignment(arguments.file, sense=arguments.sense, index=arguments.index)
    if arguments.objective is not None:
        problem = problem.replace(objective=arguments.objective)
    with progress_line() as line:
        result = solve_assignment(
            problem,
            arguments.method,
            stop=stop,
            on_progress=line,
            seed=arguments.seed,
            threads=arguments.threads,
            start=None if arguments.start is None else _read_start(arguments.start, problem),
            proof=arguments.proof,
        )
    prices = None
    if arguments.prices and result.placed is not None:
        from optalloc.assignment.shadow import shadow_prices

        prices = shadow_prices(problem).tolist()
    data = _plain(problem, result, prices)
    if arguments.format == "csv":
        tables = [_by_task(problem, result)]
    else:
        tables = _tables(problem, result, prices)
    with answered(arguments.output, lambda path: write_text(path, canonical_json(data))):
        print(render(tables, data, arguments.format, color=colored()), end="")
    return status(result, result.placed, require_optimal=arguments.require_optimal)


def _read_start(path: str, problem: Any) -> list[int]:
    """The feasible assignment of an answer in the published JSON form."""
    from optalloc.assignment.start import checked_start
    from optalloc.errors import InputError
    from optalloc.files import parse_json, read_text

    data = parse_json(read_text(path), path=path)
    units = data.get("assignment") if isinstance(data, dict) else None
    if not isinstance(units, list) or not all(type(unit) is int for unit in units):
        raise InputError(
            "the file holds no assignment",
            path=path,
            pointer="$.assignment",
            fix="give an answer that 'optalloc assign -o' wrote",
        )
    return list(checked_start(problem, units, path))


def _number(value: float | None) -> float | int | None:
    """Whole numbers without a decimal point; infinite and unknown as None."""
    if value is None or value in (float("inf"), float("-inf")):
        return None
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


def _plain(problem: Any, result: Any, prices: list[list[float]] | None) -> dict[str, Any]:
    """The answer in the published JSON form."""
    placed = result.placed
    found = None if placed is None else problem.evaluate(placed)
    loads = None if found is None else found.unit_loads
    extra: dict[str, Any] = {} if prices is None else {"prices": prices}
    if not problem.is_plain:
        extra["goal"] = problem.objective
        extra["cost"] = None if found is None else _number(found.cost)
        share = None if found is None else found.largest_relative_load
        extra["largest_relative_load"] = share
    if problem.num_resources > 1:
        rows = () if found is None else found.resource_loads
        extra["resource_loads"] = [[_number(load) for load in row] for row in rows]
    shown = None if loads is None else [_number(load) for load in loads]
    return {**extra, **published(result, problem.sense, shown)}


def published(result: Any, sense: str, unit_loads: list[Any] | None) -> dict[str, Any]:
    """What the JSON form says of every answer."""
    placed, witness = result.placed, result.witness
    return {
        "format_version": "1.0",
        "termination": result.termination.value,
        "objective": _number(result.bounds.primal),
        "bound": _number(result.bounds.dual),
        "gap": _number(result.bounds.gap),
        "sense": sense,
        "assignment": None if placed is None else list(placed),
        "unit_loads": unit_loads,
        "method": result.method,
        "arithmetic": result.arithmetic,
        "stats": {
            "wall_s": result.stats.wall_s,
            "cpu_s": result.stats.cpu_s,
            "nodes": result.stats.nodes,
        },
        "incumbents": [
            {"elapsed_s": item.elapsed_s, "value": _number(item.value)}
            for item in result.incumbents
        ],
        "conflict": list(result.conflict),
        "fixes": [{"what": fix.what, "cost": fix.cost} for fix in result.fixes],
        "witness": None
        if witness is None
        else {"multipliers": list(witness.multipliers), "scale": witness.scale},
        "message": result.message,
    }


def _tables(problem: Any, result: Any, prices: list[list[float]] | None) -> list[Any]:
    """The assignment by unit, or why there is none."""
    from optalloc.report.table import Table, no_answer

    claim = f"{result.termination.value}, method {result.method}, {result.stats.wall_s:.2f} s"
    notes = [result.message] if result.message else []
    if result.placed is None:
        title = f"No assignment: {claim}"
        return [no_answer(title, result.conflict, result.fixes, result.message)]
    gap = result.bounds.gap
    shown = "no bound" if gap == float("inf") else f"gap {gap:.3%}"
    found = problem.evaluate(result.placed)
    tasks: list[list[int]] = [[] for _ in range(problem.num_units)]
    out: list[int] = []
    for task, unit in enumerate(result.placed):
        (out if unit < 0 else tasks[unit]).append(task)
    several = problem.num_resources > 1
    columns = ["unit"]
    for resource in range(problem.num_resources):
        number = f" {resource}" if several else ""
        columns += [f"load{number}", f"capacity{number}"]
        columns += [f"price{number}"] if prices is not None else []
    rooms = problem.capacities_matrix.tolist()
    rows = []
    for unit, mine in enumerate(tasks):
        row: list[Any] = [unit]
        for resource, load in enumerate(found.resource_loads[unit]):
            row += [load, rooms[unit][resource]]
            row += [prices[unit][resource]] if prices is not None else []
        rows.append((*row, _listed(mine)))
    if len(rows) > _MOST_ROWS:
        notes.append(f"The first {_MOST_ROWS} of {len(rows):,} units; -o FILE writes every task.")
    if prices is not None:
        notes.append(
            "A price is what one more of that capacity saves in the linear relaxation, in the unit "
            "of the objective."
        )
    if out:
        notes.insert(0, f"Left out: {'task' if len(out) == 1 else 'tasks'} {_listed(out)}")
    if problem.objective != "sum":
        text = f"Cost {found.cost:,.12g}, largest relative load {found.largest_relative_load:.4%}"
        notes.insert(0, text)
    by_unit = Table(
        title=f"Objective {result.bounds.primal:,.12g} ({shown}), {claim}",
        columns=(*columns, "tasks"),
        rows=tuple(rows[:_MOST_ROWS]),
        notes=tuple(notes),
    )
    return [by_unit]


def _by_task(problem: Any, result: Any) -> Any:
    """One row a task."""
    from optalloc.report.table import Table

    names = ["load"]
    if problem.num_resources > 1:
        names = [f"load {resource}" for resource in range(problem.num_resources)]
    rows: list[Any] = []
    for task, unit in enumerate(result.placed or ()):
        if unit < 0:
            rows.append((task, None, problem.skip_costs[task].item(), *[None] * len(names)))
        else:
            loads = problem.loads_array[task, unit].tolist()
            rows.append((task, unit, problem.costs[task, unit].item(), *loads))
    return Table(title="", columns=("task", "unit", "cost", *names), rows=tuple(rows))


def _listed(tasks: list[int]) -> str:
    shown = " ".join(map(str, tasks[:15]))
    return f"{shown} and {len(tasks) - 15} more" if len(tasks) > 15 else shown

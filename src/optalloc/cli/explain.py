"""optalloc explain: where the time of a plan goes, what binds it, what more would bring."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from optalloc.cli.answers import add_format, colored, stop_rule

if TYPE_CHECKING:
    from optalloc.plan.turns import Turn


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    parser.add_argument("plan", metavar="PLAN", help="a saved plan (plan.json)")
    parser.add_argument(
        "--replan",
        action="store_true",
        help="also search the whole space again, as it is and after each change",
    )
    parser.add_argument(
        "--sensitivity",
        action="store_true",
        help="also find at which bandwidth, batch, load and length another plan is better",
    )
    parser.add_argument(
        "--pin",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="what these searches keep, as it was given to train",
    )
    parser.add_argument(
        "--forbid", action="append", default=[], metavar="NAME=VALUE", help="what they leave out"
    )
    parser.add_argument(
        "--for",
        dest="tool",
        metavar="TOOL",
        help="search only what 'optalloc export' can write for this tool, as train --for does",
    )
    parser.add_argument(
        "--time-limit", metavar="TIME", help="wall-clock limit of each search, for example 30s"
    )
    parser.add_argument("--html", metavar="FILE", help="write it as one self-contained page")
    add_format(parser)


def run(arguments: argparse.Namespace) -> int:
    """Explain and print; returns the exit status."""
    from optalloc import files
    from optalloc.cli.plans import as_it_is
    from optalloc.export.pins import pins_for
    from optalloc.plan.edited import as_written
    from optalloc.plan.explain import explain
    from optalloc.plan.plan import load_any_plan
    from optalloc.report.explanation import explanation_tables
    from optalloc.report.page import page
    from optalloc.report.table import render
    from optalloc.serving.configuration.plan import ServingPlan
    from optalloc.serving.offload.plan import OffloadPlan
    from optalloc.training.mixed.plan import MixedPlan

    stop = stop_rule(arguments)
    saved = load_any_plan(arguments.plan)
    if isinstance(saved, OffloadPlan):
        from optalloc.cli import offload

        return offload.explain(arguments, saved)
    if isinstance(saved, ServingPlan):
        from optalloc.cli import serve

        return serve.explain(arguments, saved)
    plan = as_it_is(saved, arguments.plan)
    if isinstance(plan, MixedPlan):
        from optalloc.cli import mixed
        from optalloc.errors import InputError

        for flag in ("html", "sensitivity", "pin", "forbid", "tool"):
            if getattr(arguments, flag):
                word = "for" if flag == "tool" else flag
                raise InputError(
                    f"a plan on a mixed cluster is explained without --{word}",
                    path=arguments.plan,
                    fix="leave it out; --replan says what a little more would bring",
                )
        return mixed.explain(arguments, plan, stop)
    sets = pins_for(arguments.tool, plan.model, arguments.pin) if arguments.tool else [()]
    explanation = explain(
        plan,
        replan=arguments.replan,
        sensitivity=arguments.sensitivity,
        pin=arguments.pin,
        forbid=arguments.forbid,
        pin_sets=sets,
        stop=stop,
        on_turn=turn_line if sys.stderr.isatty() else None,
    )
    if arguments.format == "table":
        print(explanation.summary + "\n")
    tables = explanation_tables(explanation)
    print(render(tables, explanation, arguments.format, color=colored()), end="")
    if arguments.html is not None:
        files.write_text(arguments.html, page(as_written(plan)[0], explanation))
    if arguments.format == "table":
        print(next_words(arguments))
    return 0


def turn_line(turn: Turn) -> None:
    """Print one line a turn, while they are found."""
    to = "-" if turn.changes_at is None else f"{turn.changes_at:,.6g}"
    words = f"{turn.quantity}, {turn.direction}: holds to {turn.holds_at:,.6g}, changes at {to}"
    print(words, file=sys.stderr)


def next_words(arguments: argparse.Namespace, *, replans: bool = True) -> str:
    """What to type next; ``replans`` where ``--replan`` is of use."""
    if arguments.html is not None:
        return f"Saved {arguments.html}: open it in a browser."
    words = []
    if replans and not arguments.replan:
        words.append("--replan searches again for each change")
    if not arguments.sensitivity:
        words.append("--sensitivity finds where the choice turns")
    words.append("--html page.html draws it")
    return f"Next: optalloc explain {arguments.plan} with\n      " + "\n      ".join(words)

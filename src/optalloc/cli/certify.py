"""optalloc certify: check a plan and its claim with code that the search does not use."""

from __future__ import annotations

import argparse

import msgspec

from optalloc.cli import mixed, offload, serve
from optalloc.cli.answers import add_format, colored
from optalloc.cli.plans import checked
from optalloc.plan.certify import CHECKS, Claim, certify
from optalloc.plan.plan import load_any_plan
from optalloc.report.table import Table, render
from optalloc.report.training import value_text
from optalloc.serving.configuration.plan import ServingPlan
from optalloc.serving.offload.plan import OffloadPlan
from optalloc.training.mixed.plan import MixedPlan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    parser.add_argument("plan", metavar="PLAN", help="a saved plan (plan.json)")
    add_format(parser)


def run(arguments: argparse.Namespace) -> int:
    """Check and print; returns the exit status. What is not true is raised."""
    plan = load_any_plan(arguments.plan)
    if isinstance(plan, OffloadPlan):
        return offload.certify(arguments, plan)
    if isinstance(plan, ServingPlan):
        return serve.certify(arguments, plan)
    if isinstance(plan, MixedPlan):
        return mixed.certify(arguments, plan)
    with checked(arguments.plan):
        claim = certify(plan)
    data = {
        "valid": True,
        "checks": list(CHECKS),
        "optimal": claim.is_optimal,
        **msgspec.to_builtins(claim),
        "bounds": {**msgspec.to_builtins(claim.bounds), "gap": _gap(claim)},
    }
    table = Table(
        title="",
        columns=("computed anew, and equal",),
        rows=tuple((text,) for text in CHECKS),
        notes=(_claim(claim),),
    )
    if arguments.format == "table":
        print(f"{arguments.plan} says the truth about itself.")
    print(render([table], data, arguments.format, color=colored()), end="")
    return 0


def _gap(claim: Claim) -> float | None:
    return None if claim.objective is None else claim.bounds.gap


def _claim(claim: Claim) -> str:
    """What the search claimed about all other configurations."""
    name, value, bound = claim.objective, claim.bounds.primal, claim.bounds.dual
    if name is None or value is None or bound is None:
        return "It was estimated, not searched: it claims nothing about other configurations."
    known = (
        "the search proved that nothing is better"
        if claim.is_optimal
        else (f"the search was stopped: nothing is below {value_text(name, bound)}")
    )
    return (
        f"Claim: {value_text(name, value)}, and of {claim.configurations:,} configurations "
        f"{known}. The search itself was not repeated."
    )

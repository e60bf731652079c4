"""Cores: methods that minimise the costs of :class:`Rows`; the other goals are built on them.

A core takes rows, a *watch*, a number that is ``enough`` and a placement to start with, which keeps
the rows. It calls the watch now and then and stops when that says so; it may also stop once it has
a placement that costs no more than ``enough`` or a bound above it. ``exact`` returns nothing worse
than the start; the other cores have no use for one. A core never claims what it has not proven:
``is_complete`` means that the placement is the cheapest, or that there is none.
"""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

import msgspec

from optalloc.assignment.proof import Grown
from optalloc.assignment.result import AssignmentResult
from optalloc.assignment.rows import Rows
from optalloc.errors import InputError
from optalloc.result import Termination
from optalloc.stop import Progress, StopRule

#: watch(nodes, value, bound) -> stop?  Value and bound in integer costs, None while unknown.
Watch = Callable[[int, int | None, int | None], bool]

_ALL_FORMS: dict[str, str] = {
    "exact": "optalloc.assignment.tree:solve_rows",
    "milp": "optalloc.assignment.rows_milp:solve_rows_milp",
}
_PLAIN: dict[str, str] = {
    "exact": "optalloc.assignment.exact:solve_exact",
    "dynamic": "optalloc.assignment.dynamic:solve_dynamic",
    "greedy": "optalloc.assignment.greedy:solve_greedy",
    "anneal": "optalloc.assignment.anneal:solve_anneal",
}
_SEEDED = ("anneal", "exact")


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a core found: the unit of each block, its integer cost, and a bound on every cost."""

    placed: tuple[int, ...] | None = None
    value: int | None = None
    bound: int | None = None
    is_complete: bool = False
    ran_out: bool = True
    """False where a heuristic ran to its end without a proof."""
    nodes: int = 0
    grown: Grown | None = None
    """The search tree that proves the bound, where it was asked for."""

    @property
    def is_infeasible(self) -> bool:
        """Proven: no placement exists."""
        return self.is_complete and self.placed is None


class Core(Protocol):
    """A method for rows."""

    def __call__(
        self,
        rows: Rows,
        watch: Watch,
        enough: int | None = None,
        start: tuple[int, ...] | None = None,
    ) -> Answer: ...


def choose_core(rows: Rows, method: str, *, seed: int, threads: int, prove: bool) -> Core:
    """The core behind a method name; with ``prove`` its answers hold the search tree of the bound.

    Raises
    ------
    InputError
        If the method takes plain problems only and these rows do not reduce to one.
    """
    if prove and method == "exact" and rows.is_plain:
        return functools.partial(_proven, seed, threads)
    if rows.is_plain and method in _PLAIN:
        return functools.partial(_plain, method, seed, threads)
    if method not in _ALL_FORMS:
        raise InputError(
            f"the method {method!r} takes one capacity a unit and no groups that stay apart",
            path="method",
            fix="use auto, exact, milp or enumerate",
        )
    module, _, name = _ALL_FORMS[method].partition(":")
    options: dict[str, Any] = {"seed": seed}
    options |= {"threads": threads, "prove": prove} if method == "exact" else {}
    return cast(Core, functools.partial(getattr(importlib.import_module(module), name), **options))


def _plain(
    method: str,
    seed: int,
    threads: int,
    rows: Rows,
    watch: Watch,
    enough: int | None = None,
    start: tuple[int, ...] | None = None,
) -> Answer:
    """A plain method on rows that are a plain problem."""
    module, _, name = _PLAIN[method].partition(":")
    solver = getattr(importlib.import_module(module), name)
    options: dict[str, Any] = {"seed": seed} if method in _SEEDED else {}
    options |= {"threads": threads, "start": start} if method == "exact" else {}
    result = solver(rows.as_plain(), _stop_of(watch, enough), None, **options)
    return _answer_of(rows, cast(AssignmentResult, result))


def _proven(
    seed: int,
    threads: int,
    rows: Rows,
    watch: Watch,
    enough: int | None = None,
    start: tuple[int, ...] | None = None,
) -> Answer:
    """As ``exact``, with its search tree."""
    from optalloc.assignment.exact import search
    from optalloc.assignment.pools import find_pools

    plain = rows.as_plain()
    pools = find_pools(plain.integer_form()) or ()
    own = tuple(group for group in pools if max(group) < rows.num_units)
    if sum(map(len, own)) < rows.num_units:
        pools = ()  # what is left out is no unit of a tree
    stop = _stop_of(watch, enough)
    result, grown = search(
        plain, stop, seed=seed, threads=threads, start=start, prove=True, pools=pools or None
    )
    if grown is not None and grown.tree.pools:
        grown = Grown(msgspec.structs.replace(grown.tree, pools=own), grown.rows)
    return msgspec.structs.replace(_answer_of(rows, result), grown=grown)


def _stop_of(watch: Watch, enough: int | None) -> StopRule:
    """The stop rule of a plain method."""

    def stop(progress: Progress) -> bool:
        value = None if progress.incumbent is None else _whole(progress.incumbent)
        bound = None if progress.bound is None else _below(progress.bound)
        if enough is not None and value is not None and value <= enough:
            return True
        if enough is not None and bound is not None and bound > enough:
            return True
        return watch(progress.nodes, value, bound)

    return stop


def _answer_of(rows: Rows, result: AssignmentResult) -> Answer:
    placed = result.placed
    complete = result.termination in (Termination.OPTIMAL, Termination.INFEASIBLE)
    value = None if placed is None else rows.value(placed)
    bound = None if result.bounds.dual is None else _below(result.bounds.dual)
    return Answer(
        placed=placed,
        value=value,
        bound=value if complete else bound,
        is_complete=complete,
        ran_out=result.termination is not Termination.FEASIBLE,
        nodes=result.stats.nodes,
    )


def checked(rows: Rows, placed: Sequence[int] | None) -> tuple[int, ...] | None:
    """The placement where it keeps every row in integers, else None."""
    if placed is None or not rows.is_feasible(placed):
        return None
    return tuple(int(unit) for unit in placed)


def _whole(value: float) -> int:
    """An integer cost that came as a float: rounded up by what a float may hide."""
    return math.ceil(value + abs(value) * 2.0**-52) if abs(value) >= 2.0**53 else round(value)


def _below(bound: float) -> int:
    """An integer bound that came as a float: never above what was meant."""
    return math.floor(bound - abs(bound) * 2.0**-52) if abs(bound) >= 2.0**53 else round(bound)

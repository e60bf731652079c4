"""solve_assignment: choose a method, run it, certify its claim, explain what is infeasible."""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Sequence
from typing import Any, Literal, Protocol, cast

import msgspec

from optalloc.assignment.certify import Proof, certify_assignment
from optalloc.assignment.conflict import explain_conflict
from optalloc.assignment.dynamic import num_states
from optalloc.assignment.enumerate import num_assignments
from optalloc.assignment.problem import AssignmentProblem
from optalloc.assignment.result import AssignmentResult
from optalloc.assignment.threads import check_threads
from optalloc.errors import InputError, nearest
from optalloc.files import require_writable
from optalloc.result import Termination
from optalloc.stop import OnProgress, StopRule

Method = Literal["auto", "enumerate", "dynamic", "greedy", "anneal", "milp", "exact", "large"]

#: method -> module:function; imported when chosen.
METHODS: dict[str, str] = {
    "enumerate": "optalloc.assignment.enumerate:solve_enumerate",
    "dynamic": "optalloc.assignment.dynamic:solve_dynamic",
    "greedy": "optalloc.assignment.greedy:solve_greedy",
    "anneal": "optalloc.assignment.anneal:solve_anneal",
    "milp": "optalloc.assignment.milp:solve_milp",
    "exact": "optalloc.assignment.exact:solve_exact",
    "large": "optalloc.assignment.large:solve_large_problem",
}
_SEEDED = ("anneal", "milp", "exact", "large")
_THREADED = ("exact", "large")

#: Pairs above which ``auto`` is content with a certified gap: each step of a proof reads them all.
MOST_PAIRS_PROVEN = 2_000_000

# Below these sizes the plain methods answer in milliseconds.
_FEW_ASSIGNMENTS = 2_000
_FEW_STATES = 20_000


class _Solver(Protocol):
    def __call__(
        self,
        problem: AssignmentProblem,
        stop: StopRule | None = None,
        on_progress: OnProgress | None = None,
        **options: Any,
    ) -> AssignmentResult: ...


def solve_assignment(
    problem: AssignmentProblem,
    method: str = "auto",
    *,
    stop: StopRule | None = None,
    on_progress: OnProgress | None = None,
    seed: int = 0,
    threads: int = 1,
    start: Sequence[int] | None = None,
    proof: str | os.PathLike[str] | None = None,
) -> AssignmentResult:
    """Solve an assignment problem and check the answer.

    Parameters
    ----------
    problem : AssignmentProblem
    method : {"auto", "exact", "dynamic", "enumerate", "milp", "greedy", "anneal", "large"}
        ``auto`` proves optimality: by the plain methods where they are instant, else by ``exact``
        (by ``milp`` where the costs are too large for it). Plain problems of more than two million
        pairs go to ``large``, which leaves a small certified gap.
    stop : StopRule, optional
        Ends the search early, for example ``TimeLimit(30)``; by default it runs to its end.
    on_progress : callable, optional
        Called with :class:`Progress` as incumbent and bound change.
    seed : int
        Seed of the methods that draw lots.
    threads : int
        Of ``exact`` and ``large`` at most; the other methods use one.
    start : sequence of int, length num_tasks, optional
        A feasible assignment for ``exact`` to begin with: the unit of each task, -1 for a task left
        out. The answer is no worse.
    proof : path, optional
        Where ``exact`` writes its proof, for :func:`certify_proof`.

    Returns
    -------
    AssignmentResult
        OPTIMAL and INFEASIBLE only after :func:`certify_assignment` agreed; above two million pairs
        by the integer bound of ``large`` alone.

    Raises
    ------
    InputError
        If the method is unknown or refuses the size of the instance, the start is not feasible, or
        the proof cannot be written there.
    CertificateError
        If the check fails: a bug.
    """
    if method != "auto" and method not in METHODS:
        near = nearest(method, METHODS, count=1)
        raise InputError(
            f"unknown method {method!r}",
            path="method",
            fix=f"did you mean {near[0]!r}?" if near else f"use auto or {', '.join(METHODS)}",
        )
    if not 0 <= seed < 2**64:
        raise InputError(f"the seed is {seed}", path="seed", fix="give a whole number below 2**64")
    check_threads(threads)
    if proof is not None:
        require_writable(proof)
    options: dict[str, Any] = {"start": start, "proof": proof}
    options = {name: value for name, value in options.items() if value is not None}
    if options and method not in ("auto", "exact"):
        raise InputError(
            f"the method {method!r} takes no {' and no '.join(options)}",
            path="method",
            fix="use the method 'exact'",
        )
    if not problem.is_plain:
        threaded = options | {"seed": seed, "threads": threads}
        return certified(problem, _solve_form(problem, method, stop, on_progress, threaded))
    chosen = choose_method(problem) if method == "auto" and not options else method
    chosen = "exact" if chosen == "auto" else chosen
    solver = _load(METHODS[chosen])
    options |= {"seed": seed} if chosen in _SEEDED else {}
    options |= {"threads": threads} if chosen in _THREADED else {}
    try:
        result = solver(problem, stop, on_progress, **options)
    except InputError as error:
        too_large = method == "auto" and chosen == "exact" and error.pointer == "$.costs"
        if not too_large or start is not None or proof is not None:
            raise
        # Costs beyond the range of exact multipliers: floating point is what is left.
        result = _load(METHODS["milp"])(problem, stop, on_progress, seed=seed)
    if chosen == "large" and problem.costs.size > MOST_PAIRS_PROVEN:
        return result  # its bound is one pass in integers; a second search would not end
    return certified(problem, result)


def _solve_form(
    problem: AssignmentProblem,
    method: str,
    stop: StopRule | None,
    on_progress: OnProgress | None,
    options: dict[str, Any],
) -> AssignmentResult:
    """Several resources, groups, optional tasks, or another goal than the sum."""
    from optalloc.assignment.enumerate_forms import num_choices, solve_enumerate_forms
    from optalloc.assignment.forms import solve_forms

    asks_exact = bool({"start", "proof"} & options.keys())
    few = problem.num_tasks <= 100 and num_choices(problem) <= _FEW_ASSIGNMENTS
    if method == "enumerate" or (method == "auto" and few and not asks_exact):
        return solve_enumerate_forms(problem, stop, on_progress)
    core = "exact" if method == "auto" else method
    try:
        return solve_forms(problem, stop, on_progress, method=core, **options)
    except InputError:
        if method != "auto" or asks_exact:
            raise
        # Costs beyond the range of exact multipliers: floating point is what is left.
        return solve_forms(problem, stop, on_progress, method="milp", **options)


def choose_method(problem: AssignmentProblem) -> str:
    """The method ``auto`` stands for."""
    if num_assignments(problem) <= _FEW_ASSIGNMENTS and problem.num_tasks <= 100:
        return "enumerate"
    vectors = math.prod(room + 1 for room in problem.integer_form().capacities.tolist())
    if vectors < 2**62 and num_states(problem) <= _FEW_STATES:
        return "dynamic"
    return "exact" if problem.costs.size <= MOST_PAIRS_PROVEN else "large"


def certified(problem: AssignmentProblem, result: AssignmentResult) -> AssignmentResult:
    """The result with its check said in words, and with the conflict where nothing is feasible."""
    certificate = certify_assignment(problem, result)
    words = {
        Proof.MULTIPLIERS: "certified: multipliers prove the bound",
        Proof.REPROVED: "certified: a second search agrees",
        Proof.SEARCH: "certified: plan and objective; the bound rests on the method's search",
        Proof.NONE: "plan and objective checked",
    }
    if result.placed is None and result.termination is not Termination.INFEASIBLE:
        return result
    message = "; ".join(part for part in (result.message, words[certificate.proof]) if part)
    if result.termination is not Termination.INFEASIBLE:
        return msgspec.structs.replace(result, message=message)
    conflict, fixes = explain_conflict(problem, _is_infeasible)
    return msgspec.structs.replace(result, message=message, conflict=conflict, fixes=fixes)


def _is_infeasible(problem: AssignmentProblem, stop: StopRule) -> bool:
    """Whether a smaller problem is proven infeasible too, within the limit."""
    if not problem.is_plain:
        result = _solve_form(problem, "auto", stop, None, {})
        return result.termination is Termination.INFEASIBLE
    result = _load(METHODS[choose_method(problem)])(problem, stop)
    return result.termination is Termination.INFEASIBLE


def _load(dotted: str) -> _Solver:
    module, _, name = dotted.partition(":")
    return cast(_Solver, getattr(importlib.import_module(module), name))

"""place_layers: bound, search, tighten, check."""

from __future__ import annotations

from collections.abc import Sequence

from optalloc.errors import CertificateError
from optalloc.result import Bounds, Stats, Termination
from optalloc.serving.flow.arrays import FlowArrays
from optalloc.serving.flow.branch import refute_by_branching
from optalloc.serving.flow.certify import certify_flow
from optalloc.serving.flow.covers import bound_by_covers, layer_token_bound
from optalloc.serving.flow.journal import TOLERANCE, Journal
from optalloc.serving.flow.kinds import Kind, kinds_of
from optalloc.serving.flow.network import routes
from optalloc.serving.flow.problem import FlowProblem
from optalloc.serving.flow.result import FlowResult
from optalloc.serving.flow.search import anneal, regions_at, search_chain, search_regions, search_stages
from optalloc.serving.flow.witness import Covers, LayerTokens
from optalloc.stop import OnProgress, StopRule

_MOST_PARTS = 400
_STEPS = 150_000
_BRANCH_S = 2.0


def place_layers(
    problem: FlowProblem,
    *,
    stop: StopRule | None = None,
    on_progress: OnProgress | None = None,
    seed: int = 0,
) -> FlowResult:
    """The placement that passes most tokens, with a proven bound.

    Parameters
    ----------
    problem : FlowProblem
    stop : StopRule, optional
        Ends the search early, for example ``TimeLimit(10)``; the best placement and bound so far
        are returned.
    seed : int
        Of the annealing.

    Returns
    -------
    FlowResult
        ``placement``, ``bounds`` in tokens/s, ``cut`` (what binds) and the bound's ``witness``.
        Infeasible if no placement passes any token.
    """
    arrays = FlowArrays(problem)
    kinds = kinds_of(problem)
    journal = Journal(arrays, stop, on_progress)
    if kinds:
        tokens = layer_token_bound(kinds, problem.num_layers)
        journal.lower(tokens, LayerTokens(flow_tokens_per_s=tokens))
        reached = search_chain(journal, kinds)
        _bound(journal, kinds, max(reached, 1e-3 * tokens))
        if not journal.closed() and len(regions_at(journal)) > 1:
            search_regions(journal, seed)
        if not journal.closed():
            search_stages(journal, kinds, max(reached, journal.value))
            _bound(journal, kinds, journal.value)
        if not journal.closed():
            anneal(journal, seed, _STEPS)
        if not journal.closed() and journal.value > 0.0:
            _branch(journal, kinds)
    return _result(journal)


def _bound(journal: Journal, kinds: Sequence[Kind], reached: float) -> None:
    flow, prices = bound_by_covers(
        kinds,
        journal.arrays.problem.num_layers,
        reached,
        journal.bound,
        tolerance=TOLERANCE / 2.0,
        expired=journal.expired,
    )
    if prices is not None:
        groups = tuple(kind.nodes for kind in kinds)
        journal.lower(flow, Covers(flow_tokens_per_s=flow, groups=groups, parts=(prices,)))


def _branch(journal: Journal, kinds: Sequence[Kind]) -> None:
    """Halve what is open for as long as branching forbids the middle."""
    expired = journal.within(_BRANCH_S)
    flow = journal.value * (1.0 + TOLERANCE / 2.0)
    low = journal.value
    while journal.bound - low > 1e-4 * journal.bound and not expired():
        found = refute_by_branching(
            kinds,
            journal.arrays.problem.num_layers,
            flow,
            most_parts=_MOST_PARTS,
            expired=expired,
        )
        if found is not None:
            journal.lower(flow, found)
        else:
            low = flow
        flow = (low + journal.bound) / 2.0


def _result(journal: Journal) -> FlowResult:
    problem = journal.arrays.problem
    stats = Stats(wall_s=journal.elapsed_s(), cpu_s=journal.cpu_s(), nodes=journal.steps)
    if not journal.placement:
        return _without(journal, stats)
    found = routes(problem, journal.placement)
    value = found.flow_tokens_per_s
    bound = max(value, journal.bound)
    certify_flow(
        problem, journal.placement, value=value, bound=bound, witness=journal.witness
    )
    closed = value >= bound * (1.0 - TOLERANCE)
    if closed:
        bound = value
    termination = (
        Termination.OPTIMAL
        if closed
        else Termination.LIMIT
        if journal.stopped
        else Termination.FEASIBLE
    )
    return FlowResult(
        termination=termination,
        bounds=Bounds(primal=value, dual=bound),
        stats=stats,
        incumbents=tuple(journal.incumbents),
        placed=dict(sorted(journal.placement.items())),
        cut=found.cut,
        witness=journal.witness,
    )


def _without(journal: Journal, stats: Stats) -> FlowResult:
    problem = journal.arrays.problem
    held = sum(node.max_layers for node in problem.nodes)
    if held < problem.num_layers:
        raise CertificateError("unreachable")
    return FlowResult(termination=Termination.LIMIT, bounds=Bounds(), stats=stats)

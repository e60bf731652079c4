"""place_layers: bound, search, tighten, check."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from optalloc.errors import InputError
from optalloc.result import Bounds, Fix, Stats, Termination
from optalloc.serving.flow.arrays import FlowArrays
from optalloc.serving.flow.branch import refute_by_branching
from optalloc.serving.flow.certify import certify_flow
from optalloc.serving.flow.covers import bound_by_covers, layer_token_bound
from optalloc.serving.flow.crossings import bound_by_crossings
from optalloc.serving.flow.enumerate import enumerate_placements
from optalloc.serving.flow.journal import TOLERANCE, Journal
from optalloc.serving.flow.kinds import Kind, kinds_of
from optalloc.serving.flow.latency.routes import routes_within
from optalloc.serving.flow.latency.solve import begin_within, place_fastest
from optalloc.serving.flow.network import routes
from optalloc.serving.flow.problem import FlowProblem
from optalloc.serving.flow.result import FlowResult, Objective, Route
from optalloc.serving.flow.search import (
    MOST_REGIONS,
    anneal,
    climb_rows,
    regions_at,
    search_chain,
    search_covers,
    search_fitting,
    search_regions,
    search_rows_over_links,
    search_shares,
    search_stages,
)
from optalloc.serving.flow.stages import StageProgramme
from optalloc.serving.flow.witness import Covers, Ends, Everything, LayerTokens
from optalloc.stop import OnProgress, StopRule

_MOST_PARTS = 400
_STEPS = 150_000  # of annealing, on few nodes
_FEW_NODES = 24
_BRANCH_S = 2.0
_MOST_KINDS = 16  # of which stages are made kind by kind, else node by node
_FIRST_BOUND_S, _BOUND_S = 1.0, 3.0
_ACROSS_S = 2.8
_REGIONS_S, _SHARES_S = 4.0, 3.0
_SEARCH_S, _ROWS_S = 6.5, 2.2  # CPU seconds where narrow links bind
_MANY_NODES, _LONGER = 50, 4.0  # from so many on, these times take longer
_MOST_CHOICES = 1e9  # placements of a problem small enough to try them all
_FEW_CHOICES = 50_000
_MOST_BRANCHES = 20_000


def place_layers(
    problem: FlowProblem,
    *,
    objective: Objective = "flow",
    latency_limit_s: float | None = None,
    stop: StopRule | None = None,
    on_progress: OnProgress | None = None,
    seed: int = 0,
) -> FlowResult:
    """The placement that passes most tokens or has the fastest route, with a proven bound.

    Parameters
    ----------
    problem : FlowProblem
    objective : "flow" or "latency"
        Most tokens/s, or the least latency of one token from source to sink, seconds.
    latency_limit_s : float, optional
        With "flow": every route in use takes at most this long for one token.
    stop : StopRule, optional
        Ends the search early, for example ``TimeLimit(10)``; the best placement and bound so far
        are returned, as after Ctrl-C.
    seed : int
        Of the annealing.

    Returns
    -------
    FlowResult
        ``placement``, ``bounds`` in tokens/s (seconds with "latency"), ``cut`` (what binds),
        ``routes`` where latency matters, and the bound's ``witness``. Infeasible if no placement
        passes any token, or none within the limit; then ``fixes`` names the least latency there is.

    Raises
    ------
    InputError
        If the limit is no positive time, or given together with "latency".
    """
    if latency_limit_s is not None and (objective == "latency" or not latency_limit_s > 0.0):
        raise InputError(
            "a limit on latency is a positive time for the objective flow",
            path="latency_limit_s",
            fix="give seconds above 0, or leave the limit out",
        )
    if objective == "latency":
        return place_fastest(problem, stop=stop, on_progress=on_progress)
    limit_s = math.inf if latency_limit_s is None else latency_limit_s
    arrays = FlowArrays(problem, limit_s)
    kinds = kinds_of(problem)
    journal = Journal(arrays, stop, on_progress)
    if kinds:
        try:
            if (without := _solve(journal, kinds, seed)) is not None:
                return without
        except KeyboardInterrupt:
            journal.stopped = True
    return _result(journal)


def _solve(journal: Journal, kinds: Sequence[Kind], seed: int) -> FlowResult | None:
    """Bound and search; an answer only where no route is fast enough, or none was found."""
    problem, limit_s = journal.arrays.problem, journal.arrays.limit_s
    tokens = layer_token_bound(kinds, problem.num_layers)
    journal.lower(tokens, LayerTokens(flow_tokens_per_s=tokens))
    _bound_ends(journal)
    if journal.bound <= 0.0:
        return None
    if limit_s < math.inf and (without := begin_within(journal, limit_s)) is not None:
        return without
    reached = search_chain(journal, kinds)
    _bound(journal, kinds, max(reached, 1e-3 * tokens), _FIRST_BOUND_S)
    if not journal.closed() and _choices(problem) <= _FEW_CHOICES:
        _try_everything(journal)
    if not journal.closed():
        _search(journal, kinds, reached, seed)
    return None


def _search(journal: Journal, kinds: Sequence[Kind], reached: float, seed: int) -> None:
    count = len(journal.arrays.problem.nodes)
    steps = round(_STEPS * min(1.0, (_FEW_NODES / count) ** 1.2))
    expired, regions = journal.expired, len(regions_at(journal))
    longer = _LONGER if count >= _MANY_NODES else 1.0
    if regions > 1:
        expired = journal.within(longer * _SEARCH_S)
        search_shares(journal, longer * _SHARES_S, seed)
        search_regions(journal, longer * _REGIONS_S, seed)
        climb_rows(journal, seed, steps, expired)
        if not journal.closed():
            _bound_across(journal, longer * _ACROSS_S, 1e-3)
    if not journal.closed() and not 1 < regions <= MOST_REGIONS:
        if len(kinds) > _MOST_KINDS:
            search_fitting(journal)
        else:
            programme = StageProgramme(kinds, journal.arrays.problem.num_layers)
            reached = search_stages(journal, programme, max(reached, journal.value))
            narrow = journal.value < reached * (1.0 - TOLERANCE)  # links keep less than that
            if narrow and journal.arrays.limit_s == math.inf:
                search_rows_over_links(journal, programme, seed)
        if reached < journal.bound * (1.0 - TOLERANCE):  # else covers allow the bound
            _bound(journal, kinds, journal.value, _BOUND_S)
        if regions == 1 and len(kinds) <= _MOST_KINDS and not journal.closed():
            search_covers(journal, kinds, seed)
    if not journal.closed():
        anneal(journal, seed, steps, expired)
    if regions == 1 and journal.value < reached * (1.0 - TOLERANCE):
        climb_rows(journal, seed, steps, journal.within(longer * _ROWS_S))
    if not journal.closed() and journal.value > 0.0:
        _branch(journal, kinds)
    if not journal.closed() and _choices(journal.arrays.problem) <= _MOST_CHOICES:
        _try_everything(journal)


def _bound_ends(journal: Journal) -> None:
    """No more flow enters or leaves than its links, and the nodes that they reach, pass."""
    arrays = journal.arrays
    most = arrays.throughput.max(axis=1)
    source = float(np.minimum(arrays.source, most).sum())
    journal.lower(source, Ends(flow_tokens_per_s=source, side="source"))
    sink = float(np.minimum(arrays.sink, most).sum())
    journal.lower(sink, Ends(flow_tokens_per_s=sink, side="sink"))


def _bound(journal: Journal, kinds: Sequence[Kind], reached: float, seconds: float) -> None:
    flow, prices = bound_by_covers(
        kinds,
        journal.arrays.problem.num_layers,
        reached,
        journal.bound,
        tolerance=TOLERANCE / 2.0,
        expired=journal.within(seconds),
    )
    if prices is not None:
        groups = tuple(kind.nodes for kind in kinds)
        journal.lower(flow, Covers(flow_tokens_per_s=flow, groups=groups, parts=(prices,)))


def _bound_across(journal: Journal, seconds: float, tolerance: float) -> None:
    """Lower the bound by what narrow links between regions cost."""
    groups = [region.nodes for region in regions_at(journal)]
    flow, witness = bound_by_crossings(
        journal.arrays,
        groups,
        max(journal.value, 0.1 * journal.bound),
        journal.bound,
        tolerance=tolerance,
        expired=journal.within(seconds),
    )
    if witness is not None:
        journal.lower(flow, witness)


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


def _choices(problem: FlowProblem) -> float:
    """Placements there are."""
    total = 1.0
    for node in problem.nodes:
        most = min(node.max_layers, problem.num_layers)
        total *= 1.0 + sum(problem.num_layers - k + 1 for k in range(1, most + 1))
    return total


def _try_everything(journal: Journal) -> None:
    if enumerate_placements(journal, _MOST_BRANCHES):
        journal.lower(
            journal.value,
            Everything(flow_tokens_per_s=journal.value, branches=_MOST_BRANCHES),
        )


def _result(journal: Journal) -> FlowResult:
    problem = journal.arrays.problem
    stats = Stats(wall_s=journal.elapsed_s(), cpu_s=journal.cpu_s(), nodes=journal.steps)
    if not journal.placement:
        return _without(journal, stats)
    limit_s = journal.arrays.limit_s
    within: tuple[Route, ...] = ()
    if limit_s < math.inf:
        within = routes_within(problem, journal.placement, limit_s)
        passing = {node for route in within for node in route.nodes}
    else:
        passing = {b for _, b in routes(problem, journal.placement).links if b is not None}
    placement = {node: journal.placement[node] for node in sorted(passing)}
    found = routes(problem, placement)
    value, latency_s = found.flow_tokens_per_s, found.latency_s
    if within:
        value = math.fsum(route.tokens_per_s for route in within)
        latency_s = max(route.latency_s for route in within)
    bound = max(value, journal.bound)
    certify_flow(
        problem,
        placement,
        value=value,
        bound=bound,
        witness=journal.witness,
        latency_limit_s=limit_s if within else None,
        routes=within,
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
        latency_limit_s=limit_s if within else None,
        latency_s=latency_s,
        routes=within,
        placed=placement,
        cut=None if within else found.cut,
        link_latency_s=found.link_latency_s,
        witness=journal.witness,
        partial_inference=problem.partial_inference,
    )


def _without(journal: Journal, stats: Stats) -> FlowResult:
    """No placement: proven where the nodes together cannot hold the model or links are missing."""
    problem = journal.arrays.problem
    held = sum(
        max((k for k, rate in enumerate(node.throughput_tokens_per_s, 1) if rate > 0.0), default=0)
        for node in problem.nodes
    )
    conflict, fixes = [], []
    if held < problem.num_layers:
        conflict.append(
            f"all {len(problem.nodes)} nodes together hold {held} layers, the model has "
            f"{problem.num_layers}"
        )
        lacking = problem.num_layers - held
        fixes.append(
            Fix(
                what="add nodes, or memory for more layers on the nodes",
                cost=f"{lacking} more {'layer' if lacking == 1 else 'layers'}",
            )
        )
    for name, at in (("source", journal.arrays.source), ("sink", journal.arrays.sink)):
        if not (at > 0.0).any():
            conflict.append(f"no node has a link with the {name}")
            fixes.append(Fix(what=f"add a link of the {name}", cost="one link"))
    if not conflict and journal.bound <= 0.0:
        conflict.append("every placement was tried, and none has links from source to sink")
        fixes.append(Fix(what="add links between the nodes", cost="one link or more"))
    if conflict:
        return FlowResult(
            termination=Termination.INFEASIBLE,
            bounds=Bounds(),
            stats=stats,
            conflict=tuple(conflict),
            fixes=tuple(fixes),
            message=conflict[0],
        )
    return FlowResult(
        termination=Termination.LIMIT,
        bounds=Bounds(dual=journal.bound),
        stats=stats,
        witness=journal.witness,
        message="no placement was found whose links reach from source to sink",
    )

"""The search for placements: chains, stages, paths through regions, and annealing from the best."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

from optalloc.serving.flow.arrays import Moves
from optalloc.serving.flow.cover_rows import row_of_covers
from optalloc.serving.flow.fitting import cover_by_fitting
from optalloc.serving.flow.journal import TOLERANCE, Journal
from optalloc.serving.flow.kinds import Kind
from optalloc.serving.flow.paths import path_of_stages
from optalloc.serving.flow.regions import Region, regions_of
from optalloc.serving.flow.shares import row_of_shares
from optalloc.serving.flow.stages import StageProgramme, best_chain, in_a_row

_VARIETY = 50
_NODES = 50  # of one programme in whole numbers
MOST_REGIONS = 6  # among which paths are looked for
_BANDS = (0.03, 0.06, 0.1, 0.15, 0.2)  # of the shares of a region, either way
_FEW_NODES = 40
_QUANTILES = (0.5, 0.8, 0.3)  # of the links between two regions
_BISECTION = 0.004
_POLISH: tuple[tuple[Moves, int, float], ...] = (("swaps", 20_000, 0.2), ("any", 20_000, 0.1))
_FITTING_S, _FITTING_TOLERANCE = 4.0, 1e-3
_COVERS_S = 2.0
_MISSES = 8  # annealings that may fall short of their goal
_CLIMB, _LEAST_CLIMB, _CLIMB_SHRINKS = 0.04, 0.004, 0.75  # of the flow aimed at
_NEAR = 0.85  # of the bound
_OVER_LINKS_S = 5.0  # CPU seconds after which no other row is tried
_GOLDEN = 0.618034


def search_chain(journal: Journal, kinds: Sequence[Kind]) -> float:
    """Offer the best chain of single nodes, regions together; returns its rate without links."""
    rate, row = best_chain(kinds, journal.arrays.problem.num_layers)
    if row:
        journal.offer(in_a_row(kinds, journal.arrays.problem.num_layers, row))
    return rate


def search_stages(journal: Journal, programme: StageProgramme, rate: float) -> float:
    """Offer rows of stages up to the bound; returns the largest rate reached without links.

    ``rate`` is one that is reached already.
    """
    low, high = rate, journal.bound
    flow = high * (1.0 - 0.1 * TOLERANCE)
    while high - low > 1e-4 * high and not journal.expired():
        found = _row_at(journal, programme, flow)
        if found is None:
            high = flow
        else:
            low = max(flow, journal.offer(found))
        flow = (low + high) / 2.0
    return low


def _row_at(
    journal: Journal, programme: StageProgramme, flow: float
) -> dict[int, tuple[int, int]] | None:
    row = programme.reach(flow, most_nodes=_NODES, variety=_VARIETY, expired=journal.expired)
    return None if row is None else programme.placed(row)


def search_covers(journal: Journal, kinds: Sequence[Kind], seed: int) -> None:
    """Offer placements of covers in whole numbers, put in an order."""
    late = journal.within(_COVERS_S)

    def made_for(flow: float) -> dict[int, tuple[int, int]] | None:
        return row_of_covers(kinds, journal.arrays.problem.num_layers, flow, late)

    _bisect(journal, made_for, seed, late)


def search_fitting(journal: Journal) -> None:
    """Offer rows of closely fitting stages up to the bound, by bisection."""
    low, high = journal.value, journal.bound
    late = journal.within(_FITTING_S)
    while high - low > _FITTING_TOLERANCE * high and not late():
        flow = (low + high) / 2.0
        found = cover_by_fitting(
            journal.arrays.throughput, journal.arrays.problem.num_layers, flow, _NODES
        )
        if found is None:
            high = flow
        else:
            low = max(flow, journal.offer(found))


def search_rows_over_links(journal: Journal, programme: StageProgramme, seed: int) -> None:
    """Offer rows of stages made without regard to links, with nodes exchanged until links do."""
    row_at = partial(_row_at, journal, programme)
    late = journal.within(_OVER_LINKS_S)
    _bisect(journal, row_at, seed, late)
    turn = 1
    while not journal.closed() and not late():
        part = _GOLDEN * turn % 1.0  # of the way to the bound
        flow = journal.value + 0.6 * part * (journal.bound - journal.value)
        if (found := row_at(flow)) is not None:
            journal.offer(found)
            _polish(journal, found, flow, seed + turn)
        turn += 1


def search_regions(journal: Journal, seconds: float, seed: int) -> None:
    """Offer paths of stages through regions, for links taken to be as good as some quantile."""
    late = journal.within(seconds)
    before = -1.0
    while journal.value > before and not late():
        before = journal.value
        for quantile in _QUANTILES:
            _bisect(journal, partial(_path_at, journal, quantile, seed), seed, late)
        seed += 1


def search_shares(journal: Journal, seconds: float, seed: int) -> None:
    """Offer rows of stages of which every region carries a part, about the same in all of them."""
    late = journal.within(seconds)
    for band in _BANDS:
        _bisect(journal, partial(_shares_at, journal, band, late), seed, late)


def _shares_at(
    journal: Journal, band: float, late: Callable[[], bool], flow: float
) -> dict[int, tuple[int, int]] | None:
    regions = regions_of(journal.arrays, flow)
    link = journal.arrays.typical_link([region.nodes for region in regions])
    if len(regions) > MOST_REGIONS or link <= 0.0:
        return None
    num_layers = journal.arrays.problem.num_layers
    return row_of_shares(regions, num_layers, flow, band, link, late)


def _path_at(
    journal: Journal, quantile: float, seed: int, flow: float
) -> dict[int, tuple[int, int]] | None:
    regions = regions_of(journal.arrays, flow)
    if len(regions) > MOST_REGIONS:
        return None
    return path_of_stages(journal.arrays, regions, flow, quantile, seed)


def _bisect(
    journal: Journal,
    made_for: Callable[[float], dict[int, tuple[int, int]] | None],
    seed: int,
    late: Callable[[], bool],
) -> None:
    """Offer what is made for flows between the best and the bound, each polished by annealing."""
    low, high = max(journal.value, 0.05 * journal.bound), journal.bound
    flow = high * 0.999 if low > _NEAR * high else math.sqrt(low * high)
    while high - low > _BISECTION * high and not journal.closed() and not late():
        found = made_for(flow)
        reached = 0.0
        if found is not None:
            reached = journal.offer(found)
            if reached < flow * (1.0 - TOLERANCE):
                reached = max(reached, _polish(journal, found, flow, seed))
        low = max(low, reached)
        if reached < flow * (1.0 - TOLERANCE):
            high = flow
        flow = math.sqrt(low * high)


def _polish(journal: Journal, start: dict[int, tuple[int, int]], flow: float, seed: int) -> float:
    few = min(1.0, _FEW_NODES / len(journal.arrays.problem.nodes))
    for moves, most, hot in _POLISH:
        steps = round(most * few)
        start, _ = journal.arrays.improve(
            start, target=flow, steps=steps, seed=seed, hot=hot, cold=0.002, moves=moves
        )
        journal.steps += steps
    return journal.offer(start)


def climb_rows(journal: Journal, seed: int, steps: int, expired: Callable[[], bool]) -> None:
    """Anneal rows of stages from the best placement, towards less where the last goal was missed.

    Where links bind, good plans are rows: lanes in several regions that begin and end together, so
    that a part of the flow changes over at every boundary.
    """
    more, turn, far = _CLIMB, 0, True
    while more > _LEAST_CLIMB and not journal.closed() and not expired():
        if not (start := journal.placement or journal.start):
            return
        target = journal.value * (1.0 + more)
        if far:  # halfway to the bound: what is met on the way counts as well
            low = max(journal.value, 0.05 * journal.bound)
            target = max(target, math.sqrt(low * journal.bound))
        target = min(target, journal.bound)
        found, _ = journal.arrays.improve(
            start, target=target, steps=steps, seed=seed + turn, hot=0.5, cold=0.02, moves="row"
        )
        journal.steps += steps
        turn += 1
        if journal.offer(found) < target * (1.0 - 1e-9):
            more *= 1.0 if far else _CLIMB_SHRINKS
            far = False


def anneal(journal: Journal, seed: int, steps: int, expired: Callable[[], bool]) -> None:
    """Anneal from the best placement towards a little more than it passes, while that helps."""
    turn = missed = 0
    while missed < _MISSES:
        start = journal.placement or journal.start
        if journal.closed() or expired() or not start:
            return
        before = journal.value
        target = min(journal.bound, before * 1.05) if before > 0.0 else journal.bound
        better, _ = journal.arrays.improve(
            start, target=target, steps=steps, seed=seed + turn, hot=0.1, cold=0.002
        )
        journal.steps += steps
        journal.offer(better)
        turn += 1
        if journal.value < target * (1.0 - 1e-9):
            missed += 1
            if journal.value <= before * (1.0 + 1e-4) and turn >= 2:
                return


def regions_at(journal: Journal) -> tuple[Region, ...]:
    """Regions at the bound."""
    return regions_of(journal.arrays, journal.bound)

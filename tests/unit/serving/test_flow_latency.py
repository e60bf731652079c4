"""Layer placement by latency: the fastest route, and most tokens within a limit."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from tests.unit.serving.test_flow import line
from tests.unit.serving.tiny import best_within, least_latency, timed_problem

from optalloc.errors import CertificateError, InputError
from optalloc.result import Termination
from optalloc.serving.flow.certify import certify_flow
from optalloc.serving.flow.certify_latency import certify_latency
from optalloc.serving.flow.latency.fastest import _Search
from optalloc.serving.flow.latency.times import route_latency_s
from optalloc.serving.flow.problem import FlowProblem
from optalloc.serving.flow.solve import place_layers
from optalloc.serving.flow.witness import Begins, Counted, Fastest


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("partial", [False, True])
def test_fastest_route_is_the_fastest_of_all(seed: int, partial: bool) -> None:
    """Value and bound are the least latency over all routes, listed by code of its own."""
    problem = timed_problem(seed, partial=partial)
    least = least_latency(problem)
    result = place_layers(problem, objective="latency")
    if least == float("inf"):
        assert result.termination is Termination.INFEASIBLE
        return
    assert result.termination is Termination.OPTIMAL
    assert result.bounds.primal == pytest.approx(least)
    assert result.bounds.dual == pytest.approx(least)
    (route,) = result.routes
    assert route_latency_s(problem, result.placement, route.nodes) == pytest.approx(least)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("partial", [False, True])
def test_flow_within_a_limit_is_the_most_there_is(seed: int, partial: bool) -> None:
    """Over every placement and a programme of its routes; below the least latency there is none."""
    problem = timed_problem(seed, partial=partial)
    least = least_latency(problem)
    if least == float("inf"):
        return
    for factor in (1.0, 1.4):
        limit_s = least * factor + 1e-9
        result = place_layers(problem, latency_limit_s=limit_s)
        assert result.bounds.primal == pytest.approx(best_within(problem, limit_s), rel=1e-6)
        assert result.termination is Termination.OPTIMAL
        assert result.latency_s is not None
        assert result.latency_s <= limit_s * (1.0 + 1e-9)
    below = place_layers(problem, latency_limit_s=least * 0.9)
    assert below.termination is Termination.INFEASIBLE
    assert f"allow {least:.6g} s" in below.fixes[0].what


def slow_row() -> FlowProblem:
    """Two nodes of T = (10, 4), two layers, links of 1e9 tokens/s that take 3 ms each."""
    problem = line([(10.0, 4.0), (10.0, 4.0)], 2)
    links = tuple(msgspec.structs.replace(link, latency_s=0.003) for link in problem.links)
    return msgspec.structs.replace(problem, links=links)


def test_latency_adds_links_transfers_and_steps() -> None:
    """In a row 3 links and 2 steps of 1/10 s: 0.209 s for 10 tokens/s; alone 2 links and 1/4 s."""
    result = place_layers(slow_row())
    assert result.bounds.primal == 10.0
    assert result.latency_s == pytest.approx(0.209, rel=1e-6)
    quick = place_layers(slow_row(), objective="latency")
    assert quick.bounds.primal == pytest.approx(0.209, rel=1e-6)
    batched = msgspec.structs.replace(slow_row(), batch_tokens=0.01)  # steps of 1 and 2.5 ms
    assert place_layers(batched, objective="latency").bounds.primal == pytest.approx(0.0085)


def test_limit_turns_the_row_into_lanes() -> None:
    """Steps of 1 and 2.5 ms, links of 3 ms: within 10 ms two nodes side by side pass 4 + 4."""
    problem = msgspec.structs.replace(slow_row(), batch_tokens=0.01)
    result = place_layers(problem, latency_limit_s=0.010)
    assert result.bounds.primal == pytest.approx(8.0)
    assert sorted(route.nodes for route in result.routes) == [(0,), (1,)]


def test_unreachable_limit_names_the_least_latency() -> None:
    """5 ms for a route of at least 8.5 ms."""
    problem = msgspec.structs.replace(slow_row(), batch_tokens=0.01)
    result = place_layers(problem, latency_limit_s=0.005)
    assert result.termination is Termination.INFEASIBLE
    assert result.conflict[0] == "no route takes less than 0.0085 s, the limit is 0.005 s"
    assert result.fixes[0].cost == "0.0035 s more"


def test_certifiers_refuse_false_latencies() -> None:
    """A faster route, a higher bound, missing parts, and routes past the limit are found out."""
    problem = msgspec.structs.replace(slow_row(), batch_tokens=0.01)
    result = place_layers(problem, objective="latency")
    latency_s, witness = result.bounds.primal, result.witness
    assert latency_s is not None
    assert isinstance(witness, Counted)
    priced = Begins(windows=(), prices=(0.0, 0.0))  # already exact: no path is better met twice

    def refused(text: str, **claim: object) -> None:
        told = {"latency_s": latency_s, "bound": latency_s, "witness": witness} | claim
        with pytest.raises(CertificateError, match=text):
            certify_latency(problem, result.placement, result.routes, **told)  # type: ignore[arg-type]

    refused("more than", latency_s=latency_s * 0.9)
    refused("faster than", latency_s=latency_s * 1.1, bound=latency_s)
    higher = latency_s * 1.1
    refused("less time", witness=Counted(latency_s=0.001, classes=witness.classes))
    refused("counts do not", witness=Counted(latency_s=higher, classes=witness.classes))
    refused("not the nodes", witness=Counted(latency_s=latency_s, classes=((0,),)))
    refused("leave some", witness=Fastest(latency_s=latency_s, parts=()))
    refused("prices do not", witness=Fastest(latency_s=higher, parts=(priced,)))
    within = place_layers(problem, latency_limit_s=0.010)
    value = within.bounds.primal or 0.0
    with pytest.raises(CertificateError, match="more than"):
        certify_flow(
            problem, within.placement, value=value, latency_limit_s=0.008, routes=within.routes
        )
    doubled = tuple(
        msgspec.structs.replace(route, tokens_per_s=2 * route.tokens_per_s)
        for route in within.routes
    )
    with pytest.raises(CertificateError, match="routes put"):
        certify_flow(
            problem, within.placement, value=2 * value, latency_limit_s=0.010, routes=doubled
        )


def test_a_limit_and_least_latency_are_not_asked_together() -> None:
    """Nor a limit that is no positive time."""
    with pytest.raises(InputError, match="positive time"):
        place_layers(slow_row(), objective="latency", latency_limit_s=1.0)
    with pytest.raises(InputError, match="positive time"):
        place_layers(slow_row(), latency_limit_s=0.0)


def test_interrupted_search_keeps_route_and_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the middle of a shortest path: the best route so far and what is proven then."""
    draw = random.Random(3)
    wide = line([(9.0, 5.0), (7.0, 3.0)] * 10, 16)
    links = tuple(
        msgspec.structs.replace(link, latency_s=draw.uniform(0.01, 1.0)) for link in wide.links
    )
    problem = msgspec.structs.replace(wide, links=links)
    path, calls = _Search._path, 0

    def interrupted(self: _Search, *told: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at:
            raise KeyboardInterrupt
        return path(self, *told)

    monkeypatch.setattr(_Search, "_path", interrupted)
    routes, bounds = [], []
    for at in (1, 60, 160):
        calls = 0
        result = place_layers(problem, objective="latency")
        assert result.termination is Termination.LIMIT
        assert calls == at
        assert result.bounds.primal is not None
        assert result.bounds.dual is not None
        routes.append(result.bounds.primal)
        bounds.append(result.bounds.dual)
    assert max(bounds) <= min(routes)
    assert sorted(routes, reverse=True) == routes

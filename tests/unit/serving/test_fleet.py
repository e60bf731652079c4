"""The cheapest fleet: every claim against trying all counts, and against the published example."""

from __future__ import annotations

import itertools
from pathlib import Path

import msgspec
import numpy as np
import pytest
from benchmarks.fleet_instances import random_fleet
from tests.unit.serving.tiny_fleets import RULES, cheapest, tiny_fleet

from optalloc.errors import CertificateError, NoPlan
from optalloc.result import Termination
from optalloc.serving.mix.account import account_of
from optalloc.serving.mix.arrays import FleetArrays, price_step
from optalloc.serving.mix.certify import certify_fleet
from optalloc.serving.mix.instance import load_fleet
from optalloc.serving.mix.problem import Bucket, FleetProblem, Limit, Offer, Redundancy
from optalloc.serving.mix.relax import Relaxation
from optalloc.serving.mix.result import FleetResult
from optalloc.serving.mix.route import route
from optalloc.serving.mix.search import Search
from optalloc.serving.mix.solve import plan_fleet
from optalloc.serving.mix.totals import Totals
from optalloc.serving.mix.whole import WholeRelaxation
from optalloc.stop import NodeLimit, TimeLimit

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"


@pytest.fixture(scope="module")
def melange() -> FleetProblem:
    """The example of the Mélange artifact: A10G and A100, four sizes, 30 requests/s."""
    return load_fleet(EXAMPLES / "melange.json")


def check_against_all_counts(problem: FleetProblem) -> None:
    """Price, proof and infeasibility against an enumeration that shares no code."""
    most = max(FleetArrays(problem).high.tolist())
    if (most + 1) ** len(problem.offers) > 3000:
        pytest.skip("too many counts to try")
    best = cheapest(problem, most)
    result = plan_fleet(problem)
    if best is None:
        assert result.termination is Termination.INFEASIBLE
        assert result.conflict
        assert result.fixes
    else:
        assert result.termination is Termination.OPTIMAL
        assert result.bounds.gap == 0.0
        assert result.bounds.primal == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize("redundancy", RULES)
@pytest.mark.parametrize("seed", range(24))
def test_search_equals_the_cheapest_of_all_counts(seed: int, redundancy: Redundancy) -> None:
    """Under every rule of failures."""
    check_against_all_counts(tiny_fleet(seed, redundancy))


def test_example_of_melange_costs_4_68_at_full_load(melange: FleetProblem) -> None:
    """By hand: of 6, 3, 15, 6 requests/s the A100 serves 6/20 + 3/20 + 10/40 + 6/20 = 1 and the
    A10G the other 5 of the third size at 5 a second; slices that cannot be shared cost 6.70.
    """
    result = plan_fleet(melange)
    assert result.counts == (1, 1)
    assert result.bounds.primal == pytest.approx(4.68)
    assert result.bounds.gap == 0.0
    assert result.headroom == pytest.approx(0.0, abs=1e-9)
    assert result.busiest == pytest.approx(1.0)


def test_headroom_costs_another_replica(melange: FleetProblem) -> None:
    """At 95 % of the time the pair is not enough."""
    result = plan_fleet(msgspec.structs.replace(melange, utilization=0.95))
    assert result.bounds.primal == pytest.approx(5.69)
    assert (result.busiest or 1.0) <= 0.95 + 1e-9


def test_one_gpu_is_shared_by_all_units_that_use_it() -> None:
    """Nine GPUs: four replicas of tp 2 take eight, and the ninth is left for a single one."""
    big = Offer(name="tp2", device="h", devices=2, price_usd_per_h=2.0, requests_per_s=(3.0,))
    one = Offer(name="tp1", device="h", price_usd_per_h=1.5, requests_per_s=(1.0,))
    problem = FleetProblem(
        buckets=(Bucket(input_len=1, output_len=1, rate_per_s=13.0),),
        offers=(big, one),
        limits=(Limit(device="h", devices=9),),
    )
    assert plan_fleet(problem).counts == (4, 1)
    tight = msgspec.structs.replace(problem, limits=(Limit(device="h", devices=8),))
    result = plan_fleet(tight)
    assert result.termination is Termination.INFEASIBLE
    assert result.conflict == ("at most 8 h",)
    assert result.fixes[0].what == "raise the limit of 8 h to 9"
    with pytest.raises(NoPlan, match="at most 8 h"):
        _ = result.counts


@pytest.mark.parametrize("seed", range(24))
def test_whole_replicas_search_equals_the_cheapest_of_all_counts(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search that many kinds get, on fleets of few."""
    monkeypatch.setattr("optalloc.serving.mix.search._MANY", 1)
    check_against_all_counts(tiny_fleet(seed))


def test_kernel_bounds_are_linear_programmes() -> None:
    """Broken counts serve every bucket where that is cheapest; whole ones cost more, never above
    the best fleet.
    """
    for seed in range(6):
        problem = random_fleet(seed, 25, 4)
        arrays = FleetArrays(problem)
        cheapest_way = sum(
            min(
                bucket.rate_per_s / offer.requests_per_s[j] * offer.price_usd_per_h
                for offer in problem.offers
                if offer.requests_per_s[j] > 0.0
            )
            for j, bucket in enumerate(problem.buckets)
        )
        box = (*arrays.root(), float("inf"))
        broken, whole = Relaxation(arrays), WholeRelaxation(arrays)
        assert broken.box(*box).bound == pytest.approx(cheapest_way, rel=1e-8)
        assert whole.box(*box, rounds=0).bound == pytest.approx(cheapest_way, rel=1e-8)
        search = Search(arrays)
        search.run()
        assert cheapest_way < whole.box(*box).bound <= search.value * (1.0 + 1e-9)


@pytest.mark.parametrize("redundancy", RULES)
def test_large_fleet_is_proven(redundancy: Redundancy) -> None:
    """120 buckets and 6 devices in two regions each, with caps."""
    problem = random_fleet(1, 120, 6, regions=2, redundancy=redundancy, utilization=0.8)
    result = plan_fleet(problem)
    assert result.termination is Termination.OPTIMAL
    assert (result.headroom or 0.0) >= -1e-8


def test_offers_that_serve_alike_fail_as_one() -> None:
    """6 devices in four regions each, with caps: totals of kinds decide, in few boxes."""
    problem = random_fleet(0, 60, 6, regions=4, capped=True, redundancy="replica", utilization=0.8)
    result = plan_fleet(problem, stop=NodeLimit(1000))
    assert result.termination is Termination.OPTIMAL
    dearer = msgspec.structs.replace(problem, redundancy="replica-of-each")
    freer = msgspec.structs.replace(problem, redundancy="none")
    prices = [plan_fleet(p).bounds.primal or 0.0 for p in (freer, problem, dearer)]
    assert prices == sorted(prices)


@pytest.mark.parametrize("seed", range(40))
def test_totals_of_kinds_bound_every_count_of_a_box(seed: int) -> None:
    """The least over all counts is met where a kind fails as one, and no good total is lost."""
    redundancy: Redundancy = "replica" if seed % 2 else "replica-of-each"
    arrays = FleetArrays(tiny_fleet(seed, redundancy))
    offers, draw = len(arrays.price), np.random.default_rng(seed)
    low = draw.integers(0, 2, offers)
    low, high = arrays.box(low, low + draw.integers(0, 4, offers))
    slope = draw.normal(0.0, 1.0, offers)
    step = draw.exponential(1.0, len(arrays.owner))
    found: dict[tuple[int, ...], float] = {}
    for counts in itertools.product(*(range(low[g], high[g] + 1) for g in range(offers))):
        y = np.array(counts)
        total = tuple(int(y[m].sum()) for m in arrays.members)
        added = float(slope @ y + step @ arrays.there(y))
        found[total] = min(added, found.get(total, added))
    least = Totals(arrays).least(slope, step, low, high)
    assert least <= min(found.values()) + 1e-9
    if redundancy == "replica":
        assert least == pytest.approx(min(found.values()))
    first, last = Totals(arrays).narrowed(slope, step, low, high, 0.7)
    for total, added in found.items():
        if added <= least + 0.7 - 1e-9:
            assert (first[offers:] <= total).all()
            assert (total <= last[offers:]).all()


@pytest.mark.parametrize("kinds", [8, 12])
def test_stopped_search_keeps_a_fleet_and_a_valid_bound(kinds: int) -> None:
    """After five boxes the bound is below the optimum and the fleet above it."""
    problem = random_fleet(0, 60, kinds)
    best = plan_fleet(problem).bounds.primal
    result = plan_fleet(problem, stop=NodeLimit(5))
    assert result.termination is Termination.LIMIT
    assert best is not None
    assert result.bounds.primal is not None
    assert result.bounds.dual is not None
    assert result.bounds.dual <= best <= result.bounds.primal + 1e-9


def test_stop_rule_holds_for_the_search_for_what_would_help() -> None:
    """No fleet survives a region; the eight caps that conflict are all still named."""
    problem = random_fleet(506, 30, 8, regions=2, capped=True, redundancy="region")
    stopped, free = plan_fleet(problem, stop=NodeLimit(0)), plan_fleet(problem)
    assert stopped.termination is free.termination is Termination.INFEASIBLE
    assert set(free.conflict) <= set(stopped.conflict)
    assert "the fleet then costs" in free.fixes[0].cost
    assert not any(fix.cost for fix in stopped.fixes)


def test_search_without_time_still_finds_a_fleet() -> None:
    """The box of all counts is bounded, and a fleet made by rounding, before time counts."""
    result = plan_fleet(random_fleet(0, 60, 8), stop=TimeLimit(0.0))
    assert result.termination is Termination.LIMIT
    assert 0.0 < result.bounds.gap < 0.2


def test_more_capacity_never_costs_more() -> None:
    """A faster offer, a lower rate, and a cap lifted."""
    for seed in range(30):
        problem = tiny_fleet(seed)
        price = plan_fleet(problem).bounds.primal
        if price is None:
            continue
        offers = tuple(
            msgspec.structs.replace(
                o, requests_per_s=tuple(2.0 * r for r in o.requests_per_s), at_most=None
            )
            for o in problem.offers
        )
        easier = plan_fleet(msgspec.structs.replace(problem, offers=offers, limits=()))
        assert (easier.bounds.primal or 0.0) <= price + 1e-9


@pytest.fixture(scope="module")
def solved() -> tuple[FleetProblem, FleetResult]:
    """A problem whose proof has a tree."""
    problem = random_fleet(3, 40, 5)
    return problem, plan_fleet(problem)


def _certify(problem: FleetProblem, result: FleetResult, **changes: float) -> None:
    assert result.routes is not None
    certify_fleet(
        problem,
        result.counts,
        result.routes.shares,
        value_usd_per_h=changes.get("value", result.bounds.primal or 0.0),
        bound_usd_per_h=changes.get("bound", result.bounds.dual or 0.0),
        witness=result.witness,
    )


def test_certificate_refuses_what_is_not_so(solved: tuple[FleetProblem, FleetResult]) -> None:
    """A price, a bound, a load and a proof that were tampered with."""
    problem, result = solved
    _certify(problem, result)
    value = result.bounds.primal or 0.0
    with pytest.raises(CertificateError, match="costs"):
        _certify(problem, result, value=0.99 * value)
    with pytest.raises(CertificateError, match="above the price"):
        _certify(problem, result, bound=1.01 * value)
    more = tuple(msgspec.structs.replace(b, rate_per_s=1.1 * b.rate_per_s) for b in problem.buckets)
    with pytest.raises(CertificateError, match="beyond its time"):
        _certify(msgspec.structs.replace(problem, buckets=more), result)
    assert result.witness is not None
    proofs = tuple(msgspec.structs.replace(p, prices=()) for p in result.witness.proofs)
    broken = msgspec.structs.replace(result.witness, proofs=proofs)
    with pytest.raises(CertificateError, match="does not exclude"):
        _certify(problem, msgspec.structs.replace(result, witness=broken))
    moved = tuple(
        msgspec.structs.replace(node, at=node.at - 1) if node.offer is not None else node
        for node in result.witness.nodes
    )
    torn = msgspec.structs.replace(result.witness, nodes=moved)
    with pytest.raises(CertificateError, match="does not exclude"):
        _certify(problem, msgspec.structs.replace(result, witness=torn))
    faster = tuple(
        msgspec.structs.replace(o, price_usd_per_h=0.5 * o.price_usd_per_h) for o in problem.offers
    )
    with pytest.raises(CertificateError):
        _certify(msgspec.structs.replace(problem, offers=faster), result, value=value / 2.0)


def test_certificate_refuses_values_that_replicas_earn_more_from() -> None:
    """Values of the buckets one per cent up, at the same prices of replicas."""
    problem = random_fleet(3, 40, 12)
    result = plan_fleet(problem)
    assert result.witness is not None
    _certify(problem, result)
    proofs = tuple(
        msgspec.structs.replace(
            proof,
            prices=tuple(
                msgspec.structs.replace(one, values=tuple(1.01 * value for value in one.values))
                for one in proof.prices
            ),
        )
        for proof in result.witness.proofs
    )
    assert any(one.values for proof in proofs for one in proof.prices)
    broken = msgspec.structs.replace(result.witness, proofs=proofs)
    with pytest.raises(CertificateError, match="does not exclude"):
        _certify(problem, msgspec.structs.replace(result, witness=broken))


def test_shares_fill_no_offer_and_serve_all(solved: tuple[FleetProblem, FleetResult]) -> None:
    """Added up by hand."""
    problem, result = solved
    used = np.zeros(len(problem.offers))
    parts = np.zeros(len(problem.buckets))
    assert result.routes is not None
    for share in result.routes.shares:
        offer, bucket = problem.offers[share.offer], problem.buckets[share.bucket]
        used[share.offer] += share.part * bucket.rate_per_s / offer.requests_per_s[share.bucket]
        parts[share.bucket] += share.part
    assert np.allclose(parts, 1.0)
    assert (used <= np.array(result.counts) + 1e-8).all()


def test_account_names_the_next_fleets(melange: FleetProblem) -> None:
    """The pair binds in both; 0.01 % more load takes another A10G; A10G alone are twelve."""
    account = account_of(melange, (1, 1))
    assert "A10G, A100-80GB" in account.binds[0]
    assert account.next_load.price_usd_per_h == pytest.approx(5.69)
    by_name = {other.what: other for other in account.others}
    assert by_name["the next-best mix"].counts == (0, 2)
    assert by_name["A10G alone"].counts == (12, 0)


def test_account_prices_a_cap(melange: FleetProblem) -> None:
    """Without A100 beyond one and A10G beyond none the load needs what is capped."""
    capped = tuple(msgspec.structs.replace(o, at_most=2) for o in melange.offers)
    problem = msgspec.structs.replace(melange, offers=capped, utilization=0.9)
    counts = plan_fleet(problem).counts
    assert counts == (2, 1)
    assert account_of(problem, counts).scarce == ()


def test_price_step_is_the_common_divisor() -> None:
    """1.01 and 3.67 are multiples of a cent, 1.5 and 2.25 of 75 cents."""
    offers = [
        Offer(name=str(p), price_usd_per_h=p, requests_per_s=(1.0,))
        for p in (1.01, 3.67, 1.5, 2.25)
    ]
    bucket = (Bucket(input_len=1, output_len=1, rate_per_s=1.0),)
    assert price_step(FleetProblem(buckets=bucket, offers=tuple(offers[:2]))) * 100 == 1
    assert price_step(FleetProblem(buckets=bucket, offers=tuple(offers[2:]))) * 4 == 3


def test_bucket_without_server_is_named() -> None:
    """No proof is needed, and the size is in the reason."""
    problem = FleetProblem(
        buckets=(Bucket(input_len=64, output_len=8, rate_per_s=1.0),),
        offers=(Offer(name="e", price_usd_per_h=1.0, requests_per_s=(0.0,)),),
    )
    result = plan_fleet(problem)
    assert result.termination is Termination.INFEASIBLE
    assert "64 + 8 tokens" in result.conflict[0]


def test_routes_split_the_busiest_load_evenly(melange: FleetProblem) -> None:
    """With twice the replicas each is half as busy."""
    routes = route(melange, (2, 2), FleetArrays(melange).scenarios[0])
    assert routes.busy == pytest.approx(0.5)

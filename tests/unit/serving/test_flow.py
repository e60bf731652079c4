"""Layer placement: every claim against trying everything, and against the published instances."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import pytest
from tests.unit.serving.tiny import best_flow, score, tiny_problem

from optalloc.errors import CertificateError, InputError, NoPlan
from optalloc.result import Termination
from optalloc.serving.flow.arrays import FlowArrays
from optalloc.serving.flow.certify import certify_flow
from optalloc.serving.flow.covers import layer_token_bound
from optalloc.serving.flow.crossings import bound_by_crossings
from optalloc.serving.flow.fitting import cover_by_fitting, fitting_stages
from optalloc.serving.flow.instance import load_flow, save_flow
from optalloc.serving.flow.kinds import kinds_of
from optalloc.serving.flow.network import routes
from optalloc.serving.flow.problem import FlowLink, FlowNode, FlowProblem
from optalloc.serving.flow.regions import regions_of
from optalloc.serving.flow.solve import place_layers
from optalloc.serving.flow.stages import best_chain, in_a_row
from optalloc.serving.flow.witness import Covers, Ends, Everything, LayerTokens
from optalloc.stop import Progress


def line(tables: list[tuple[float, ...]], num_layers: int, link: float = 1e9) -> FlowProblem:
    """Nodes that all meet over links of one capacity, tokens/s."""
    ends = [None, *range(len(tables))]
    return FlowProblem(
        num_layers=num_layers,
        token_bytes=1,
        activation_bytes=1,
        nodes=tuple(FlowNode(type="x", throughput_tokens_per_s=table) for table in tables),
        links=tuple(
            FlowLink(begin=a, end=b, bandwidth_bytes_per_s=link)
            for a in ends
            for b in [*range(len(tables)), None]
            if a != b
        ),
    )


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("partial", [False, True])
def test_answer_equals_the_best_of_all_placements(seed: int, linked: bool, partial: bool) -> None:
    """Value and bound are the optimum of an enumeration that shares no code."""
    problem = tiny_problem(seed, linked=linked, partial=partial)
    best = best_flow(problem)
    result = place_layers(problem)
    assert (result.bounds.primal or 0.0) == pytest.approx(best, rel=1e-6, abs=1e-9)
    if best > 0.0:
        assert result.termination is Termination.OPTIMAL
        assert result.bounds.dual == pytest.approx(best, rel=1e-6)
    else:
        assert result.termination is Termination.INFEASIBLE


@pytest.mark.parametrize("seed", range(40))
def test_native_flow_equals_the_reference(seed: int) -> None:
    """The kernel, the router and the oracle agree on random placements, partial or not."""
    problem = tiny_problem(seed, linked=True, partial=seed % 2 == 0)
    draw = np.random.default_rng(seed)
    ranges: list[tuple[int, int] | None] = []
    for node in problem.nodes:
        k = int(draw.integers(1, min(node.max_layers, problem.num_layers) + 1))
        first = int(draw.integers(0, problem.num_layers - k + 1))
        ranges.append(None if draw.random() < 0.1 else (first, first + k))
    placement = {i: held for i, held in enumerate(ranges) if held is not None}
    expected = score(problem, tuple(ranges))
    assert FlowArrays(problem).value(placement) == pytest.approx(expected, abs=1e-9)
    found = routes(problem, placement)
    assert found.flow_tokens_per_s == pytest.approx(expected, abs=1e-9)
    room = sum(
        problem.nodes[n].throughput_tokens_per_s[placement[n][1] - placement[n][0] - 1]
        for n in found.cut.nodes
    )
    capacity = {(k.begin, k.end): k.bandwidth_bytes_per_s for k in problem.links}
    room += sum(capacity[ends] for ends in found.cut.links)
    assert room == pytest.approx(expected, abs=1e-9), "the cut holds exactly the flow"


def test_two_equal_nodes_in_a_row() -> None:
    """T(1) = 10, T(2) = 4: two nodes for two layers pass 10 in a row and 8 side by side."""
    result = place_layers(line([(10.0, 4.0), (10.0, 4.0)], 2))
    assert result.bounds.primal == 10.0
    assert result.bounds.gap == 0.0
    assert sorted(result.placement.values()) == [(0, 1), (1, 2)]


def test_latency_is_that_of_the_slowest_route() -> None:
    """Two nodes in a row over links of 3 ms: source, node, node, sink are three links, 9 ms."""
    problem = line([(10.0, 4.0), (10.0, 4.0)], 2)
    slow = tuple(msgspec.structs.replace(link, latency_s=0.003) for link in problem.links)
    result = place_layers(msgspec.structs.replace(problem, links=slow))
    assert result.link_latency_s == pytest.approx(0.009)


def test_narrow_links_turn_the_row_into_lanes() -> None:
    """A link of 3 between the two nodes: side by side 4 + 4 beats 3 in a row."""
    problem = line([(10.0, 4.0), (10.0, 4.0)], 2)
    narrow = tuple(
        msgspec.structs.replace(link, bandwidth_bytes_per_s=3.0)
        if link.begin is not None and link.end is not None
        else link
        for link in problem.links
    )
    result = place_layers(msgspec.structs.replace(problem, links=narrow))
    assert result.bounds.primal == 8.0
    assert result.cut is not None
    assert result.cut.nodes == (0, 1)


def test_partial_inference_lets_a_token_join_in_the_middle() -> None:
    """Layers 0-1 on a node of 2 layers and 1 on one: 3 layers on (0, 2) and (1, 3) pass only so."""
    tables: list[tuple[float, ...]] = [(0.0, 5.0), (0.0, 5.0)]
    alone = line(tables, 3)
    assert place_layers(alone).termination is Termination.INFEASIBLE
    joined = msgspec.structs.replace(alone, partial_inference=True)
    result = place_layers(joined)
    assert result.bounds.primal == 5.0
    assert result.termination is Termination.OPTIMAL


def test_too_few_layers_says_how_many_are_lacking() -> None:
    """Two nodes of 2 layers cannot hold 5."""
    result = place_layers(line([(3.0, 2.0), (3.0, 2.0)], 5))
    assert result.termination is Termination.INFEASIBLE
    assert result.conflict == ("all 2 nodes together hold 4 layers, the model has 5",)
    assert result.fixes[0].cost == "1 more layer"
    with pytest.raises(NoPlan, match="4 layers"):
        _ = result.placement


def test_no_source_link_is_named() -> None:
    """Without a link from the source nothing can flow, and the answer says so."""
    problem = line([(3.0,)], 1)
    cut = tuple(link for link in problem.links if link.begin is not None)
    result = place_layers(msgspec.structs.replace(problem, links=cut))
    assert result.termination is Termination.INFEASIBLE
    assert "source" in result.conflict[0]


@pytest.mark.parametrize("seed", range(40))
def test_a_row_is_a_placement_that_passes_what_is_said(seed: int) -> None:
    """Ranges that are equal or apart, of the flow returned, never below that of the start."""
    problem = tiny_problem(seed, linked=True, partial=seed % 2 == 0)
    arrays = FlowArrays(problem)
    start = {0: (0, 1)}
    found, flow = arrays.improve(
        start, target=100.0, steps=400, seed=seed, hot=0.5, cold=0.02, moves="row"
    )
    assert flow >= arrays.value(start)
    assert flow == pytest.approx(
        score(problem, tuple(found.get(i) for i in range(len(problem.nodes)))), abs=1e-9
    )
    for one in found.values():
        for other in found.values():
            assert one == other or one[1] <= other[0] or other[1] <= one[0]
    assert flow <= best_flow(problem) * (1.0 + 1e-9)


def test_a_row_of_lanes_in_two_regions_beats_a_chain_over_narrow_links(shared_data: Path) -> None:
    """Three regions with links of 8 times less: from 80 tokens/s of the chain to above 1000."""
    path = shared_data / "serving" / "helix" / "instance_geo24_llama70b.json"
    problem = load_flow(path)
    narrow = tuple(
        msgspec.structs.replace(link, bandwidth_bytes_per_s=link.bandwidth_bytes_per_s / 8.0)
        for link in problem.links
    )
    arrays = FlowArrays(msgspec.structs.replace(problem, links=narrow))
    _, chain = best_chain(kinds_of(problem), problem.num_layers)
    start = in_a_row(kinds_of(problem), problem.num_layers, chain)
    assert arrays.value(start) < 100.0
    _, flow = arrays.improve(
        start, target=1000.0, steps=200_000, seed=0, hot=0.5, cold=0.02, moves="row"
    )
    assert flow >= 1000.0


@pytest.mark.parametrize("seed", range(20))
def test_fitting_stages_pass_the_flow_they_are_made_for(seed: int) -> None:
    """On 8 nodes of tables of their own: wherever stages are found, the flow is passed."""
    draw = np.random.default_rng(seed)
    tables = [tuple(9.0 * draw.uniform(0.7, 1.3) / k**1.2 for k in range(1, 5)) for _ in range(8)]
    problem = line(tables, 8)
    arrays = FlowArrays(problem)
    flows = [flow for flow in (3.0, 5.0, 7.0) if cover_by_fitting(arrays.throughput, 8, flow, 50)]
    assert flows
    for flow in flows:
        placement = cover_by_fitting(arrays.throughput, 8, flow, 50)
        assert placement is not None
        assert arrays.value(placement) >= flow * (1.0 - 1e-9)


def test_fitting_puts_two_that_just_sum_up_side_by_side() -> None:
    """Rates 6, 4 and 9 at flow 10 over one layer: the pair that loses nothing; lanes of two nodes
    beside one for two layers."""
    stages = fitting_stages(np.array([[6.0], [4.0], [9.0]]), 10.0)
    assert stages[0] == (1, ((1, 0, 1), (0, 0, 1)))
    beside = fitting_stages(np.array([[5.0, 5.0], [5.0, -1.0], [5.0, -1.0]]), 10.0)
    assert (2, ((0, 0, 2), (1, 0, 1), (2, 1, 2))) in beside


def test_equal_seeds_give_equal_answers() -> None:
    """Nothing depends on time while no limit is given."""
    problem = tiny_problem(3, linked=True)
    assert place_layers(problem, seed=4).placed == place_layers(problem, seed=4).placed


def test_regions_are_split_by_narrow_links() -> None:
    """Two pairs joined by links of 1 token/s are two regions."""
    problem = line([(10.0, 4.0)] * 4, 4)
    links = tuple(
        msgspec.structs.replace(link, bandwidth_bytes_per_s=1.0)
        if None not in (link.begin, link.end) and (link.begin in (0, 1)) != (link.end in (0, 1))
        else link
        for link in problem.links
    )
    arrays = FlowArrays(msgspec.structs.replace(problem, links=links))
    assert [region.nodes for region in regions_of(arrays, 10.0)] == [(0, 1), (2, 3)]


@pytest.mark.parametrize("seed", range(2))
def test_bound_across_narrow_links_is_never_below_the_optimum(seed: int) -> None:
    """Two regions of four nodes: a bound is found, above the best, and checked anew."""
    draw = random.Random(seed)
    tables = [(speed, round(speed / 2.2, 2)) for speed in draw.sample([5.0, 8.0, 12.0], 2)]
    problem = line([draw.choice(tables) for _ in range(4)], 4)
    wall = [(0, 0, 1, 1), (0, 1, 1, 1)][seed]
    links = tuple(
        msgspec.structs.replace(link, bandwidth_bytes_per_s=0.5)
        if None not in (link.begin, link.end) and wall[link.begin or 0] != wall[link.end or 0]
        else link
        for link in problem.links
    )
    problem = msgspec.structs.replace(problem, links=links, partial_inference=seed == 0)
    groups = [[i for i in range(4) if wall[i] == group] for group in (0, 1)]
    result = place_layers(problem)
    best = result.bounds.primal or 0.0
    assert best == pytest.approx(best_flow(problem))
    ceiling = layer_token_bound(kinds_of(problem), problem.num_layers)
    flow, witness = bound_by_crossings(
        FlowArrays(problem), groups, 0.5 * best, ceiling, tolerance=1e-2, expired=lambda: False
    )
    assert best * (1.0 - 1e-9) <= flow < ceiling
    certify_flow(problem, result.placement, value=best, bound=flow, witness=witness)


def _proven() -> tuple[FlowProblem, dict[int, tuple[int, int]], float, Covers]:
    problem = line([(9.0, 5.0)] * 3, 4)
    result = place_layers(problem)
    assert isinstance(result.witness, Covers)
    assert result.bounds.primal is not None
    return problem, result.placement, result.bounds.primal, result.witness


def test_certifier_refuses_what_is_not_true() -> None:
    """A larger flow, a lower bound, cut prices, missing parts and foreign groups are all found."""
    problem, placement, value, witness = _proven()
    bound = witness.flow_tokens_per_s
    certify_flow(problem, placement, value=value, bound=bound, witness=witness)
    lower = value * 0.9

    def refused(text: str, **claim: object) -> None:
        told = {"value": value, "bound": bound, "witness": witness} | claim
        with pytest.raises(CertificateError, match=text):
            certify_flow(problem, placement, **told)  # type: ignore[arg-type]

    refused("passes", value=value * 1.01)
    refused("below", bound=lower)
    refused(
        "more flow",
        bound=value,
        witness=msgspec.structs.replace(witness, flow_tokens_per_s=2 * value),
    )
    refused(
        "prices do not forbid", witness=msgspec.structs.replace(witness, flow_tokens_per_s=lower)
    )
    refused("leave some counts out", witness=msgspec.structs.replace(witness, parts=()))
    part = witness.parts[0]
    fewer = msgspec.structs.replace(part, items=part.items[1:], prices=part.prices[1:])
    refused("leave out some number", witness=msgspec.structs.replace(witness, parts=(fewer,)))
    refused("groups", witness=msgspec.structs.replace(witness, groups=((0, 1),)))
    refused("without anything", witness=None)
    refused("supply more", witness=LayerTokens(flow_tokens_per_s=lower))
    refused("passes more", witness=Everything(flow_tokens_per_s=lower, branches=10**6))
    with pytest.raises(CertificateError, match="cannot hold"):
        certify_flow(problem, {**placement, 0: (0, 4)}, value=value)


@pytest.mark.parametrize("side", ["source", "sink"])
def test_no_more_flows_than_enters_or_leaves(side: Literal["source", "sink"]) -> None:
    """Nodes pass 9 tokens/s with a layer each; links of 2 and 3 to two of them let 5 through."""
    wide = line([(9.0, 4.0)] * 4, 2)
    kept = [k for k in wide.links if (k.begin if side == "source" else k.end) is not None]
    ends = [(None, node) if side == "source" else (node, None) for node in (0, 1)]
    few = [
        FlowLink(begin=a, end=b, bandwidth_bytes_per_s=rate)
        for (a, b), rate in zip(ends, (2.0, 3.0), strict=True)
    ]
    problem = msgspec.structs.replace(wide, links=(*kept, *few))
    result = place_layers(problem)
    assert result.termination is Termination.OPTIMAL
    assert result.bounds.primal == pytest.approx(5.0)
    assert result.witness == Ends(flow_tokens_per_s=5.0, side=side)
    with pytest.raises(CertificateError, match=f"links of the {side}"):
        certify_flow(
            problem, {}, value=0.0, bound=4.0, witness=Ends(flow_tokens_per_s=4.0, side=side)
        )
    other: Literal["source", "sink"] = "sink" if side == "source" else "source"
    with pytest.raises(CertificateError, match=f"links of the {other}"):
        certify_flow(
            problem, {}, value=0.0, bound=5.0, witness=Ends(flow_tokens_per_s=5.0, side=other)
        )


def test_file_is_read_back(tmp_path: Path) -> None:
    """Saving and loading is the identity, links of one direction included."""
    problem = tiny_problem(8, linked=True, partial=True)
    save_flow(problem, tmp_path / "i.json")
    again = load_flow(tmp_path / "i.json")
    assert again.nodes == problem.nodes
    assert again.partial_inference
    room = {(k.begin, k.end): k.bandwidth_bytes_per_s for k in problem.links}
    back = {(k.begin, k.end): k.bandwidth_bytes_per_s for k in again.links}
    assert {ends: value for ends, value in back.items() if value > 0.0} == room


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_layers": 0}, "num_layers is 0"),
        ({"nodes": [{"type": "a", "max_layers": 3, "throughput": [1.0]}]}, "max_layers is 3"),
        ({"links": [["source", 7, 1.0, 0.0]]}, "not there"),
        ({"links": [["sink", 0, 1.0, 0.0]]}, "no end of a link"),
        ({"nodes": [{"type": "a", "throughput": [-1.0]}]}, "negative"),
        ({"link_units": "furlongs"}, "Invalid enum"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, change: dict[str, object], words: str) -> None:
    """What is wrong, in which file, and where."""
    good: dict[str, object] = {
        "num_layers": 1,
        "activation_bytes": 4,
        "nodes": [{"type": "a", "throughput": [1.0]}],
        "links": [["source", 0, 1.0, 0.0], [0, "sink", 1.0, 0.0]],
    }
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(good | change), encoding="utf-8")
    with pytest.raises(InputError, match=words) as caught:
        load_flow(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cluster10_llama30b", 286.5874),
        ("single24_llama70b", 2045.641),
        ("single_a100_llama30b", 1044.533),
        ("single_l4_llama30b", 252.6498),
        ("single_t4_llama30b", 397.6851),
    ],
)
def test_published_instances_are_proven_optimal(shared_data: Path, name: str, value: float) -> None:
    """The Helix artifact's instances with uniform links: value, and a bound that meets it."""
    path = shared_data / "serving" / "helix" / f"instance_{name}.json"
    result = place_layers(load_flow(path))
    assert result.termination is Termination.OPTIMAL
    assert result.bounds.primal == pytest.approx(value, rel=1e-6)


def test_ctrl_c_keeps_the_best_placement_and_bound() -> None:
    """It comes while the search goes on, once something was found."""
    problem = tiny_problem(3, linked=True)

    def press(progress: Progress) -> None:
        if progress.incumbent is not None:
            raise KeyboardInterrupt

    result = place_layers(problem, on_progress=press)
    assert result.bounds.primal is not None
    assert result.bounds.dual is not None
    assert result.bounds.primal <= best_flow(problem) * (1.0 + 1e-6)
    assert result.bounds.dual >= best_flow(problem) * (1.0 - 1e-6)

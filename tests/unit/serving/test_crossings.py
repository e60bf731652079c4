"""The bound that sees narrow links: never below the optimum, sharper than covers, and checked."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec
import pytest
from tests.unit.serving.tiny import best_flow, tiny_problem, walled_problem

from optalloc.errors import CertificateError
from optalloc.serving.flow.arrays import FlowArrays
from optalloc.serving.flow.certify import certify_flow
from optalloc.serving.flow.covers import layer_token_bound
from optalloc.serving.flow.crossings import SplitProgramme, border_of, bound_by_crossings
from optalloc.serving.flow.enumerate import enumerate_placements
from optalloc.serving.flow.instance import load_flow
from optalloc.serving.flow.journal import Journal
from optalloc.serving.flow.kinds import kinds_of
from optalloc.serving.flow.problem import FlowLink, FlowNode, FlowProblem
from optalloc.serving.flow.solve import place_layers
from optalloc.serving.flow.witness import Crossings, LayerTokens


def two_sites(link: float) -> FlowProblem:
    """Four nodes that pass 10 over one layer and 4 over two, at two sites joined by ``link``."""
    ends = [None, 0, 1, 2, 3]
    return FlowProblem(
        num_layers=4,
        token_bytes=1,
        activation_bytes=1,
        nodes=(FlowNode(type="x", throughput_tokens_per_s=(10.0, 4.0)),) * 4,
        links=tuple(
            FlowLink(
                begin=a,
                end=b,
                bandwidth_bytes_per_s=link
                if a is not None and b is not None and (a < 2) != (b < 2)
                else 1e6,
            )
            for a in ends
            for b in [0, 1, 2, 3, None]
            if a != b and (a is not None or b is not None)
        ),
    )


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("partial", [False, True])
def test_bound_is_never_below_the_optimum(seed: int, partial: bool) -> None:
    """Whatever the groups are, links and partial inference included."""
    problem = tiny_problem(seed, linked=True, partial=partial)
    best = best_flow(problem)
    if best <= 0.0:
        pytest.skip("nothing flows here")
    draw = random.Random(seed)
    nodes = list(range(len(problem.nodes)))
    draw.shuffle(nodes)
    width = 2 if len(nodes) == 2 else draw.choice([2, 3])
    tokens = layer_token_bound(kinds_of(problem), problem.num_layers)
    bound, witness = bound_by_crossings(
        FlowArrays(problem),
        [nodes[i::width] for i in range(width)],
        best * 0.5,
        tokens,
        tolerance=0.05,
        expired=lambda: False,
    )
    assert bound >= best * (1.0 - 1e-9)
    if witness is not None:
        certify_flow(problem, {}, value=0.0, bound=bound, witness=witness)


@pytest.mark.parametrize("seed", [32, 48, 50, 81, 82, 96, 97, 106, 112, 120, 123, 125, 130, 137])
def test_no_prices_forbid_what_a_placement_passes(seed: int) -> None:
    """Behind narrow links, one part in a million below the optimum; at most of these clusters half
    the room between regions, or twice the cost of a walk, would forbid it."""
    problem, groups = walled_problem(seed)
    journal = Journal(FlowArrays(problem), None, None)
    journal.lower(tokens := layer_token_bound(kinds_of(problem), problem.num_layers), LayerTokens(
        flow_tokens_per_s=tokens
    ))  # fmt: skip
    assert enumerate_placements(journal, 10_000)
    assert journal.value > 0.0
    for group in groups:
        border = border_of(journal.arrays, group, lambda: False)
        programme = SplitProgramme(
            problem.num_layers, problem.partial_inference, border, journal.value * (1.0 - 1e-6)
        )
        assert programme.refute(lambda: False) is None


def test_narrow_links_between_sites_lower_the_bound() -> None:
    """In a row all four pass 10, and links of 4 forbid it: the bound falls to the best."""
    problem = two_sites(4.0)
    arrays, best = FlowArrays(problem), best_flow(problem)
    assert best == pytest.approx(8.0)  # two chains of two nodes, one at each site
    bound, witness = bound_by_crossings(
        arrays, [(0, 1), (2, 3)], best, 10.0, tolerance=1e-3, expired=lambda: False
    )
    assert bound == pytest.approx(best, rel=2e-3)  # which two nodes at one end cannot pass either
    assert bound >= best * (1.0 - 1e-9)
    assert witness is not None
    certify_flow(problem, {}, value=0.0, bound=bound, witness=witness)

    def refused(text: str, **other: object) -> None:
        claim = msgspec.structs.replace(witness, **other)
        with pytest.raises(CertificateError, match=text):
            certify_flow(problem, {}, value=0.0, bound=bound, witness=claim)

    refused("both sides", region=(0, 1, 2))
    refused("not there", region=(0, 1, 7))
    refused("grid", cells=0)
    refused("do not grow", sizes=witness.sizes[::-1])
    refused("price of a size", size_prices=(witness.size_prices[0], ()))
    refused("negative", size_prices=((-1.0,) * len(witness.sizes), witness.size_prices[1]))
    refused("do not forbid", flow_tokens_per_s=best * 0.9)
    refused(
        "proven for more",
        alone=tuple(
            msgspec.structs.replace(one, flow_tokens_per_s=one.flow_tokens_per_s * 0.5)
            for one in witness.alone
        ),
    )
    wide = two_sites(1e6)
    with pytest.raises(CertificateError, match="across regions"):
        certify_flow(wide, {}, value=0.0, bound=bound, witness=witness)


@pytest.mark.slow
def test_distributed_published_instance(shared_data: Path) -> None:
    """Three regions of the Helix artifact: 1754 tokens/s for 1212, within 1 % of the bound."""
    path = shared_data / "serving" / "helix" / "instance_geo24_llama70b.json"
    result = place_layers(load_flow(path))
    assert result.bounds.primal is not None
    assert result.bounds.primal >= 1754.38
    assert result.bounds.gap <= 0.01
    assert isinstance(result.witness, Crossings)

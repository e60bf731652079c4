"""The declared space follows its rules, and engines are packed into nodes as brute force does."""

from __future__ import annotations

import itertools
import random

import pytest

import optalloc as oa
from optalloc.errors import InputError, UnsupportedModel
from optalloc.serving.configuration.limits import Limits, parse_limits
from optalloc.serving.configuration.space import (
    BATCHES,
    batches,
    engines,
    facts_of,
    fits_node,
    most_beside,
    shapes,
)


def test_shapes_of_a_dense_model_on_one_node() -> None:
    """8 GPUs and 64 heads: tp and tp * pp are 1, 2, 4 or 8; there is no attention dp."""
    facts = facts_of(oa.load_model("llama-3.1-70b"))
    group = oa.load_cluster("8xh100-sxm").nodes[0]
    found = {(s.tp, s.pp) for s in shapes(facts, group, "vllm", Limits(), "serve")}
    assert found == {(t, p) for t in (1, 2, 4, 8) for p in (1, 2, 4, 8) if t * p <= 8}


def test_vllm_has_whole_or_cut_experts_and_others_any_split() -> None:
    """Four devices a stage: 1 x 4 and 4 x 1 for vLLM, 2 x 2 as well for the others."""
    facts = facts_of(oa.load_model("mixtral-8x7b"))
    group = oa.load_cluster("4xh100-sxm").nodes[0]
    limits = parse_limits(["tp=4"])
    splits = {
        software: {(s.moe_tp, s.moe_ep) for s in shapes(facts, group, software, limits, "serve")}
        for software in ("vllm", "trtllm")
    }
    assert splits == {"vllm": {(4, 1), (1, 4)}, "trtllm": {(4, 1), (2, 2), (1, 4)}}


def test_types_of_numbers_are_those_asked_for() -> None:
    """16 bits unless pinned; a pin of two values widens the space to both."""
    facts = facts_of(oa.load_model("llama-3.1-8b"))
    group = oa.load_cluster("1xh100-sxm").nodes[0]
    plain = [e for _, e in engines(facts, group, Limits(), "serve")]
    wide = [e for _, e in engines(facts, group, parse_limits(["kv=bf16,fp8"]), "serve")]
    assert [(e.weight_dtype, e.kv_dtype) for e in plain] == [("bf16", "bf16")]
    assert [e.kv_dtype for e in wide] == ["bf16", "fp8"]


def test_a_limit_may_hold_for_one_role() -> None:
    """``decode.batch=64`` leaves the batches of other workers alone."""
    limits = parse_limits(["decode.batch=64"], ["tp=2"])
    assert batches(limits, "decode") == (64,)
    assert batches(limits, "serve") == BATCHES
    assert not limits.allows("tp", 2, "prefill")


@pytest.mark.parametrize("word", ["tq=8", "tp", "kv=fp7", "tp=zero", "train.tp=8"])
def test_a_limit_that_names_nothing_is_refused(word: str) -> None:
    with pytest.raises(InputError):
        parse_limits([word])


def test_models_with_an_encoder_are_refused() -> None:
    with pytest.raises(UnsupportedModel, match="decoder-only"):
        facts_of(oa.load_model("t5-11b"))


def _packs(node: int, count: int, first: int, a: int, second: int, b: int) -> bool:
    """Brute force over the nodes: can ``a`` engines of ``first`` and ``b`` of ``second`` lie so?"""
    nodes = count
    for size, number in ((first, a), (second, b)):
        nodes -= number * (size // node) if size >= node else 0
    if nodes < 0:
        return False
    a, b = (0 if first >= node else a), (0 if second >= node else b)
    states = {(a, b)}
    for _ in range(nodes):
        states = {
            (left - x, rest - y)
            for left, rest in states
            for x in range(min(left, node // first) + 1)
            for y in range(min(rest, (node - x * first) // second) + 1)
        }
    return (0, 0) in states


def test_most_beside_equals_brute_force() -> None:
    """Nodes of 4, 6 and 8 devices, up to three of them, every pair of sizes that fit a node."""
    checked = 0
    for node, count in itertools.product((4, 6, 8), (1, 2, 3)):
        sizes = [d for d in range(1, node * count + 1) if fits_node(d, node)]
        for first, second in itertools.product(sizes, sizes):
            number = random.Random(first * 31 + second).randint(0, 3)
            found = most_beside(node, count, first, number, second)
            if found < 0:
                assert not _packs(node, count, first, number, second, 0)
                continue
            assert _packs(node, count, first, number, second, found)
            assert not _packs(node, count, first, number, second, found + 1)
            checked += 1
    assert checked > 100

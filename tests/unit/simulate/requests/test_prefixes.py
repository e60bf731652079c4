"""Prefix trees: what is found cached, against a cache of single blocks that shares no code."""

from __future__ import annotations

import itertools
from collections import OrderedDict

import numpy as np
import pytest
from tests.unit.simulate.requests.instances import times

from optalloc.errors import InputError
from optalloc.simulate.requests.deployment import Deployment, Engines, Routing
from optalloc.simulate.requests.load import Requests, make_requests
from optalloc.simulate.requests.outcome import RequestSimulation
from optalloc.simulate.requests.prefixes import hash_paths, hashes_of
from optalloc.simulate.requests.simulate import simulate_requests

BLOCK = 4


def requests_of(
    lists: list[list[int]],
    inputs: list[int],
    outputs: list[int],
    *,
    clients: int = 0,
    gap_s: float = 100.0,
) -> Requests:
    """Requests one after another, with ids of blocks of 8 tokens."""
    arrival_s = (0.0 if clients else gap_s) * np.arange(len(lists), dtype=np.float64)
    return make_requests(
        arrival_s,
        np.array(inputs),
        np.array(outputs),
        clients=clients,
        hashes=hashes_of(lists, 8),
    )


def simulated(
    requests: Requests, kv_tokens: int, *, replicas: int = 1, routing: Routing = "least-loaded"
) -> RequestSimulation:
    pool = Engines(times=times(), kv_tokens=kv_tokens, replicas=replicas)
    deployment = Deployment(engines=(pool,), block_tokens=BLOCK, routing=routing)
    return simulate_requests(deployment, requests)


def lru_hits(
    lists: list[list[int]], inputs: list[int], outputs: list[int], capacity: int
) -> list[int]:
    """Tokens found by each of the requests, one after another, in a cache of so many blocks."""
    cache: OrderedDict[object, None] = OrderedDict()  # least recently used first
    fresh = itertools.count()
    hits = []
    for ids, tokens, answer in zip(lists, inputs, outputs, strict=True):
        names: list[object] = []
        for end in range(BLOCK, min(tokens, 8 * len(ids)) + 1, BLOCK):
            covering = -(-end // 8)
            whole = min(8 * covering, tokens)  # a shorter last block is another one
            names.append((end, whole, tuple(ids[:covering])))
        found = 0
        while found < len(names) and names[found] in cache:
            found += 1
        hits.append(min(found, (tokens - 1) // BLOCK) * BLOCK)
        for name in names:
            cache.pop(name, None)
        blocks = -(-(tokens + answer - 1) // BLOCK)
        while len(cache) + blocks > capacity:
            cache.popitem(last=False)
        for _ in range(blocks - len(names)):
            cache[next(fresh)] = None
        for name in reversed(names):
            cache[name] = None
    return hits


def random_trace(seed: int) -> tuple[list[list[int]], list[int], list[int], int]:
    """Few turns that go on from earlier prompts, and a cache of 1 to 3 times the largest."""
    random = np.random.default_rng(seed)
    lists: list[list[int]] = []
    inputs = []
    for _ in range(int(random.integers(2, 14))):
        before = lists[random.integers(0, len(lists))] if lists and random.random() < 0.8 else []
        ids = before[: random.integers(0, len(before) + 1)]
        ids = [*ids, *random.integers(0, 3, random.integers(0 if ids else 1, 4)).tolist()]
        lists.append(ids[:8])
        inputs.append(8 * (len(lists[-1]) - 1) + int(random.integers(1, 9)))
    outputs = random.integers(1, 12, len(lists)).tolist()
    largest = max(
        -(-(tokens + answer - 1) // BLOCK) for tokens, answer in zip(inputs, outputs, strict=True)
    )
    return lists, inputs, outputs, largest + int(random.integers(0, 2 * largest))


@pytest.mark.parametrize("first", range(0, 3000, 500))
def test_hits_equal_those_of_a_cache_of_single_blocks(first: int) -> None:
    """One client, so that requests do not overlap and the order of use is that of the requests."""
    evicting = found = 0
    for seed in range(first, first + 500):
        lists, inputs, outputs, capacity = random_trace(seed)
        requests = requests_of(lists, inputs, outputs, clients=1)
        expected = lru_hits(lists, inputs, outputs, capacity)
        run = simulated(requests, capacity * BLOCK).run
        assert run.hits.tolist() == expected, seed
        found += sum(hit > 0 for hit in expected)
        evicting += expected != lru_hits(lists, inputs, outputs, 10**6)
    assert found > 500
    assert evicting > 30


def test_a_prompt_finds_the_blocks_that_it_begins_with() -> None:
    """20 tokens in blocks of 4; the second shares 8 of them, the third is the first again: all but
    the last block, of which one token at least is read. It takes as long as 4 tokens would."""
    requests = requests_of([[1, 2, 3], [1, 4, 5], [1, 2, 3]], [20, 20, 20], [1, 1, 1])
    simulation = simulated(requests, 400)
    assert simulation.run.hits.tolist() == [0, 8, 16]
    alone = simulated(requests_of([[]], [4], [1]), 400)
    first, second, third = simulation.ttft_s
    assert first > second > third
    # 16 tokens that are read by 4: 64 pairs more of 1e-7 s
    assert third == pytest.approx(alone.ttft_s[0] + 6.4e-6, abs=1e-9)
    assert simulation.summary.prefix_hit_share == pytest.approx(24.0 / 60.0)


def test_equal_ids_behind_unequal_ones_are_other_blocks() -> None:
    """Ids of contents: 7 after 1 is not 7 after 2. A shorter last block is not the whole one."""
    requests = requests_of([[1, 7], [2, 7], [1, 7], [1, 7]], [16, 16, 12, 16], [1, 1, 1, 1])
    assert simulated(requests, 400).run.hits.tolist() == [0, 0, 8, 12]


def test_the_least_recently_used_goes_first_from_its_end() -> None:
    """A cache of 10 blocks. A and B have 4 each; C takes the 2 that are free and the 4 of A, A
    again the 4 of B, B again the last 4 of C's 6; the first 2, 8 tokens, are all that C finds."""
    lists = [[1, 2], [3, 4], [5, 6, 7], [1, 2], [3, 4], [5, 6, 7]]
    requests = requests_of(lists, [16, 16, 24, 16, 16, 24], [1] * 6)
    assert simulated(requests, 40).run.hits.tolist() == [0, 0, 0, 0, 0, 8]


def test_answers_stay_in_the_cache_as_well() -> None:
    """A prompt of 4 blocks with an answer of 4 more fills a cache of 8: its own end goes first."""
    requests = requests_of([[1, 2], [3, 4], [1, 2], [3, 4]], [16, 16, 16, 16], [17, 1, 1, 1])
    assert simulated(requests, 32).run.hits.tolist() == [0, 0, 12, 12]


def test_routing_by_prefix_sends_conversations_to_their_cache() -> None:
    """Two conversations in turn on two engines: in turn both swap, by prefix both stay."""
    lists = [[1, 2], [5, 6], [5, 6, 7], [1, 2, 3], [5, 6, 7, 8], [1, 2, 3, 4]]
    inputs = [8 * len(ids) for ids in lists]
    requests = requests_of(lists, inputs, [1] * 6, gap_s=0.001)
    by_prefix = simulated(requests, 400, replicas=2, routing="prefix").run
    assert by_prefix.rank.tolist() == [0, 1, 1, 0, 1, 0]
    assert by_prefix.hits.tolist() == [0, 0, 16, 16, 24, 24]
    in_turn = simulated(requests, 400, replicas=2, routing="round-robin").run
    assert in_turn.hits.sum() < by_prefix.hits.sum()


def test_a_crowded_engine_is_left_for_the_least_loaded() -> None:
    """Of 60 equal prompts at once the first engine gets as many as 17 more than the other: from
    then on both get as many."""
    requests = requests_of([[1, 2]] * 60, [16] * 60, [1] * 60, gap_s=0.0)
    ranks = simulated(requests, 4000, replicas=2, routing="prefix").run.rank
    assert abs(int((ranks == 0).sum()) - int((ranks == 1).sum())) < 20
    assert set(ranks[:17].tolist()) == {0}


def test_nodes_that_all_pass_together_are_one() -> None:
    """Of 1-2-3, 1-2-4 and 9: the nodes 1-2, 3, 4 and 9."""
    hashes = hashes_of([[1, 2, 3], [1, 2, 4], [9]], 8)
    paths = hash_paths(hashes, np.array([24, 24, 8], np.int32), BLOCK)
    assert paths.node_blocks.tolist() == [4, 2, 2, 2]
    assert np.split(paths.nodes, paths.start[1:-1])[0].tolist()[0] == paths.nodes[2]
    assert np.diff(paths.start).tolist() == [2, 2, 1]
    assert paths.shared.tolist() == [6, 6, 2]


def test_hits_over_time_are_those_of_the_requests_that_began() -> None:
    """Nothing, half, half; between them nothing began."""
    requests = requests_of([[1, 2], [1, 3], [1, 4]], [16, 16, 16], [1, 1, 1])
    over = simulated(requests, 400).over_time(5).hit_share
    assert over[0] == 0.0
    assert over[[2, 4]].tolist() == [0.5, 0.5]
    assert np.isnan(over[[1, 3]]).all()


def test_ids_of_a_part_of_the_requests_are_theirs() -> None:
    hashes = hashes_of([[1, 2], [], [3], [4, 5, 6]], 8)
    taken = hashes.take(np.array([3, 0, 1]))
    assert taken.ids.tolist() == [4, 5, 6, 1, 2]
    assert taken.start.tolist() == [0, 3, 5, 5]


def test_more_ids_than_blocks_and_groups_beside_ids_are_refused() -> None:
    with pytest.raises(InputError, match="request 0 has 3 hash_ids, and its prompt of 16 tokens 2"):
        requests_of([[1, 2, 3]], [16], [1])
    lengths = np.array([16])
    with pytest.raises(InputError, match="both groups and ids"):
        make_requests(
            np.zeros(1),
            lengths,
            lengths,
            group=np.zeros(1, np.int64),
            prefix_tokens=np.array([4]),
            hashes=hashes_of([[1]]),
        )
    with pytest.raises(InputError, match="block has 0 tokens"):
        make_requests(np.zeros(1), lengths, lengths, hashes=hashes_of([[1]], 0))

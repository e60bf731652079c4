"""Small random simulations that reach every rule: crowded caches, cut prompts, shared prefixes."""

from __future__ import annotations

import msgspec
import numpy as np

from optalloc.simulate.requests.deployment import ROUTINGS, Deployment, Engines
from optalloc.simulate.requests.kernel import TICKS_PER_S, Instance, instance_of
from optalloc.simulate.requests.load import Requests, make_requests
from optalloc.simulate.requests.prefixes import BlockHashes, hashes_of
from optalloc.simulate.requests.step_times import StepTimes, step_times


def times(
    *,
    chunk_tokens: int = 64,
    max_batch: int = 8,
    base_s: float = 0.01,
    kv_s_per_token: float = 1e-5,
    pair_s: float = 1e-7,
    prompt_s: float = 0.0,
) -> StepTimes:
    """Iterations of a constant, a part by tokens and sequences, and parts by contexts."""
    return step_times(
        lambda prompt, sequences: base_s * (1.0 + 0.02 * prompt + 0.05 * sequences),
        chunk_tokens=chunk_tokens,
        max_batch=max_batch,
        kv_s_per_token=kv_s_per_token,
        pair_s=pair_s,
        prompt_s=prompt_s,
    )


def with_shared(engines: Engines) -> Engines:
    """The same engines, whose ranks' tokens take some time together."""
    ranks = engines.ranks
    shared = step_times(
        lambda prompt, sequences: 1e-3 + 2e-4 * prompt + 3e-4 * sequences,
        chunk_tokens=ranks * engines.times.chunk_tokens,
        max_batch=ranks * engines.times.max_batch,
    )
    return msgspec.structs.replace(engines, shared=shared)


def random_instance(seed: int) -> Instance:
    """Any of the features with any other; at times many things happen at one time."""
    random = np.random.default_rng(seed)
    count = int(random.integers(1, 25))
    block = int(random.choice([1, 2, 4, 16]))
    longest = int(random.choice([3, 20, 60]))
    inputs = random.integers(1, longest + 1, count)
    outputs = random.integers(1, int(random.choice([2, 10, 40])) + 1, count)
    alike = random.random() < 0.2
    if alike:
        inputs[:], outputs[:] = inputs[0], outputs[0]
    requests = _requests(random, count, inputs, outputs)
    whole = int((requests.input_tokens + requests.output_tokens).max())
    pools = [
        Engines(
            times=times(
                chunk_tokens=int(random.choice([2, 8, 50])),
                max_batch=int(random.choice([1, 2, 5, 16])),
                base_s=float(random.choice([0.01, 0.013])),
                kv_s_per_token=float(random.choice([0.0, 1e-5, 1e-3])),
                pair_s=float(random.choice([0.0, 1e-5])),
                prompt_s=float(random.choice([0.0, 1e-3])),
            ),
            kv_tokens=whole
            + 3 * block
            + int(random.integers(0, int(random.choice([2, 3 * whole])))),
            sequence_tokens=int(random.choice([0, 0, 2])),
            replicas=int(random.integers(1, 3)),
            ranks=int(random.choice([1, 1, 2, 3])),
            weight=int(random.choice([1, 1, 3])),
        )
        for _ in range(4)
    ]
    if random.random() < 0.3:
        pools = [with_shared(engines) for engines in pools]
    apart = random.random() < 0.4
    deployment = Deployment(
        engines=tuple(pools[: random.integers(1, 3)]),
        prefill=tuple(pools[2 : random.integers(3, 5)]) if apart else (),
        routing=ROUTINGS[random.choice(3, p=[0.5, 0.25, 0.25])],
        transfer_s=float(random.choice([0.0, 0.02])),
        transfer_s_per_token=float(random.choice([0.0, 1e-3])),
        block_tokens=block,
    )
    return instance_of(deployment, requests, TICKS_PER_S[0])


def _requests(
    random: np.random.Generator, count: int, inputs: np.ndarray, outputs: np.ndarray
) -> Requests:
    gaps = random.exponential(float(random.choice([0.0, 0.02, 0.2])), count)
    clients = int(random.choice([0, 0, 1, 4]))
    gaps[:clients].sort()
    shares, hashed = random.random() < 0.4, random.random() < 0.6
    inputs = inputs + (8 if shares else 0)
    return make_requests(
        gaps if clients else np.cumsum(gaps),
        inputs,
        outputs,
        hashes=random_hashes(random, inputs) if hashed and not shares else None,
        group=random.integers(-1, 3, count) if shares else None,
        prefix_tokens=random.integers(0, 9, 3) if shares else None,
        cached_share=float(random.choice([0.0, 0.5])),
        clients=clients,
    )


def random_hashes(random: np.random.Generator, inputs: np.ndarray) -> BlockHashes:
    """Ids of contents of few kinds, or of turns that each go on from an earlier prompt; in one of
    ten prompts not of the last block."""
    block = int(random.choice([1, 3, 4, 16]))
    kinds, lists = int(random.choice([1, 2, 1000])), list[list[int]]()
    for tokens in inputs.tolist():
        most = -(-tokens // block)
        begin = lists[random.integers(0, len(lists))] if lists and random.random() < 0.7 else []
        ids = [*begin[: random.integers(0, len(begin) + 1)], *random.integers(0, kinds, most)]
        lists.append([int(one) for one in ids[: most - (random.random() < 0.1)]])
    return hashes_of(lists, block)

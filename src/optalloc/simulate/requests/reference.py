"""The simulation of requests in its plainest form: one iteration at a time, one block at a time.

This is what the native kernel is held to, number for number. The rules:

- A rank serves its queue first come, first served. An iteration has a budget of tokens. Each
  decoding sequence takes one; the prompt that was cut by the budget goes on; then requests are
  admitted from the head of the queue while tokens, places in the batch and blocks for the whole
  prompt are left.
- A decoding sequence that fills its last block needs another one. Where none is free, the cached
  block that nobody uses for the longest time is given up; then the request that arrived
  last is sent back to the head of the queue and later reads its prompt and its answer so far again.
  Nothing is admitted in such an iteration.
- The iteration that reads the end of a prompt gives the first token. Requests share the whole
  blocks of a prefix: those of a group, or those whose ids and all ids before are equal. The first
  user reads such a block, others find it until it is given up. A request lets its blocks go from
  the last to the first; with ids, its other blocks stay cached as well, where nobody finds them.
- Ranks of an engine step together, in the time of the slowest and what all their tokens take.
- In two pools, the first keeps a prompt's blocks until they have arrived in the second.
- At one time, iterations end before requests arrive, and requests arrive before iterations begin.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Hashable
from fractions import Fraction

import numpy as np

from optalloc.simulate.requests.kernel import Instance, KindTicks, Run
from optalloc.simulate.requests.load import Requests
from optalloc.simulate.requests.reference_times import ticks, together


class _Rank:
    """Queue, batch and cache of a rank; every figure is counted when it is asked for."""

    def __init__(self, kind: KindTicks, world: _World, hands_over: bool) -> None:
        self.kind, self.world, self.hands_over = kind, world, hands_over
        self.waiting: list[int] = []
        self.running: list[int] = []
        self.own: dict[int, int] = {}  # blocks of a request that it cannot share
        self.users: dict[Hashable, int] = {}  # of each cached block that can be shared
        self.idle: dict[Hashable, None] = {}  # those without, that let go first in front
        self.chunks: dict[int, int] = {}
        self.peak = 0

    @property
    def free(self) -> int:
        return self.kind.blocks - sum(self.own.values()) - len(self.users)

    @property
    def load(self) -> Fraction:
        return Fraction(len(self.waiting) + len(self.running) + 1, self.kind.weight)

    @property
    def used(self) -> int:
        return self.kind.blocks - self.free - len(self.idle)

    def take(self) -> bool:
        """Make room for one block."""
        if self.free == 0:
            if not self.idle:
                return False
            oldest = next(iter(self.idle))
            del self.idle[oldest], self.users[oldest]
        return True

    def pin(self, request: int) -> int:
        """Tokens found: the blocks before the first that is not cached, and not the last token."""
        world, keys = self.world, self.world.keys[request]
        found = next((k for k, key in enumerate(keys) if key not in self.users), len(keys))
        for key in keys:
            self.idle.pop(key, None)
        for key in keys:
            if key not in self.users:
                assert self.take()
                self.users[key] = 0
            self.users[key] += 1
        return min(found, (world.prompt[request] - 1) // world.block) * world.block

    def let_go(self, request: int) -> None:
        world, keys = self.world, self.world.keys[request]
        read, own = world.cached[request], self.own.pop(request)
        if world.hashed:
            kept = min(own - self.kind.extra_blocks, math.ceil(read / world.block) - len(keys))
            for _ in range(kept):
                world.left_behind += 1
                self.users[world.left_behind] = 0
                self.idle[world.left_behind] = None
        for number, key in reversed([*enumerate(keys, 1)]):
            self.users[key] -= 1
            if self.users[key] == 0 and number * world.block <= read:
                self.idle[key] = None
            elif self.users[key] == 0:
                del self.users[key]

    def plan(self, now: int) -> tuple[int, int, int, int, int]:
        """Prompt tokens, prompts read to their end, sequences, context and pairs."""
        world, block = self.world, self.world.block
        self.chunks, crowded = {}, False
        for request in [r for r in self.running if world.decodes[r]]:
            if request not in self.running or world.cached[request] % block:
                continue
            while not self.take():
                self.peak, crowded = max(self.peak, self.used), True
                last = self.running.pop()
                self.let_go(last)
                world.send_back(last)
                self.waiting.insert(0, last)
                if last == request:
                    break
            else:
                self.own[request] += 1
        budget = self.kind.chunk_tokens - sum(world.decodes[r] for r in self.running)
        pairs = 0
        for request in self.running:
            if not world.decodes[request] and budget > 0:
                budget, pairs = self.read(request, budget, pairs)
        while (
            not crowded
            and all(
                world.decodes[r] or (r in self.chunks and world.left(r) == self.chunks[r])
                for r in self.running
            )
            and budget > 0
            and len(self.running) < self.kind.max_batch
            and self.waiting
        ):
            request = self.waiting[0]
            own = math.ceil((world.prompt[request] + world.handed[request]) / block)
            own += self.kind.extra_blocks - len(world.keys[request])
            pinned = sum(self.users.get(key, 0) > 0 for key in world.keys[request])
            if own + len(world.keys[request]) - pinned > self.free + len(self.idle):
                break
            self.running.append(self.waiting.pop(0))
            found = self.pin(request)
            self.own[request] = 0
            while self.own[request] < own:
                assert self.take()
                self.own[request] += 1
            if world.handed[request]:
                world.cached[request], world.decodes[request] = world.prompt[request], 1
                budget -= 1
                continue
            world.cached[request] = max(found, world.known[request])
            if world.start[request] < 0:
                world.start[request], world.hits[request] = now, world.cached[request]
            budget, pairs = self.read(request, budget, pairs)
        self.peak = max(self.peak, self.used)
        decoding = [r for r in self.running if world.decodes[r]]
        context = sum(world.cached[r] + 1 for r in decoding)
        ended = sum(world.left(r) == tokens for r, tokens in self.chunks.items())
        return sum(self.chunks.values()), ended, len(decoding), context, pairs

    def read(self, request: int, budget: int, pairs: int) -> tuple[int, int]:
        tokens = min(self.world.left(request), budget)
        self.chunks[request] = tokens
        begin = self.world.cached[request]
        return budget - tokens, pairs + sum(range(begin + 1, begin + tokens + 1))

    def finish(self, now: int) -> list[int]:
        world, left = self.world, []
        for request in list(self.running):
            if world.decodes[request]:
                world.cached[request] += 1
                world.generated[request] += 1
            elif request in self.chunks:
                world.cached[request] += self.chunks[request]
                if world.left(request):
                    continue
                world.generated[request] += 1
                world.decodes[request] = 1
                if world.first[request] < 0:
                    world.first[request] = now
            else:
                continue
            done = world.generated[request] == world.output[request]
            if done or self.hands_over:
                world.decodes[request] = 0
                self.running.remove(request)
                left.append(request)
            if done:
                self.let_go(request)
        return left


class _World:
    """Where every request stands."""

    def __init__(self, instance: Instance) -> None:
        requests, count = instance.requests, len(instance.requests)
        self.block = instance.block_tokens
        self.input: list[int] = requests.input_tokens.tolist()
        self.output: list[int] = instance.output.tolist()
        self.known: list[int] = requests.cached_tokens.tolist()
        self.hashed = requests.hashes is not None
        self.keys = _shared_blocks(requests, self.block)
        self.left_behind = 0  # blocks that stayed cached with no key of their own
        self.prompt: list[int] = list(self.input)  # tokens to read before the next one is generated
        self.cached = [0] * count
        self.generated = [0] * count
        self.decodes = [0] * count
        self.handed = [0] * count
        self.arrival, self.start, self.first = [-1] * count, [-1] * count, [-1] * count
        self.handed_at, self.finish = [-1] * count, [-1] * count
        self.preemptions, self.hits = [0] * count, [0] * count
        self.rank, self.second_rank = [-1] * count, [-1] * count

    def left(self, request: int) -> int:
        return self.prompt[request] - self.cached[request]

    def send_back(self, request: int) -> None:
        self.prompt[request] = self.input[request] + self.generated[request]
        self.cached[request] = self.decodes[request] = self.handed[request] = 0
        self.preemptions[request] += 1


def _shared_blocks(requests: Requests, block: int) -> list[list[Hashable]]:
    """Of each request the whole blocks that others may share, each named by all that it follows."""
    hashes = requests.hashes
    if hashes is None:
        prefix = [*requests.prefix_tokens.tolist(), 0]  # of no group: the last
        return [
            [(group, k) for k in range(prefix[group] // block)] for group in requests.group.tolist()
        ]
    keys: list[list[Hashable]] = []
    for request, tokens in enumerate(requests.input_tokens.tolist()):
        ids = hashes.ids[hashes.start[request] : hashes.start[request + 1]].tolist()
        covered = min(tokens, len(ids) * hashes.block_tokens)
        names: list[Hashable] = []
        for k in range(covered // block):
            last = ((k + 1) * block - 1) // hashes.block_tokens  # the id that the block ends in
            end = min(tokens, (last + 1) * hashes.block_tokens)
            names.append((k, tuple(ids[: last + 1]), end))
        keys.append(names)
    return keys


_END, _ARRIVE, _BEGIN = range(3)


class _Fleet:
    """Engines, and the events between them."""

    def __init__(self, instance: Instance) -> None:
        self.instance, self.world = instance, _World(instance)
        self.engines: list[tuple[KindTicks, list[_Rank]]] = []
        last = instance.kinds[-1].pool
        for kind in instance.kinds:
            for _ in range(kind.engines):
                ranks = [_Rank(kind, self.world, kind.pool < last) for _ in range(kind.ranks)]
                self.engines.append((kind, ranks))
        self.ranks = [rank for _, ranks in self.engines for rank in ranks]
        self.asleep = [True] * len(self.engines)
        self.busy, self.iterations = [0] * len(self.engines), [0] * len(self.engines)
        self.credit = dict.fromkeys(self.ranks, 0)
        self.events: list[tuple[int, int, int, int]] = []  # time, phase, key, begin of an iteration
        self.home: dict[tuple[int, Hashable], _Rank] = {}  # where a block was last sent
        self.next = 0
        self.stretches: list[tuple[int, ...]] = []

    def run(self) -> None:
        requests, arrival = self.instance.requests, self.instance.arrival.tolist()
        count = len(requests)
        self.next = min(requests.clients or count, count)
        for request in range(self.next):
            self.world.arrival[request] = arrival[request]
            heapq.heappush(self.events, (arrival[request], _ARRIVE, request, 0))
        while self.events:
            now, phase, key, begun = heapq.heappop(self.events)
            if phase == _BEGIN:
                self.begin(key, now)
            elif phase == _END:
                self.busy[key] += now - begun
                self.iterations[key] += 1
                for request in [r for rank in self.engines[key][1] for r in rank.finish(now)]:
                    self.gone(request, now)
                heapq.heappush(self.events, (now, _BEGIN, key, 0))
            elif key >= count:
                self.hand_over(key - count, now)
            else:
                self.arrive(key, 0, now)

    def begin(self, engine: int, now: int) -> None:
        kind, ranks = self.engines[engine]
        plans = [rank.plan(now) for rank in ranks]
        times = [ticks(kind, *plan) for plan in plans if plan[0] or plan[2]]
        shared = together(kind, sum(p[0] for p in plans), sum(p[2] for p in plans))
        if not times:
            self.asleep[engine] = True
            return
        end = now + max(times) + shared
        heapq.heappush(self.events, (end, _END, engine, now))
        waiting = sum(len(rank.waiting) for rank in ranks)
        used = sum(rank.used for rank in ranks)
        prompt, decoding = sum(p[0] for p in plans), sum(p[2] for p in plans)
        self.stretches.append((engine, now, end, 1, prompt, decoding, waiting, used))

    def arrive(self, request: int, number: int, now: int) -> None:
        places = [
            (engine, ranks[turn])
            for turn in range(max(kind.ranks for kind, _ in self.engines))
            for engine, (kind, ranks) in enumerate(self.engines)
            if kind.pool == number and turn < kind.ranks
        ]
        if self.instance.routing != "round-robin":
            engine, rank = min(places, key=lambda place: place[1].load)
            if self.instance.routing == "prefix":
                engine, rank = self.by_prefix(request, number, places, rank)
        else:
            for _, rank in places:
                self.credit[rank] += rank.kind.weight
            engine, rank = max(places, key=lambda place: self.credit[place[1]])
            self.credit[rank] -= sum(other.kind.weight for _, other in places)
        rank.waiting.append(request)
        for key in self.world.keys[request]:
            self.home[number, key] = rank
        chosen = self.ranks.index(rank)
        (self.world.second_rank if number else self.world.rank)[request] = chosen
        self.wake(engine, now)

    def by_prefix(
        self, request: int, number: int, places: list[tuple[int, _Rank]], least: _Rank
    ) -> tuple[int, _Rank]:
        """Where the longest part of a prompt was sent last, or to the least loaded rank."""
        keys, home = self.world.keys[request], least
        for length in range(len(keys), 0, -1):
            if (number, keys[length - 1]) in self.home:
                if 10 * length * self.world.block >= 3 * self.world.input[request]:
                    home = self.home[number, keys[length - 1]]
                break
        more = (home.load * home.kind.weight) - (least.load * least.kind.weight)
        if more > 16 and home.load > Fraction(3, 2) * least.load:
            home = least
        return next(place for place in places if place[1] is home)

    def wake(self, engine: int, now: int) -> None:
        if self.asleep[engine]:
            self.asleep[engine] = False
            heapq.heappush(self.events, (now, _BEGIN, engine, 0))

    def hand_over(self, request: int, now: int) -> None:
        source = self.ranks[self.world.rank[request]]
        source.let_go(request)
        self.wake(next(e for e, (_, ranks) in enumerate(self.engines) if source in ranks), now)
        self.world.handed_at[request], self.world.handed[request] = now, 1
        self.arrive(request, 1, now)

    def gone(self, request: int, now: int) -> None:
        instance, world = self.instance, self.world
        if world.generated[request] < world.output[request]:
            arrives = now + instance.transfer + instance.transfer_token * world.input[request]
            key = len(instance.requests) + request
            heapq.heappush(self.events, (arrives, _ARRIVE, key, 0))
            return
        world.finish[request] = now
        if instance.requests.clients and self.next < len(instance.requests):
            arrives = now + int(instance.arrival[self.next])
            world.arrival[self.next] = arrives
            heapq.heappush(self.events, (arrives, _ARRIVE, self.next, 0))
            self.next += 1


def run_reference(instance: Instance) -> Run:
    """The same run, slowly; its stretches are single iterations."""
    fleet = _Fleet(instance)
    fleet.run()
    world = fleet.world
    return Run(
        arrival=np.array(world.arrival, np.int64),
        start=np.array(world.start, np.int64),
        first=np.array(world.first, np.int64),
        handed=np.array(world.handed_at, np.int64),
        finish=np.array(world.finish, np.int64),
        preemptions=np.array(world.preemptions, np.int32),
        hits=np.array(world.hits, np.int32),
        rank=np.array(world.rank, np.int32),
        second_rank=np.array(world.second_rank, np.int32),
        busy=np.array(fleet.busy, np.int64),
        iterations=np.array(fleet.iterations, np.int64),
        peak_blocks=np.array([rank.peak for rank in fleet.ranks], np.int64),
        stretches=np.array(fleet.stretches, np.int64).reshape(-1, 8),
    )

"""Search: the best deployment of the whole space, aggregated or with split phases, and its bound.

Both kinds are searched (:mod:`aggregated`, :mod:`split`); the better value wins, ties go to fewer
devices, then to more requests per second. The bound of both holds for all.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec
import numpy as np

from optalloc.result import Incumbent
from optalloc.serving.configuration import aggregated, in_flight, split
from optalloc.serving.configuration.columns import Flags, Floats
from optalloc.serving.configuration.combine import Deployment, choose
from optalloc.serving.configuration.load_floors import LoadFloors
from optalloc.serving.configuration.plan import Mode
from optalloc.serving.configuration.problem import OBJECTIVES, Problem
from optalloc.serving.configuration.roofline import roofline
from optalloc.serving.configuration.rows import (
    Floors,
    Rows,
    all_rows,
    floors,
    holding,
    numbers_of_rows,
    too_slow,
)
from optalloc.serving.configuration.split_search import best_pairs
from optalloc.serving.configuration.table import EngineTable, engine_table
from optalloc.stop import OnProgress, Progress, StopRule


class Pick(msgspec.Struct, frozen=True, kw_only=True):
    """``count`` equal engines of a chosen deployment: the engine by number in its table.

    ``share`` is the part of the load that they carry.
    """

    role: str
    engine: int
    chunk: int
    batch: int
    load: int
    count: int
    share: float = 1.0


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """One deployment: its engines and value; ``busy`` and ``move_s`` of split phases."""

    mode: Mode
    picks: tuple[Pick, ...]
    value: float
    devices: int
    rate_per_s: float
    ttft_s: float
    tpot_s: float
    busy: float = 0.0
    move_s: float = 0.0


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What the search came to; ``rivals`` are deployments of other shapes that were evaluated."""

    best: Choice | None
    rivals: tuple[Choice, ...]
    bound: float | None
    configurations: int
    pruned: dict[str, int]
    incumbents: tuple[Incumbent, ...]
    stopped: bool


class Search:
    """One search, with its engines and what it has counted."""

    def __init__(
        self, problem: Problem, stop: StopRule | None = None, on_progress: OnProgress | None = None
    ) -> None:
        self.problem, self._stop, self._tell = problem, stop, on_progress
        self.tables: dict[str, EngineTable] = {}
        self._begin = time.perf_counter()
        self._incumbents: list[Incumbent] = []
        self.pruned: dict[str, int] = {}
        self.configurations = 0
        self._found: list[Choice] = []
        self._floors: LoadFloors | None = None
        self._rows: tuple[Rows, Floors, Flags] | None = None
        self._workers: split.Workers | None = None

    def again(self, problem: Problem, stop: StopRule | None = None) -> Search:
        """A search of a changed problem that keeps what the change leaves: the engines where the
        workload alone differs, the workers of split phases of the same lengths, floors of engines
        under no more requests of these, and rows under as many."""
        other = Search(problem, stop)
        mine, theirs = self.problem.workload, problem.workload
        same = {"workload": mine, "objective": self.problem.objective}
        if msgspec.structs.replace(problem, **same) == self.problem:
            other.tables = self.tables
            load = {"ttft_s": mine.ttft_s, "tpot_s": mine.tpot_s, "concurrency": mine.concurrency}
            if msgspec.structs.replace(theirs, rate_per_s=mine.rate_per_s, **load) == mine:
                other._workers = self._workers
            fewer = (theirs.concurrency or 0) <= (mine.concurrency or 0)
            if fewer and msgspec.structs.replace(theirs, **load) == mine:
                other._floors = self._floors
                if theirs.concurrency == mine.concurrency:
                    other._rows = self._rows
        return other

    def table(self, role: str) -> EngineTable:
        """The engines of one role; roles without limits of their own share them."""
        p = self.problem
        own = any(key.startswith(f"{role}.") for key in (*p.limits.pin, *p.limits.forbid))
        name = role if own else ""
        if name not in self.tables:
            self.tables[name] = engine_table(p.model, p.cluster, p.limits, role, p.constants)
        return self.tables[name]

    def run(self) -> Outcome:
        """Search both modes as far as the limits leave them."""
        bounds: list[float] = []
        less = OBJECTIVES[self.problem.objective][1]
        stopped = False
        if self._allows("aggregated"):
            choices, bound, stopped = self._aggregated()
            self._found += choices
            bound = self.roofline() if stopped and bound is None else bound
            bounds += [] if bound is None else [bound]
        if self._allows("disaggregated"):
            choices, bound, halted = self._disaggregated(bounds)
            self._found += choices
            bounds += [] if bound is None else [bound]
            stopped = stopped or halted
        self._found.sort(key=self._rank)
        return Outcome(
            best=self._found[0] if self._found else None,
            rivals=tuple(self._found[1:]),
            bound=(min(bounds) if less else max(bounds)) if bounds else None,
            configurations=self.configurations,
            pruned={name: n for name, n in self.pruned.items() if n},
            incumbents=tuple(self._incumbents),
            stopped=stopped,
        )

    def some(self, first: Mode) -> Choice | None:
        """A deployment, of the first mode where it has one, by when the search is stopped."""
        modes: tuple[Mode, ...] = ("aggregated", "disaggregated")
        for mode in sorted(modes, key=lambda mode: mode != first):
            if self._allows(mode):
                aggregated = mode == "aggregated"
                found, *_ = self._aggregated() if aggregated else self._disaggregated([])
                if found:
                    return min(found, key=self._rank)
        return None

    def _allows(self, mode: Mode) -> bool:
        return self.problem.limits.allows("mode", mode)

    def roofline(self) -> float | None:
        """What no deployment of the space beats, whatever was searched of it."""
        roles = ["serve"] if self._allows("aggregated") else []
        if self._allows("disaggregated") and self.problem.workload.output_len > 1:
            roles += ["prefill", "decode"]
        return roofline(self.problem, {role: self.table(role) for role in roles})

    def so_far(self) -> Outcome:
        """What is known of a search that was interrupted: of the rest, the roofline."""
        return Outcome(
            best=min(self._found, key=self._rank, default=None),
            rivals=(),
            bound=self.roofline(),
            configurations=self.configurations,
            pruned={},
            incumbents=tuple(self._incumbents),
            stopped=True,
        )

    def _rank(self, choice: Choice) -> tuple[float, int, float]:
        sign = 1.0 if OBJECTIVES[self.problem.objective][1] else -1.0
        return sign * choice.value, choice.devices, -choice.rate_per_s

    def _aggregated(self) -> tuple[list[Choice], float | None, bool]:
        """The best aggregated deployment, then the best of each other width; their bound."""
        p, table = self.problem, self.table("serve")
        if not len(table):
            return [], None, False
        if p.workload.concurrency is not None and len(p.cluster.nodes) > 1:
            return self._in_flight(table)
        number = numbers_of_rows(p, table)
        self.configurations += int(number.sum())
        holds = holding(p, table)
        self._count("memory", number[~holds].sum())
        slow, late = too_slow(p, table)
        if not (holds & ~slow & ~late).any():
            self._count("tpot floor", number[holds & slow].sum())
            self._count("ttft floor", number[holds & ~slow].sum())
            return [], None, False
        if self._rows is None:
            rows = all_rows(p, table, engines=np.flatnonzero(holds))
            self._rows = rows, *floors(p, table, rows)
        rows, least, keeps = self._rows
        self._count("memory", keeps.size - keeps.sum())
        slow = keeps & (least.tpot_s > p.tpot_s)
        late = keeps & ~slow & (least.ttft_s > p.ttft_s)
        self._count("tpot floor", slow.sum())
        self._count("ttft floor", late.sum())
        left = np.flatnonzero(keeps & ~slow & ~late)
        found = aggregated.search(p, table, rows.take(left), least.take(left), self._halted)
        self._count("objective bound", found.pruned)
        if found.best is None:
            return [], found.bound, found.stopped
        chosen = [found.best, *_others(p, table, found)]
        return [self._choice(found, one) for one in chosen], found.bound, found.stopped

    def _in_flight(self, table: EngineTable) -> tuple[list[Choice], float | None, bool]:
        """As :meth:`_aggregated`, of requests in flight over several groups, by the engines that
        hold one."""
        p = self.problem
        holds = np.flatnonzero(holding(p, table))
        number = in_flight.settings(p, table)
        self.configurations += number
        held = table.take(holds)
        slow, late = too_slow(p, held)
        if not (~slow & ~late).any():
            left = in_flight.settings(p, held)
            tpot = in_flight.settings(p, held.take(np.flatnonzero(slow)))
            self._count("memory", number - left)
            self._count("tpot floor", tpot)
            self._count("ttft floor", left - tpot)
            return [], None, False
        if self._floors is None:
            self._floors = LoadFloors(p, held)
        else:
            self._floors = self._floors.within(p)
        few = self._floors.table
        found = in_flight.search(p, few, self._floors, self._halted_at)
        self._count("memory", number - in_flight.settings(p, few))
        self._count("slower than another", found.pruned)
        rows = msgspec.structs.replace(found.rows, engine=holds[found.rows.engine])
        named = msgspec.structs.replace(found, rows=rows)
        one = [] if found.best is None else [self._choice(named, found.best)]
        return one, found.bound, found.stopped

    def _choice(self, found: aggregated.Found, one: Deployment) -> Choice:
        o, rows = one.options, found.rows
        shares = o.rate_per_s / o.rate_per_s.sum()
        if self.problem.workload.concurrency is not None:
            shares = o.flight / self.problem.workload.concurrency
        return Choice(
            mode="aggregated",
            picks=tuple(
                Pick(
                    role="serve",
                    engine=int(rows.engine[o.row[i]]),
                    chunk=int(rows.chunk[o.row[i]]),
                    batch=int(rows.batch[o.row[i]]),
                    load=int(rows.load[o.row[i]]),
                    count=int(o.count[i]),
                    share=float(shares[i]),
                )
                for i in range(len(o))
            ),
            value=one.value,
            devices=one.devices,
            rate_per_s=one.rate_per_s,
            ttft_s=float(o.ttft_s.max()),
            tpot_s=float(o.tpot_s.max()),
        )

    def _disaggregated(self, others: list[float]) -> tuple[list[Choice], float | None, bool]:
        """The best deployment of split phases, then the best of each other pair of widths, their
        bound, and whether the search was stopped before it had them; ``others`` are bounds of
        deployments of another mode."""
        p, left, right = self.problem, self.table("prefill"), self.table("decode")
        if not len(left) or not len(right) or p.workload.output_len < 2:
            return [], None, False
        sign = 1.0 if OBJECTIVES[p.objective][1] else -1.0
        values_before = [choice.value for choice in self._found]

        def best(one: float | None, others: list[float]) -> float | None:
            keys = [sign * v for v in (one, *others) if v is not None]
            return sign * min(keys) if keys else None

        def halted(value: float | None, bound: float | None) -> bool:
            return self._halted(
                best(value, values_before), best(bound, others), self.configurations
            )

        if self._workers is None:
            self._workers = split.Workers.of(p, left, right)
        found = best_pairs(p, self._workers, halted)
        pairs = found.pairs
        left_out = found.left_out
        if found.stopped:  # what was not reached is neither searched nor excluded
            self.configurations -= left_out
        else:
            self._count("objective bound", left_out)
        self.configurations += found.counted
        self._count("dominated workers", max(0, found.counted - left_out - len(pairs)))
        if not len(pairs):
            return [], found.bound, found.stopped
        values = split.values(p, pairs)
        order = np.lexsort((-pairs.rate_per_s, pairs.devices, sign * values))
        shape = left.devices[pairs.prefill] * 2**20 + right.devices[pairs.decode]
        _, first = np.unique(shape[order], return_index=True)
        chosen = order[np.sort(first)]
        choices = [_pair_choice(pairs, values, int(i)) for i in chosen[:8]]
        return choices, found.bound, found.stopped

    def _count(self, name: str, number: int) -> None:
        self.pruned[name] = self.pruned.get(name, 0) + int(number)

    def _halted_at(self, value: float | None, bound: Callable[[], float | None], rows: int) -> bool:
        """As :meth:`_halted`, with the bound computed only where somebody hears of it."""
        heard = self._stop is not None or self._tell is not None
        return self._halted(value, bound() if heard else None, rows)

    def _halted(self, value: float | None, bound: float | None, rows: int) -> bool:
        elapsed = time.perf_counter() - self._begin
        last = self._incumbents[-1].value if self._incumbents else None
        if value is not None and value != last:
            self._incumbents.append(Incumbent(elapsed_s=elapsed, value=value))
        progress = Progress(elapsed_s=elapsed, incumbent=value, bound=bound, nodes=rows)
        if self._tell is not None:
            self._tell(progress)
        return self._stop is not None and self._stop(progress)


def _pair_choice(pairs: split.Pairs, values: Floats, i: int) -> Choice:
    rate = float(pairs.rate_per_s[i])
    held = rate * float(pairs.request_s[i])
    return Choice(
        mode="disaggregated",
        picks=(
            Pick(
                role="prefill",
                engine=int(pairs.prefill[i]),
                chunk=int(pairs.chunk[i]),
                batch=1,
                load=max(1, round(held / int(pairs.num_prefill[i]))),
                count=int(pairs.num_prefill[i]),
            ),
            Pick(
                role="decode",
                engine=int(pairs.decode[i]),
                chunk=0,
                batch=int(pairs.batch[i]),
                load=max(1, round(held / int(pairs.num_decode[i]))),
                count=int(pairs.num_decode[i]),
            ),
        ),
        value=float(values[i]),
        devices=int(pairs.devices[i]),
        rate_per_s=rate,
        ttft_s=float(pairs.ttft_s[i]),
        tpot_s=float(pairs.tpot_s[i]),
        busy=float(pairs.busy[i]),
        move_s=float(pairs.move_s[i]),
    )


def _others(problem: Problem, table: EngineTable, found: aggregated.Found) -> list[Deployment]:
    """The best of each other size and width of engine, of those evaluated; for one group."""
    if len(problem.cluster.nodes) > 1 or found.best is None:
        return []
    o, engine = found.options, found.rows.engine
    shapes = np.array([_shape(table, int(n)) for n in range(len(table))])
    shape, mine = shapes[engine[o.row]], shapes[engine[found.best.options.row]]
    less = OBJECTIVES[problem.objective][1]
    made = [choose(problem, o.take(shape == one)) for one in np.unique(shape) if one not in mine]
    made.sort(key=lambda d: 0.0 if d is None else d.value if less else -d.value)
    return [one for one in made if one is not None][:8]


def _shape(table: EngineTable, number: int) -> int:
    """One number for tp, pp and attention dp."""
    e = table.engines[number]
    return (e.tp * 4096 + e.pp) * 4096 + e.attention_dp

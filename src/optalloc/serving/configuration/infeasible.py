"""Why a load cannot be served: the limit that stops it, by how much, and what would help, tried."""

from __future__ import annotations

import math
import time

import msgspec
import numpy as np

from optalloc.cluster.topology import Cluster
from optalloc.cost.engine.step import StepModel
from optalloc.result import Fix
from optalloc.serving.configuration.capacity import likely_in_flight
from optalloc.serving.configuration.edge import edge
from optalloc.serving.configuration.limits import NUMBERS, Limits
from optalloc.serving.configuration.pinned import nearest, why_none
from optalloc.serving.configuration.plan import Mode
from optalloc.serving.configuration.problem import MOST_DEVICES, Problem
from optalloc.serving.configuration.search import Choice, Search
from optalloc.stop import Progress, StopRule
from optalloc.units import format_bytes, format_seconds

#: Types of numbers tried where the model or the load does not fit, the gentlest first.
SMALLER = (("kv=fp8",), ("weights=fp8",), ("weights=fp8", "kv=fp8"), ("weights=nvfp4", "kv=fp8"))
_TARGETS = (("time to the first token", "ttft_s"), ("time of a token", "tpot_s"))
_LARGEST = 32
_FAR = 4.0
_NEAR, _ABOUT, _NODES = 1.003, 1.01, 1.0 + 1.0 / _LARGEST


def explain_infeasible(
    search: Search, stop: StopRule | None = None
) -> tuple[tuple[str, ...], tuple[Fix, ...]]:
    """What conflicts, in words, and fixes that were each tried by a search of their own.

    Complexity: about fifty searches.
    """
    return _Doctor(search, stop).told()


class _OutOfTime(Exception):
    pass


class _Doctor:
    def __init__(self, search: Search, stop: StopRule | None) -> None:
        self.search, self.problem, self._stop = search, search.problem, stop
        self._begin = time.perf_counter()
        self.conflict: list[str] = []
        self.fixes: list[Fix] = []
        self._mode: Mode = "disaggregated"  # a search of it is the quicker one

    def told(self) -> tuple[tuple[str, ...], tuple[Fix, ...]]:
        """Conflict and fixes; what was found by then where the time ends first."""
        try:
            if not self._memory():
                self._load()
            if not self.conflict:
                self._limits()
        except _OutOfTime:
            self.conflict.append("further causes were not looked for within the limit")
        if not self.conflict:
            self.conflict.append("the limits, targets and load together")
        return tuple(self.conflict), tuple(self.fixes)

    def _in_time(self) -> None:
        """Raise _OutOfTime where the time is over."""
        elapsed = time.perf_counter() - self._begin
        if self._stop is not None and self._stop(Progress(elapsed_s=elapsed)):
            raise _OutOfTime

    def _found(self, problem: Problem) -> Choice | None:
        """The best deployment of a changed problem."""
        self._in_time()
        return self.search.again(problem).run().best

    def _feasible(self, problem: Problem) -> bool:
        return self._any(problem) is not None

    def _any(self, problem: Problem) -> Choice | None:
        """Some deployment of a changed problem, of the mode of the last one first."""
        self._in_time()
        problem = msgspec.structs.replace(problem, objective="devices")
        search = self.search.again(problem, lambda progress: progress.incumbent is not None)
        found = search.some(self._mode)
        self._mode = self._mode if found is None else found.mode
        return found

    # -- memory

    def _memory(self) -> bool:
        """True if not one engine holds the weights and one request; then by how much."""
        p, table = self.problem, self.search.table("serve")
        work = p.workload
        if not len(table):
            return False
        index = np.arange(len(table))
        ones = np.ones(len(table), np.int64)
        step = table.step(index, ones * self._chunk(), ones)
        missing = missing_bytes(step, work.input_len + work.output_len)
        if missing.min() <= 0.0:
            return False
        best = int(np.argmin(missing))
        engine = table.engines[best]
        device = p.cluster.nodes[int(table.group[best])].device
        self.conflict.append(
            f"the weights ({engine.weight_dtype}) and the cache of one request need "
            f"{format_bytes(round(float(missing[best])))} more on each device than one "
            f"{device.name} offers, even with tp {engine.tp}, pp {engine.pp}"
            + (f", ep {engine.moe_ep}" if engine.moe_ep > 1 else "")
        )
        bare = without_load(p)
        self._smaller(bare)
        self._larger(bare)
        for name, values in p.limits.pin.items():
            if name.rpartition(".")[2] in NUMBERS:
                self._instead(name, values)
        if p.limits.target:
            self._untargeted(bare)
        return True

    def _chunk(self) -> int:
        from optalloc.serving.configuration.space import chunks

        return chunks(self.problem.limits, "serve")[0]

    def _smaller(self, problem: Problem) -> None:
        """The first type of numbers that makes it fit."""
        for words in SMALLER:
            limits = problem.limits
            for word in words:
                name, _, value = word.partition("=")
                limits = limits.with_pin(name, value)
            if limits != problem.limits and self._feasible(
                msgspec.structs.replace(problem, limits=limits)
            ):
                what = " ".join(f"--pin {word}" for word in words)
                self.fixes.append(Fix(what=what, cost="accuracy may suffer"))
                return

    def _larger(self, problem: Problem, times: float = 2.0) -> None:
        """The fewest devices that make it fit, likely so many ``times``: of so many or fewer nodes
        every plan is one of more nodes with some left idle, so what is fewer is halved. None is
        looked for where the largest cluster tried is by far too small for so many times."""
        largest = grown(problem.cluster, _LARGEST)
        if largest is None or times > _FAR * largest.num_devices / problem.cluster.num_devices:
            return
        low, high = 1, max(2, min(_LARGEST, math.ceil(times)))
        while not (fewest := self._fewest_on(problem, low, high)):
            low, high = high, 2 * high
            if high > _LARGEST:
                return

        def fits(step: float) -> float | None:
            return self._fewest_on(problem, low, round(step))

        step = edge(fewest, low, fewest - 1, fits, near=_NODES, whole=True)
        cluster = grown(problem.cluster, round(step))
        if cluster is not None:
            more = cluster.num_devices - problem.cluster.num_devices
            self.fixes.append(Fix(what=f"{cluster.num_devices} devices", cost=f"{more} more"))

    def _fewest_on(self, problem: Problem, low: int, step: int) -> int | None:
        """Where it fits with so many steps, these or fewer: as few, above ``low``, as a plan on
        them needs, if it fits with these."""
        cluster = grown(problem.cluster, step)
        if cluster is None or cluster.num_devices > MOST_DEVICES:
            return None
        found = self._any(msgspec.structs.replace(problem, cluster=cluster))
        if found is None:
            return None
        sizes = {n: grown(problem.cluster, n) for n in range(low + 1, step)}
        enough = [n for n, c in sizes.items() if c is not None and c.num_devices >= found.devices]
        fewer = self._fewest_on(problem, low, enough[0]) if enough else None
        return fewer or step

    # -- targets and load

    def _load(self) -> None:
        """Each target and the load alone: is it what stops, and what can be reached?"""
        p, work, times = self.problem, self.problem.workload, 2.0
        for name, field in _TARGETS:
            target = getattr(work, field)
            if target is None:
                continue
            free = msgspec.structs.replace(with_workload(p, **{field: None}), objective="latency")
            without = self._found(free)
            if without is None:
                continue
            reach = self._nearest(p, field, target, getattr(without, field))
            what = format_seconds(reach)
            self.conflict.append(
                f"the {name} is at most {format_seconds(target)}: the nearest within reach is "
                f"{what}"
            )
            self.fixes.append(
                Fix(
                    what=f"--{field[:4]} {what.replace(' ', '')}",
                    cost=f"{format_seconds(reach - target)} more",
                )
            )
        if work.rate_per_s is not None:
            best = self._found(
                msgspec.structs.replace(with_workload(p, rate_per_s=None), objective="throughput")
            )
            if best is not None:
                reach = best.rate_per_s * (1.0 - p.headroom)
                self.conflict.append(
                    f"{work.rate_per_s:g} requests/s: within the targets and {p.headroom:.0%} of "
                    f"headroom {reach:.4g} are within reach"
                )
                self.fixes.append(Fix(what=f"--rate {math.floor(reach * 100) / 100:g}"))
                times = work.rate_per_s / reach
        if work.concurrency is not None:
            times = work.concurrency / (self._fewer(work.concurrency) or work.concurrency / times)
        if self.conflict:
            self._larger(p, times)
            self._smaller(p)
        else:
            self._several()

    def _several(self) -> None:
        """Each target and the load by itself, where to drop one of them is not enough."""
        work, bare = self.problem.workload, without_load(self.problem)
        joint = work
        for name, field in _TARGETS:
            target = getattr(work, field)
            alone = with_workload(bare, **{field: target})
            if target is None or self._feasible(alone):
                continue
            least = self._found(msgspec.structs.replace(bare, objective="latency"))
            if least is None:
                continue
            reach = self._nearest(alone, field, target, getattr(least, field))
            joint = msgspec.structs.replace(joint, **{field: reach})
            self.conflict.append(
                f"the {name} is at most {format_seconds(target)}: the nearest within reach is "
                f"{format_seconds(reach)}, whatever the load and other targets"
            )
        if work.rate_per_s is not None and not self._feasible(
            with_workload(bare, rate_per_s=work.rate_per_s)
        ):
            most = self._found(msgspec.structs.replace(bare, objective="throughput"))
            if most is not None:
                reach = most.rate_per_s * (1.0 - self.problem.headroom)
                self.conflict.append(
                    f"{work.rate_per_s:g} requests/s: {reach:.4g} are within reach, whatever the "
                    "targets"
                )
                joint = msgspec.structs.replace(joint, rate_per_s=reach)
        if joint != work and self._feasible(msgspec.structs.replace(self.problem, workload=joint)):
            self.fixes.append(Fix(what="all of these at once, at what is within reach"))

    def _nearest(self, problem: Problem, field: str, target: float, good: float) -> float:
        """The least target that can be met, to three digits; ``good`` is what the deployment of the
        least latency takes."""

        def reached(value: float) -> float | None:
            found = self._any(with_workload(problem, **{field: value}))
            return None if found is None else min(value, getattr(found, field))

        least = edge(good, target, good / _NEAR, reached, near=_NEAR) * (1.0 + 1e-9)
        digits = 2 - math.floor(math.log10(least))
        return math.ceil(least * 10.0**digits) / 10.0**digits

    def _fewer(self, concurrency: int) -> int:
        """About the most requests in flight within the targets; 0 where not one is."""

        def fits(number: float) -> float | None:
            problem = with_workload(self.problem, concurrency=round(number))
            return number if self._feasible(problem) else None

        if concurrency < 2 or fits(1) is None:
            return 0
        guess = likely_in_flight(self.problem, self.search.table("serve"), concurrency)
        most = round(edge(1, concurrency, max(1, guess), fits, near=_ABOUT, whole=True))
        self.conflict.append(f"{concurrency} requests in flight: about {most} are within reach")
        self.fixes.append(Fix(what=f"--concurrency {most}"))
        return most

    # -- limits

    def _limits(self) -> None:
        """The target, pins and exclusions, each dropped alone."""
        p, target = self.problem, self.problem.limits.target
        if target and self._untargeted(p):
            self.conflict.append(f"--for {target}")
        for kind in ("pin", "forbid"):
            for name, values in getattr(p.limits, kind).items():
                if target and name.endswith("software"):
                    continue
                fewer: Limits = p.limits.without(kind, name)
                if self._feasible(msgspec.structs.replace(p, limits=fewer)):
                    word = f"--{kind} {name}={','.join(values)}"
                    role = name.rpartition(".")[0] or "serve"
                    why = why_none(p, self.search.table(role), role)
                    self.conflict.append(f"{word}: {why}" if why else word)
                    if kind == "pin":
                        self._instead(name, values)
                    self.fixes.append(Fix(what=f"drop {word}"))

    def _untargeted(self, problem: Problem) -> bool:
        """True if the problem has a plan for some other target."""
        limits = msgspec.structs.replace(problem.limits, target="")
        found = self._feasible(msgspec.structs.replace(problem, limits=limits))
        if found:
            self.fixes.append(Fix(what=f"drop --for {problem.limits.target}"))
        return found

    def _instead(self, name: str, values: tuple[str, ...]) -> None:
        """The value of a pinned decision nearest to what is pinned that has a plan."""
        for value in nearest(name, values, self.problem):
            limits = self.problem.limits.with_pin(name, value)
            if self._feasible(msgspec.structs.replace(self.problem, limits=limits)):
                what = f"--pin {name}={value}"
                self.fixes.append(Fix(what=what, cost=f"in place of {','.join(values)}"))
                return


def missing_bytes(step: StepModel, tokens: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Bytes that a device lacks for its weights, workspace and one request of so many tokens."""
    return np.asarray(step.sequence_bytes(tokens) - step.free_bytes)


def with_workload(problem: Problem, **changes: object) -> Problem:
    """The problem with another workload."""
    workload = msgspec.structs.replace(problem.workload, **changes)
    return msgspec.structs.replace(problem, workload=workload)


def without_load(problem: Problem) -> Problem:
    """The problem without load and targets: does the model fit at all?"""
    return with_workload(problem, rate_per_s=None, concurrency=None, ttft_s=None, tpot_s=None)


def grown(cluster: Cluster, step: int) -> Cluster | None:
    """A uniform cluster grown in steps (1: as it is): of a node each, or, where it is less than a
    usual node, to twice, three times ... of it. None for a mixed one, or uneven nodes."""
    group = cluster.nodes[0]
    if len(cluster.nodes) > 1:
        return None
    usual, total = group.device.devices_per_node, group.num_devices * step
    if group.count == 1 and group.devices < usual:
        size = min(total, usual)
        if total % size:
            return None
        changed = msgspec.structs.replace(
            group, devices=size, count=total // size, domain=min(total, max(size, group.domain))
        )
    else:
        total = group.num_devices + (step - 1) * group.devices
        changed = msgspec.structs.replace(group, count=group.count + step - 1)
    return msgspec.structs.replace(cluster, name=f"{total} devices", nodes=(changed,))

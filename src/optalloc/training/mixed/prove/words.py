"""Stages for the prover: times of every run of layers that can be one, by kind and place.

A *word* is a run of layer types that occurs in the model; a stage's time and tail depend on its
word, its kind, the micro-batches it keeps, and whether it holds an end of the model.
"""

from __future__ import annotations

from functools import cached_property

import msgspec
import numpy as np
from numpy.typing import NDArray

from optalloc.cost.meshes import LAYER_FIELDS
from optalloc.training.mixed.problem import MixedProblem

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

FIRST, MIDDLE, LAST, SINGLE = range(4)
_AT = {name: k for k, name in enumerate(LAYER_FIELDS)}
#: Share of a device's memory that sums of floats may differ by.
_ROUNDED = 1e-9


class Words:
    """The words of a model: ``at[b, e]`` numbers the layers b to e - 1, or is -1."""

    def __init__(self, sequence: tuple[int, ...]) -> None:
        known: dict[tuple[int, ...], int] = {}
        size = len(sequence)
        self.at = np.full((size + 1, size + 1), -1, np.int64)
        for begin in range(size + 1):
            for end in range(begin, size + 1):
                word = sequence[begin:end]
                self.at[begin, end] = known.setdefault(word, len(known))
        self.words = list(known)
        self.length = np.array([len(word) for word in self.words], np.int64)
        types = max(sequence) + 1
        self.counts = np.array([np.bincount(word, minlength=types) for word in known], float)
        self._by_length = np.argsort(self.length, kind="stable")
        # There are words of every length.
        self._begins = np.searchsorted(self.length[self._by_length], np.arange(size + 1))

    @cached_property
    def recomputations(self) -> Recomputations:
        """Every way to recompute each word."""
        return Recomputations(self)

    def least(self, values: Array) -> Array:
        """By number of layers, the least value of all words of that length."""
        rows: Array = np.minimum.reduceat(values[self._by_length], self._begins)
        return rows


class Recomputations:
    """Every way to recompute each word: so many first layers whole, so many behind them in part."""

    def __init__(self, words: Words) -> None:
        self.words = words
        rows, full, core = [], [], []
        types = words.counts.shape[1]
        for index, word in enumerate(words.words):
            size = len(word)
            begun = np.zeros((size + 1, types))
            np.add.at(begun[1:], (np.arange(size), np.array(word, np.int64)), 1.0)
            begun = begun.cumsum(axis=0)
            first, end = np.triu_indices(size + 1)
            rows.append(np.full(len(first), index))
            full.append(begun[first])
            core.append(begun[end] - begun[first])
        self.word = np.concatenate(rows)
        #: Layers of each type that are recomputed whole, in part, and not, shape (ways, types).
        self.full, self.core = np.concatenate(full), np.concatenate(core)
        self.stored = words.counts[self.word] - self.full - self.core


class KindWays:
    """For one kind of stage: the least seconds of recomputation by the bytes there are.

    By amount of scratch a table of the ways that may fit, by word and bytes kept, with the least
    seconds of all that keep no more.
    """

    def __init__(self, ways: Recomputations, table: Array, capacity: float) -> None:
        words = ways.words
        column = {name: table[: words.counts.shape[1], k] for name, k in _AT.items()}
        held = ("held_bytes", "held_full_bytes", "held_selective_bytes")
        room = capacity * (1.0 + _ROUNDED) - words.counts @ column["state_bytes"]
        open_ = words.counts @ np.minimum.reduce([column[name] for name in held]) <= room
        rows = np.flatnonzero(open_[ways.word])
        word, full, core = ways.word[rows], ways.full[rows], ways.core[rows]
        kept = full @ column["held_full_bytes"] + core @ column["held_selective_bytes"]
        kept = kept + ways.stored[rows] @ column["held_bytes"]
        extra = full @ column["extra_full_s"] + core @ column["extra_selective_s"]
        scratch = np.zeros(len(rows))
        for counts, name in ((full, "full"), (core, "selective")):
            for own, used in zip(counts.T, column[f"scratch_{name}_bytes"], strict=True):
                np.maximum(scratch, np.where(own > 0, used, 0.0), out=scratch)
        # Words are set apart by more bytes than a way that fits keeps.
        self.apart = 2.0 * capacity
        self.tables: list[tuple[float, Array, Array]] = []
        for most in np.unique(scratch):
            own = np.flatnonzero((scratch == most) & (kept + most <= room[word]))
            if not len(own):
                continue
            own = own[np.lexsort((kept[own], word[own]))]
            values, rank = np.unique(extra[own], return_inverse=True)
            begun = word[own] * len(values)
            least = values[np.minimum.accumulate(rank - begun) + begun]
            key = np.concatenate([[-np.inf], word[own] * self.apart + kept[own], [np.inf]])
            self.tables.append((float(most), key, np.concatenate([[np.inf], least])))

    def least_extra(self, flight: int, room: Array, words: Ints) -> Array:
        """Seconds of the quickest way that fits into ``room`` bytes, of each of the words; infinite
        if none."""
        least = np.full(len(words), np.inf)
        for scratch, key, extra in self.tables:
            spare = (room - scratch) / flight
            at = np.searchsorted(key, words * self.apart + spare, side="right") - 1
            fits = (spare >= 0.0) & (key[at] >= words * self.apart)
            np.minimum(least, np.where(fits, extra[at], np.inf), out=least)
        return least


class Placed(msgspec.Struct, frozen=True, kw_only=True):
    """Stages of one kind in one role by word: seconds of a micro-batch and of the tail without
    recomputation, the room for activations, and the bytes of one micro-batch: of the ends of the
    model, of the word's layers stored, and at least."""

    seconds: Array
    tail: Array
    room: Array
    ends_held: float
    held: Array
    least_held: Array


class Stages:
    """Times of stages in a part: plans on ``groups`` with ``least`` to ``most`` replicas, each cost
    as low as with any of these."""

    def __init__(
        self,
        problem: MixedProblem,
        words: Words,
        ways: dict[int, KindWays],
        groups: tuple[int, ...],
        least: int,
        most: int,
    ) -> None:
        self.problem, self.words, self.ways = problem, words, ways
        self.groups, self.least, self.most = groups, least, most
        self._known: dict[tuple[int, int, int], tuple[Array, Array]] = {}
        self._placed: dict[tuple[int, int], Placed] = {}
        latency, rate = self._exchange
        ring = least if least <= 8 else 2 * _power(least) - 1
        shards = most if most <= 8 else _power(most)
        share = (ring - 1) / ring
        self.hops_s = (ring - 1) * latency
        layers = problem.layers.copy()
        layers[:, :, _AT["state_bytes"]] += problem.optimizer_bytes / shards
        layers[:, :, _AT["reduce_s"]] += share * problem.gradient_bytes / rate
        layers[:, :, _AT["gather_s"]] += share * problem.weight_bytes / rate
        layers[:, :, _AT["update_s"]] /= shards
        self.layers = layers
        tied = problem.tied_bytes
        self.tied_s = np.where(tied > 0, 2.0 * latency + tied / rate, 0.0)

    def link(self, a: int, b: int) -> tuple[float, float]:
        """Latency and rate between two groups."""
        p = self.problem
        latency = max(p.network[a].latency_s, p.network[b].latency_s)
        rate = min(p.network[a].bandwidth_bytes_per_s, p.network[b].bandwidth_bytes_per_s)
        if p.zone[a] != p.zone[b] and p.zone_wire is not None:
            latency = max(latency, p.zone_wire.latency_s)
            rate = min(rate, p.zone_wire.bandwidth_bytes_per_s)
        return latency, rate

    @cached_property
    def _exchange(self) -> tuple[float, float]:
        far = [self.problem.far[g] for g in self.groups]
        found = [(w.latency_s, w.bandwidth_bytes_per_s) for w in far]
        found += [self.link(a, b) for a in self.groups for b in self.groups if a < b]
        return max(latency for latency, _ in found), min(rate for _, rate in found)

    @property
    def fixed_s(self) -> float:
        """Seconds of a step that do not depend on its stages."""
        return max(self.problem.fixed_s[g] for g in self.groups)

    def times(self, kind: int, flight: int, role: int) -> tuple[Array, Array]:
        """Seconds of a micro-batch and of the tail, by word; infinite where it does not fit."""
        key = (kind, flight, role)
        if key not in self._known:
            self._known[key] = self._times(*key)
        return self._known[key]

    def _times(self, kind: int, flight: int, role: int) -> tuple[Array, Array]:
        if (kind, role) not in self._placed:
            self._placed[kind, role] = self._place(kind, role)
        one = self._placed[kind, role]
        room = one.room - flight * one.ends_held
        extra = np.where(flight * one.held <= room, 0.0, np.inf)
        open_ = np.isinf(extra) & (flight * one.least_held <= room)
        if open_.any():
            if kind not in self.ways:
                every, capacity = self.words.recomputations, self.problem.capacity_bytes[kind]
                self.ways[kind] = KindWays(every, self.problem.layers[kind], float(capacity))
            some = np.flatnonzero(open_)
            extra[some] = self.ways[kind].least_extra(flight, room[some], some)
        return one.seconds + extra, np.where(np.isfinite(extra), one.tail, np.inf)

    def _place(self, kind: int, role: int) -> Placed:
        """What does not depend on the micro-batches that are kept."""
        p, table = self.problem, self.layers[kind]
        ends = np.zeros(table.shape[1])
        if role in (FIRST, SINGLE):
            ends = ends + table[0]
        if role in (LAST, SINGLE):
            ends = ends + table[-1 if role == SINGLE else -2]
        counts = self.words.counts
        inner = table[: counts.shape[1]]
        total = counts @ inner + ends
        own = {name: total[:, k] for name, k in _AT.items()}
        room = p.capacity_bytes[kind] - own["state_bytes"]
        if role in (LAST, SINGLE):
            room = room - p.logits_bytes[kind]
        forward, backward = own["forward_s"], own["backward_s"]
        tail = np.maximum(0.0, own["reduce_s"] + self.hops_s - p.overlap * backward)
        tail = tail + np.maximum(0.0, own["gather_s"] + self.hops_s - p.overlap * forward)
        tail = tail + own["update_s"]
        if role in (FIRST, LAST):
            tail = tail + self.tied_s[kind]
        held = [inner[:, _AT[f"held_{k}bytes"]] for k in ("", "full_", "selective_")]
        return Placed(
            seconds=forward + backward,
            tail=tail,
            # Sums of floats in another order may differ; the bound must not.
            room=room + _ROUNDED * p.capacity_bytes[kind],
            ends_held=float(ends[_AT["held_bytes"]]),
            held=counts @ held[0],
            least_held=counts @ np.minimum.reduce(held),
        )


def _power(number: int) -> int:
    """The greatest power of two that is not above the number."""
    return 1 << (number.bit_length() - 1)

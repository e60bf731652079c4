"""Branch and bound over the counts of a fleet.

Formulation
-----------
    minimise    sum_g p_g y_g                           USD/h, y_g whole (branched on here)
    subject to  low <= y_g <= high, and so the total of each kind    (:class:`FleetArrays`)
                sum_g n_g y_g <= C_P for each limit P   (``use``, ``limit`` of :class:`FleetArrays`)
                (c_s(y)) is enough in each scenario s   (:meth:`FleetArrays.left`, time by kind)

where time ``c`` is enough if some split of every bucket over the kinds fits into it. Offers of one
kind serve alike, so it is totals of kinds that decide, and boxes are cut at them first. The linear
programme of a box is that of :mod:`~optalloc.serving.mix.relax`; with many kinds and no failures
boxes are bounded for whole counts (:mod:`~optalloc.serving.mix.whole`). Where a box is cut is
chosen in :mod:`~optalloc.serving.mix.branch`.

Why it is exact
---------------
Buckets are divisible, so for whole counts the linear programme of a single point is the problem
itself. At every moment prices give a bound by weak duality (:mod:`~optalloc.serving.mix.witness`),
whether or not the programme was solved to its end, and every box is either closed by such a bound
or cut in two. Counts at which one offer alone takes the bound past the best fleet are left out
of a box. Fleets cost multiples of :func:`price_step`, so a bound closer than that to the best fleet
closes a box. Counts above ``high`` serve nothing that ``high`` does not.
"""

from __future__ import annotations

import heapq
import math
import time

import numpy as np

from optalloc.result import Incumbent
from optalloc.serving.mix.arrays import Counts, FleetArrays, Reals
from optalloc.serving.mix.branch import WHOLE, Branching
from optalloc.serving.mix.relax import Relaxation, Relaxed
from optalloc.serving.mix.whole import WholeRelaxation
from optalloc.serving.mix.witness import FleetWitness, Node, Proof
from optalloc.stop import OnProgress, Progress, StopRule

#: Relative gap at which value and bound are one.
TOLERANCE = 2e-9
_MANY = 12  # kinds from which bounds for whole counts pay
_EARLY, _EVERY = 20, 10  # nodes at which a fleet is made by rounding


class Search:
    """Best fleet, bound and tree of a search; :meth:`run` ends by proof or by the stop rule."""

    def __init__(
        self,
        arrays: FleetArrays,
        stop: StopRule | None = None,
        on_progress: OnProgress | None = None,
    ) -> None:
        self.arrays = arrays
        self._relaxation: Relaxation | WholeRelaxation
        if len(arrays.scenarios) == 1 and arrays.num_kinds >= _MANY:
            self._relaxation = WholeRelaxation(arrays)
        else:
            self._relaxation = Relaxation(arrays)
        self._branching = Branching(arrays, self._relaxation)
        self.counts: Counts | None = None
        self.value, self.bound = math.inf, 0.0
        self.incumbents: list[Incumbent] = []
        self.visited = 0
        self.stopped = False
        self._unresolved = math.inf
        self._nodes: list[Node] = []
        self._proofs: list[Proof] = []
        self._stop, self._on_progress = stop, on_progress
        self._begin, self._begin_cpu = time.perf_counter(), time.process_time()

    def run(self, avoid: Counts | None = None) -> None:
        """Search all fleets, or all that have fewer of some offer than ``avoid``."""
        low, high = self.arrays.low, self.arrays.high
        if avoid is None:
            boxes = [self.arrays.root()]
        else:
            boxes = []
            for g in np.flatnonzero(avoid > low):
                box = (np.maximum(low, np.where(np.arange(len(low)) < g, avoid, low)), high.copy())
                box[1][g] = avoid[g] - 1
                boxes.append(self.arrays.box(*box))
        self._open: list[tuple[float, int, Counts, Counts, Relaxed | None]] = [
            (0.0, self._node(None), low, high, None) for low, high in boxes
        ]
        try:
            self._explore()
        except KeyboardInterrupt:
            self.stopped = True
        least = min([self._unresolved, *(entry[0] for entry in self._open)], default=math.inf)
        self.bound = self.value if least >= self._cutoff() else least

    @property
    def witness(self) -> FleetWitness:
        """What proves the bound."""
        return FleetWitness(nodes=tuple(self._nodes), proofs=tuple(self._proofs))

    def elapsed_s(self) -> float:
        """Wall-clock seconds since the start."""
        return time.perf_counter() - self._begin

    def cpu_s(self) -> float:
        """CPU seconds since the start."""
        return time.process_time() - self._begin_cpu

    # --- the tree

    def _explore(self) -> None:
        while self._open:
            bound, node, low, high, found = self._open[0]
            if bound >= self._cutoff() or (self.visited and self._expired(bound)):
                return
            heapq.heappop(self._open)
            try:
                if found is None:
                    self._enter(bound, node, low, high)
                else:
                    self._cut(bound, node, low, high, found)
            except KeyboardInterrupt:
                heapq.heappush(self._open, (bound, node, low, high, found))
                raise

    def _enter(self, bound: float, node: int, low: Counts, high: Counts) -> None:
        """Bound a box, and keep it open if that does not close it."""
        self.visited += 1
        low, high = self.arrays.tightened(low, high)
        if (low > high).any():
            return
        found = self._bounded(low, high)
        self._nodes[node] = Node(proof=self._keep(found.proof))
        if found.bound >= self._cutoff():
            return
        bound = max(bound, found.bound)
        if (low == high).all():  # neither served nor shown not to be: within the noise of floats
            self._unresolved = min(self._unresolved, bound)
            return
        heapq.heappush(self._open, (bound, node, low, high, found))

    def _cut(self, bound: float, node: int, low: Counts, high: Counts, found: Relaxed) -> None:
        """Cut an open box in two, and bound both parts."""
        room = self._cutoff() * (1.0 + TOLERANCE) - found.bound
        if math.isfinite(room):
            low, high = self._relaxation.narrowed(found, low, high, room)
            low, high = self.arrays.tightened(low, high)
        offer, at = self._branching.where(found, low, high, self._cutoff())
        below, above = high.copy(), low.copy()
        below[offer], above[offer] = at, at + 1
        proof = self._nodes[node].proof
        down, up = self._node(proof), self._node(proof)
        self._nodes[node] = Node(proof=proof, offer=offer, at=at, below=down, above=up)
        for part in ((down, low, below), (up, above, high)):
            self._enter(bound, *part)

    def _bounded(self, low: Counts, high: Counts) -> Relaxed:
        offers = slice(len(self.arrays.price))
        if not (self.arrays.use @ low[offers] <= self.arrays.limit).all():
            return self._limit_broken(low[offers])
        before = self.value
        found = self._relaxation.box(low, high, self._cutoff())
        if found.bound < self._cutoff():
            self._find_fleets(found.counts[offers], low[offers], high[offers])
        if found.bound < self._cutoff() and self.value < before:
            found = self._relaxation.box(low, high, self._cutoff())
        fixed = low[offers]
        if found.bound < self._cutoff() and (low == high).all() and self._relaxation.serves(fixed):
            price, step = float(self.arrays.price @ fixed), np.zeros_like(found.step)
            proof = Proof(weight=1, prices=())
            return Relaxed(price, found.counts, proof, self.arrays.price, step)
        return found

    def _find_fleets(self, counts: Reals, low: Counts, high: Counts) -> None:
        """Fleets near the counts of the relaxation."""
        near = np.rint(counts)
        if (np.abs(counts - near) <= WHOLE).all():
            self._offer(near.astype(np.int64))
        elif self.visited <= _EARLY or self.visited % _EVERY == 0:
            up = np.clip(np.ceil(counts - WHOLE).astype(np.int64), low, high)
            if self._relaxation.serves(up):
                self._offer(self._without_spare(up))

    def _without_spare(self, counts: Counts) -> Counts:
        """Take replicas away, the dearest first, for as long as the rest serves."""
        for g in np.argsort(-self.arrays.price, kind="stable"):
            while counts[g] > self.arrays.low[g]:
                less = counts.copy()
                less[g] -= 1
                if not self._relaxation.serves(less):
                    break
                counts = less
        return counts

    def _offer(self, counts: Counts) -> None:
        value = float(self.arrays.price @ counts)
        if (
            value < self.value - 0.5 * self.arrays.step_usd
            and (self.arrays.use @ counts <= self.arrays.limit).all()
            and self._relaxation.serves(counts)
        ):
            self.value, self.counts = value, counts
            self.incumbents.append(Incumbent(elapsed_s=self.elapsed_s(), value=value))

    def _limit_broken(self, low: Counts) -> Relaxed:
        """The least counts of a box already take more devices than there are."""
        over = self.arrays.use @ low > self.arrays.limit
        limits = np.zeros(len(over))
        limits[int(over.argmax())] = 1.0
        proof = Proof(weight=0, prices=(), limits=tuple(limits.tolist()))
        none, step = np.zeros(len(self.arrays.price)), np.zeros(len(self.arrays.owner))
        return Relaxed(math.inf, low.astype(np.float64), proof, none, step)

    # --- what is kept

    def _node(self, proof: int | None) -> int:
        self._nodes.append(Node(proof=proof))
        return len(self._nodes) - 1

    def _keep(self, proof: Proof) -> int:
        self._proofs.append(proof)
        return len(self._proofs) - 1

    def _cutoff(self) -> float:
        """A bound from here on leaves no cheaper fleet."""
        if self.counts is None:
            return math.inf
        return self.value - max(0.999 * self.arrays.step_usd, TOLERANCE * self.value)

    def _expired(self, bound: float) -> bool:
        progress = Progress(
            elapsed_s=self.elapsed_s(),
            incumbent=None if self.counts is None else self.value,
            bound=bound,
            nodes=self.visited,
        )
        if self._on_progress is not None:
            self._on_progress(progress)
        if self._stop is not None and self._stop(progress):
            self.stopped = True
        return self.stopped

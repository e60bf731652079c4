"""Sensitivity: how far an input can move before another training plan is the better one.

Each probe solves exactly, for one value of one input: the best plan of the chosen mesh (its cuts
and recomputation chosen anew for that value), then the whole space for a plan that is better by
more than ``WORTH``. :mod:`optalloc.plan.turns` moves the inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec

from optalloc.cost.model import CostModel
from optalloc.plan.compare import Decision
from optalloc.plan.marginals import links, with_link
from optalloc.plan.resolve import Spaces, best_of, mesh_pins, objective_of, replanned
from optalloc.plan.turns import DIRECTIONS, WORTH, Moving, Stopped, Turn, turn_of
from optalloc.plan.view import decisions
from optalloc.stop import StopRule
from optalloc.training.plan import TrainingPlan
from optalloc.units import GB

_TOKENS = 128  # sequence lengths tried are multiples of this


def turns(
    cost: CostModel,
    plan: TrainingPlan,
    *,
    spaces: Spaces,
    forbid: list[str],
    stop: StopRule | None,
    on_turn: Callable[[Turn], None] | None = None,
) -> tuple[Turn, ...]:
    """Where the choice of a plan turns, for each bandwidth, the batch and the sequence length.

    Parameters
    ----------
    spaces : sequence of list of str
        Pins of each part of the whole space.
    forbid : list of str
        What they leave out.
    on_turn : callable, optional
        Called with every turn as it is found.

    Returns
    -------
    tuple of Turn
        Two an input, less first. Empty if another mesh is already better by more than ``WORTH``.

    Complexity: at most nine pairs of searches a turn.
    """
    probe = _Probe(plan, spaces, forbid, stop)
    try:
        if not probe.holds(cost):
            return ()
    except Stopped:
        return ()
    found = []
    for which in _inputs(cost, plan):
        for direction in DIRECTIONS:
            found.append(turn_of(probe, which, direction))
            if on_turn is not None:
                on_turn(found[-1])
    return tuple(found)


def _inputs(cost: CostModel, plan: TrainingPlan) -> list[Moving[CostModel]]:
    cluster, work = cost.cluster, cost.workload
    group = cluster.nodes[0]

    def linked(name: str, now: float) -> Callable[[float], CostModel]:
        return lambda value: CostModel(
            plan.model, with_link(cluster, name, value / now), work, name=plan.cost_model
        )

    def worked(field: str) -> Callable[[float], CostModel]:
        def at(value: float) -> CostModel:
            moved = msgspec.structs.replace(work, **{field: round(value)})
            return CostModel(plan.model, cluster, moved, name=plan.cost_model)

        return at

    found = []
    for name, words in links(cluster).items():
        now = getattr(group, name).bandwidth_bytes_per_s / GB
        found.append(
            Moving(
                quantity=f"{words} bandwidth", unit="GB/s", now=now, step=0, at=linked(name, now)
            )
        )
    d = plan.degrees
    together = d.dp * plan.micro_batch * (d.pp if plan.schedule == "interleaved" else 1)
    found.append(
        Moving(
            quantity="global batch",
            unit="sequences",
            now=float(work.global_batch),
            step=together,
            at=worked("global_batch"),
        )
    )
    found.append(
        Moving(
            quantity="sequence length",
            unit="tokens",
            now=float(work.sequence_length),
            step=math.lcm(2 * d.cp, d.tp * d.cp, _TOKENS),
            at=worked("sequence_length"),
        )
    )
    return found


class _Probe:
    """Asks of one cost model whether the plan's mesh is still the best."""

    def __init__(
        self, plan: TrainingPlan, spaces: Spaces, forbid: list[str], stop: StopRule | None
    ) -> None:
        self.plan, self.forbid, self.stop = plan, forbid, stop
        self.mesh, self.objective = [mesh_pins(plan)], objective_of(plan)
        fewest = plan.certificate is not None and plan.certificate.objective == "devices"
        same = [f"num_devices={plan.num_devices}"] if fewest else []
        self.spaces = [[*pin, *same] for pin in spaces]

    def _best(
        self, cost: CostModel, spaces: Spaces, forbid: list[str], below_s: float = math.inf
    ) -> float | None:
        return best_of(cost, spaces, forbid, self.stop, objective=self.objective, below_s=below_s)

    def holds(self, cost: CostModel) -> bool:
        """True if no plan is better than the best of the mesh by more than ``WORTH``: proven."""
        own = self._best(cost, self.mesh, [])
        if own is None:
            return False
        least = own * (1.0 - WORTH)
        if self.objective == "step_time":  # a search below a ceiling ends much earlier
            return self._best(cost, self.spaces, self.forbid, least) is None
        best = self._best(cost, self.spaces, self.forbid)
        return best is not None and best >= least

    def better(self, cost: CostModel) -> tuple[float | None, tuple[Decision, ...], str]:
        """What the best plan saves, what it decides differently, and why if nothing is known."""
        own = self._best(cost, self.mesh, [])
        result = replanned(self.plan, cost, self.spaces, self.forbid, self.stop, self.objective)
        if result.best is None:
            return None, (), "nothing fits"
        ours, theirs = decisions(self.plan), decisions(result.best)
        # How many micro-batches, and where the cuts lie, follows from the input that moved.
        follow = ("num_microbatches", "layers_per_chunk", "recompute", "num_devices")
        different = tuple(
            Decision(name=name, first=ours[name], second=theirs[name])
            for name in ours
            if ours[name] != theirs[name] and name not in (*follow, "idle_devices")
        )
        if own is None or result.bounds.primal is None:
            return None, different, "it does not fit"
        return 1.0 - result.bounds.primal / own, different, ""

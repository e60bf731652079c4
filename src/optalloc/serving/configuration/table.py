"""EngineTable: every engine of a space as columns, so that all are timed in one pass of NumPy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

import msgspec
import numpy as np

from optalloc.cluster.topology import Cluster
from optalloc.cost.engine.constants import EngineConstants, read_engine_constants
from optalloc.cost.engine.many import Rows, Setups
from optalloc.cost.engine.setup import Engine
from optalloc.cost.engine.step import StepModel, step_model
from optalloc.cost.engine.work import Work
from optalloc.model.spec import ModelSpec
from optalloc.serving.configuration.columns import Floats, Ints
from optalloc.serving.configuration.limits import SOFTWARE, Limits
from optalloc.serving.configuration.space import engines, facts_of, most_engines

Columns = TypeVar("Columns", Work, EngineConstants)


class EngineTable(msgspec.Struct, frozen=True, kw_only=True):
    """Engines but for chunk and batch, and the group of nodes that each may run on.

    ``devices`` are those of one engine, ``most`` how many of it the group holds, ``groups`` its
    attention ranks, ``usd_per_h`` its price (0 where the device has none); ``software`` by number.
    """

    engines: tuple[Engine, ...]
    group: Ints
    software: Ints
    devices: Ints
    most: Ints
    groups: Ints
    usd_per_h: Floats
    setups: Setups

    def __len__(self) -> int:
        return len(self.engines)

    def take(self, index: Ints) -> EngineTable:
        """Some of the engines, by number."""
        columns = ("group", "software", "devices", "most", "groups", "usd_per_h")
        return msgspec.structs.replace(
            self,
            engines=tuple(self.engines[i] for i in index),
            setups=self.setups.take(index),
            **{name: getattr(self, name)[index] for name in columns},
        )

    def step(self, index: Ints, chunk: Ints, batch: Ints) -> Rows:
        """The step model of many rows: engine by number, with its chunk and batch."""
        return self.setups.rows(index, chunk.astype(np.float64), batch.astype(np.float64))


def engine_table(
    model: ModelSpec, cluster: Cluster, limits: Limits, role: str, constants: str
) -> EngineTable:
    """All engines that the rules and limits leave for one role.

    Complexity: about 0.1 ms an engine.
    """
    facts, file = facts_of(model), read_engine_constants(constants)
    found: list[tuple[int, Engine, StepModel]] = []
    for number, group in enumerate(cluster.nodes):
        for _, engine in engines(facts, group, limits, role):
            step = step_model(model, group.device, engine, group=group, file=file)
            found.append((number, engine, step))
    return table_of(cluster, found)


def table_of(cluster: Cluster, found: Sequence[tuple[int, Engine, StepModel]]) -> EngineTable:
    """The table of engines, each with the number of its group and its step model."""
    nodes = cluster.nodes
    usd = [nodes[g].device.price_usd_per_h or 0.0 for g, _, _ in found]
    return EngineTable(
        engines=tuple(engine for _, engine, _ in found),
        group=_ints(g for g, _, _ in found),
        software=_ints(SOFTWARE.index(engine.software) for _, engine, _ in found),
        devices=_ints(engine.num_devices for _, engine, _ in found),
        most=_ints(most_engines(nodes[g], engine.num_devices) for g, engine, _ in found),
        groups=_ints(engine.attention_dp for _, engine, _ in found),
        usd_per_h=np.array([u * e.num_devices for u, (_, e, _) in zip(usd, found, strict=True)]),
        setups=Setups(
            _stacked([step.work for _, _, step in found], Work),
            _stacked([step.constants for _, _, step in found], EngineConstants),
        ),
    )


def _ints(values: Iterable[int]) -> Ints:
    return np.array(list(values), np.int64)


def _stacked(values: Sequence[Columns], kind: type[Columns]) -> Columns:
    rows = np.array([msgspec.structs.astuple(value) for value in values], np.float64)
    rows = rows.reshape(len(values), len(kind.__struct_fields__))
    return kind(**dict(zip(kind.__struct_fields__, np.ascontiguousarray(rows.T), strict=True)))

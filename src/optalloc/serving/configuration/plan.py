"""ServingPlan: a complete, self-contained answer on how a model is served."""

from __future__ import annotations

import os
from typing import Literal

import msgspec

from optalloc import files
from optalloc.cluster.topology import Cluster
from optalloc.cost.engine.setup import Engine
from optalloc.model.spec import ModelSpec
from optalloc.serving.configuration.limits import Limits
from optalloc.workload import Serving

FORMAT_VERSION = "1.0"

Role = Literal["serve", "prefill", "decode"]
Mode = Literal["aggregated", "disaggregated"]


class Worker(msgspec.Struct, frozen=True, kw_only=True):
    """``count`` equal engines on the devices of one group of the cluster.

    ``group`` is the index of that group in ``cluster.nodes`` and ``device`` its kind.
    ``concurrency`` is the number of requests that one engine holds (of its own phase, where phases
    are split), ``share`` the part of the whole load that all its engines carry. ``memory_bytes`` is
    that of one device by kind (weights, workspace, kv); ``kv_capacity_tokens`` is what the cache of
    one engine holds, over its attention ranks. ``request_rate_per_s`` is what one engine can serve
    within the targets at this concurrency. ``binds`` says what stops it from serving more.
    """

    role: Role
    group: int
    device: str
    count: int
    engine: Engine
    concurrency: float
    share: float = 1.0
    memory_bytes: dict[str, int]
    capacity_bytes: int
    kv_capacity_tokens: int
    kv_use: float
    mean_batch: float
    ttft_s: float
    tpot_s: float
    request_rate_per_s: float
    binds: str

    @property
    def num_devices(self) -> int:
        """Devices of all its engines."""
        return self.count * self.engine.num_devices


class Predicted(msgspec.Struct, frozen=True, kw_only=True):
    """What the deployment as a whole does: estimates of the cost model, never measurements.

    ``request_rate_per_s`` is what is served under the stated load (with a rate: that rate), and
    ``capacity_per_s`` what could be at most within the targets. ``tokens_per_s_per_user`` is
    1 / ``tpot_s``. ``transfer_s`` is what the cache of a prompt travels between split phases, part
    of ``ttft_s``. ``errors`` holds for each predicted quantity the relative error within which 90
    % of measurements lie, where it is known.
    """

    ttft_s: float
    tpot_s: float
    request_s: float
    request_rate_per_s: float
    capacity_per_s: float
    output_tokens_per_s: float
    tokens_per_s_per_user: float
    tokens_per_s_per_device: float
    usd_per_h: float | None
    usd_per_mtoken: float | None
    transfer_s: float = 0.0
    errors: dict[str, float] = {}


class Certificate(msgspec.Struct, frozen=True, kw_only=True):
    """Why nothing better exists in the stated space.

    ``configurations`` counts the engine settings of the space; ``pruned`` those that a bound or a
    rule removed, by its name, and the rest were evaluated. ``bound`` is proven: no other
    configuration is better.
    """

    objective: str
    value: float
    bound: float
    space: str
    configurations: int
    pruned: dict[str, int]
    checked: bool = False


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One point of the front of speed for a user against throughput of a device."""

    tokens_per_s_per_user: float
    tokens_per_s_per_device: float
    ttft_s: float
    mode: Mode
    num_devices: int
    setup: str


class Rival(msgspec.Struct, frozen=True, kw_only=True):
    """The best deployment of another shape: its value, and what it decides otherwise."""

    value: float
    mode: Mode
    num_devices: int
    setup: str
    ttft_s: float
    tpot_s: float
    output_tokens_per_s: float


class ServingPlan(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="serving"):
    """Which engines run on which devices, and what they are predicted to do.

    ``workers`` has role "serve" where engines do both phases, else "prefill" and "decode".
    ``limits`` is what narrowed or widened the space, ``headroom`` the share of the capacity that
    was to be kept free.
    ``asked`` is the workload whose percentile was asked for, where the targets of ``workload``, on
    the mean, were tightened until a simulation met it; None: ``workload`` itself.
    """

    format_version: str = FORMAT_VERSION
    tool_version: str
    model: ModelSpec
    cluster: Cluster
    workload: Serving
    digests: dict[str, str]
    cost_model: str
    mode: Mode
    workers: tuple[Worker, ...]
    num_devices: int
    idle_devices: int
    predicted: Predicted
    headroom: float = 0.0
    limits: Limits = Limits()
    certificate: Certificate | None = None
    front: tuple[Point, ...] = ()
    alternatives: tuple[Rival, ...] = ()
    asked: Serving | None = None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write ``plan.json`` in canonical form."""
        files.write_json(path, self)

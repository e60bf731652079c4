"""Problem: what a serving search decides about, its objectives, and the load of an engine."""

from __future__ import annotations

import msgspec

from optalloc.cluster.topology import Cluster
from optalloc.cost.engine.constants import DEFAULT
from optalloc.errors import InputError
from optalloc.model.spec import ModelSpec
from optalloc.serving.configuration.limits import Limits
from optalloc.serving.configuration.targets import target_of
from optalloc.workload import Serving

#: Objective -> its unit, and whether less is better.
OBJECTIVES = {
    "throughput": ("tokens/s", False),
    "price": ("USD/Mtoken", True),
    "devices": ("devices", True),
    "latency": ("s", True),
}

#: Devices of a cluster at most: the array entries of a search grow with the square of the workers.
MOST_DEVICES = 4096

#: Prefill workers of split phases are busy for at most this share of the time: beyond it prompts
#: wait longer than the mean of a queue says.
BUSIEST = 0.9

_M = 1e6


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """A model, where it may run, what is asked of it, and what is best.

    ``headroom`` is the share of its capacity that a deployment keeps free where a rate is given.
    """

    model: ModelSpec
    cluster: Cluster
    workload: Serving
    objective: str = "throughput"
    limits: Limits = Limits()
    headroom: float = 0.1
    constants: str = DEFAULT

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise InputError(
                f"unknown objective {self.objective!r}",
                path="objective",
                fix=f"use one of {', '.join(OBJECTIVES)}",
            )
        if not 0.0 <= self.headroom < 1.0:
            raise InputError(
                f"a headroom of {self.headroom:g} is no share of the capacity",
                path="headroom",
                fix="give a share such as 0.1 for 10 %",
            )
        work, most = self.workload, self.model.max_positions
        if most is not None and work.input_len + work.output_len > most:
            raise InputError(
                f"requests of {work.input_len} and {work.output_len} tokens are longer than the "
                f"{most} positions of {self.model.name}",
                path="workload",
                pointer="$.input_len",
                fix="shorten them, or choose a model of longer contexts",
            )
        if self.objective == "price":
            for group in self.cluster.nodes:
                if group.device.price_usd_per_h is None:
                    raise InputError(
                        f"{group.device.name} has no public price",
                        path="--objective price",
                        fix="give price_usd_per_h for the device in cluster.toml, or use another "
                        "objective",
                    )

    @property
    def several_kinds(self) -> bool:
        """True if engines on several groups may do the same in one deployment."""
        return target_of(self.limits).several_kinds

    @property
    def has_load(self) -> bool:
        """True if a rate or a concurrency is given."""
        return self.workload.rate_per_s is not None or self.workload.concurrency is not None

    @property
    def asked_per_s(self) -> float:
        """Requests per second that the deployment has to be able to serve; 0 without a rate."""
        return (self.workload.rate_per_s or 0.0) / (1.0 - self.headroom)

    @property
    def ttft_s(self) -> float:
        """The target of the time to the first token; infinite without one."""
        return float("inf") if self.workload.ttft_s is None else self.workload.ttft_s

    @property
    def tpot_s(self) -> float:
        """The target of the time of a further token; infinite without one."""
        return float("inf") if self.workload.tpot_s is None else self.workload.tpot_s

    def value(
        self, *, rate_per_s: float, devices: int, request_s: float, usd_per_h: float
    ) -> float:
        """The objective of a deployment that serves so many requests per second."""
        if self.objective == "throughput":
            return rate_per_s * self.workload.output_len
        if self.objective == "price":
            return usd_per_h / 3600.0 / (rate_per_s * self.workload.output_len) * _M
        return float(devices) if self.objective == "devices" else request_s

"""Throughputs of a fleet's replicas from the engine model: which engines on which devices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from optalloc.cluster import catalog
from optalloc.cluster.device import DeviceSpec
from optalloc.cost.engine.load import closed_loop_times
from optalloc.cost.engine.setup import Engine
from optalloc.cost.engine.step import StepModel, step_model
from optalloc.errors import InputError
from optalloc.model.spec import ModelSpec
from optalloc.result import Fix
from optalloc.serving.configuration.space import facts_of
from optalloc.serving.mix.problem import Bucket, FleetProblem, Offer
from optalloc.units import format_bytes, format_seconds

Floats = NDArray[np.float64]

_PER_DOUBLING = 4  # numbers of requests in flight that are tried


class Replica(msgspec.Struct, frozen=True, kw_only=True):
    """What an offer rents: an engine on a kind of device, and its times."""

    device: DeviceSpec
    engine: Engine
    step: StepModel


class FleetProfile(msgspec.Struct, frozen=True, kw_only=True):
    """A fleet problem made from a model, and the replica behind each of its offers."""

    problem: FleetProblem
    replicas: tuple[Replica, ...]
    ttft_s: float | None
    tpot_s: float | None


def fleet_of_model(
    model: ModelSpec,
    devices: Sequence[str],
    buckets: Sequence[Bucket],
    *,
    engine: Engine | None = None,
    widths: Sequence[int] = (1, 2, 4, 8),
    ttft_s: float | None = None,
    tpot_s: float | None = None,
) -> FleetProfile:
    """Offers of one engine a device and tensor width, at the catalogue's prices.

    Parameters
    ----------
    devices : sequence of str
        Names of the catalogue that have a public price.
    engine : Engine, optional
        Everything but the width: software, types, limits of the batch.
    widths : sequence of int
        Tensor-parallel widths within a node; those at which the model does not fit are left out.
    ttft_s, tpot_s : float, optional
        Targets on the mean, seconds: a bucket that misses one however few requests there are gets
        0 requests/s.

    Raises
    ------
    InputError
        For an unknown device, one without a price, or if the model fits on none.

    Complexity: O(devices x widths x buckets), about 0.1 s for 400 buckets on 8 devices.
    """
    for index, bucket in enumerate(buckets):
        if min(bucket.input_len, bucket.output_len) < 1:
            raise InputError(
                f"requests of {bucket.input_len} and {bucket.output_len} tokens",
                path="buckets",
                pointer=f"bucket {index + 1}",
                fix="give at least one token of each",
            )
    base = engine or Engine()
    found: list[tuple[Offer, Replica]] = []
    lacking: list[float] = []
    for name in devices:
        device = catalog.device(name)
        if device.price_usd_per_h is None:
            raise InputError(
                f"the catalogue has no public price of {device.name!r}",
                path="devices",
                fix="leave it out, or write the offers to a fleet file with a price",
            )
        for tp in widths:
            if tp > device.devices_per_node:
                continue
            replica = _replica(model, device, msgspec.structs.replace(base, tp=tp))
            if replica is None:
                continue
            if float(replica.step.kv_capacity_tokens) < 1.0:
                lacking.append(-float(replica.step.free_bytes))
                continue
            offer = Offer(
                name=device.name if tp == 1 else f"{device.name} tp{tp}",
                device=device.name,
                devices=tp,
                price_usd_per_h=round(device.price_usd_per_h * tp, 6),
                requests_per_s=requests_per_s(replica.step, buckets, ttft_s=ttft_s, tpot_s=tpot_s),
            )
            found.append((offer, replica))
    if not found:
        if not lacking:
            raise InputError(
                f"no width of {', '.join(map(str, widths))} divides the heads of {model.name} and "
                f"is within a node of {', '.join(devices)}",
                path="widths",
                fix="give widths such as 1,2,4,8",
            )
        raise InputError(
            f"{model.name} in {base.weight_dtype} does not fit on {', '.join(devices)}: at least "
            f"{format_bytes(round(min(lacking)))} are missing on each device",
            path="devices",
            fix="give larger devices or widths, or smaller weights such as fp8 or int4",
        )
    # Engines that serve nothing within the targets are of use only to say so.
    found = [pair for pair in found if any(pair[0].requests_per_s)] or found
    offers, replicas = zip(*found, strict=True)
    problem = FleetProblem(name=model.name, buckets=tuple(buckets), offers=offers)
    return FleetProfile(problem=problem, replicas=replicas, ttft_s=ttft_s, tpot_s=tpot_s)


def nearest_targets(profile: FleetProfile) -> tuple[Fix, ...]:
    """The least target of each kind with which every bucket is served; empty if all are.

    Where no one target does, both together.
    """
    buckets = profile.problem.buckets
    rates = zip(*(offer.requests_per_s for offer in profile.problem.offers), strict=True)
    left = [bucket for bucket, served in zip(buckets, rates, strict=True) if not any(served)]
    if not left:
        return ()
    kept = {"ttft": profile.ttft_s, "tpot": profile.tpot_s}
    fixes = []
    for name, target in kept.items():
        other = kept["tpot" if name == "ttft" else "ttft"]
        reach = _least(profile, left, name, np.inf if other is None else other)
        if target is not None and np.isfinite(reach):
            more = format_seconds(reach - target)
            fixes.append(Fix(what=f"--{name} {_rounded_up(reach)}", cost=f"{more} more"))
    if not fixes:
        both = [f"--{name} {_rounded_up(_least(profile, left, name, np.inf))}" for name in kept]
        fixes.append(Fix(what=f"about {' with '.join(both)}"))
    return tuple(fixes)


def _least(profile: FleetProfile, buckets: Sequence[Bucket], name: str, other_s: float) -> float:
    """The largest, over buckets, of the least time on any replica that meets the other target."""
    best = np.full(len(buckets), np.inf)
    for replica in profile.replicas:
        loops = _loops(replica.step, buckets)
        mine, theirs = loops.ttft_s, loops.tpot_s
        if name == "tpot":
            mine, theirs = theirs, mine
        best = np.minimum(
            best, np.where(loops.fits & (theirs <= other_s), mine, np.inf).min(axis=1)
        )
    return float(best.max())


def _rounded_up(seconds: float) -> str:
    """Milliseconds with three digits, never below."""
    digits = 2 - math.floor(math.log10(seconds * 1e3))
    return f"{math.ceil(seconds * 1e3 * 10.0**digits) / 10.0**digits:g}ms"


def _replica(model: ModelSpec, device: DeviceSpec, engine: Engine) -> Replica | None:
    """None where a width does not divide the model."""
    if any(heads % engine.tp for heads in facts_of(model).heads):
        return None
    try:
        step = step_model(model, device, engine)
    except InputError:
        return None
    return Replica(device=device, engine=engine, step=step)


def requests_per_s(
    step: StepModel,
    buckets: Sequence[Bucket],
    *,
    ttft_s: float | None = None,
    tpot_s: float | None = None,
) -> tuple[float, ...]:
    """What one engine serves of each bucket alone within the targets.

    The most over numbers of requests in flight, four a doubling, of the closed loop's rate.
    """
    loops = _loops(step, buckets)
    met = loops.fits
    if ttft_s is not None:
        met = met & (loops.ttft_s <= ttft_s)
    if tpot_s is not None:
        met = met & (loops.tpot_s <= tpot_s)
    return tuple(np.where(met, loops.rate_per_s, 0.0).max(axis=1).tolist())


class _Loops(NamedTuple):
    """Closed loops, a row a bucket and a column a number of requests in flight."""

    rate_per_s: Floats
    ttft_s: Floats
    tpot_s: Floats
    fits: NDArray[np.bool_]


def _loops(step: StepModel, buckets: Sequence[Bucket]) -> _Loops:
    groups = float(step.work.groups)
    most = max(1.0, groups * float(step.max_batch))
    flight = np.unique(np.rint(np.geomspace(1.0, most, round(_PER_DOUBLING * np.log2(most)) + 2)))
    input_len = np.array([float(b.input_len) for b in buckets])[:, None]
    output_len = np.array([float(max(1, b.output_len)) for b in buckets])[:, None]
    fit = np.asarray(step.sequences_that_fit(input_len + output_len))
    times = closed_loop_times(step, input_len, output_len, flight[None, :])
    rate = flight / (times.ttft_s + (output_len - 1.0) * times.tpot_s)
    fits = (fit >= 1.0) & (flight <= np.maximum(1.0, fit) * groups)
    return _Loops(
        rate_per_s=rate,
        ttft_s=np.broadcast_to(times.ttft_s, rate.shape),
        tpot_s=np.broadcast_to(times.tpot_s, rate.shape),
        fits=np.broadcast_to(fits, rate.shape),
    )

"""Throughputs of a fleet's replicas from the engine model: which engines on which devices."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from optalloc.cluster import catalog
from optalloc.cluster.device import DeviceSpec
from optalloc.cost.engine.load import closed_loop_times
from optalloc.cost.engine.setup import Engine
from optalloc.cost.engine.step import StepModel, step_model
from optalloc.errors import InputError
from optalloc.model.spec import ModelSpec
from optalloc.serving.mix.problem import Bucket, FleetProblem, Offer

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
    base = engine or Engine()
    offers, replicas = [], []
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
            rates = requests_per_s(replica.step, buckets, ttft_s=ttft_s, tpot_s=tpot_s)
            if not any(rates):
                continue
            offers.append(
                Offer(
                    name=device.name if tp == 1 else f"{device.name} tp{tp}",
                    device=device.name,
                    devices=tp,
                    price_usd_per_h=round(device.price_usd_per_h * tp, 6),
                    requests_per_s=rates,
                )
            )
            replicas.append(replica)
    if not offers:
        raise InputError(
            f"{model.name} meets the targets on none of {', '.join(devices)}",
            path="devices",
            fix="give larger devices or widths, smaller weights, or looser targets",
        )
    problem = FleetProblem(name=model.name, buckets=tuple(buckets), offers=tuple(offers))
    return FleetProfile(problem=problem, replicas=tuple(replicas), ttft_s=ttft_s, tpot_s=tpot_s)


def _replica(model: ModelSpec, device: DeviceSpec, engine: Engine) -> Replica | None:
    """None where a width does not divide the model or its weights do not fit."""
    try:
        step = step_model(model, device, engine)
    except InputError:
        return None
    if float(step.kv_capacity_tokens) < 1.0:
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
    groups = float(step.work.groups)
    most = max(1.0, groups * float(step.max_batch))
    flight = np.unique(np.rint(np.geomspace(1.0, most, round(_PER_DOUBLING * np.log2(most)) + 2)))
    input_len = np.array([float(b.input_len) for b in buckets])[:, None]
    output_len = np.array([float(max(1, b.output_len)) for b in buckets])[:, None]
    fit = np.asarray(step.sequences_that_fit(input_len + output_len))
    times = closed_loop_times(step, input_len, output_len, flight[None, :])
    rate = flight / (times.ttft_s + (output_len - 1.0) * times.tpot_s)
    met = np.broadcast_to(fit >= 1.0, rate.shape).copy()
    met &= flight <= np.maximum(1.0, fit) * groups
    if ttft_s is not None:
        met &= times.ttft_s <= ttft_s
    if tpot_s is not None:
        met &= times.tpot_s <= tpot_s
    return tuple(np.where(met, rate, 0.0).max(axis=1).tolist())

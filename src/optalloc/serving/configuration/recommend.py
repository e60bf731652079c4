"""recommend: the fewest or the cheapest devices that carry a load, of several kinds.

For each kind a plan is made on ``max_devices`` of it; a plan may leave devices idle, so its fewest
or cheapest is that of every smaller number too, as far as the nodes are of the usual size.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from optalloc.cluster import catalog
from optalloc.cluster.load import load_cluster
from optalloc.cost.engine.constants import DEFAULT
from optalloc.errors import InputError
from optalloc.model.spec import ModelSpec
from optalloc.serving.configuration.problem import MOST_DEVICES, OBJECTIVES
from optalloc.serving.configuration.solve import ServingResult, plan_serving
from optalloc.stop import StopRule
from optalloc.workload import Serving


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """The best plan on one kind of device; ``words`` is its deployment, or why there is none."""

    device: str
    num_devices: int
    value: float | None
    usd_per_h: float | None
    usd_per_mtoken: float | None
    output_tokens_per_s: float | None
    words: str


def recommend(
    model: ModelSpec,
    devices: Sequence[str],
    workload: Serving,
    *,
    objective: str = "devices",
    max_devices: int = 64,
    pin: Iterable[str] = (),
    forbid: Iterable[str] = (),
    headroom: float = 0.1,
    target: str | None = None,
    stop: StopRule | None = None,
    cost_model: str = DEFAULT,
) -> tuple[ServingResult, tuple[Offer, ...]]:
    """The best result over kinds of devices, and the best of each kind, in order of preference.

    Parameters
    ----------
    devices : sequence of str
        Names of the catalogue.
    objective : {"devices", "price", ...}
        What is compared among the kinds.
    max_devices : int
        Most devices of a kind, cut to whole nodes.

    Raises
    ------
    InputError
        If no device is named, one is unknown, none has a price that is asked for, or the load is
        not given.
    """
    if not devices:
        raise InputError(
            "no device is named", path="--recommend", fix="write --recommend h100-sxm,h200-sxm"
        )
    if workload.rate_per_s is None and workload.concurrency is None:
        raise InputError(
            "a recommendation needs a load", path="--recommend", fix="add --rate or --concurrency"
        )
    if not 1 <= max_devices <= MOST_DEVICES:
        raise InputError(
            f"{max_devices} devices are none, or more than one deployment is searched on",
            path="--max-devices",
            fix=f"give 1 to {MOST_DEVICES:,}",
        )
    made: list[tuple[ServingResult, Offer]] = []
    pins, forbids = tuple(pin), tuple(forbid)
    kinds = [catalog.device(name, path="--recommend") for name in devices]
    unpriced = [d.name for d in kinds if objective == "price" and d.price_usd_per_h is None]
    if len(unpriced) == len(kinds):
        raise InputError(
            f"of {', '.join(unpriced)} no price is public",
            path="--recommend",
            fix="name devices that 'optalloc inspect devices' has a price of, or plan each with a "
            "cluster file that gives price_usd_per_h",
        )
    for device in [device for device in kinds if device.name not in unpriced]:
        node = device.devices_per_node
        count = max_devices if max_devices < node else max_devices // node * node
        result = plan_serving(
            model,
            load_cluster(f"{count}x{device.name}"),
            workload,
            objective=objective,
            pin=pins,
            forbid=forbids,
            headroom=headroom,
            target=target,
            stop=stop,
            cost_model=cost_model,
        )
        made.append((result, _offer(device.name, result)))
    sign = 1.0 if OBJECTIVES[objective][1] else -1.0

    def rank(pair: tuple[ServingResult, Offer]) -> tuple[float, float]:
        offer = pair[1]
        if offer.value is None:
            return (float("inf"), 0.0)
        return (sign * offer.value, offer.usd_per_h or 0.0)

    made.sort(key=rank)
    offers = [offer for _, offer in made]
    return made[0][0], (*offers, *(_no_offer(name, "no public price") for name in unpriced))


def _offer(device: str, result: ServingResult) -> Offer:
    plan = result.best
    if plan is None:
        return _no_offer(device, "; ".join(result.conflict[:1]) or "no plan within the limit")
    widths = [
        f"{w.count} x tp{w.engine.tp}" + (f" pp{w.engine.pp}" if w.engine.pp > 1 else "")
        for w in plan.workers
    ]
    return Offer(
        device=device,
        num_devices=plan.num_devices,
        value=result.bounds.primal,
        usd_per_h=plan.predicted.usd_per_h,
        usd_per_mtoken=plan.predicted.usd_per_mtoken,
        output_tokens_per_s=plan.predicted.output_tokens_per_s,
        words=f"{plan.mode}: {' + '.join(widths)}",
    )


def _no_offer(device: str, why: str) -> Offer:
    return Offer(
        device=device,
        num_devices=0,
        value=None,
        usd_per_h=None,
        usd_per_mtoken=None,
        output_tokens_per_s=None,
        words=why,
    )

"""Random fleets of any size: throughputs of a roofline, prices about their worth."""

from __future__ import annotations

import math
import random

from optalloc.serving.mix.problem import Bucket, FleetProblem, Limit, Offer, Redundancy

_WEIGHT_BYTES, _FLOPS_PER_TOKEN, _KV_BYTES = 14e9, 14e9, 1.3e5


def random_fleet(
    seed: int,
    num_buckets: int,
    num_types: int,
    *,
    regions: int = 1,
    capped: bool = False,
    utilization: float = 1.0,
    redundancy: Redundancy = "none",
) -> FleetProblem:
    """``num_types`` devices in ``regions`` regions each, prices of a region within some per cent.

    A bucket's throughput is what compute, bandwidth and memory of the device allow, within 3 %;
    its rate falls off from lengths of about 400 + 200 tokens. ``capped`` limits each offer to less
    than a dozen and half of the devices of each type to what two regions have.
    """
    draw = random.Random(seed)
    side = math.ceil(math.sqrt(num_buckets))
    sizes = [
        (25.0 * 1280 ** (i / max(1, side - 1)), 10.0 * 400 ** (o / max(1, side - 1)))
        for o in range(side)
        for i in range(side)
    ][:num_buckets]
    weights = [
        math.exp(
            -0.5 * ((math.log(i) - 6.0) / 1.3) ** 2
            - 0.5 * ((math.log(o) - 5.3) / 1.0) ** 2
            + draw.gauss(0.0, 0.3)
        )
        for i, o in sizes
    ]
    rate_per_s = draw.uniform(30.0, 300.0)
    buckets = tuple(
        Bucket(
            input_len=round(i),
            output_len=round(o),
            rate_per_s=round(rate_per_s * weight / sum(weights), 6),
        )
        for (i, o), weight in zip(sizes, weights, strict=True)
    )
    offers: list[Offer] = []
    for t in range(num_types):
        flops = 1e12 * math.exp(draw.uniform(math.log(60), math.log(2000)))
        bandwidth = 1e12 * math.exp(draw.uniform(math.log(0.3), math.log(5.0)))
        memory = 1e9 * math.exp(draw.uniform(math.log(24), math.log(190)))
        worth = 0.6 * (flops / 1e14) ** 0.5 * (bandwidth / 6e11) ** 0.3 * (memory / 24e9) ** 0.2
        table = tuple(
            round(_rate(i, o, flops, bandwidth, memory) * math.exp(draw.gauss(0.0, 0.03)), 6)
            for i, o in sizes
        )
        price = worth * math.exp(draw.gauss(0.0, 0.15))
        offers += [
            Offer(
                name=f"t{t}-r{r}",
                device=f"t{t}",
                region=f"r{r}",
                price_usd_per_h=round(price * math.exp(draw.gauss(0.0, 0.08)), 4),
                at_most=draw.randint(0, 11) if capped else None,
                requests_per_s=table,
            )
            for r in range(regions)
        ]
    limits = [
        Limit(device=f"t{t}", devices=draw.randint(4, 16))
        for t in range(num_types)
        if capped and regions > 1 and draw.random() < 0.5
    ]
    return FleetProblem(
        name=f"random-{num_buckets}x{num_types * regions}-{seed}",
        buckets=buckets,
        offers=tuple(offers),
        limits=tuple(limits),
        utilization=utilization,
        redundancy=redundancy,
    )


def _rate(i: float, o: float, flops: float, bandwidth: float, memory: float) -> float:
    """Requests/s of one size on one device: a batch as large as its memory, at most 256."""
    batch = min(256.0, (0.9 * memory - _WEIGHT_BYTES) / (_KV_BYTES * (i + o)))
    if batch < 1.0:
        return 0.0
    read = _WEIGHT_BYTES / batch + (i + o / 2.0) * _KV_BYTES
    return 1.0 / (i * _FLOPS_PER_TOKEN / (0.5 * flops) + o * read / (0.7 * bandwidth))

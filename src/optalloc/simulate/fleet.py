"""Simulate a fleet: Poisson requests of its buckets, shared as planned, over its replicas."""

from __future__ import annotations

import msgspec
import numpy as np

from optalloc.errors import InputError
from optalloc.serving.mix.profile import FleetProfile
from optalloc.serving.mix.route import Routes
from optalloc.simulate.requests.deployment import Deployment
from optalloc.simulate.requests.engines import engines_of
from optalloc.simulate.requests.load import MOST_REQUESTS, make_requests
from optalloc.simulate.requests.outcome import RequestSummary
from optalloc.simulate.requests.simulate import simulate_requests


class OfferSimulation(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the requests that one offer was sent."""

    offer: int
    rate_per_s: float
    summary: RequestSummary


def simulate_fleet(
    profile: FleetProfile,
    counts: tuple[int, ...],
    routes: Routes,
    *,
    num_requests: int = 2000,
    seed: int = 0,
) -> tuple[OfferSimulation, ...]:
    """Send every offer its share of a Poisson stream, sizes mixed, and measure its latencies.

    A request of a bucket goes to an offer with the probability of its share, so that each offer
    sees a Poisson stream of its own; its least loaded replica takes it. The first tenth of the
    requests is left out of the figures, which count the profile's targets.

    Parameters
    ----------
    num_requests : int
        For each offer.

    Raises
    ------
    InputError
        If a request is larger than a replica's cache, or none is asked for.
    """
    if not 1 <= num_requests <= MOST_REQUESTS:
        raise InputError(
            f"{num_requests} requests are to be simulated",
            path="num_requests",
            fix=f"simulate 1 to {MOST_REQUESTS:,} for each offer",
        )
    found = []
    buckets = profile.problem.buckets
    for g, count in enumerate(counts):
        mine = [share for share in routes.shares if share.offer == g and share.part > 0.0]
        rates = np.array([share.part * buckets[share.bucket].rate_per_s for share in mine])
        if not count or not rates.sum() > 0.0:
            continue
        random = np.random.default_rng((seed, g))
        chosen = random.choice(len(mine), size=num_requests, p=rates / rates.sum())
        sizes = np.array(
            [(buckets[s.bucket].input_len, buckets[s.bucket].output_len) for s in mine]
        )
        sizes = np.maximum(1, sizes)[chosen]
        rate = float(rates.sum())
        requests = make_requests(
            np.cumsum(random.exponential(1.0 / rate, num_requests)), sizes[:, 0], sizes[:, 1]
        )
        replica = profile.replicas[g]
        outcome = simulate_requests(
            Deployment(engines=(engines_of(replica.engine, replica.step, replicas=count),)),
            requests,
            ttft_s=profile.ttft_s,
            tpot_s=profile.tpot_s,
            warm_up=0.1,
            record=False,
        )
        found.append(OfferSimulation(offer=g, rate_per_s=rate, summary=outcome.summary))
    return tuple(found)

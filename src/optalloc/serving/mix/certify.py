"""Check a fleet and the bound on its price again, in rational numbers and with its own code.

Decimal numbers of the problem mean what is written (0.1 is one tenth). A fleet serves if its shares
fill no replica beyond one part in 10^8 of its planned time; shares after a failure are found here
by another linear programme and checked in the same way. A bound is checked from its witness: see
:mod:`optalloc.serving.mix.witness` for what prices prove. Sums over buckets are first taken in
floating point less a proven error, and in integers where that does not decide.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction

from optalloc.errors import CertificateError
from optalloc.serving.mix.certify_model import Model
from optalloc.serving.mix.certify_serves import least_busy_shares
from optalloc.serving.mix.certify_tree import TOLERANCE, check_tree
from optalloc.serving.mix.problem import FleetProblem
from optalloc.serving.mix.route import Share
from optalloc.serving.mix.witness import FleetWitness


def certify_fleet(
    problem: FleetProblem,
    counts: Sequence[int] | None,
    shares: Iterable[Share] = (),
    *,
    value_usd_per_h: float | None = None,
    bound_usd_per_h: float | None = None,
    witness: FleetWitness | None = None,
) -> None:
    """Check that a fleet serves at its price and that none is cheaper than the bound.

    Parameters
    ----------
    counts : sequence of int, or None
        Replicas by offer; None claims that no fleet serves.
    shares : iterable of Share
        How the fleet splits the load in normal operation.
    value_usd_per_h, bound_usd_per_h : float
        Claimed price and bound.
    witness : FleetWitness, optional
        What proves the bound, or that there is no fleet; needed if either is claimed.

    Raises
    ------
    CertificateError
        If anything claimed is not so.
    """
    model = Model(problem)
    if counts is not None:
        price = sum((p * n for p, n in zip(model.price, counts, strict=True)), Fraction(0))
        if value_usd_per_h is None or abs(price - Fraction(value_usd_per_h)) > TOLERANCE * price:
            raise CertificateError(f"the fleet costs {float(price):.9g}, not {value_usd_per_h}")
        model.check_counts(counts)
        model.check_shares(counts, list(shares), model.scenarios[0])
        for failure in model.scenarios[1:]:
            one = model.one_lost(counts, failure)
            shares = least_busy_shares(problem, counts, failure.share, one, failure.whole)
            model.check_shares(counts, shares, failure)
        if bound_usd_per_h is None:
            return
        if bound_usd_per_h > value_usd_per_h * (1.0 + float(TOLERANCE)):
            raise CertificateError("the bound is above the price of the fleet")
    if witness is None:
        if counts is None and model.unserved():
            return
        raise CertificateError("a bound is claimed without anything that proves it")
    check_tree(model, witness, None if counts is None else bound_usd_per_h)

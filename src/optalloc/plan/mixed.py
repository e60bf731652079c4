"""Certify a mixed plan: its figures, and its bound."""

from __future__ import annotations

from optalloc.plan.certify import Claim
from optalloc.training.mixed.certify import check_mixed_plan
from optalloc.training.mixed.plan import MixedPlan
from optalloc.training.mixed.prove.alike import prove_alike_bound
from optalloc.training.mixed.prove.bound import prove_mixed_bound


def certify_mixed(plan: MixedPlan) -> Claim:
    """Check everything a mixed plan says about itself; returns what it claims about all others.

    Where the plan has a proof of its bound, the bound is proved once more.

    Raises
    ------
    CertificateError
        For the first figure that is not true, with the claimed and the true value, and for a bound
        that is not proved.

    Complexity: O(stages * layers) for the figures; of the bound see
    :func:`~optalloc.training.mixed.prove.bound.prove_mixed_bound`.
    """
    check_mixed_plan(plan)
    if plan.proof is not None:
        (prove_alike_bound if plan.proof.rules else prove_mixed_bound)(plan)
    return Claim.of(plan.certificate)

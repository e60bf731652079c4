"""Certify a mixed plan."""

from __future__ import annotations

from optalloc.plan.certify import Claim
from optalloc.training.mixed.certify import check_mixed_plan
from optalloc.training.mixed.plan import MixedPlan


def certify_mixed(plan: MixedPlan) -> Claim:
    """Check everything a mixed plan says about itself; returns what it claims about all others.

    Raises
    ------
    CertificateError
        For the first figure that is not true, with the claimed and the true value.

    Complexity: O(stages * layers).
    """
    check_mixed_plan(plan)
    return Claim.of(plan.certificate)

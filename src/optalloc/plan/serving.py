"""Certify a serving plan: its figures, and that nothing in its space is better."""

from __future__ import annotations

from optalloc.plan.certify import Claim
from optalloc.result import Bounds
from optalloc.serving.configuration.certify import check_serving_plan
from optalloc.serving.configuration.plan import ServingPlan
from optalloc.serving.configuration.prove_split import prove_bound


def certify_serving(plan: ServingPlan) -> Claim:
    """Check everything a serving plan says about itself, and prove its bound once more.

    Raises
    ------
    CertificateError
        For the first figure that is not true, or a configuration that is better than the bound.

    Complexity: one evaluation of each engine setting of the space.
    """
    check_serving_plan(plan)
    certificate = plan.certificate
    if certificate is None:
        return Claim()
    return Claim(
        objective=certificate.objective,
        bounds=Bounds(primal=certificate.value, dual=certificate.bound),
        space=certificate.space,
        configurations=prove_bound(plan),
        pruned=certificate.pruned,
    )

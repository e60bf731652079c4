"""certify: check a plan and what it claims with code that the search does not use."""

from __future__ import annotations

import msgspec

from optalloc.result import Bounds
from optalloc.training.certify import check_plan
from optalloc.training.plan import Certificate, TrainingPlan

#: What :func:`certify` computes anew and compares.
CHECKS = (
    "the rules of the space",
    "stages, chunks and devices",
    "memory of every stage",
    "times of every stage, the step and its breakdown",
    "token rate, MFU, price and energy",
    "digests of model, cluster and workload",
)


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """What a checked plan claims: its value and what the search proved about all others.

    A plan that was estimated and not searched claims nothing: ``objective`` then is None.
    """

    objective: str | None = None
    bounds: Bounds = Bounds()
    space: str = ""
    configurations: int = 0
    pruned: dict[str, int] = {}

    @staticmethod
    def of(certificate: Certificate | None) -> Claim:
        """The claim of a plan's certificate."""
        if certificate is None:
            return Claim()
        return Claim(
            objective=certificate.objective,
            bounds=Bounds(primal=certificate.value, dual=certificate.bound),
            space=certificate.space,
            configurations=certificate.configurations,
            pruned=certificate.pruned,
        )

    @property
    def is_optimal(self) -> bool:
        """True if the bound of the search meets the value."""
        return self.objective is not None and self.bounds.gap == 0.0


def certify(plan: TrainingPlan) -> Claim:
    """Check everything a plan says about itself; returns what it claims about all others.

    The cost model is built anew from the plan's model, cluster and workload, and the schedule is
    played by a second implementation. That the bound lies not above the value is checked; the
    search that proved it is not repeated.

    Raises
    ------
    CertificateError
        For the first figure that is not true, with the claimed and the true value.

    Complexity: O(stages * chunks a stage * micro-batches).
    """
    check_plan(plan)
    return Claim.of(plan.certificate)

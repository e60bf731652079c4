"""The prover of mixed bounds: it proves every optimum, and nothing above one."""

from __future__ import annotations

import msgspec
import pytest
from tests.property.mixed_problems import instance

from optalloc.errors import CertificateError
from optalloc.training.mixed.problem import MixedProblem
from optalloc.training.mixed.proof import MixedProof, PartProof
from optalloc.training.mixed.prove.bound import prove_problems
from optalloc.training.mixed.search import Search

Parts = tuple[PartProof, ...]


def searched(problem: MixedProblem) -> tuple[float, MixedProof] | None:
    """The optimum and its proof; None where nothing fits."""
    outcome = Search([problem]).run()
    if outcome.value is None:
        return None
    assert outcome.closed is not None
    return outcome.value, MixedProof(parts=outcome.closed)


# Of 1232 to 1274 some parts are closed by what shapes waste of their devices, of the last four by
# the devices that they leave to the other replicas.
@pytest.mark.parametrize("seed", [*range(6), 1232, 1258, 1274, 3141, 3555, 3997, 4152])
def test_an_optimum_is_proved_and_nothing_above_it(seed: int) -> None:
    """The search is tested against brute force; a bound a little above its optimum is false."""
    problem = instance(seed)
    found = searched(problem)
    if found is None:
        return
    value, proof = found
    prove_problems([problem], proof, value)
    with pytest.raises(CertificateError):
        prove_problems([problem], proof, value * (1.0 + 1e-6))


def test_a_proof_needs_every_part_and_its_prices() -> None:
    """A part left out, prices of a replica alone, negative ones, and devices that cost nothing."""
    problem = instance(5)
    found = searched(problem)
    assert found is not None
    value, proof = found
    refused = 0
    for index, part in enumerate(proof.parts):
        others = proof.parts[:index] + proof.parts[index + 1 :]

        def proves(*prices: float, part: PartProof = part, others: Parts = others) -> bool:
            changed = msgspec.structs.replace(part, prices=prices)
            try:
                prove_problems([problem], MixedProof(parts=(*others, changed)), value)
            except CertificateError:
                return False
            return True

        with pytest.raises(CertificateError, match="nothing proves"):
            prove_problems([problem], MixedProof(parts=others), value)
        assert proves(*part.prices)
        assert not proves(part.prices[-1])
        assert not proves(*part.prices[:-1], -1.0)
        refused += not proves(*(0.0 for _ in part.prices))
    assert refused > 0  # a part without a plan in the time needs no prices

"""constants.py: the shipped constants are whole, named and sourced."""

from __future__ import annotations

import pytest

from optalloc.cost.constants import Constant, Constants, read_constants, values

FILE = read_constants()


@pytest.mark.parametrize("name", Constants.__struct_fields__)
def test_every_constant_has_a_unit_and_a_source(name: str) -> None:
    """A few words each, not a placeholder."""
    constant = FILE.constants[name]
    assert len(constant.unit.split()) >= 3
    assert len(constant.source.split()) >= 3


def test_the_file_holds_no_other_constant() -> None:
    """A name without a formula would be dead data."""
    assert set(FILE.constants) == set(Constants.__struct_fields__)


def test_values_are_those_of_the_file() -> None:
    """Field by field."""
    plain = values(FILE)
    assert all(getattr(plain, k) == v.value for k, v in FILE.constants.items())


@pytest.mark.parametrize(
    "name",
    [n for n in Constants.__struct_fields__ if n.endswith(("efficiency", "overlap", "share"))],
)
def test_shares_lie_between_zero_and_one(name: str) -> None:
    """An efficiency above one would break physics."""
    share: Constant = FILE.constants[name]
    assert 0.0 < share.value <= 1.0

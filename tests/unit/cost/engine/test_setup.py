"""engine/setup.py: widths of an engine, validated together."""

from __future__ import annotations

import pytest

from optalloc.cost.engine.setup import Engine
from optalloc.errors import InputError


def test_devices_are_the_product_of_the_widths() -> None:
    """tp 2, pp 2, attention over 4 groups: 16 devices, and experts are cut over a stage's 8."""
    engine = Engine(tp=2, pp=2, attention_dp=4)
    assert engine.num_devices == 16
    assert engine.expert_tp == 8
    assert Engine(tp=8, moe_ep=4).expert_tp == 2


def test_expert_widths_that_do_not_cover_a_stage_are_refused() -> None:
    """moe_tp 2 * moe_ep 2 = 4 of 8 devices; moe_ep 3 does not divide 8."""
    with pytest.raises(InputError, match="do not cover the 8 devices"):
        Engine(tp=8, moe_tp=2, moe_ep=2)
    with pytest.raises(InputError, match="moe_ep 3"):
        Engine(tp=8, moe_ep=3)


@pytest.mark.parametrize(
    "fields",
    [{"tp": 0}, {"memory_fraction": 1.5}, {"acceptance": -0.1}, {"draft_tokens": -1}],
)
def test_a_value_that_makes_no_sense_names_its_field(fields: dict[str, float]) -> None:
    """The pointer is the field."""
    with pytest.raises(InputError) as caught:
        Engine(**fields)  # type: ignore[arg-type]
    assert caught.value.pointer == f"engine.{next(iter(fields))}"


def test_accepted_drafts_count_as_tokens_of_the_step() -> None:
    """Three drafted, half accepted: 2.5 tokens an iteration."""
    assert Engine(draft_tokens=3, acceptance=0.5).tokens_per_step == 2.5

"""stop.py: rules and their composition."""

from __future__ import annotations

import math

from optalloc.stop import Either, Gap, Never, NodeLimit, Progress, TimeLimit, relative_gap


def test_the_gap_is_relative_to_the_larger_side() -> None:
    """|110 - 100| / 110, zero when equal, infinite while a side is unknown, sign-safe."""
    assert relative_gap(110.0, 100.0) == 10.0 / 110.0
    assert relative_gap(0.0, 0.0) == 0.0
    assert relative_gap(-100.0, -110.0) == 10.0 / 110.0
    assert math.isinf(relative_gap(None, 1.0))
    assert math.isinf(Progress(elapsed_s=0.0).gap)


def test_a_time_limit_stops_at_its_second() -> None:
    """Not before, and at the limit itself."""
    assert not TimeLimit(30)(Progress(elapsed_s=29.9))
    assert TimeLimit(30)(Progress(elapsed_s=30.0))


def test_a_node_limit_counts_nodes_alone() -> None:
    """The clock does not matter."""
    assert not NodeLimit(100)(Progress(elapsed_s=1e9, nodes=99))
    assert NodeLimit(100)(Progress(elapsed_s=0.0, nodes=100))


def test_a_gap_rule_waits_for_both_sides() -> None:
    """1 % between 101 and 100 is 1/101; a missing bound never satisfies it."""
    assert not Gap(0.01)(Progress(elapsed_s=9.0, incumbent=101.0))
    assert Gap(0.01)(Progress(elapsed_s=9.0, incumbent=101.0, bound=100.0))
    assert not Gap(0.005)(Progress(elapsed_s=9.0, incumbent=101.0, bound=100.0))


def test_either_stops_with_its_first_rule_and_never_does_not() -> None:
    """Rules compose, and nest."""
    rule = Either(TimeLimit(10), Either(NodeLimit(5), Never()))
    assert not rule(Progress(elapsed_s=9.0, nodes=4))
    assert rule(Progress(elapsed_s=9.0, nodes=5))
    assert rule(Progress(elapsed_s=10.0, nodes=0))
    assert not Never()(Progress(elapsed_s=1e9, incumbent=1.0, bound=1.0))

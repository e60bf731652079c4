"""serving/configuration/edge.py: the value next to those out of reach."""

from __future__ import annotations

import random

from optalloc.serving.configuration.edge import edge


def _tries(good: float, bad: float, guess: float, last: float, *, whole: bool) -> tuple[float, int]:
    """The edge where ``last`` is the last value within reach, and the tries that it took."""
    asked: list[float] = []

    def reached(value: float) -> float | None:
        assert min(good, bad) < value < max(good, bad)
        asked.append(value)
        return value if (value <= last) == (good < bad) or value == last else None

    return edge(good, bad, guess, reached, near=1.01, whole=whole), len(asked)


def test_the_edge_is_found_from_any_guess() -> None:
    """Real values to 1 %, whole ones where none lies between; within reach, from above or below."""
    r = random.Random(0)
    for _ in range(500):
        whole, up = r.random() < 0.5, r.random() < 0.5
        last = float(r.randint(2, 900)) if whole else r.uniform(1.1, 900.0)
        ends = (1.0, 1000.0) if up else (1000.0, 1.0)
        guess = r.choice((last, 1.03 * last, 0.9 * last, 1.0, 1000.0))
        found, number = _tries(*ends, guess, last, whole=whole)
        assert found <= last if up else found >= last
        assert abs(found - last) <= 0.0101 * max(found, last) or (whole and found == last)
        assert number <= 20


def test_a_guess_at_the_edge_takes_two_tries() -> None:
    assert _tries(1.0, 8000.0, 2136.0, 2140.0, whole=True) == (2136.0, 2)
    found, number = _tries(134.0, 1.0, 133.9, 133.8, whole=False)
    assert (round(found, 9), number) == (133.9, 2)

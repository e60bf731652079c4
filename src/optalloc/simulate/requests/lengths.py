"""Lengths of prompts and answers: fixed, uniform, log-normal or drawn from measured ones."""

from __future__ import annotations

import math

import msgspec
import numpy as np
from numpy.typing import NDArray

from optalloc.errors import InputError

Ints = NDArray[np.int64]


class Fixed(msgspec.Struct, frozen=True, tag_field="kind", tag="fixed"):
    """Every length is ``tokens``."""

    tokens: int

    def draw(self, count: int, random: np.random.Generator) -> Ints:  # noqa: ARG002
        """``count`` lengths."""
        return np.full(count, self.tokens, np.int64)


class Uniform(msgspec.Struct, frozen=True, tag_field="kind", tag="uniform"):
    """Whole numbers from ``low`` to ``high``, each as likely."""

    low: int
    high: int

    @classmethod
    def around(cls, mean: int, ratio: float) -> Uniform:
        """From ``mean (1 - ratio)`` to ``mean (1 + ratio)``, as benchmark clients draw them."""
        width = math.ceil(mean * ratio - 1e-9)
        return cls(max(1, mean - width), mean + width)

    def draw(self, count: int, random: np.random.Generator) -> Ints:
        """``count`` lengths."""
        return random.integers(self.low, self.high, count, endpoint=True)


class Lognormal(msgspec.Struct, frozen=True, tag_field="kind", tag="lognormal"):
    """Log-normal with a mean and a coefficient of variation, rounded up."""

    mean: float
    variation: float

    def draw(self, count: int, random: np.random.Generator) -> Ints:
        """``count`` lengths."""
        variance = math.log(1.0 + self.variation**2)
        drawn = random.lognormal(math.log(self.mean) - variance / 2.0, math.sqrt(variance), count)
        return np.ceil(drawn).astype(np.int64)


class Empirical(msgspec.Struct, frozen=True, tag_field="kind", tag="empirical"):
    """One of the given lengths, each as likely."""

    tokens: tuple[int, ...]

    def draw(self, count: int, random: np.random.Generator) -> Ints:
        """``count`` lengths."""
        return np.array(self.tokens, np.int64)[random.integers(0, len(self.tokens), count)]


Lengths = Fixed | Uniform | Lognormal | Empirical


def drawn(lengths: Lengths, count: int, random: np.random.Generator) -> Ints:
    """``count`` lengths; raises InputError where one is below a token."""
    tokens = lengths.draw(count, random)
    if tokens.size and tokens.min() < 1:
        raise InputError(
            f"{lengths} has lengths below one token", path="lengths", fix="give at least 1 token"
        )
    return tokens

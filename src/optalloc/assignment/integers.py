"""IntegerForm: an assignment problem as a minimisation in int64, and how faithful that is.

Integers are used as they are (``exact``). Other numbers are read as the decimals they print as (0.1
is one tenth), else as the binary fractions they are, and multiplied by the common denominator: that
too loses nothing (``scaled``). Where the products leave the range of exact arithmetic, numbers are
rounded down (``float``): every feasible plan stays feasible and none gets dearer, so a bound of the
rounded problem is a bound of the real one, and a plan of the rounded problem is off by at most the
stated tolerances. Loads and capacities are scaled unit by unit; whatever divides all loads of a
unit, or all costs, is divided out.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

Arithmetic = Literal["exact", "scaled", "float"]
IntArray = npt.NDArray[np.int64]
NumberArray = npt.NDArray[np.int64] | npt.NDArray[np.float64]

#: Sums of scaled numbers stay below this, so that 1000-fold multiples still fit into int64.
SCALED_LIMIT = 2**52
_WHOLE_LIMIT = 2**62
_COST_BITS = 48
_CAPACITY_BITS = 40


class IntegerForm(msgspec.Struct, frozen=True, kw_only=True):
    """A minimisation in integers that stands for an assignment problem.

    Attributes
    ----------
    costs, loads : ndarray of int64, shape (num_tasks, num_units)
        Negated costs where the problem maximises. A load above the capacity is stored as the
        capacity + 1.
    capacities : ndarray of int64, shape (num_units,)
    allowed : ndarray of bool, shape (num_tasks, num_units)
        Pairs that are allowed and fit into the empty unit.
    cost_scale : Fraction
        Costs here / costs given; negative where the problem maximises.
    load_scales : tuple of Fraction
        Loads here / loads given, one a unit (before any rounding down).
    arithmetic : {"exact", "scaled", "float"}
        Whether the given integers, exact multiples of other numbers, or rounded numbers are used.
    cost_tolerance : float
        How much better than true a plan's integer objective may look, in the unit of the costs;
        0 unless rounded.
    load_tolerances : tuple of float
        How far a feasible plan may overload each unit, in the unit of the loads; 0 unless rounded.
    """

    costs: IntArray
    loads: IntArray
    capacities: IntArray
    allowed: npt.NDArray[np.bool_]
    cost_scale: Fraction
    load_scales: tuple[Fraction, ...]
    arithmetic: Arithmetic
    cost_tolerance: float = 0.0
    load_tolerances: tuple[float, ...] = ()

    def objective(self, value: int | Fraction) -> float:
        """A sum of the integer costs in the unit and sense of the given costs."""
        return float(Fraction(value) / self.cost_scale)

    @property
    def most(self) -> int:
        """Sum over tasks of the dearest allowed cost: no feasible plan costs more."""
        if not self.allowed.any(axis=1).all():
            return 0
        low = np.iinfo(np.int64).min
        return (
            int(np.where(self.allowed, self.costs, low).max(axis=1).sum()) if len(self.costs) else 0
        )


def integer_form(
    costs: NumberArray,
    loads: NumberArray,
    capacities: NumberArray,
    allowed: npt.NDArray[np.bool_],
    *,
    maximise: bool,
) -> IntegerForm:
    """Integers for one problem; shapes (N, M), (N, M), (M,), (N, M)."""
    tasks, units = costs.shape
    small = loads <= capacities[None, :]
    sign = -1 if maximise else 1
    used_costs = np.where(allowed, costs, 0)
    whole, scale, kind = _integers(used_costs, tasks)
    cost_tolerance = 0.0
    if kind == "float":
        whole, scale = _rounded_down(sign * used_costs, _largest(used_costs) * tasks, _COST_BITS)
        cost_tolerance = float(tasks / scale)
    else:
        whole, scale = _reduced(sign * whole, scale)
    kinds = [kind]
    int_loads = np.zeros((tasks, units), dtype=np.int64)
    int_capacities = np.zeros(units, dtype=np.int64)
    scales: list[Fraction] = []
    tolerances: list[float] = []
    for unit in range(units):
        given = np.where(small[:, unit], loads[:, unit], 0)
        column, load_scale, kind = _integers(given, tasks)
        if kind == "float":
            top = min(float(capacities[unit]), float(given.sum(dtype=np.float64)))
            column, load_scale = _rounded_down(given, top, _CAPACITY_BITS)
            tolerances.append(float(tasks / load_scale))
        else:
            column, load_scale = _reduced(column, load_scale)
            tolerances.append(0.0)
        # Integers exceed a capacity iff they exceed its floor; all loads together are enough.
        capacity = min(int(_read(capacities[unit], load_scale) * load_scale), int(column.sum()))
        int_capacities[unit] = capacity
        int_loads[:, unit] = np.where(small[:, unit], column, capacity + 1)
        kinds.append(kind)
        scales.append(load_scale)
    arithmetic: Arithmetic = (
        "float" if "float" in kinds else "scaled" if "scaled" in kinds else "exact"
    )
    fits = allowed & small
    for array in (whole, int_loads, int_capacities, fits):
        array.flags.writeable = False
    return IntegerForm(
        costs=whole,
        loads=int_loads,
        capacities=int_capacities,
        allowed=fits,
        cost_scale=sign * scale,
        load_scales=tuple(scales),
        arithmetic=arithmetic,
        cost_tolerance=cost_tolerance,
        load_tolerances=tuple(tolerances),
    )


def _integers(values: NumberArray, terms: int) -> tuple[IntArray, Fraction, Arithmetic]:
    """``values`` times the returned scale as integers whose sums of ``terms`` stay in range."""
    largest = _largest(values)
    if values.dtype.kind == "i":
        if largest * max(terms, 1) < _WHOLE_LIMIT:
            return values.astype(np.int64), Fraction(1), "exact"
        return np.zeros(0, dtype=np.int64), Fraction(1), "float"
    if largest == 0:
        return np.zeros(values.shape, dtype=np.int64), Fraction(1), "exact"
    room = SCALED_LIMIT / (largest * max(terms, 1))
    distinct = np.unique(values)
    for digits in range(23):  # 10**22 is the last power of ten that a float holds exactly
        ten = 10**digits
        if ten > room:
            break
        rounded = np.rint(distinct * ten)
        # The quotient of two exact floats is rounded correctly: equality means this decimal.
        if np.array_equal(rounded / ten, distinct):
            kind: Arithmetic = "scaled" if digits else "exact"
            return np.rint(values * ten).astype(np.int64), Fraction(ten), kind
    for power in range(1, 100):
        if 2**power > room:
            break
        if np.array_equal(np.rint(distinct * 2**power), distinct * 2**power):
            return np.rint(values * 2**power).astype(np.int64), Fraction(2**power), "scaled"
    return np.zeros(0, dtype=np.int64), Fraction(1), "float"


def _reduced(values: IntArray, scale: Fraction) -> tuple[IntArray, Fraction]:
    """Divided by the greatest common divisor."""
    divisor = int(np.gcd.reduce(values, axis=None)) if values.size else 0
    return (values // divisor, scale / divisor) if divisor > 1 else (values, scale)


def _rounded_down(values: NumberArray, top: float, bits: int) -> tuple[IntArray, Fraction]:
    """Floor of ``values`` times the power of two that brings ``top`` just below ``2**bits``."""
    power = bits - math.frexp(top)[1]
    if values.dtype.kind == "i":
        return np.right_shift(values, -power).astype(np.int64), Fraction(1, 2**-power)
    scaled = np.floor(np.ldexp(values, power))
    scaled[(scaled == 0) & (values < 0)] = -1  # underflow
    return scaled.astype(np.int64), Fraction(2) ** power


def _read(value: np.int64 | np.float64, scale: Fraction) -> Fraction:
    """A number as the decimal it prints as where the scale is decimal, else as it is in binary."""
    if isinstance(value, np.int64):
        return Fraction(int(value))
    return Fraction(repr(float(value))) if scale.numerator % 5 == 0 else Fraction(float(value))


def _largest(values: NumberArray) -> float:
    if not values.size:
        return 0.0
    return max(abs(float(values.max())), abs(float(values.min())))

"""Integers made of any numbers."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from optalloc.assignment.problem import AssignmentProblem


def test_integers_are_used_exactly() -> None:
    form = AssignmentProblem([[3, 5], [7, 2]], [3, 5], [8, 7]).integer_form()
    assert form.arithmetic == "exact"
    assert form.costs.tolist() == [[3, 5], [7, 2]]
    assert form.loads.tolist() == [[3, 3], [5, 5]]
    assert form.capacities.tolist() == [8, 7]
    assert form.cost_scale == 1


def test_common_divisors_are_divided_out_and_capacities_rounded_down() -> None:
    """Loads 4 and 6 into capacity 9: as 2 and 3 into 4; costs 10 and 20 as 1 and 2."""
    form = AssignmentProblem([[10], [20]], [4, 6], [9]).integer_form()
    assert form.loads.tolist() == [[2], [3]]
    assert form.capacities.tolist() == [4]
    assert form.costs.tolist() == [[1], [2]]
    assert form.objective(3) == 30.0


def test_decimals_are_scaled_by_their_common_denominator() -> None:
    form = AssignmentProblem([[0.25, 1.5]], [0.3], [0.5, 0.7]).integer_form()
    assert form.arithmetic == "scaled"
    assert form.costs.tolist() == [[1, 6]]
    assert form.cost_scale == 4
    assert form.load_scales == (Fraction(10, 3), Fraction(10, 3))
    assert form.capacities.tolist() == [1, 1]


def test_binary_fractions_with_long_decimals_stay_exact() -> None:
    """2**-30 has 30 decimals, too many to scale; times 2**30 it is 1."""
    form = AssignmentProblem([[2.0**-30, 3.0]], [1], [1, 1]).integer_form()
    assert form.arithmetic == "scaled"
    assert form.costs.tolist() == [[1, 3 * 2**30]]


def test_numbers_without_a_small_denominator_are_rounded_down_within_a_stated_tolerance() -> None:
    rng = np.random.default_rng(5)
    costs, loads = rng.random((6, 3)) * 100, rng.random((6, 3))
    problem = AssignmentProblem(costs, loads, [2.0, 2.0, 1.9])
    form = problem.integer_form()
    assert form.arithmetic == "float"
    error = costs - form.costs / float(form.cost_scale)
    assert (error >= 0).all()
    assert 0 < error.sum(axis=0).max() <= form.cost_tolerance < 1e-9
    scales = np.array([float(scale) for scale in form.load_scales])
    assert (form.loads <= loads * scales).all()


def test_profits_become_negative_costs() -> None:
    form = AssignmentProblem([[3, 5]], [1], [1, 1], sense="max").integer_form()
    assert form.costs.tolist() == [[-3, -5]]
    assert form.objective(-5) == 5.0


def test_a_pair_that_does_not_fit_is_not_allowed() -> None:
    form = AssignmentProblem([[1, 1]], [[5, 3]], [4, 4]).integer_form()
    assert form.allowed.tolist() == [[False, True]]
    assert form.loads[0, 0] > form.capacities[0]


def test_huge_integers_fall_back_to_rounding() -> None:
    problem = AssignmentProblem([[2**62, 1], [2**62, 5]], [1, 1], [1, 1])
    assert problem.integer_form().arithmetic == "float"
    assert problem.evaluate([1, 0]).objective == float(2**62 + 1)


def test_numbers_of_very_different_size_are_rounded_down() -> None:
    """Loads whose sum leaves 64 bits; a profit that is nothing beside another."""
    problem = AssignmentProblem([[1]] * 4, [2**62] * 4, [2**62 + 1])
    assert problem.integer_form().loads[:, 0].max() <= problem.integer_form().capacities[0]
    form = AssignmentProblem([[1e-300, 1e299]], [1], [1, 1], sense="max").integer_form()
    assert form.costs[0, 0] == -1


def test_an_unlimited_capacity_is_no_larger_than_all_loads() -> None:
    assert AssignmentProblem([[1]], [3], [1e300]).integer_form().capacities.tolist() == [1]

"""Capacity prices and the bound they prove."""

from __future__ import annotations

import numpy as np

from optalloc.assignment.certify import multiplier_bound
from optalloc.assignment.prices import capacity_prices, price_witness
from optalloc.assignment.problem import AssignmentProblem


def test_slack_capacities_have_no_price() -> None:
    """Everything fits on the cheapest unit: the bound is 1 + 2 = 3 at zero prices."""
    form = AssignmentProblem([[1, 5], [2, 7]], [1, 1], [9, 9]).integer_form()
    prices = capacity_prices(form)
    witness = price_witness(form, prices)
    assert prices.max() == 0.0
    assert witness is not None
    assert witness.bound == 3


def test_bound_is_that_of_the_linear_programme() -> None:
    """Loads 2 and 3 on unit 0 of capacity 4 at cost 0, on an ample unit 1 at cost 10 and 15.

    A unit of capacity saves 5 for either task, so the linear programme saves 4 * 5 of 25: bound 5.
    (The integer optimum keeps the load of 3 and pays 10.)
    """
    form = AssignmentProblem([[0, 10], [0, 15]], [2, 3], [4, 9]).integer_form()
    witness = price_witness(form, capacity_prices(form))
    assert witness is not None
    assert form.objective(witness.bound) == 5.0


def test_prices_of_an_infeasible_instance_prove_it() -> None:
    """Each unit of capacity 3 holds one load of 2 or 3; there are three."""
    form = AssignmentProblem([[1, 2]] * 3, [[3, 3], [3, 3], [3, 2]], [3, 3]).integer_form()
    witness = price_witness(form, capacity_prices(form))
    assert witness is not None
    assert witness.bound > form.most


def test_the_witness_is_confirmed_by_independent_knapsacks() -> None:
    rng = np.random.default_rng(11)
    for _ in range(50):
        problem = AssignmentProblem(
            rng.integers(1, 30, (8, 3)), rng.integers(1, 9, (8, 3)), rng.integers(12, 20, 3)
        )
        form = problem.integer_form()
        witness = price_witness(form, capacity_prices(form))
        assert witness is not None
        assert multiplier_bound(problem, witness) >= witness.bound

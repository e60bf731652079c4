"""The formal problem: two tasks on two units, then the pooled capacities that mislead.

python examples/assign.py
"""

from __future__ import annotations

import optalloc as oa


def main() -> None:
    """Solve the worked example and the counterexample; print both."""
    problem = oa.AssignmentProblem(costs=[[4, 6], [5, 3]], loads=[1, 2], capacities=[2, 3])
    result = oa.solve_assignment(problem)
    print(f"tasks run on units {result.assignment}, total cost {result.bounds.primal:g}")
    print(f"termination {result.termination.value}, gap {result.bounds.gap:g}")

    # In all, 4 units of capacity hold a load of 4; but each unit holds 2.
    tight = oa.AssignmentProblem(costs=[[1, 5], [1, 5]], loads=[2, 2], capacities=[2, 2])
    print(f"both tasks on unit 0: {'; '.join(tight.evaluate([0, 0]).violations)}")
    print(f"the optimum costs {oa.solve_assignment(tight).bounds.primal:g}")


if __name__ == "__main__":
    main()

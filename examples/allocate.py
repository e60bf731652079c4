"""Allocation as clusters have it: two resources a unit, replicas apart, tasks that may be left out.

python examples/allocate.py
"""

from __future__ import annotations

import optalloc as oa


def main() -> None:
    """Place six services on three nodes; then ask what smaller nodes would lack."""
    # Cost of each service on each node, dollars a day; load in GiB of memory and in cores.
    problem = oa.AssignmentProblem(
        costs=[[9, 7, 6], [9, 7, 6], [4, 5, 3], [8, 6, 5], [3, 3, 2], [5, 4, 4]],
        loads=[[16, 4], [16, 4], [8, 8], [24, 2], [4, 6], [12, 3]],
        capacities=[[40, 16], [40, 8], [24, 14]],
        fixed={3: 1},  # its data lie there
        apart=[[0, 1]],  # two replicas of one service
        together=[[2, 4]],  # they share a cache
        skip_costs=[None, None, None, None, None, 2],  # a batch job that may wait
        objective="sum-then-bottleneck",
    )
    result = oa.solve_assignment(problem)
    found = problem.evaluate(result.assignment)
    print(f"{result.termination.value}: nodes {result.assignment}")
    print(f"cost {found.cost:g}, fullest {found.largest_relative_load:.1%}")
    print("price of a GiB and of a core:", oa.shadow_prices(problem).round(3).tolist())

    tight = problem.replace(capacities=[[16, 8], [40, 8], [24, 12]])
    infeasible = oa.solve_assignment(tight)
    print("; ".join(infeasible.conflict))
    print(*(f"{fix.what} ({fix.cost})" for fix in infeasible.fixes))


if __name__ == "__main__":
    main()

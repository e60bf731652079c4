// Assignments of very many tasks over short lists of candidate units, guided by prices of capacity.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "assignment/instance.hpp"

namespace optalloc::assignment {

// K candidates a task, entry j * K + k: their units (or -1: none), costs and loads.
struct Candidates {
    int num_tasks = 0, num_units = 0, num_candidates = 0;
    std::span<const std::int32_t> unit;
    std::span<const Int> cost, load;
    std::span<const Int> capacity;
};

// Asked now and then; true ends the search, after a few more sweeps where there is no plan yet. better: the value and unit of each task of a feasible assignment that
// beats those before, or nullptr.
using SparseWatch = std::function<bool(Int value, const std::vector<int>* better)>;

// The unit of each task, or an empty vector where no feasible assignment was found. price: of capacity, near the
// optimum of the dual. rounds: of exchanges, each twice as long as the one before.
// Deterministic for a seed unless the watch ends it.
// Complexity: O(num_tasks * num_candidates) memory and, about, time a sweep and for the first round.
std::vector<int> solve_sparse(const Candidates& candidates, std::span<const double> price, int rounds,
                              std::uint64_t seed, const SparseWatch& watch);

}  // namespace optalloc::assignment

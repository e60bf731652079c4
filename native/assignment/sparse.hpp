// Assignments of very many tasks over short lists of candidate units: a dive, repair, shifts and swaps.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "assignment/instance.hpp"

namespace optalloc::assignment {

// K candidates a task, entry j * K + k: their units (ascending in each task, or -1: none), costs and loads.
struct Candidates {
    int num_tasks = 0, num_units = 0, num_candidates = 0;
    std::span<const std::int32_t> unit;
    std::span<const Int> cost, load;
    std::span<const Int> capacity;
};

// The unit of each task, or an empty vector where no feasible assignment was found. multiplier: of each task, from
// prices of capacity. regret: mean over tasks of how much dearer the second candidate is. rounds: of shifts and swaps.
// Deterministic for a seed unless stop() ends it.
// Complexity: about num_tasks * num_candidates steps a dive step; memory the same.
std::vector<int> solve_sparse(const Candidates& candidates, std::span<const double> multiplier, double regret,
                              double fraction, double stride, int rounds, std::uint64_t seed,
                              const std::function<bool()>& stop);

}  // namespace optalloc::assignment

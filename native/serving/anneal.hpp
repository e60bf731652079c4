// Annealing of layer ranges towards a larger flow.
#pragma once

#include <cstdint>
#include <vector>

#include "serving/placement.hpp"

namespace optalloc::serving {

// Any range of any node; exchanges of nodes of equal tables alone; or stages in a row, every node in one.
enum class Moves { kAny, kSwaps, kRow };

struct AnnealOptions {
    std::uint64_t seed;
    std::int64_t steps;
    double target;        // tokens/s to reach; the search ends there
    double hot, cold;     // temperatures, in layers missing
    double seconds;       // wall clock; <= 0: none
    Moves moves;
};

// Improves `ranges` in place to the best found; returns its flow. Steps taken are added to `steps`.
double anneal(const FlowInstance& instance, std::vector<Range>& ranges, const AnnealOptions& options,
              const int* cancel, std::int64_t& steps);
double anneal_row(const FlowInstance& instance, std::vector<Range>& ranges, const AnnealOptions& options,
                  const int* cancel, std::int64_t& steps);

}  // namespace optalloc::serving

// The cheapest way to cover one layer: items of total weight >= 1 at least cost, each a limited number of times.
#pragma once

#include <cstdint>
#include <span>

namespace optalloc::serving {

struct Cover {
    double bound;  // no cover costs less; infinite where none exists
    double cost;   // of the cover written to `counts`; equal to `bound` unless the search was cut short
};

// Weights are in [0, 1], costs and limits >= 0; an item of weight 0 is never used. `counts` gets the number of
// times each item is taken. Time and memory grow with the undominated (weight, cost) pairs below the best cover
// known; beyond `most_states` of them the fractional bound is returned and the best cover met so far.
Cover cheapest_cover(std::span<const double> weights, std::span<const double> costs,
                     std::span<const std::int32_t> limits, std::span<std::int32_t> counts, std::size_t most_states);

}  // namespace optalloc::serving

// The cheapest lanes that carry one flow together, where every region carries a share within limits of its own.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace optalloc::serving {

struct SharedLanes {
    std::size_t num_lengths;
    std::span<const double> cost;         // lanes x lengths; infinite where a lane cannot be that long
    std::span<const std::int32_t> cells;  // by lane: parts of the flow it carries, at least 1
    std::span<const std::int32_t> region; // by lane
    std::span<const std::int32_t> low, high;  // by region: parts it may carry
    int parts;                            // of the flow
};

// Per length the least cost, infinite where there is none; `counts` (lengths x lanes) gets how often each lane is taken.
// Knapsacks of lanes in every region, then of regions: O(lengths (lanes parts + regions parts^2)).
std::vector<double> cheapest_shares(const SharedLanes& in, std::span<std::int32_t> counts);

}  // namespace optalloc::serving

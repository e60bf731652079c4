// The cheapest multiset of items whose weights reach a target, for every target at once.
#pragma once

#include <cstdint>
#include <span>

namespace optalloc::serving {

// cost[r] gets the least cost of items (each as often as wanted) of total weight >= r, r = 0..R, and
// choice[r] the item taken last (-1 at 0 and where nothing reaches). Weights are >= 0, costs too; an item
// of weight 0 is never used. cost.size() == choice.size() == R + 1.
void cheapest_covers(std::span<const std::int32_t> weights, std::span<const double> costs,
                     std::span<double> cost, std::span<std::int32_t> choice);

}  // namespace optalloc::serving

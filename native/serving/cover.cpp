#include "serving/cover.hpp"

#include <algorithm>
#include <limits>

namespace optalloc::serving {

void cheapest_covers(std::span<const std::int32_t> weights, std::span<const double> costs,
                     std::span<double> cost, std::span<std::int32_t> choice) {
    std::fill(cost.begin(), cost.end(), std::numeric_limits<double>::infinity());
    std::fill(choice.begin(), choice.end(), -1);
    cost[0] = 0.0;
    const std::int64_t targets = static_cast<std::int64_t>(cost.size());
    // Item by item: within one item the sweep upward allows repeats, and each sweep is a plain loop.
    for (std::size_t item = 0; item < weights.size(); ++item) {
        const std::int64_t weight = weights[item];
        if (weight <= 0) continue;
        const double price = costs[item];
        for (std::int64_t r = 1; r < targets; ++r) {
            const double through = cost[static_cast<std::size_t>(std::max<std::int64_t>(0, r - weight))] + price;
            if (through < cost[static_cast<std::size_t>(r)]) {
                cost[static_cast<std::size_t>(r)] = through;
                choice[static_cast<std::size_t>(r)] = static_cast<std::int32_t>(item);
            }
        }
    }
}

}  // namespace optalloc::serving

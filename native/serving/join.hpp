// The least cost of every total of two shares, each with a cost of its own: a (min, +) or (min, max) product.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace optalloc::serving {

// cost[t] = min over q of one[q] + other[t - q], or of the larger of both, for t from `first` on; taken[t] is the
// least such q. All four are of equal length. Entries below `first` are left as they are. Costs are not NaN; with
// `largest` unset none is minus infinity.
//
// Time O(n^2) at most: shares go in blocks, and a pair of blocks is left out where its least costs together are no
// less than what every total of it has already.
void join_shares(std::span<const double> one, std::span<const double> other, bool largest, std::size_t first,
                 std::span<double> cost, std::span<std::int64_t> taken);

}  // namespace optalloc::serving

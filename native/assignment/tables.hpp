// Rows of knapsack tables, one entry a capacity: the hot loops.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <span>

#include "assignment/instance.hpp"

namespace optalloc::assignment {

constexpr std::size_t kCellsPerWork = 4;  // of Knapsack::work()
constexpr Int kNarrow = std::numeric_limits<std::int32_t>::max();  // of profits, from which 64 bits are taken

// out[y] = max(skip[y], take[y] + profit).
void better(std::int32_t* out, const std::int32_t* skip, const std::int32_t* take, std::int32_t profit, std::size_t count);
void better(Int* out, const Int* skip, const Int* take, Int profit, std::size_t count);
// max_y a[y] + b[y], at least 0.
std::int32_t best_sum(const std::int32_t* a, const std::int32_t* b, std::size_t count);
Int best_sum(const Int* a, const Int* b, std::size_t count);

inline Int max_of(std::span<const Int> values) {
    return values.empty() ? 0 : *std::max_element(values.begin(), values.end());
}
inline Int sum(std::span<const Int> values) {
    Int total = 0;
    for (const Int v : values) total += v;
    return total;
}

}  // namespace optalloc::assignment

// The integer assignment instance and its normal form.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

namespace optalloc::assignment {

using Int = std::int64_t;

// N tasks, M units, unit-major tables: entry i * num_tasks + j belongs to unit i and task j.
struct Instance {
    int num_tasks = 0;
    int num_units = 0;
    std::vector<Int> cost;
    std::vector<Int> load;      // >= 0
    std::vector<Int> capacity;  // >= 0
    std::vector<std::uint8_t> allowed;

    std::size_t at(int unit, int task) const {
        return static_cast<std::size_t>(unit) * static_cast<std::size_t>(num_tasks) +
               static_cast<std::size_t>(task);
    }
};

// An equivalent instance with smaller numbers: every task's cheapest allowed unit costs 0, the costs and the
// loads of each unit have no common divisor, and no capacity exceeds what could be used. An assignment of
// cost v here costs offset + granularity * v in the original numbers.
struct Normal {
    Instance instance;
    Int offset = 0;
    Int granularity = 1;
    std::vector<Int> task_offset;  // the cheapest allowed cost of each task, 0 where it has no unit

    Int original(Int value) const { return offset + granularity * value; }
    Int above(Int bound) const;  // the least value that is at least this in the original numbers
};

// Tables as callers hold them: task-major, entry j * M + i. Pairs that overload an empty unit are forbidden.
Normal normalise(std::span<const Int> costs, std::span<const Int> loads, std::span<const Int> capacities,
                 std::span<const std::uint8_t> allowed);

// By unit: the first one that is its twin, of the same costs, loads, allowed pairs and capacity; often itself.
std::vector<int> find_twins(const Instance& instance);

// The largest cost an assignment can have, sum_j max_{i allowed} c_ij.
Int cost_ceiling(const Instance& instance);

// A multiplier as an integer. Below the cheapest cost (0) or far above every assignment's cost none can help; clamping
// keeps all sums within 64 bits.
inline Int scaled_multiplier(double multiplier, Int ceiling, Int scale) {
    const double high = 2.0 * (static_cast<double>(ceiling) + 1.0);
    return static_cast<Int>(std::clamp(multiplier, 0.0, high) * static_cast<double>(scale) + 0.5);
}

// Division that rounds up, right for negative numerators; the denominator is positive.
constexpr Int ceil_div(Int numerator, Int denominator) {
    return numerator / denominator + (numerator % denominator > 0 ? 1 : 0);
}

inline Int Normal::above(Int bound) const { return ceil_div(bound - offset, granularity); }

}  // namespace optalloc::assignment

// What forcing one item of a knapsack in or out costs.
#include <algorithm>

#include "assignment/knapsack.hpp"
#include "assignment/tables.hpp"

namespace optalloc::assignment {

namespace {

constexpr Int kMaxConditionCells = Int{1} << 21;  // of each of two tables
constexpr std::int64_t kMostWork = 50'000'000;      // without tables; the items left over count as free either way

}  // namespace

// Forward rows F_q[y] (items before q, capacity y) against backward rows R_q[y] (items from q on, capacity
// capacity - y): the best set with item q out is max_y F_q[y] + R_{q+1}[y], with it in the same, shifted.
template <typename Value>
Int Knapsack::condition_by_table(std::span<const Int> profit, std::span<const Int> load,
                                 std::size_t num_items, Int capacity, std::vector<Int>& with,
                                 std::vector<Int>& without) {
    auto& forward = [this]() -> auto& {
        if constexpr (std::is_same_v<Value, Int>) return wide_forward_;
        else return narrow_forward_;
    }();
    auto& backward = [this]() -> auto& {
        if constexpr (std::is_same_v<Value, Int>) return wide_backward_;
        else return narrow_backward_;
    }();
    const std::size_t width = static_cast<std::size_t>(capacity) + 1, cells = (num_items + 1) * width;
    work_ += static_cast<std::int64_t>((2 * cells + profit.size() * width) / kCellsPerWork);
    if (forward.size() < cells) forward.resize(cells);
    if (backward.size() < cells) backward.resize(cells);
    std::fill_n(forward.begin(), width, Value{0});
    for (std::size_t q = 0; q < num_items; ++q) {
        const auto w = static_cast<std::size_t>(load[q]);
        const Value* from = forward.data() + q * width;
        Value* to = forward.data() + (q + 1) * width;
        std::copy_n(from, w, to);
        better(to + w, from + w, from, static_cast<Value>(profit[q]), width - w);
    }
    std::fill_n(backward.begin() + static_cast<std::ptrdiff_t>(num_items * width), width, Value{0});
    for (std::size_t q = num_items; q-- > 0;) {
        const auto w = static_cast<std::size_t>(load[q]);
        const Value* from = backward.data() + (q + 1) * width;
        Value* to = backward.data() + q * width;
        better(to, from, from + w, static_cast<Value>(profit[q]), width - w);
        std::copy_n(from + (width - w), w, to + (width - w));
    }
    const Value* full = forward.data() + num_items * width;
    for (std::size_t q = num_items; q < profit.size(); ++q) {
        with[q] = profit[q] + static_cast<Int>(full[width - 1 - static_cast<std::size_t>(load[q])]);
    }
    // Items of one best set cost nothing to force in, the others nothing to force out.
    const Int best = static_cast<Int>(full[width - 1]);
    std::size_t y = width - 1;
    for (std::size_t q = num_items; q-- > 0;) {
        const auto w = static_cast<std::size_t>(load[q]);
        const Value* before = forward.data() + q * width;
        const Value* after = backward.data() + (q + 1) * width;
        if (forward[(q + 1) * width + y] != before[y]) {
            y -= w;
            with[q] = best;
            without[q] = static_cast<Int>(best_sum(before, after, width));
        } else {
            with[q] = profit[q] + static_cast<Int>(best_sum(before, after + w, width - w));
            without[q] = best;
        }
    }
    return best;
}

Int Knapsack::condition(std::span<const Int> profit, std::span<const Int> load, std::size_t num_items,
                        Int capacity, std::vector<Int>& with, std::vector<Int>& without) {
    with.assign(profit.size(), 0);
    without.assign(num_items, 0);
    const auto items = profit.first(num_items);
    const auto loads = load.first(num_items);
    const Int total_load = sum(loads), total_profit = sum(items);
    if (total_load <= capacity && total_load + max_of(load.subspan(num_items)) <= capacity) {
        for (std::size_t q = 0; q < profit.size(); ++q) {
            with[q] = q < num_items ? total_profit : total_profit + profit[q];
            if (q < num_items) without[q] = total_profit - profit[q];
        }
        return total_profit;
    }
    if (capacity < kMaxConditionCells &&
        static_cast<Int>(num_items + 1) * (capacity + 1) <= kMaxConditionCells) {
        return total_profit < kNarrow
                   ? condition_by_table<std::int32_t>(profit, load, num_items, capacity, with, without)
                   : condition_by_table<Int>(profit, load, num_items, capacity, with, without);
    }
    const Int best = solve(items, loads, capacity, in_best_);
    const std::vector<std::uint8_t> in_best = in_best_;
    std::vector<Int> other_profit(items.begin(), items.end()), other_load(loads.begin(), loads.end());
    const std::int64_t end = work_ + kMostWork;
    for (std::size_t q = 0; q < profit.size(); ++q) {
        if (work_ > end) {
            with[q] = best;
            if (q < num_items) without[q] = best;
            continue;
        }
        if (q >= num_items) {
            with[q] = std::min(best, profit[q] + solve(items, loads, capacity - load[q], in_best_));
            continue;
        }
        other_profit[q] = 0;  // an item worth nothing is as good as absent
        other_load[q] = 0;
        with[q] = without[q] = best;
        if (in_best[q]) {
            without[q] = std::min(best, solve(other_profit, other_load, capacity, in_best_));
        } else {
            const Int rest = solve(other_profit, other_load, capacity - load[q], in_best_);
            with[q] = std::min(best, profit[q] + rest);
        }
        other_profit[q] = profit[q];
        other_load[q] = load[q];
    }
    return best;
}

}  // namespace optalloc::assignment

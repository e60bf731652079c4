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
Int Knapsack::condition_by_table(std::size_t num_items, Int capacity) {
    const std::vector<Int>&profit = core_profit_, &load = core_load_;
    std::vector<Int>&with = core_with_, &without = core_without_;
    with.resize(profit.size());
    without.resize(num_items);
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

// Linear bounds settle most items: on the other side than in the linear solution, each would take more than the best
// set has above the floor. The others are undecided, and only those go into the tables.
template <typename Product>
Int Knapsack::condition_by(std::span<const Int> profit, std::span<const Int> load, std::size_t num_items, Int capacity,
                           Int floor, std::vector<Int>& with, std::vector<Int>& without) {
    const auto items = profit.first(num_items);
    const auto loads = load.first(num_items);
    Linear<Product> linear;
    const std::size_t num_first = split(items, loads, capacity);
    if (num_first < keys_.size()) linear = relax<Product>(items, loads, capacity, item_of(keys_[num_first]));
    else linear.base = sum(items);
    const Product spare = linear.base - static_cast<Product>(floor) * linear.price_load;
    Int room = capacity, fixed_profit = 0;
    undecided_.clear();
    for (std::size_t q = 0; q < profit.size(); ++q) {
        const Product gain = linear.gain(profit[q], load[q]);
        if ((gain < 0 ? -gain : gain) <= spare) {
            undecided_.push_back(q);
        } else if (gain > 0) {
            fixed_profit += profit[q];
            room -= load[q];
        }
    }
    if (room < 0) return floor - 1;
    std::erase_if(undecided_, [&](std::size_t q) { return load[q] > room; });
    const auto num_core = static_cast<std::size_t>(
        std::lower_bound(undecided_.begin(), undecided_.end(), num_items) - undecided_.begin());
    const bool tabular = room < kMaxConditionCells && static_cast<Int>(num_core + 1) * (room + 1) <= kMaxConditionCells;
    Int best = 0;
    if (tabular) {
        core_profit_.clear();
        core_load_.clear();
        for (const std::size_t q : undecided_) {
            core_profit_.push_back(profit[q]);
            core_load_.push_back(load[q]);
        }
        best = sum(std::span<const Int>(core_profit_).first(num_core)) < kNarrow
                   ? condition_by_table<std::int32_t>(num_core, room)
                   : condition_by_table<Int>(num_core, room);
        best = std::max(best + fixed_profit, floor - 1);
    } else {
        best = solve(items, loads, capacity, in_best_);
    }
    for (std::size_t q = 0; q < profit.size(); ++q) {
        if (linear.gain(profit[q], load[q]) > spare) with[q] = best;
        else if (q < num_items) without[q] = best;
    }
    if (!tabular) return condition_by_solving(profit, load, num_items, capacity, best, with, without);
    for (std::size_t k = 0; k < undecided_.size(); ++k) {
        const std::size_t q = undecided_[k];
        with[q] = std::max(floor - 1, fixed_profit + core_with_[k]);
        if (k < num_core) without[q] = std::max(floor - 1, fixed_profit + core_without_[k]);
    }
    return best;
}

// Each undecided item by a knapsack of its own.
Int Knapsack::condition_by_solving(std::span<const Int> profit, std::span<const Int> load, std::size_t num_items, Int capacity,
                                   Int best, std::vector<Int>& with, std::vector<Int>& without) {
    const auto items = profit.first(num_items);
    const auto loads = load.first(num_items);
    const std::vector<std::uint8_t> in_best = in_best_;
    std::vector<Int> other_profit(items.begin(), items.end()), other_load(loads.begin(), loads.end());
    const std::int64_t end = work_ + kMostWork;
    for (const std::size_t q : undecided_) {
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

Int Knapsack::condition(std::span<const Int> profit, std::span<const Int> load, std::size_t num_items,
                        Int capacity, Int floor, std::vector<Int>& with, std::vector<Int>& without) {
    const auto items = profit.first(num_items);
    const auto loads = load.first(num_items);
    const Int total_load = sum(loads), total_profit = sum(items);
    Int lowest = 0;
    for (const Int p : profit) lowest = std::min(lowest, p);
    floor = std::max(floor, lowest);  // no set is worth less
    with.assign(profit.size(), floor - 1);
    without.assign(num_items, floor - 1);
    work_ += kItemWork * static_cast<std::int64_t>(profit.size() + 1);
    if (total_load <= capacity && total_load + max_of(load.subspan(num_items)) <= capacity) {
        for (std::size_t q = 0; q < profit.size(); ++q) {
            with[q] = q < num_items ? total_profit : total_profit + profit[q];
            if (q < num_items) without[q] = total_profit - profit[q];
        }
        return total_profit;
    }
    const Int most_load = std::max(capacity, max_of(load));
    const bool is_narrow = total_profit - lowest < kProducts / (2 * (most_load + 1));
    return is_narrow ? condition_by<Int>(profit, load, num_items, capacity, floor, with, without)
                     : condition_by<Wide>(profit, load, num_items, capacity, floor, with, without);
}

}  // namespace optalloc::assignment

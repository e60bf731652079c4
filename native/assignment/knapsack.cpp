#include "assignment/knapsack.hpp"

#include <algorithm>
#include <limits>
#include <type_traits>

#include "clones.hpp"

namespace optalloc::assignment {

namespace {

constexpr Int kMaxCells = Int{1} << 24;            // of one table
constexpr Int kMaxConditionCells = Int{1} << 21;   // of each of two tables
constexpr Int kCellsPerNode = 256;              // table cells computed in the time of one enumeration node
constexpr std::int64_t kMaxLeaves = 20000;         // of an enumeration no table can replace
constexpr std::int64_t kItemWork = 30, kNodeWork = 20;  // nanoseconds, about
constexpr std::size_t kCellsPerWork = 4;
constexpr std::size_t kMovesPerItem = 8;            // of an insertion sort, before it is given up
constexpr Int kProducts = Int{1} << 61;
constexpr Int kNarrow = std::numeric_limits<std::int32_t>::max();

// out[y] = max(skip[y], take[y] + profit): the hot loop of every table.
OPTALLOC_CLONES void better_narrow(std::int32_t* out, const std::int32_t* skip, const std::int32_t* take,
                                   std::int32_t profit, std::size_t count) {
    for (std::size_t y = 0; y < count; ++y) {
        const std::int32_t with = take[y] + profit;
        out[y] = skip[y] > with ? skip[y] : with;
    }
}
OPTALLOC_CLONES std::int32_t best_sum_narrow(const std::int32_t* a, const std::int32_t* b, std::size_t count) {
    std::int32_t best = 0;
    for (std::size_t y = 0; y < count; ++y) {
        const std::int32_t sum = a[y] + b[y];
        best = best > sum ? best : sum;
    }
    return best;
}
void better(std::int32_t* out, const std::int32_t* skip, const std::int32_t* take, std::int32_t profit,
            std::size_t count) {
    better_narrow(out, skip, take, profit, count);
}
void better(Int* out, const Int* skip, const Int* take, Int profit, std::size_t count) {
    for (std::size_t y = 0; y < count; ++y) out[y] = std::max(skip[y], take[y] + profit);
}
std::int32_t best_sum(const std::int32_t* a, const std::int32_t* b, std::size_t count) {
    return best_sum_narrow(a, b, count);
}
Int best_sum(const Int* a, const Int* b, std::size_t count) {
    Int best = 0;
    for (std::size_t y = 0; y < count; ++y) best = std::max(best, a[y] + b[y]);
    return best;
}

Int max_of(std::span<const Int> values) {
    return values.empty() ? 0 : *std::max_element(values.begin(), values.end());
}
Int sum(std::span<const Int> values) {
    Int total = 0;
    for (const Int v : values) total += v;
    return total;
}

}  // namespace

// Items in the order of profit per load. Those that come nearly sorted cost little.
template <typename Product>
void Knapsack::sort(std::span<const Int> profit, std::span<const Int> load, Int capacity) {
    const auto ahead = [&](int one, int other) {
        const auto a = static_cast<std::size_t>(one), b = static_cast<std::size_t>(other);
        if (load[a] == 0 || load[b] == 0) return load[b] != 0;
        return static_cast<Product>(profit[a]) * load[b] > static_cast<Product>(profit[b]) * load[a];
    };
    const auto insert_all = [&](std::size_t most) {
        std::size_t moves = 0;
        for (std::size_t k = 1; k < order_.size(); ++k) {
            const int item = order_[k];
            std::size_t r = k;
            for (; r > 0 && ahead(item, order_[r - 1]); --r) order_[r] = order_[r - 1];
            order_[r] = item;
            moves += k - r;
            if (moves > most) return false;
        }
        return true;
    };
    order_.clear();
    for (std::size_t q = 0; q < profit.size(); ++q) {
        if (load[q] <= capacity) order_.push_back(static_cast<int>(q));
    }
    if (insert_all(kMovesPerItem * order_.size())) return;
    keys_.clear();
    for (const int item : order_) {
        const auto q = static_cast<std::size_t>(item);
        const double ratio = load[q] == 0 ? std::numeric_limits<double>::infinity()
                                          : static_cast<double>(profit[q]) / static_cast<double>(load[q]);
        keys_.emplace_back(-ratio, item);
    }
    std::sort(keys_.begin(), keys_.end());
    for (std::size_t k = 0; k < keys_.size(); ++k) order_[k] = keys_[k].second;
    // Rounded ratios may misplace near ties, and the enumeration needs the exact order.
    insert_all(std::numeric_limits<std::size_t>::max());
}

template <typename Product>
Knapsack::Linear<Product> Knapsack::relax(std::span<const Int> profit, std::span<const Int> load, Int capacity) {
    Linear<Product> linear;
    sort<Product>(profit, load, capacity);
    Int room = capacity, value = 0;
    std::size_t k = 0;
    for (; k < order_.size() && load[static_cast<std::size_t>(order_[k])] <= room; ++k) {
        room -= load[static_cast<std::size_t>(order_[k])];
        value += profit[static_cast<std::size_t>(order_[k])];
    }
    if (k == order_.size()) {
        linear.all_fit = true;
        linear.bound = value;
        return linear;
    }
    const auto pivot = static_cast<std::size_t>(order_[k]);
    linear.price_profit = profit[pivot];
    linear.price_load = load[pivot];
    linear.base = static_cast<Product>(value) * linear.price_load + static_cast<Product>(room) * linear.price_profit;
    linear.bound = static_cast<Int>(linear.base / linear.price_load);
    return linear;
}

Int Knapsack::solve(std::span<const Int> profit, std::span<const Int> load, Int capacity,
                    std::vector<std::uint8_t>& taken) {
    work_ += kItemWork * static_cast<std::int64_t>(profit.size() + 1);
    const Int most_load = std::max(capacity, max_of(load));
    const bool is_narrow = sum(profit) < kProducts / (2 * (most_load + 1));
    return is_narrow ? solve_by<Int>(profit, load, capacity, taken) : solve_by<Wide>(profit, load, capacity, taken);
}

template <typename Product>
Int Knapsack::solve_by(std::span<const Int> profit, std::span<const Int> load, Int capacity,
                       std::vector<std::uint8_t>& taken) {
    taken.assign(profit.size(), 0);
    const Linear<Product> linear = relax<Product>(profit, load, capacity);
    if (linear.all_fit) {
        for (const int index : order_) taken[static_cast<std::size_t>(index)] = 1;
        return linear.bound;
    }

    Int greedy = 0, room = capacity;
    for (const int index : order_) {
        const auto q = static_cast<std::size_t>(index);
        if (load[q] > room) continue;
        taken[q] = 1;
        room -= load[q];
        greedy += profit[q];
    }
    if (greedy == linear.bound) return greedy;

    // An item whose change against the linear solution cannot beat the greedy set keeps its linear value.
    const auto gain = [&](std::size_t q) {
        return static_cast<Product>(profit[q]) * linear.price_load - static_cast<Product>(load[q]) * linear.price_profit;
    };
    const Product spare = linear.base - static_cast<Product>(greedy + 1) * linear.price_load;
    Int fixed_profit = 0, core_capacity = capacity;
    core_.clear();
    core_profit_.clear();
    core_load_.clear();
    for (const int index : order_) {
        const auto q = static_cast<std::size_t>(index);
        const Product g = gain(q);
        if ((g < 0 ? -g : g) <= spare) {
            core_.push_back(index);
            core_profit_.push_back(profit[q]);
            core_load_.push_back(load[q]);
        } else if (g > 0) {
            fixed_profit += profit[q];
            core_capacity -= load[q];
        }
    }
    if (core_capacity < 0) return greedy;  // no set beats the greedy one

    const Int cells = static_cast<Int>(core_.size()) * (core_capacity + 1);
    const bool tabular = core_capacity < kMaxCells && cells <= kMaxCells;
    const std::int64_t budget = tabular ? cells / kCellsPerNode + 32 : kMaxLeaves;
    bool exact = enumerate<Product>(core_capacity, greedy - fixed_profit, budget);
    if (!exact && tabular) {
        best_ = sum(core_profit_) < kNarrow ? tabulate<std::int32_t>(core_capacity) : tabulate<Int>(core_capacity);
        exact = true;
    }
    if (best_ + fixed_profit > greedy) {
        greedy = best_ + fixed_profit;
        std::fill(taken.begin(), taken.end(), std::uint8_t{0});
        for (const int index : order_) {
            const auto q = static_cast<std::size_t>(index);
            taken[q] = gain(q) > 0;
        }
        for (std::size_t k = 0; k < core_.size(); ++k) {
            taken[static_cast<std::size_t>(core_[k])] = best_chosen_[k];
        }
    }
    return exact ? greedy : linear.bound;
}

// Depth first over the core in order of profit per load, bounded by the next item's ratio. False: the budget
// ended; best_ and best_chosen_ then hold the best set found, best_ = floor when none is better.
template <typename Product>
bool Knapsack::enumerate(Int capacity, Int floor, std::int64_t budget) {
    const std::size_t n = core_.size();
    tail_profit_.assign(n + 1, 0);
    tail_load_.assign(n + 1, 0);
    for (std::size_t k = n; k-- > 0;) {
        tail_profit_[k] = tail_profit_[k + 1] + core_profit_[k];
        tail_load_[k] = tail_load_[k + 1] + core_load_[k];
    }
    chosen_.assign(n, 0);
    best_chosen_.assign(n, 0);
    best_ = floor;
    const std::int64_t given = budget;
    Int value = 0, room = capacity;
    std::size_t k = 0;
    while (true) {
        bool descend = true;
        if (tail_load_[k] <= room) {
            if (value + tail_profit_[k] > best_) {
                best_ = value + tail_profit_[k];
                best_chosen_ = chosen_;
                for (std::size_t q = k; q < n; ++q) best_chosen_[q] = 1;
            }
            descend = false;
        } else {
            Int bound_value = value, bound_room = room;
            std::size_t q = k;
            while (q < n && core_load_[q] <= bound_room) {
                bound_room -= core_load_[q];
                bound_value += core_profit_[q];
                ++q;
            }
            if (bound_value > best_) {
                best_ = bound_value;
                best_chosen_ = chosen_;
                for (std::size_t r = k; r < q; ++r) best_chosen_[r] = 1;
            }
            // bound_value + floor(slack / load) > best_, without a division
            const Product slack = static_cast<Product>(bound_room) * core_profit_[q];
            descend = slack >= static_cast<Product>(best_ + 1 - bound_value) * core_load_[q];
        }
        if (descend) {
            if (--budget < 0) {
                work_ += kNodeWork * given;
                return false;
            }
            if (core_load_[k] <= room) {
                chosen_[k] = 1;
                room -= core_load_[k];
                value += core_profit_[k];
            }
            ++k;
            continue;
        }
        while (k > 0 && !chosen_[k - 1]) --k;
        if (k == 0) {
            work_ += kNodeWork * (given - budget);
            return true;
        }
        chosen_[k - 1] = 0;
        room += core_load_[k - 1];
        value -= core_profit_[k - 1];
    }
}

// Rows F_q[y], the best profit of the first q core items within capacity y, restricted to the y that matter.
template <typename Value>
Int Knapsack::tabulate(Int capacity) {
    auto& table = [this]() -> auto& {
        if constexpr (std::is_same_v<Value, Int>) return wide_forward_;
        else return narrow_forward_;
    }();
    const std::size_t n = core_.size(), width = static_cast<std::size_t>(capacity) + 1;
    work_ += static_cast<std::int64_t>(n * width / kCellsPerWork);
    if (table.size() < (n + 1) * width) table.resize((n + 1) * width);
    std::fill_n(table.begin(), width, Value{0});
    Int behind = sum(core_load_);
    for (std::size_t q = 0; q < n; ++q) {
        behind -= core_load_[q];
        const std::size_t low = behind >= capacity ? 0 : static_cast<std::size_t>(capacity - behind);
        const auto load = static_cast<std::size_t>(std::min(core_load_[q], capacity + 1));
        const Value* from = table.data() + q * width;
        Value* to = table.data() + (q + 1) * width;
        const std::size_t split = std::max(low, load);
        if (low < split) std::copy(from + low, from + std::min(split, width), to + low);
        if (split < width) {
            better(to + split, from + split, from + split - load, static_cast<Value>(core_profit_[q]),
                   width - split);
        }
    }
    std::size_t y = width - 1;
    for (std::size_t q = n; q-- > 0;) {
        const bool in = table[(q + 1) * width + y] != table[q * width + y];
        best_chosen_[q] = in;
        if (in) y -= static_cast<std::size_t>(core_load_[q]);
    }
    return static_cast<Int>(table[n * width + width - 1]);
}

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
    for (std::size_t q = 0; q < profit.size(); ++q) {
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

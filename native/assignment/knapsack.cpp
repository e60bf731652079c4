#include "assignment/knapsack.hpp"

#include <algorithm>
#include <limits>
#include <type_traits>

#include "assignment/tables.hpp"

namespace optalloc::assignment {

namespace {

constexpr Int kMaxCells = Int{1} << 24;            // of one table
constexpr Int kCellsPerNode = 256;              // table cells computed in the time of one enumeration node
constexpr std::int64_t kMaxLeaves = 20000;         // of an enumeration no table can replace
constexpr std::int64_t kItemWork = 30, kNodeWork = 20;  // nanoseconds, about
constexpr std::size_t kMovesPerItem = 8;            // of an insertion sort, before it is given up
constexpr Int kProducts = Int{1} << 61;

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

}  // namespace optalloc::assignment

#include "assignment/knapsack.hpp"

#include <algorithm>
#include <bit>
#include <functional>
#include <limits>
#include <type_traits>

#include "assignment/tables.hpp"

namespace optalloc::assignment {

namespace {

constexpr Int kMaxCells = Int{1} << 24;            // of one table
constexpr Int kCellsPerNode = 256;              // table cells computed in the time of one enumeration node
constexpr std::int64_t kMaxLeaves = 20000;         // of an enumeration no table can replace
constexpr std::int64_t kNodeWork = 20;             // nanoseconds, about
constexpr std::size_t kFewKeys = 16;               // sorted at once
constexpr std::uint64_t kLastItem = std::numeric_limits<std::uint32_t>::max();

}  // namespace

// Larger for more profit per load, rounded to 24 bits, and where that is equal for earlier items: one number, so that
// selection and sorting are without branches.
Knapsack::Key Knapsack::key_of(Int profit, Int load, std::size_t item) {
    const float ratio = load == 0 ? std::numeric_limits<float>::infinity() : static_cast<float>(profit) / static_cast<float>(load);
    return Key{std::bit_cast<std::uint32_t>(ratio)} << 32 | (kLastItem - item);
}

std::size_t Knapsack::item_of(Key key) { return kLastItem - (key & kLastItem); }

// Keys of the items within the capacity, those that fit together by falling ratio first; returns how many those are.
// By selection, as a sort but of the part alone that holds the first one that does not fit.
std::size_t Knapsack::split(std::span<const Int> profit, std::span<const Int> load, Int capacity) {
    keys_.clear();
    Int total = 0;
    for (std::size_t q = 0; q < profit.size(); ++q) {
        if (load[q] > capacity) continue;
        keys_.push_back(key_of(profit[q], load[q], q));
        total += load[q];
    }
    if (total <= capacity) return keys_.size();
    const auto load_of = [&](Key key) { return load[item_of(key)]; };
    Int room = capacity;
    std::size_t low = 0, high = keys_.size();
    while (high - low > kFewKeys) {
        const Key x = keys_[low], y = keys_[low + (high - low) / 2], z = keys_[high - 1];
        const Key middle = std::max(std::min(x, y), std::min(std::max(x, y), z));
        std::size_t to = low;
        Int taken = 0;
        for (std::size_t k = low; k < high; ++k) {
            const Key key = keys_[k];
            const bool first = key >= middle;
            keys_[k] = keys_[to];
            keys_[to] = key;
            to += first;
            taken += static_cast<Int>(first) * load_of(key);
        }
        if (taken <= room) {
            room -= taken;
            low = to;
        } else {
            high = to;
        }
    }
    std::sort(keys_.begin() + static_cast<std::ptrdiff_t>(low), keys_.begin() + static_cast<std::ptrdiff_t>(high), std::greater{});
    for (; load_of(keys_[low]) <= room; ++low) room -= load_of(keys_[low]);
    return low;
}

// The linear bound at the profit per load of an item: valid for any item.
template <typename Product>
Knapsack::Linear<Product> Knapsack::relax(std::span<const Int> profit, std::span<const Int> load, Int capacity,
                                          std::size_t pivot) const {
    Linear<Product> linear;
    linear.price_profit = profit[pivot];
    linear.price_load = load[pivot];
    linear.base = static_cast<Product>(capacity) * linear.price_profit;
    for (std::size_t q = 0; q < profit.size(); ++q) {
        const Product gain = linear.gain(profit[q], load[q]);
        linear.base += gain > 0 && load[q] <= capacity ? gain : 0;
    }
    linear.bound = static_cast<Int>(linear.base / linear.price_load);
    return linear;
}

template Knapsack::Linear<Int> Knapsack::relax<Int>(std::span<const Int>, std::span<const Int>, Int, std::size_t) const;
template Knapsack::Linear<Knapsack::Wide> Knapsack::relax<Knapsack::Wide>(std::span<const Int>, std::span<const Int>, Int,
                                                                          std::size_t) const;

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
    const std::size_t num_first = split(profit, load, capacity);
    Int greedy = 0, room = capacity;
    const auto take = [&](std::size_t q) {
        taken[q] = 1;
        greedy += profit[q];
        room -= load[q];
    };
    for (std::size_t k = 0; k < num_first; ++k) take(item_of(keys_[k]));
    if (num_first == keys_.size()) return greedy;
    const auto linear = relax<Product>(profit, load, capacity, item_of(keys_[num_first]));
    fitting_.resize(profit.size());
    std::size_t num_fitting = 0;
    for (std::size_t q = 0; q < profit.size(); ++q) {
        fitting_[num_fitting] = q;
        num_fitting += static_cast<std::size_t>((load[q] <= room) & (taken[q] == 0));
    }
    fitting_.resize(num_fitting);
    while (!fitting_.empty()) {
        take(*std::max_element(fitting_.begin(), fitting_.end(), [&](std::size_t a, std::size_t b) { return profit[a] < profit[b]; }));
        std::erase_if(fitting_, [&](std::size_t q) { return taken[q] || load[q] > room; });
    }
    if (greedy == linear.bound) return greedy;

    // An item whose change against the linear solution cannot beat the greedy set keeps its linear value.
    const Product spare = linear.base - static_cast<Product>(greedy + 1) * linear.price_load;
    Int fixed_profit = 0, core_capacity = capacity;
    core_.clear();
    for (std::size_t q = 0; q < profit.size(); ++q) {
        if (load[q] > capacity) continue;
        const Product g = linear.gain(profit[q], load[q]);
        if ((g < 0 ? -g : g) <= spare) {
            core_.push_back(key_of(profit[q], load[q], q));
        } else if (g > 0) {
            fixed_profit += profit[q];
            core_capacity -= load[q];
        }
    }
    if (core_capacity < 0) return greedy;  // no set beats the greedy one
    sort_core<Product>(profit, load);

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
        for (std::size_t q = 0; q < profit.size(); ++q) {
            taken[q] = load[q] <= capacity && linear.gain(profit[q], load[q]) > 0;
        }
        for (std::size_t k = 0; k < core_.size(); ++k) taken[item_of(core_[k])] = best_chosen_[k];
    }
    return exact ? greedy : linear.bound;
}

// The core by falling profit per load. Rounded ratios may misplace near ties, and the enumeration needs the exact order.
template <typename Product>
void Knapsack::sort_core(std::span<const Int> profit, std::span<const Int> load) {
    std::sort(core_.begin(), core_.end(), std::greater{});
    core_profit_.clear();
    core_load_.clear();
    for (std::size_t k = 0; k < core_.size(); ++k) {
        const Key key = core_[k];
        const Int p = profit[item_of(key)], w = load[item_of(key)];
        core_profit_.push_back(p);
        core_load_.push_back(w);
        std::size_t r = k;
        for (; r > 0 && static_cast<Product>(p) * core_load_[r - 1] > static_cast<Product>(core_profit_[r - 1]) * w; --r) {
            core_[r] = core_[r - 1];
            core_profit_[r] = core_profit_[r - 1];
            core_load_[r] = core_load_[r - 1];
        }
        core_[r] = key;
        core_profit_[r] = p;
        core_load_[r] = w;
    }
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

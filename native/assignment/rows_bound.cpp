#include "assignment/rows_bound.hpp"

#include <algorithm>
#include <cmath>

namespace optalloc::assignment::rows {

namespace {

constexpr int kShift = 20;          // bits of a load relative to its capacity
constexpr Int kMostScaled = Int{1} << 36;
constexpr Int kMostFactor = 1000;
constexpr double kMostPrice = static_cast<double>(Int{1} << 40);

// floor(a * b / c) without overflow; 0 <= a <= c.
Int part(Int a, Int b, Int c) {
    return static_cast<Int>(static_cast<unsigned __int128>(a) * static_cast<unsigned __int128>(b) /
                            static_cast<unsigned __int128>(c));
}

}  // namespace

Bound::Bound(const Instance& instance)
    : instance_(&instance),
      tasks_(static_cast<std::size_t>(instance.num_tasks)),
      cost_(instance.cost.size()),
      groups_of_(tasks_),
      priced_of_(tasks_),
      kept_of_(tasks_, -1),
      tightest_(static_cast<std::size_t>(instance.num_units)),
      table_(static_cast<std::size_t>(instance.num_units)),
      cells_(instance.cost.size()),
      share_(instance.load.size()),
      in_loss_(instance.cost.size()),
      out_loss_(instance.cost.size()),
      profit_(instance.cost.size()),
      pick_(instance.cost.size()) {
    size_ = tasks_ + instance.capacity.size() + instance.apart.size() * static_cast<std::size_t>(instance.num_units);
    rounded_.resize(size_);
    slope_.resize(size_);
    choose_kept_groups();
    Int dearest = 0;
    for (std::size_t k = 0; k < cost_.size(); ++k) {
        if (instance.allowed[k]) dearest = std::max(dearest, instance.cost[k]);
    }
    // Without costs only the ratios of the multipliers count.
    factor_ = dearest == 0 ? Int{1} << kShift : std::clamp(kMostScaled / dearest, Int{1}, kMostFactor);
    while ((dearest >> shift_) > kMostScaled) ++shift_;
    scale_ = std::ldexp(static_cast<double>(factor_), -shift_);
    for (std::size_t k = 0; k < cost_.size(); ++k) cost_[k] = scaled(instance.cost[k]);
    for (int i = 0; i < instance.num_units; ++i) {
        double most = -1.0;
        for (int r = 0; r < instance.num_resources; ++r) {
            const Int room = instance.capacity[instance.room_at(r, i)];
            double demand = 0.0;
            for (int j = 0; j < instance.num_tasks; ++j) {
                const std::size_t k = instance.load_at(r, i, j);
                if (!instance.allowed[instance.at(i, j)] || room == 0) continue;
                share_[k] = part(instance.load[k], Int{1} << kShift, room);
                demand += static_cast<double>(share_[k]);
            }
            if (demand > most) most = demand, tightest_[static_cast<std::size_t>(i)] = r;
        }
        const int r = tightest_[static_cast<std::size_t>(i)];
        const Int room = instance.capacity[instance.room_at(r, i)];
        const Int table = std::min(room, instance.cells);
        table_[static_cast<std::size_t>(i)] = static_cast<int>(table);
        for (int j = 0; j < instance.num_tasks; ++j) {
            if (!instance.allowed[instance.at(i, j)] || room == 0) continue;
            cells_[instance.at(i, j)] = static_cast<int>(part(instance.load[instance.load_at(r, i, j)], table, room));
        }
    }
}

// One of factor and shift is neutral, so nothing overflows.
Int Bound::scaled(Int cost) const { return shift_ > 0 ? cost >> shift_ : cost * factor_; }

Int Bound::unscaled(Int bound) const {
    if (bound <= 0) return 0;  // no cost is negative
    if (shift_ > 0) return bound * (Int{1} << shift_);
    return (bound - 1) / factor_ + 1;
}

// Knapsacks keep disjoint groups, the largest first; a group that lost members to another also has a price.
void Bound::choose_kept_groups() {
    const Instance& in = *instance_;
    std::vector<int> by_size(in.apart.size());
    for (std::size_t g = 0; g < by_size.size(); ++g) {
        by_size[g] = static_cast<int>(g);
        for (const int j : in.apart[g]) groups_of_[static_cast<std::size_t>(j)].push_back(static_cast<int>(g));
    }
    std::stable_sort(by_size.begin(), by_size.end(), [&](int a, int b) {
        return in.apart[static_cast<std::size_t>(a)].size() > in.apart[static_cast<std::size_t>(b)].size();
    });
    std::vector<std::uint8_t> listed(tasks_);
    for (const int g : by_size) {
        const auto& members = in.apart[static_cast<std::size_t>(g)];
        const auto is_free = [&](int j) { return kept_of_[static_cast<std::size_t>(j)] < 0; };
        const auto num_free = std::count_if(members.begin(), members.end(), is_free);
        if (num_free < static_cast<std::ptrdiff_t>(members.size())) {
            for (const int j : members) priced_of_[static_cast<std::size_t>(j)].push_back(g);
        }
        if (num_free < 2) continue;
        for (const int j : members) {
            if (!is_free(j)) continue;
            kept_of_[static_cast<std::size_t>(j)] = g;
            order_.push_back(j);
            listed[static_cast<std::size_t>(j)] = 1;
        }
    }
    for (int j = 0; j < in.num_tasks; ++j) {
        if (!listed[static_cast<std::size_t>(j)]) order_.push_back(j);
    }
}

std::vector<std::vector<int>> Bound::classes() const {
    std::vector<std::vector<int>> members(instance_->apart.size());
    for (int j = 0; j < instance_->num_tasks; ++j) {
        if (const int g = kept_of_[static_cast<std::size_t>(j)]; g >= 0) members[static_cast<std::size_t>(g)].push_back(j);
    }
    std::erase_if(members, [](const std::vector<int>& some) { return some.empty(); });
    return members;
}

double Bound::least_share(int task) const {
    const Instance& in = *instance_;
    double least = 1.0;
    for (int i = 0; i < in.num_units; ++i) {
        if (!in.allowed[in.at(i, task)]) continue;
        const Int share = share_[in.load_at(tightest_[static_cast<std::size_t>(i)], i, task)];
        least = std::min(least, static_cast<double>(share) / static_cast<double>(Int{1} << kShift));
    }
    return least;
}

// Profits of the unit's allowed free tasks; those worth taking become items, by class.
void Bound::gather(const Domain& domain, int unit) {
    const Instance& in = *instance_;
    items_.clear();
    ends_.clear();
    idle_.clear();
    int open_class = -1;
    for (const int j : order_) {
        if (domain.unit_of(j) >= 0 || !domain.allowed(unit, j)) continue;
        const std::size_t k = in.at(unit, j);
        Int profit = rounded_[static_cast<std::size_t>(j)] - cost_[k];
        for (int r = 0; r < in.num_resources; ++r) {
            if (r == tightest_[static_cast<std::size_t>(unit)]) continue;
            profit -= (rounded_[resource(r, unit)] * share_[in.load_at(r, unit, j)]) >> kShift;
        }
        if (unit != in.open) {
            for (const int g : priced_of_[static_cast<std::size_t>(j)]) profit -= rounded_[group(g, unit)];
        }
        profit_[k] = profit;
        if (profit <= 0) {
            idle_.push_back(j);
            continue;
        }
        const int kept = unit == in.open ? -1 : kept_of_[static_cast<std::size_t>(j)];
        if (kept < 0 || kept != open_class) ends_.push_back(static_cast<int>(items_.size()));
        open_class = kept;
        items_.push_back({j, cells_[k], profit});
    }
    ends_.push_back(static_cast<int>(items_.size()));  // class c is [ends[c], ends[c + 1])
}

// Best profit of at most one item a class within room_ cells; marks the picks.
Int Bound::knapsack(int unit, bool losses) {
    const Instance& in = *instance_;
    const std::size_t classes = ends_.size() - 1, row = static_cast<std::size_t>(room_) + 1;
    work_ += static_cast<std::int64_t>((items_.size() + classes) * row) * (losses ? 3 : 1);
    forward_.resize((classes + 1) * row);
    std::fill(forward_.begin(), forward_.begin() + static_cast<std::ptrdiff_t>(row), Int{0});
    const auto step = [&](std::size_t c, const Int* from, Int* to) {
        std::copy(from, from + row, to);
        for (int q = ends_[c]; q < ends_[c + 1]; ++q) {
            const Item item = items_[static_cast<std::size_t>(q)];
            for (int y = item.cells; y <= room_; ++y) to[y] = std::max(to[y], from[y - item.cells] + item.profit);
        }
    };
    for (std::size_t c = 0; c < classes; ++c) step(c, &forward_[c * row], &forward_[(c + 1) * row]);
    const Int best = forward_[classes * row + static_cast<std::size_t>(room_)];
    int y = room_;
    for (std::size_t c = classes; c-- > 0;) {
        const Int value = forward_[(c + 1) * row + static_cast<std::size_t>(y)];
        if (value == forward_[c * row + static_cast<std::size_t>(y)]) continue;
        for (int q = ends_[c]; q < ends_[c + 1]; ++q) {
            const Item item = items_[static_cast<std::size_t>(q)];
            if (item.cells > y) continue;
            if (forward_[c * row + static_cast<std::size_t>(y - item.cells)] + item.profit != value) continue;
            pick_[in.at(unit, item.task)] = 1;
            y -= item.cells;
            break;
        }
    }
    if (!losses) return best;

    // What the best becomes with a pair forced in or out: tables from both ends meet around its class.
    backward_.resize((classes + 1) * row);
    std::fill(backward_.begin() + static_cast<std::ptrdiff_t>(classes * row), backward_.end(), Int{0});
    for (std::size_t c = classes; c-- > 0;) step(c, &backward_[(c + 1) * row], &backward_[c * row]);
    const auto around = [&](std::size_t c, int room) {  // the other classes within room cells
        Int most = 0;
        const Int* f = &forward_[c * row];
        const Int* b = &backward_[(c + 1) * row];
        for (int x = 0; x <= room; ++x) most = std::max(most, f[x] + b[room - x]);
        return most;
    };
    for (std::size_t c = 0; c < classes; ++c) {
        // The best and second best choice of the class, "none" among them.
        Int first = around(c, room_), second = first;
        int who = -1;
        std::vector<Int> with(static_cast<std::size_t>(ends_[c + 1] - ends_[c]));
        for (int q = ends_[c]; q < ends_[c + 1]; ++q) {
            const Item item = items_[static_cast<std::size_t>(q)];
            const Int value = item.cells > room_ ? -1 : around(c, room_ - item.cells) + item.profit;
            with[static_cast<std::size_t>(q - ends_[c])] = value;
            in_loss_[in.at(unit, item.task)] = best - value;
            if (value > first) {
                second = first, first = value, who = q;
            } else {
                second = std::max(second, value);
            }
        }
        for (int q = ends_[c]; q < ends_[c + 1]; ++q) {
            out_loss_[in.at(unit, items_[static_cast<std::size_t>(q)].task)] = best - (q == who ? second : first);
        }
    }
    for (const int j : idle_) {
        const std::size_t k = in.at(unit, j);
        out_loss_[k] = 0;
        // Forcing it in leaves less room; that it also keeps its class out is not counted.
        const int left = room_ - cells_[k];
        in_loss_[k] = left < 0 ? best + 1 - profit_[k]
                               : best - profit_[k] - forward_[classes * row + static_cast<std::size_t>(left)];
    }
    return best;
}

Int Bound::evaluate(const Domain& domain, const std::vector<double>& multiplier, bool losses) {
    const Instance& in = *instance_;
    for (std::size_t k = 0; k < size_; ++k) {
        const double low = is_reward(k) ? -kMostPrice : 0.0;
        rounded_[k] = std::llround(std::clamp(multiplier[k], low, kMostPrice));
    }
    work_ += static_cast<std::int64_t>(cost_.size() * static_cast<std::size_t>(in.num_resources + 1));
    std::fill(slope_.begin(), slope_.end(), 0.0);
    std::fill(pick_.begin(), pick_.end(), std::uint8_t{0});
    Int total = 0;
    for (int j = 0; j < in.num_tasks; ++j) {
        if (const int i = domain.unit_of(j); i >= 0) {
            total += cost_[in.at(i, j)];
            continue;
        }
        total += rounded_[static_cast<std::size_t>(j)];
        slope_[static_cast<std::size_t>(j)] = 1.0;
    }
    constexpr double one = static_cast<double>(Int{1} << kShift);
    for (int i = 0; i < in.num_units; ++i) {
        const int tight = tightest_[static_cast<std::size_t>(i)];
        const Int room = in.capacity[in.room_at(tight, i)];
        const Int table = table_[static_cast<std::size_t>(i)];
        room_ = room == 0 ? 0 : static_cast<int>(part(domain.residual(tight, i), table, room));
        gather(domain, i);
        total -= knapsack(i, losses);
        for (int r = 0; r < in.num_resources; ++r) {
            const Int whole = in.capacity[in.room_at(r, i)];
            if (r == tight || whole == 0) continue;
            const Int left = part(domain.residual(r, i), Int{1} << kShift, whole);
            // The sum of floors is at most the floor of the sum, and shares are floors themselves.
            total -= (rounded_[resource(r, i)] * left) >> kShift;
            double used = 0.0;
            for (const Item& item : items_) {
                if (pick_[in.at(i, item.task)]) used += static_cast<double>(share_[in.load_at(r, i, item.task)]);
            }
            slope_[resource(r, i)] = (used - static_cast<double>(left)) / one;
        }
        for (const Item& item : items_) {
            if (!pick_[in.at(i, item.task)]) continue;
            slope_[static_cast<std::size_t>(item.task)] -= 1.0;
            if (i == in.open) continue;
            for (const int g : priced_of_[static_cast<std::size_t>(item.task)]) slope_[group(g, i)] += 1.0;
        }
        if (i == in.open) continue;
        for (std::size_t g = 0; g < in.apart.size(); ++g) {
            const std::size_t k = group(static_cast<int>(g), i);
            if (domain.taken(static_cast<int>(g), i)) continue;
            total -= rounded_[k];
            slope_[k] -= 1.0;
        }
    }
    return total;
}

}  // namespace optalloc::assignment::rows

// The packing of shapes into the devices: how many micro-batches the replicas take at most.
#include <algorithm>
#include <cstdint>
#include <functional>
#include <limits>
#include <numeric>
#include <utility>
#include <vector>

#include "training/mixed.hpp"

namespace optalloc::training {

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr std::int64_t kLargestTable = 30'000'000;  // states of one packing
constexpr std::int64_t kMostSteps = 1'000'000'000;

}  // namespace

// The linear relaxation: max sum n x with the devices and the number of replicas as rows, by the primal simplex
// method on an inverse of a few rows. The bound is valid whatever the rounding: prices are made dual feasible
// at the end by raising that of the replicas.
void MixedSearch::relax() {
    const std::vector<Column>& columns = true_;
    std::vector<double>& prices = prices_;
    const std::size_t groups = input_.available.size(), rows = groups + 1;
    constexpr std::size_t kSlack = std::numeric_limits<std::size_t>::max();
    std::vector<std::vector<double>> inverse(rows, std::vector<double>(rows, 0.0));
    std::vector<double> value(rows), cost(rows, 0.0);
    for (std::size_t r = 0; r < rows; ++r) {
        inverse[r][r] = 1.0;
        value[r] = r < groups ? input_.available[r] : input_.most_replicas;
    }
    const auto entry = [&](const Column& c, std::size_t row) {
        return row < groups ? static_cast<double>(c.usage[row]) : 1.0;
    };
    prices.assign(rows, 0.0);
    for (int round = 0; round < 200; ++round) {
        for (std::size_t r = 0; r < rows; ++r) {
            prices[r] = 0.0;
            for (std::size_t k = 0; k < rows; ++k) prices[r] += cost[k] * inverse[k][r];
        }
        double best = 1e-9;
        std::size_t enter = kSlack;
        int slack = -1;
        for (std::size_t r = 0; r < rows; ++r) {
            if (-prices[r] > best) {
                best = -prices[r];
                slack = static_cast<int>(r);
            }
        }
        for (std::size_t c = 0; c < columns.size(); ++c) {
            if (columns[c].micro == 0) continue;
            double reduced = columns[c].micro;
            for (std::size_t r = 0; r < rows; ++r) reduced -= prices[r] * entry(columns[c], r);
            if (reduced > best) {
                best = reduced;
                enter = c;
                slack = -1;
            }
        }
        if (enter == kSlack && slack < 0) break;
        std::vector<double> direction(rows, 0.0);
        for (std::size_t k = 0; k < rows; ++k) {
            for (std::size_t r = 0; r < rows; ++r) {
                const double a = slack >= 0 ? (static_cast<int>(r) == slack ? 1.0 : 0.0) : entry(columns[enter], r);
                direction[k] += inverse[k][r] * a;
            }
        }
        std::size_t leave = rows;
        double ratio = kInfinity;
        for (std::size_t k = 0; k < rows; ++k) {
            if (direction[k] > 1e-12 && value[k] / direction[k] < ratio) {
                ratio = value[k] / direction[k];
                leave = k;
            }
        }
        if (leave == rows) break;
        for (std::size_t k = 0; k < rows; ++k) {
            if (k != leave) value[k] = std::max(0.0, value[k] - ratio * direction[k]);
        }
        value[leave] = ratio;
        for (std::size_t r = 0; r < rows; ++r) inverse[leave][r] /= direction[leave];
        for (std::size_t k = 0; k < rows; ++k) {
            if (k == leave) continue;
            for (std::size_t r = 0; r < rows; ++r) inverse[k][r] -= direction[k] * inverse[leave][r];
        }
        cost[leave] = slack >= 0 ? 0.0 : columns[enter].micro;
    }
    double missing = 0.0;
    for (double& p : prices) p = std::max(0.0, p);
    for (const Column& column : columns) {
        double reduced = column.micro;
        for (std::size_t r = 0; r < rows; ++r) reduced -= prices[r] * entry(column, r);
        if (column.micro > 0) missing = std::max(missing, reduced);
    }
    prices[groups] += missing;
    bound_ = prices[groups] * input_.most_replicas;
    for (std::size_t r = 0; r < groups; ++r) bound_ += prices[r] * input_.available[r];
}

// The most micro-batches that a whole number of replicas takes, where that is all of them or more: dynamic programming
// over replicas and the devices that they use of each group. A packing that takes all wastes, by the prices of the last
// relaxation, no more than that has to spare: states that waste more are left out. `chosen` lists a column a replica.
int MixedSearch::pack(const std::vector<Column>& columns, std::vector<std::size_t>& chosen, MixedAnswer& answer,
                      bool& too_large) {
    ++answer.packings;
    chosen.clear();
    const std::size_t groups = input_.available.size();
    std::vector<std::size_t> left(columns.size());
    std::iota(left.begin(), left.end(), std::size_t{0});
    // Where one takes no more devices for as many micro-batches, another is of no use.
    std::sort(left.begin(), left.end(), [&](std::size_t x, std::size_t y) {
        return std::make_pair(-columns[x].micro, columns[x].usage) < std::make_pair(-columns[y].micro, columns[y].usage);
    });
    std::size_t kept = 0;
    for (const std::size_t c : left) {
        const bool beaten = std::any_of(left.begin(), left.begin() + static_cast<std::ptrdiff_t>(kept), [&](std::size_t k) {
            return std::equal(columns[k].usage.begin(), columns[k].usage.end(), columns[c].usage.begin(),
                              std::less_equal<>());
        });
        if (!beaten) left[kept++] = c;
    }
    left.resize(kept);
    const auto wasted = [&](std::size_t c) { return worth(columns[c].usage) - columns[c].micro; };
    std::sort(left.begin(), left.end(), [&](std::size_t x, std::size_t y) {
        return std::make_pair(wasted(x), x) < std::make_pair(wasted(y), y);
    });
    std::vector<int> unit(groups, 0), extent(groups);
    for (const std::size_t c : left) {
        for (std::size_t g = 0; g < groups; ++g) unit[g] = std::gcd(unit[g], columns[c].usage[g]);
    }
    std::int64_t states = 1;
    for (std::size_t g = 0; g < groups; ++g) {
        extent[g] = unit[g] == 0 ? 1 : input_.available[g] / unit[g] + 1;
        states *= extent[g];
        if (states > kLargestTable) break;
    }
    // Where no packing can have more replicas than allowed, only the fewest are counted: the last layer then holds
    // that many or more.
    int smallest = std::numeric_limits<int>::max();
    for (const std::size_t c : left) {
        smallest = std::min(smallest, std::accumulate(columns[c].usage.begin(), columns[c].usage.end(), 0));
    }
    const int devices = std::accumulate(input_.available.begin(), input_.available.end(), 0);
    const bool open = left.empty() || input_.most_replicas >= std::min(devices / smallest, input_.num_micro);
    const int most = open ? std::min(input_.least_replicas, input_.most_replicas) : input_.most_replicas;
    if (states * most > kLargestTable) {
        too_large = true;
        return 0;
    }
    // Devices in units, how far on in the table they lead, and what is wasted.
    std::vector<int> takes(left.size() * groups);
    std::vector<std::size_t> on(left.size(), 0);
    std::vector<double> waste(left.size());
    for (std::size_t i = 0; i < left.size(); ++i) {
        for (std::size_t g = 0; g < groups; ++g) {
            const int own = unit[g] == 0 ? 0 : columns[left[i]].usage[g] / unit[g];
            takes[i * groups + g] = own;
            on[i] = on[i] * static_cast<std::size_t>(extent[g]) + static_cast<std::size_t>(own);
        }
        waste[i] = wasted(left[i]);
    }
    const auto total = static_cast<std::size_t>(states);
    const double spare = bound_ - input_.num_micro + 1e-6;
    constexpr int kNever = -1;
    std::vector<int> before(total, kNever), now(total), used(groups);
    before[0] = 0;
    std::vector<std::vector<std::int32_t>> choice(static_cast<std::size_t>(most) + 1);  // ~i: stays in the layer
    std::int64_t steps = 0;
    // One replica more on every state of `from`, which has `replicas` or more.
    const auto add = [&](const std::vector<int>& from, int replicas, std::vector<int>& to,
                         std::vector<std::int32_t>& pick, bool stays) {
        for (std::size_t v = 0; v < total && steps <= kMostSteps && *cancel_ == 0; ++v) {
            if (from[v] == kNever) continue;
            std::size_t rest = v;
            double waste_so_far = prices_.back() * replicas - from[v];
            for (std::size_t g = groups; g-- > 0;) {
                used[g] = static_cast<int>(rest % static_cast<std::size_t>(extent[g]));
                rest /= static_cast<std::size_t>(extent[g]);
                waste_so_far += prices_[g] * used[g] * unit[g];
            }
            for (std::size_t i = 0; i < left.size() && waste_so_far + waste[i] <= spare; ++i, ++steps) {
                bool fits = true;
                for (std::size_t g = 0; g < groups; ++g) fits = fits && used[g] + takes[i * groups + g] < extent[g];
                const int micro = from[v] + columns[left[i]].micro;
                if (!fits || micro <= to[v + on[i]]) continue;
                to[v + on[i]] = micro;
                pick[v + on[i]] = stays ? ~static_cast<std::int32_t>(i) : static_cast<std::int32_t>(i);
            }
        }
    };
    for (int r = 1; r <= most; ++r) {
        auto& pick = choice[static_cast<std::size_t>(r)];
        pick.assign(total, 0);
        std::fill(now.begin(), now.end(), kNever);
        add(before, r - 1, now, pick, false);
        if (open && r == most) add(now, r, now, pick, true);  // a state only leads to states behind it
        if (*cancel_ != 0) return 0;
        if (steps > kMostSteps) {
            too_large = true;
            return 0;
        }
        std::swap(before, now);
        const auto best = std::max_element(before.begin(), before.end());
        if (r < input_.least_replicas || *best < input_.num_micro) continue;
        for (auto v = static_cast<std::size_t>(best - before.begin()); r > 0;) {  // walk back
            const std::int32_t own = choice[static_cast<std::size_t>(r)][v];
            const auto i = static_cast<std::size_t>(own < 0 ? ~own : own);
            chosen.push_back(left[i]);
            v -= on[i];
            if (own >= 0) --r;
        }
        return *best;
    }
    return 0;
}

}  // namespace optalloc::training

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
constexpr std::int64_t kLargestTable = 300'000'000;  // steps of one packing

}  // namespace

// The linear relaxation: max sum n x with the devices and the number of replicas as rows, by the primal simplex
// method on an inverse of at most four rows. The bound is valid whatever the rounding: prices are made dual feasible
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

// The most micro-batches that a whole number of replicas takes, by dynamic programming over devices used of each
// group and replicas; `chosen` lists a column a replica.
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
    if (states * most > kLargestTable / 30 ||
        states * most * static_cast<std::int64_t>(left.size()) > kLargestTable) {
        too_large = true;
        return 0;
    }
    // Devices in units, and how far back in the table the rest of the devices lies.
    std::vector<int> takes(left.size() * groups);
    std::vector<std::size_t> back(left.size(), 0);
    for (std::size_t i = 0; i < left.size(); ++i) {
        for (std::size_t g = 0; g < groups; ++g) {
            const int own = unit[g] == 0 ? 0 : columns[left[i]].usage[g] / unit[g];
            takes[i * groups + g] = own;
            back[i] = back[i] * static_cast<std::size_t>(extent[g]) + static_cast<std::size_t>(own);
        }
    }
    const auto total = static_cast<std::size_t>(states);
    constexpr int kNever = -1;
    std::vector<int> before(total, 0), now(total);
    std::vector<std::vector<std::int32_t>> choice(static_cast<std::size_t>(most) + 1);  // ~i: stays in the layer
    std::vector<int> at(groups);
    int best = 0, best_layer = 0;
    for (int r = 1; r <= most; ++r) {
        if (*cancel_ != 0) return 0;
        auto& pick = choice[static_cast<std::size_t>(r)];
        pick.assign(total, 0);
        std::fill(now.begin(), now.end(), kNever);
        std::fill(at.begin(), at.end(), 0);
        const bool stays = open && r == most;
        for (std::size_t v = 0; v < total; ++v) {
            for (std::size_t i = 0; i < left.size(); ++i) {
                bool fits = true;
                for (std::size_t g = 0; g < groups; ++g) fits = fits && takes[i * groups + g] <= at[g];
                if (!fits) continue;
                const std::size_t source = v - back[i];
                const int micro = columns[left[i]].micro;
                if (before[source] != kNever && before[source] + micro > now[v]) {
                    now[v] = before[source] + micro;
                    pick[v] = static_cast<std::int32_t>(i);
                }
                if (stays && now[source] != kNever && now[source] + micro > now[v]) {
                    now[v] = now[source] + micro;
                    pick[v] = ~static_cast<std::int32_t>(i);
                }
            }
            for (std::size_t g = groups; g-- > 0;) {
                if (++at[g] < extent[g]) break;
                at[g] = 0;
            }
        }
        if (r >= input_.least_replicas && now[total - 1] > best) {
            best = now[total - 1];
            best_layer = r;
        }
        std::swap(before, now);
    }
    // Walk back from the whole cluster.
    std::size_t v = total - 1;
    for (int r = best_layer; r > 0;) {
        const std::int32_t pick = choice[static_cast<std::size_t>(r)][v];
        const auto i = static_cast<std::size_t>(pick < 0 ? ~pick : pick);
        chosen.push_back(left[i]);
        v -= back[i];
        if (pick >= 0) --r;
    }
    return best;
}

}  // namespace optalloc::training

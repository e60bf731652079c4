#include "assignment/sparse_plan.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace optalloc::assignment {

namespace {

constexpr std::size_t kNone = std::numeric_limits<std::size_t>::max();
constexpr double kFloor = 0.01;    // of the mean price, the least rate of an overload
constexpr double kTieBreak = 0.01; // of the price, for a unit that is full before the others begin
constexpr double kLeast = 1e-9;    // gain of a move
constexpr std::size_t kPollSteps = 2'000'000;

}  // namespace

std::uint64_t mixed(std::uint64_t z) {
    z += 0x9e3779b97f4a7c15ULL;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
}

SparsePlan::SparsePlan(const Candidates& candidates, std::span<const double> price)
    : c_(&candidates),
      price_(price),
      width_(static_cast<std::size_t>(candidates.num_candidates)),
      place_(static_cast<std::size_t>(candidates.num_tasks), kNone),
      slack_(candidates.capacity.begin(), candidates.capacity.end()),
      held_(slack_.size()),
      inverse_begin_(slack_.size() + 1, 0),
      begin_(slack_.size() + 1, 0),
      filled_(slack_.size(), 0) {
    const std::size_t count = c_->unit.size();
    double costs = 0.0, loads = 0.0;
    for (std::size_t e = 0; e < count; ++e) {
        if (c_->unit[e] < 0) continue;
        ++inverse_begin_[static_cast<std::size_t>(c_->unit[e]) + 1];
        costs += std::abs(static_cast<double>(c_->cost[e]));
        loads += static_cast<double>(c_->load[e]);
    }
    std::partial_sum(inverse_begin_.begin(), inverse_begin_.end(), inverse_begin_.begin());
    inverse_.resize(inverse_begin_.back());
    std::vector<std::size_t> next(inverse_begin_.begin(), inverse_begin_.end() - 1);
    for (std::size_t e = 0; e < count; ++e) {
        if (c_->unit[e] >= 0) inverse_[next[static_cast<std::size_t>(c_->unit[e])]++] = e;
    }
    const double mean = std::accumulate(price.begin(), price.end(), 0.0) / static_cast<double>(price.size());
    const double least = std::max(kFloor * mean, 1e-3 * (costs + 1.0) / (loads + 1.0));
    for (const double u : price) rate_.push_back(u + least);
}

void SparsePlan::put(int task, std::size_t entry) {
    const auto i = static_cast<std::size_t>(c_->unit[entry]);
    place_[static_cast<std::size_t>(task)] = entry;
    slack_[i] -= c_->load[entry];
    value_ += c_->cost[entry];
    held_[i].push_back(task);
}

void SparsePlan::take(int task) {
    const std::size_t entry = place_[static_cast<std::size_t>(task)];
    const auto i = static_cast<std::size_t>(c_->unit[entry]);
    slack_[i] += c_->load[entry];
    value_ -= c_->cost[entry];
    auto& mine = held_[i];
    *std::find(mine.begin(), mine.end(), task) = mine.back();
    mine.pop_back();
}

void SparsePlan::begin(std::uint64_t seed) {
    std::vector<std::pair<std::uint64_t, int>> order;
    for (int j = 0; j < c_->num_tasks; ++j) order.emplace_back(mixed(seed ^ mixed(static_cast<std::uint64_t>(j))), j);
    std::sort(order.begin(), order.end());
    const auto total = static_cast<double>(order.size());
    for (std::size_t t = 0; t < order.size(); ++t) {
        const double due = static_cast<double>(t) / total;
        const int task = order[t].second;
        double least = std::numeric_limits<double>::infinity();
        std::size_t best = kNone;
        for (std::size_t e = first(task); e < first(task) + width_; ++e) {
            if (c_->unit[e] < 0) continue;
            const auto i = static_cast<std::size_t>(c_->unit[e]);
            const double room = static_cast<double>(std::max<Int>(c_->capacity[i], 1));
            const double ahead = 1.0 - static_cast<double>(slack_[i]) / room - due;
            const double rate = price_[i] + kTieBreak * ahead * rate_[i];
            const double priced = static_cast<double>(c_->cost[e]) + rate * static_cast<double>(c_->load[e]);
            if (priced < least || best == kNone) {
                least = priced;
                best = e;
            }
        }
        put(task, best);
    }
}

void SparsePlan::gather(int unit) {
    const std::size_t from = inverse_begin_[static_cast<std::size_t>(unit)];
    const std::size_t to = inverse_begin_[static_cast<std::size_t>(unit) + 1];
    std::fill(begin_.begin(), begin_.end(), 0);
    for (std::size_t q = from; q < to; ++q) ++begin_[static_cast<std::size_t>(unit_of(place(task_of(inverse_[q])))) + 1];
    std::partial_sum(begin_.begin(), begin_.end(), begin_.begin());
    std::copy(begin_.begin(), begin_.end() - 1, filled_.begin());
    bucket_.resize(to - from);
    for (std::size_t q = from; q < to; ++q) {
        bucket_[filled_[static_cast<std::size_t>(unit_of(place(task_of(inverse_[q]))))]++] = inverse_[q];
    }
}

int SparsePlan::sweep(double force, double weight, std::size_t partners, const std::function<bool()>& poll) {
    force_ = force;
    weight_ = weight;
    int moves = 0;
    std::size_t steps = kPollSteps;
    std::vector<int> mine;
    for (int a = 0; a < c_->num_units; ++a) {
        gather(a);
        mine = held(a);
        for (const int task : mine) {
            if (steps >= kPollSteps) {
                steps = 0;
                if (poll()) return moves;
            }
            const std::size_t now = place(task);
            if (unit_of(now) != a) continue;
            double gain = kLeast;
            std::size_t to = kNone, back = kNone;
            const Int room = slack(a) + c_->load[now];
            const double here = score(a, slack(a)), empty = score(a, room);
            for (std::size_t e = first(task); e < first(task) + width_; ++e) {
                const int b = unit_of(e);
                if (b < 0 || b == a) continue;
                const Int left = slack(b) - c_->load[e];
                const double saved = static_cast<double>(c_->cost[now] - c_->cost[e]) + here + score(b, slack(b));
                const double alone = saved - empty - score(b, left);
                if (alone > gain) {
                    gain = alone;
                    to = e;
                    back = kNone;
                }
                const auto all = shared(b);
                const std::size_t count = std::min(all.size(), partners);
                steps += 1 + count;
                // Of many, a part that begins elsewhere for every task.
                std::size_t next = count < all.size() ? mixed(static_cast<std::uint64_t>(task)) % all.size() : 0;
                for (std::size_t q = 0; q < count; ++q, next = next + 1 == all.size() ? 0 : next + 1) {
                    const std::size_t other = all[next];
                    const std::size_t was = place(task_of(other));
                    if (unit_of(was) != b) continue;
                    const double both = saved + static_cast<double>(c_->cost[was] - c_->cost[other]) -
                                        score(a, room - c_->load[other]) - score(b, left + c_->load[was]);
                    if (both > gain) {
                        gain = both;
                        to = e;
                        back = other;
                    }
                }
            }
            if (to == kNone) continue;
            move(task, to);
            if (back != kNone) move(task_of(back), back);
            ++moves;
        }
    }
    return moves;
}

bool SparsePlan::feasible() const {
    return std::all_of(slack_.begin(), slack_.end(), [](Int s) { return s >= 0; });
}

std::vector<int> SparsePlan::units() const {
    std::vector<int> unit;
    for (const std::size_t entry : place_) unit.push_back(unit_of(entry));
    return unit;
}

}  // namespace optalloc::assignment

#include <algorithm>
#include <utility>

#include "assignment/rows_search.hpp"

namespace optalloc::assignment::rows {

namespace {

constexpr int kMoves = 2000;            // of one repair by force
constexpr std::int64_t kMoveWork = 64;  // steps of work that a move of annealing counts

}  // namespace

Slack::Slack(const Instance& instance, const std::vector<std::vector<int>>& groups_of)
    : instance_(&instance),
      groups_of_(&groups_of),
      residual_(instance.capacity),
      members_(instance.apart.size() * static_cast<std::size_t>(instance.num_units)) {}

bool Slack::fits(int unit, int task) const {
    const Instance& in = *instance_;
    if (!in.allowed[in.at(unit, task)]) return false;
    for (int r = 0; r < in.num_resources; ++r) {
        if (in.load[in.load_at(r, unit, task)] > residual_[in.room_at(r, unit)]) return false;
    }
    if (unit == in.open) return true;
    for (const int g : (*groups_of_)[static_cast<std::size_t>(task)]) {
        if (members_[static_cast<std::size_t>(g) * static_cast<std::size_t>(in.num_units) +
                     static_cast<std::size_t>(unit)] > 0) {
            return false;
        }
    }
    return true;
}

void Slack::add(int unit, int task, int sign) {
    const Instance& in = *instance_;
    for (int r = 0; r < in.num_resources; ++r) {
        residual_[in.room_at(r, unit)] -= sign * in.load[in.load_at(r, unit, task)];
    }
    if (unit == in.open) return;
    for (const int g : (*groups_of_)[static_cast<std::size_t>(task)]) {
        members_[static_cast<std::size_t>(g) * static_cast<std::size_t>(in.num_units) +
                 static_cast<std::size_t>(unit)] += sign;
    }
}

// Shifts and swaps that lower the cost, until none is left.
void Search::polish(Assignment& assignment) const {
    const Instance& in = *instance_;
    Slack slack(in, bound_.groups_of());
    for (int j = 0; j < in.num_tasks; ++j) slack.add(assignment.unit[static_cast<std::size_t>(j)], j, 1);
    bool moved = true;
    while (moved && !control_->poll()) {
        moved = false;
        control_->work += static_cast<std::int64_t>(in.num_tasks) * (in.num_tasks + in.num_units);
        for (int j = 0; j < in.num_tasks; ++j) {
            int& from = assignment.unit[static_cast<std::size_t>(j)];
            slack.add(from, j, -1);
            int to = from;
            for (int i = 0; i < in.num_units; ++i) {
                if (in.cost[in.at(i, j)] < in.cost[in.at(to, j)] && slack.fits(i, j)) to = i;
            }
            slack.add(to, j, 1);
            if (to == from) continue;
            assignment.cost -= in.cost[in.at(from, j)] - in.cost[in.at(to, j)];
            from = to;
            moved = true;
        }
        for (int j = 0; j < in.num_tasks; ++j) {
            for (int other = j + 1; other < in.num_tasks; ++other) {
                int &a = assignment.unit[static_cast<std::size_t>(j)], &b = assignment.unit[static_cast<std::size_t>(other)];
                if (a == b || !in.allowed[in.at(b, j)] || !in.allowed[in.at(a, other)]) continue;
                const Int gain = in.cost[in.at(a, j)] + in.cost[in.at(b, other)] - in.cost[in.at(b, j)] -
                                 in.cost[in.at(a, other)];
                if (gain <= 0) continue;
                slack.add(a, j, -1);
                slack.add(b, other, -1);
                bool swapped = slack.fits(b, j);
                if (swapped) {
                    slack.add(b, j, 1);
                    swapped = slack.fits(a, other);
                    if (!swapped) slack.add(b, j, -1);
                }
                if (swapped) {
                    slack.add(a, other, 1);
                    std::swap(a, b);
                    assignment.cost -= gain;
                    moved = true;
                } else {
                    slack.add(a, j, 1);
                    slack.add(b, other, 1);
                }
            }
        }
    }
}

// From the knapsack solutions: the cheapest copy of each task where it fits, then the rest where they cost
// least among the units with room.
void Search::repair(const Domain& domain) {
    const Instance& in = *instance_;
    Slack slack(in, bound_.groups_of());
    Assignment plan;
    plan.unit.assign(static_cast<std::size_t>(in.num_tasks), -1);
    const auto put = [&](int i, int j) {
        slack.add(i, j, 1);
        plan.unit[static_cast<std::size_t>(j)] = i;
        plan.cost += in.cost[in.at(i, j)];
    };
    for (int j = 0; j < in.num_tasks; ++j) {
        if (domain.unit_of(j) >= 0) put(domain.unit_of(j), j);
    }
    std::vector<int> rest;
    for (int j = 0; j < in.num_tasks; ++j) {
        if (plan.unit[static_cast<std::size_t>(j)] >= 0) continue;
        int to = -1;
        for (int i = 0; i < in.num_units; ++i) {
            if (!bound_.picks()[in.at(i, j)] || !slack.fits(i, j)) continue;
            if (to < 0 || in.cost[in.at(i, j)] < in.cost[in.at(to, j)]) to = i;
        }
        if (to >= 0) {
            put(to, j);
        } else {
            rest.push_back(j);
        }
    }
    while (!rest.empty()) {  // the task with the fewest units left goes first
        std::size_t next = 0;
        int fewest = in.num_units + 1, to = -1;
        for (std::size_t q = 0; q < rest.size(); ++q) {
            int count = 0, cheapest = -1;
            for (int i = 0; i < in.num_units; ++i) {
                if (!slack.fits(i, rest[q])) continue;
                ++count;
                if (cheapest < 0 || in.cost[in.at(i, rest[q])] < in.cost[in.at(cheapest, rest[q])]) cheapest = i;
            }
            if (count < fewest) fewest = count, next = q, to = cheapest;
        }
        if (to < 0) return force(std::move(plan));
        put(to, rest[next]);
        rest.erase(rest.begin() + static_cast<std::ptrdiff_t>(next));
    }
    if (has_best_ && plan.cost >= best_.cost + std::max<Int>(1, best_.cost / 20)) return;
    polish(plan);
    offer(plan);
}

// While no assignment is known, some of the unfinished ones are finished by force.
void Search::force(Assignment plan) {
    constexpr std::int64_t first = 8, every = 64;
    if (has_best_ || (++failures_ > first && failures_ % every != 0)) return;
    control_->work += kMoves * static_cast<std::int64_t>(instance_->num_tasks);
    if (!repairer_.run(plan, kMoves)) return;
    polish(plan);
    offer(plan);
}

void Search::anneal(std::int64_t moves, std::mt19937_64& random) {
    Assignment plan = best_;
    control_->work += kMoveWork * moves;
    repairer_.anneal(plan, moves, random, [this] { return control_->poll(); });
    polish(plan);
    offer(plan);
}

}  // namespace optalloc::assignment::rows

#include <utility>

#include "assignment/rows_search.hpp"

namespace optalloc::assignment::rows {

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

}  // namespace optalloc::assignment::rows

#include "assignment/improve.hpp"

#include <algorithm>
#include <limits>

namespace optalloc::assignment {

namespace {

constexpr Int kNone = std::numeric_limits<Int>::max();
constexpr int kReliefMoves = 200;

}  // namespace

Improver::Improver(const Instance& instance)
    : instance_(&instance), unit_(static_cast<std::size_t>(instance.num_tasks), -1), room_(instance.capacity) {}

void Improver::move(int task, int to) {
    int& unit = unit_[static_cast<std::size_t>(task)];
    if (unit >= 0) room_[static_cast<std::size_t>(unit)] += load(unit, task);
    unit = to;
    if (to >= 0) room_[static_cast<std::size_t>(to)] -= load(to, task);
}

// Places the open tasks that fit somewhere, the one that would lose most by waiting first; the rest stay open.
void Improver::insert_by_regret(std::vector<int>& open) {
    std::vector<int> left;
    while (!open.empty()) {
        std::size_t chosen = 0;
        int chosen_unit = -1;
        Int chosen_regret = -1;
        left.clear();
        std::vector<int> fits;
        for (const int j : open) {
            Int low = kNone, second = kNone;
            int unit = -1;
            for (int i = 0; i < instance_->num_units; ++i) {
                if (!allowed(i, j) || load(i, j) > room_[static_cast<std::size_t>(i)]) continue;
                if (cost(i, j) < low) {
                    second = low;
                    low = cost(i, j);
                    unit = i;
                } else {
                    second = std::min(second, cost(i, j));
                }
            }
            if (unit < 0) {
                left.push_back(j);
                continue;
            }
            const Int regret = second == kNone ? kNone : second - low;
            if (regret > chosen_regret) {
                chosen_regret = regret;
                chosen = fits.size();
                chosen_unit = unit;
            }
            fits.push_back(j);
        }
        if (fits.empty()) {
            open = left;
            return;
        }
        move(fits[chosen], chosen_unit);
        open.erase(std::find(open.begin(), open.end(), fits[chosen]));
    }
}

// Makes room for an open task by moving one task elsewhere, at the least total cost.
bool Improver::eject_for(int task) {
    Int best = kNone;
    int best_unit = -1, best_out = -1, best_to = -1;
    for (int i = 0; i < instance_->num_units; ++i) {
        if (!allowed(i, task)) continue;
        const Int missing = load(i, task) - room_[static_cast<std::size_t>(i)];
        for (int k = 0; k < instance_->num_tasks; ++k) {
            if (unit_[static_cast<std::size_t>(k)] != i || load(i, k) < missing) continue;
            for (int to = 0; to < instance_->num_units; ++to) {
                if (to == i || !allowed(to, k) || load(to, k) > room_[static_cast<std::size_t>(to)]) continue;
                const Int change = cost(i, task) + cost(to, k) - cost(i, k);
                if (change < best) {
                    best = change;
                    best_unit = i;
                    best_out = k;
                    best_to = to;
                }
            }
        }
    }
    if (best_unit < 0) return false;
    move(best_out, best_to);
    move(task, best_unit);
    return true;
}

// Shifts and swaps that lower the total overload most, until none is left or none helps.
bool Improver::relieve() {
    const auto over = [](Int room) { return room < 0 ? -room : 0; };
    for (int round = 0; round < kReliefMoves; ++round) {
        bool overloaded = false;
        Int best = 0, best_cost = 0;
        int task = -1, other = -1, to = -1;
        for (int j = 0; j < instance_->num_tasks; ++j) {
            const int a = unit_[static_cast<std::size_t>(j)];
            const Int room_a = room_[static_cast<std::size_t>(a)];
            if (room_a >= 0) continue;
            overloaded = true;
            for (int b = 0; b < instance_->num_units; ++b) {
                if (b == a || !allowed(b, j)) continue;
                const Int room_b = room_[static_cast<std::size_t>(b)];
                const Int gain = over(room_a) + over(room_b) - over(room_a + load(a, j)) - over(room_b - load(b, j));
                const Int change = cost(b, j) - cost(a, j);
                if (gain > best || (gain == best && gain > 0 && change < best_cost)) {
                    best = gain;
                    best_cost = change;
                    task = j;
                    other = -1;
                    to = b;
                }
            }
            for (int k = 0; k < instance_->num_tasks; ++k) {
                const int b = unit_[static_cast<std::size_t>(k)];
                if (b == a || !allowed(b, j) || !allowed(a, k)) continue;
                const Int room_b = room_[static_cast<std::size_t>(b)];
                const Int gain = over(room_a) + over(room_b) - over(room_a + load(a, j) - load(a, k)) -
                                 over(room_b + load(b, k) - load(b, j));
                const Int change = cost(b, j) - cost(a, j) + cost(a, k) - cost(b, k);
                if (gain > best || (gain == best && gain > 0 && change < best_cost)) {
                    best = gain;
                    best_cost = change;
                    task = j;
                    other = k;
                    to = b;
                }
            }
        }
        if (!overloaded) return true;
        if (task < 0) return false;
        const int from = unit_[static_cast<std::size_t>(task)];
        move(task, to);
        if (other >= 0) move(other, from);
    }
    return false;
}

bool Improver::repair(const Domain& domain, const std::vector<std::size_t>& picks, Assignment& out) {
    const auto n = static_cast<std::size_t>(instance_->num_tasks);
    unit_.assign(n, -1);
    room_ = instance_->capacity;
    for (std::size_t j = 0; j < n; ++j) {
        if (domain.unit_of(static_cast<int>(j)) >= 0) unit_[j] = domain.unit_of(static_cast<int>(j));
    }
    for (const std::size_t k : picks) {
        const int unit = static_cast<int>(k / n), task = static_cast<int>(k % n);
        int& now = unit_[k % n];
        if (now < 0 || cost(unit, task) < cost(now, task)) now = unit;
    }
    std::vector<int> open;
    for (int j = 0; j < instance_->num_tasks; ++j) {
        const int unit = unit_[static_cast<std::size_t>(j)];
        if (unit < 0) open.push_back(j);
        else room_[static_cast<std::size_t>(unit)] -= load(unit, j);
    }
    return finish(open, out);
}

bool Improver::complete(const std::vector<int>& unit, Assignment& out) {
    unit_ = unit;
    room_ = instance_->capacity;
    std::vector<int> open;
    for (int j = 0; j < instance_->num_tasks; ++j) {
        const int i = unit_[static_cast<std::size_t>(j)];
        if (i < 0) open.push_back(j);
        else room_[static_cast<std::size_t>(i)] -= load(i, j);
    }
    return finish(open, out);
}

bool Improver::finish(std::vector<int>& open, Assignment& out) {
    insert_by_regret(open);
    std::vector<int> stuck;
    for (const int j : open) {
        if (!eject_for(j)) stuck.push_back(j);
    }
    for (const int j : stuck) {  // overload the unit that suffers least, and relieve it afterwards
        Int low = kNone;
        int unit = -1;
        for (int i = 0; i < instance_->num_units; ++i) {
            if (!allowed(i, j)) continue;
            const Int overload = load(i, j) - room_[static_cast<std::size_t>(i)];
            if (overload < low) {
                low = overload;
                unit = i;
            }
        }
        if (unit < 0) return false;
        move(j, unit);
    }
    if (!relieve()) return false;
    out.unit = unit_;
    out.cost = 0;
    for (int j = 0; j < instance_->num_tasks; ++j) out.cost += cost(unit_[static_cast<std::size_t>(j)], j);
    return true;
}

void Improver::polish(Assignment& assignment) {
    unit_ = assignment.unit;
    room_ = instance_->capacity;
    for (int j = 0; j < instance_->num_tasks; ++j) {
        const int unit = unit_[static_cast<std::size_t>(j)];
        room_[static_cast<std::size_t>(unit)] -= load(unit, j);
    }
    bool improved = true;
    while (improved) {
        improved = false;
        for (int j = 0; j < instance_->num_tasks; ++j) {
            for (int b = 0; b < instance_->num_units; ++b) {
                const int a = unit_[static_cast<std::size_t>(j)];
                if (b == a || !allowed(b, j) || load(b, j) > room_[static_cast<std::size_t>(b)]) continue;
                if (cost(b, j) >= cost(a, j)) continue;
                move(j, b);
                improved = true;
            }
        }
        for (int j = 0; j < instance_->num_tasks; ++j) {
            for (int k = j + 1; k < instance_->num_tasks; ++k) {
                const int a = unit_[static_cast<std::size_t>(j)], b = unit_[static_cast<std::size_t>(k)];
                if (a == b || !allowed(b, j) || !allowed(a, k)) continue;
                if (cost(b, j) + cost(a, k) >= cost(a, j) + cost(b, k)) continue;
                if (load(b, j) > room_[static_cast<std::size_t>(b)] + load(b, k)) continue;
                if (load(a, k) > room_[static_cast<std::size_t>(a)] + load(a, j)) continue;
                move(j, -1);
                move(k, a);
                move(j, b);
                improved = true;
            }
        }
    }
    assignment.unit = unit_;
    assignment.cost = 0;
    for (int j = 0; j < instance_->num_tasks; ++j) {
        assignment.cost += cost(unit_[static_cast<std::size_t>(j)], j);
    }
}

}  // namespace optalloc::assignment

#include "assignment/rows_repair.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace optalloc::assignment::rows {

namespace {

constexpr int kTenure = 8;
constexpr double kGrowth = 1.3;

std::size_t ix(int k) { return static_cast<std::size_t>(k); }

}  // namespace

Repairer::Repairer(const Instance& instance, const std::vector<std::vector<int>>& groups_of)
    : instance_(&instance), groups_of_(&groups_of) {}

double Repairer::unit_change(int unit, int out, int in) const {
    const Instance& p = *instance_;
    double change = 0.0;
    for (int r = 0; r < p.num_resources; ++r) {
        const Int now = residual_[p.room_at(r, unit)];
        Int then = now;
        if (out >= 0) then += p.load[p.load_at(r, unit, out)];
        if (in >= 0) then -= p.load[p.load_at(r, unit, in)];
        const Int more = std::max<Int>(-then, 0) - std::max<Int>(-now, 0);
        change += weight_[p.room_at(r, unit)] * static_cast<double>(more);
    }
    return change + group_change(unit, out, in);
}

double Repairer::group_change(int unit, int out, int in) const {
    const Instance& p = *instance_;
    if (unit == p.open) return 0.0;
    double change = 0.0;
    const auto count = [&](int g) { return members_[ix(g) * ix(p.num_units) + ix(unit)]; };
    if (out >= 0) {
        for (const int g : (*groups_of_)[ix(out)]) {
            if (count(g) > 1) change -= group_weight_[ix(g)];
        }
    }
    if (in >= 0) {
        for (const int g : (*groups_of_)[ix(in)]) {
            int others = count(g);
            if (out >= 0) {
                const auto& groups = (*groups_of_)[ix(out)];
                others -= static_cast<int>(std::count(groups.begin(), groups.end(), g));
            }
            if (others > 0) change += group_weight_[ix(g)];
        }
    }
    return change;
}

bool Repairer::is_broken(int unit) const {
    const Instance& p = *instance_;
    for (int r = 0; r < p.num_resources; ++r) {
        if (residual_[p.room_at(r, unit)] < 0) return true;
    }
    return conflicts_[ix(unit)] > 0;
}

void Repairer::shift(int task, int to) {
    const Instance& p = *instance_;
    const auto change = [&](int unit, int sign) {
        for (int r = 0; r < p.num_resources; ++r) {
            residual_[p.room_at(r, unit)] -= sign * p.load[p.load_at(r, unit, task)];
        }
        if (unit == p.open) return;
        for (const int g : (*groups_of_)[ix(task)]) {
            int& count = members_[ix(g) * ix(p.num_units) + ix(unit)];
            if (sign > 0 ? count > 0 : count > 1) conflicts_[ix(unit)] += sign;
            count += sign;
        }
    };
    if (unit_[ix(task)] >= 0) change(unit_[ix(task)], -1);
    unit_[ix(task)] = to;
    change(to, 1);
}

void Repairer::place_rest(const std::vector<int>& unit) {
    const Instance& p = *instance_;
    for (int j = 0; j < p.num_tasks; ++j) {
        if (unit[ix(j)] >= 0) continue;
        double least = std::numeric_limits<double>::infinity();
        int to = -1;
        for (int i = 0; i < p.num_units; ++i) {
            if (!p.allowed[p.at(i, j)]) continue;
            const double change = unit_change(i, -1, j);
            if (change < least) least = change, to = i;
        }
        shift(j, to);
    }
}

// The best move of a task on a broken unit; false: no unit is broken.
bool Repairer::step(int move) {
    const Instance& p = *instance_;
    std::vector<std::uint8_t> broken(ix(p.num_units));
    bool any = false;
    for (int i = 0; i < p.num_units; ++i) {
        broken[ix(i)] = is_broken(i);
        any = any || broken[ix(i)];
    }
    if (!any) return false;
    double least = std::numeric_limits<double>::infinity();
    int task = -1, to = -1, partner = -1;
    const auto is_tabu = [&](int j, int i) { return left_until_[p.at(i, j)] > move; };
    for (int j = 0; j < p.num_tasks; ++j) {
        const int from = unit_[ix(j)];
        if (!broken[ix(from)]) continue;
        const double out = unit_change(from, j, -1);
        for (int i = 0; i < p.num_units; ++i) {
            if (i == from || !p.allowed[p.at(i, j)] || is_tabu(j, i)) continue;
            const double change = out + unit_change(i, -1, j);
            if (change < least) least = change, task = j, to = i, partner = -1;
        }
        for (int k = 0; k < p.num_tasks; ++k) {
            const int other = unit_[ix(k)];
            if (other == from || !p.allowed[p.at(other, j)] || !p.allowed[p.at(from, k)]) continue;
            if (is_tabu(j, other) || is_tabu(k, from)) continue;
            const double change = unit_change(from, j, k) + unit_change(other, k, j);
            if (change < least) least = change, task = j, to = other, partner = k;
        }
    }
    if (task >= 0) {
        const int from = unit_[ix(task)];
        shift(task, to);
        left_until_[p.at(from, task)] = move + kTenure;
        if (partner >= 0) {
            shift(partner, from);
            left_until_[p.at(to, partner)] = move + kTenure;
        }
    }
    if (least < -1e-12) return true;
    for (int i = 0; i < p.num_units; ++i) {
        for (int r = 0; r < p.num_resources; ++r) {
            if (residual_[p.room_at(r, i)] < 0) weight_[p.room_at(r, i)] *= kGrowth;
        }
        for (std::size_t g = 0; conflicts_[ix(i)] > 0 && g < p.apart.size(); ++g) {
            if (members_[g * ix(p.num_units) + ix(i)] > 1) group_weight_[g] *= kGrowth;
        }
    }
    return true;
}

void Repairer::set_weights(double size) {
    const Instance& p = *instance_;
    weight_.resize(p.capacity.size());
    for (std::size_t k = 0; k < weight_.size(); ++k) {
        weight_[k] = size / static_cast<double>(std::max<Int>(p.capacity[k], 1));
    }
    group_weight_.assign(p.apart.size(), 0.1 * size);
}

void Repairer::start(const std::vector<int>& unit) {
    const Instance& p = *instance_;
    residual_ = p.capacity;
    members_.assign(p.apart.size() * ix(p.num_units), 0);
    conflicts_.assign(ix(p.num_units), 0);
    unit_.assign(ix(p.num_tasks), -1);
    for (int j = 0; j < p.num_tasks; ++j) {
        if (unit[ix(j)] >= 0) shift(j, unit[ix(j)]);
    }
}

bool Repairer::run(Assignment& plan, int moves) {
    const Instance& p = *instance_;
    left_until_.assign(p.cost.size(), 0);
    set_weights(1.0);
    start(plan.unit);
    place_rest(plan.unit);
    int move = 1;
    while (move <= moves && step(move)) ++move;
    for (int i = 0; i < p.num_units; ++i) {
        if (is_broken(i)) return false;
    }
    plan.unit = unit_;
    plan.cost = 0;
    for (int j = 0; j < p.num_tasks; ++j) plan.cost += p.cost[p.at(unit_[ix(j)], j)];
    return true;
}

void Repairer::anneal(Assignment& best, std::int64_t moves, std::mt19937_64& random,
                      const std::function<bool()>& halt) {
    const Instance& p = *instance_;
    constexpr std::int64_t period = 2048;
    constexpr double hot = 0.1, cold = 0.004, rare = 0.05, often = 0.3;
    std::vector<std::vector<int>> units(ix(p.num_tasks));
    double spread = 0.0;
    for (int j = 0; j < p.num_tasks; ++j) {
        Int most = 0;
        for (int i = 0; i < p.num_units; ++i) {
            if (!p.allowed[p.at(i, j)]) continue;
            units[ix(j)].push_back(i);
            most = std::max(most, p.cost[p.at(i, j)]);
        }
        spread += static_cast<double>(most) / p.num_tasks;
    }
    if (spread <= 0.0 || p.num_units < 2 || p.num_tasks < 2) return;
    start(best.unit);
    Int cost = best.cost;
    double size = 5.0 * spread;
    set_weights(size);
    int num_broken = 0;
    std::int64_t feasible = 0;
    const auto below = [&](std::size_t n) { return static_cast<int>(random() % n); };
    const auto move_to = [&](int j, int to) {
        const int from = unit_[ix(j)];
        num_broken -= static_cast<int>(is_broken(from)) + static_cast<int>(is_broken(to));
        cost += p.cost[p.at(to, j)] - p.cost[p.at(from, j)];
        shift(j, to);
        num_broken += static_cast<int>(is_broken(from)) + static_cast<int>(is_broken(to));
    };
    const double cooling = std::pow(cold / hot, static_cast<double>(period) / static_cast<double>(moves));
    double temperature = hot * spread;
    for (std::int64_t move = 1; move <= moves; ++move) {
        if (move % period == 0) {
            if (halt()) return;
            temperature *= cooling;
            const double part = static_cast<double>(feasible) / static_cast<double>(period);
            if (part < rare || part > often) set_weights(size *= part < rare ? 1.15 : 0.9);
            feasible = 0;
        }
        const int j = below(ix(p.num_tasks)), from = unit_[ix(j)];
        int to = -1, other = -1;
        double change = 0.0;
        if (move % 2 == 0) {
            to = units[ix(j)][ix(below(units[ix(j)].size()))];
            if (to == from) continue;
            change = static_cast<double>(p.cost[p.at(to, j)] - p.cost[p.at(from, j)]) + unit_change(from, j, -1) +
                     unit_change(to, -1, j);
        } else {
            other = below(ix(p.num_tasks));
            to = unit_[ix(other)];
            if (to == from || !p.allowed[p.at(to, j)] || !p.allowed[p.at(from, other)]) continue;
            change = static_cast<double>(p.cost[p.at(to, j)] - p.cost[p.at(from, j)] + p.cost[p.at(from, other)] -
                                         p.cost[p.at(to, other)]) +
                     unit_change(from, j, other) + unit_change(to, other, j);
        }
        if (change > 0.0) {
            const double draw = static_cast<double>((random() >> 11) + 1) * 0x1.0p-53;
            if (change > -temperature * std::log(draw)) continue;
        }
        move_to(j, to);
        if (other >= 0) move_to(other, from);
        if (num_broken > 0) continue;
        ++feasible;
        if (cost < best.cost) best = {cost, unit_};
    }
}

}  // namespace optalloc::assignment::rows

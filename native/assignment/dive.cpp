#include "assignment/dive.hpp"

#include <algorithm>
#include <cmath>

#include "assignment/lots.hpp"

namespace optalloc::assignment {

namespace {

constexpr double kMemory = 0.9;      // of the averaged knapsack solutions
constexpr double kDeflection = 0.5;
constexpr double kSure = 0.99;       // share from which a task is placed at once

std::vector<std::vector<DivePair>> rows_of(const Instance& instance, Int scale) {
    std::vector<std::vector<DivePair>> rows(static_cast<std::size_t>(instance.num_units));
    for (int i = 0; i < instance.num_units; ++i) {
        for (int j = 0; j < instance.num_tasks; ++j) {
            const std::size_t k = instance.at(i, j);
            if (!instance.allowed[k] || instance.load[k] > instance.capacity[static_cast<std::size_t>(i)]) continue;
            rows[static_cast<std::size_t>(i)].push_back({j, instance.load[k], scale * instance.cost[k]});
        }
    }
    return rows;
}

}  // namespace

Diver::Diver(std::vector<std::vector<DivePair>> rows, std::vector<Int> capacity, int num_tasks, Int ceiling, Int scale,
             Control& control)
    : rows_(std::move(rows)),
      capacity_(std::move(capacity)),
      num_tasks_(num_tasks),
      ceiling_(ceiling),
      scale_(scale),
      control_(&control) {}

Diver::Diver(const Instance& instance, Int scale, Control& control)
    : Diver(rows_of(instance, scale), instance.capacity, instance.num_tasks, cost_ceiling(instance), scale, control) {}

// Subgradient steps of a fixed length; afterwards each pair's share of the averaged knapsack solutions.
void Diver::steps(std::vector<double>& lambda, const DiveRule& rule, std::vector<double>& direction) {
    const auto n = static_cast<std::size_t>(num_tasks_);
    const double stride = rule.stride * regret_;
    double gain = 1.0, total = 0.0;
    std::int64_t polled = knapsack_.work();
    for (int step = 0; step < rule.steps; ++step) {
        if (knapsack_.work() - polled > Control::kPollWork) {
            polled = knapsack_.work();
            if (control_->poll()) break;
        }
        for (std::size_t j = 0; j < n; ++j) {
            rounded_[j] = scaled_multiplier(lambda[j], ceiling_, scale_);
        }
        std::fill(cover_.begin(), cover_.end(), 0);
        gain /= kMemory;
        total += gain;
        for (std::size_t i = 0; i < pairs_.size(); ++i) {
            profit_.clear();
            load_.clear();
            slot_.clear();
            for (std::size_t k = 0; k < pairs_[i].size(); ++k) {
                const DivePair& pair = pairs_[i][k];
                const Int profit = rounded_[static_cast<std::size_t>(pair.task)] - pair.scaled_cost;
                if (profit <= 0) continue;
                profit_.push_back(profit);
                load_.push_back(pair.load);
                slot_.push_back(k);
            }
            if (slot_.empty()) continue;
            knapsack_.solve(profit_, load_, room_[i], taken_);
            for (std::size_t q = 0; q < slot_.size(); ++q) {
                if (!taken_[q]) continue;
                DivePair& pair = pairs_[i][slot_[q]];
                pair.share += gain;
                ++cover_[static_cast<std::size_t>(pair.task)];
            }
        }
        for (std::size_t j = 0; j < n; ++j) {
            if (unit_[j] >= 0) continue;
            direction[j] = kDeflection * direction[j] + 1.0 - cover_[j];
            lambda[j] += stride * direction[j];
        }
    }
    for (auto& row : pairs_) {
        for (DivePair& pair : row) pair.share /= total;
    }
}

// Places the tasks with the largest shares that still fit; forgets the pairs that no longer can.
void Diver::place(const DiveRule& rule) {
    struct Choice {
        double share;
        int task, unit;
        Int load;
    };
    std::vector<Choice> best(static_cast<std::size_t>(num_tasks_), Choice{-1.0, -1, -1, 0});
    for (std::size_t i = 0; i < pairs_.size(); ++i) {
        for (const DivePair& pair : pairs_[i]) {
            Choice& choice = best[static_cast<std::size_t>(pair.task)];
            if (pair.share > choice.share) choice = {pair.share, pair.task, static_cast<int>(i), pair.load};
        }
    }
    std::erase_if(best, [](const Choice& choice) { return choice.task < 0; });
    std::sort(best.begin(), best.end(), [](const Choice& a, const Choice& b) {
        return a.share > b.share || (a.share == b.share && a.task < b.task);
    });
    const auto open = static_cast<double>(best.size());
    const auto least = static_cast<std::size_t>(std::max(1.0, std::ceil(rule.fraction * open)));
    std::size_t placed = 0;
    for (const Choice& choice : best) {
        if (placed >= least && (choice.share < kSure || 2.0 * static_cast<double>(placed) >= open)) break;
        Int& room = room_[static_cast<std::size_t>(choice.unit)];
        if (choice.load > room) continue;
        room -= choice.load;
        unit_[static_cast<std::size_t>(choice.task)] = choice.unit;
        ++placed;
    }
    num_open_ = 0;
    std::fill(cover_.begin(), cover_.end(), 0);
    for (std::size_t i = 0; i < pairs_.size(); ++i) {
        std::erase_if(pairs_[i], [&](const DivePair& pair) {
            return unit_[static_cast<std::size_t>(pair.task)] >= 0 || pair.load > room_[i];
        });
        for (DivePair& pair : pairs_[i]) {
            pair.share = 0.0;
            num_open_ += cover_[static_cast<std::size_t>(pair.task)]++ == 0;
        }
    }
}

bool Diver::dive(const std::vector<double>& multiplier, const DiveRule& rule, std::uint64_t seed,
                 std::vector<int>& unit) {
    const auto n = static_cast<std::size_t>(num_tasks_);
    unit_.assign(n, -1);
    room_ = capacity_;
    rounded_.assign(n, 0);
    cover_.assign(n, 0);
    std::vector<double> lambda = multiplier, direction(n, 0.0);
    if (rule.noise > 0.0) {
        for (double& l : lambda) l += rule.noise * regret_ * (2.0 * draw(seed) - 1.0);
    }
    pairs_ = rows_;
    num_open_ = num_tasks_;
    while (num_open_ > 0) {
        if (control_->poll()) return false;
        const std::int64_t before = knapsack_.work();
        steps(lambda, rule, direction);
        control_->work += knapsack_.work() - before;
        place(rule);
    }
    unit = unit_;
    return true;
}

}  // namespace optalloc::assignment

#include "assignment/lagrangian.hpp"

#include <algorithm>
#include <utility>

namespace optalloc::assignment {

Lagrangian::Lagrangian(const Instance& instance, Int scale)
    : instance_(&instance), scale_(scale), cover_(static_cast<std::size_t>(instance.num_tasks), 0) {}

void Lagrangian::look_among(std::vector<std::size_t> pairs) {
    scope_ = std::move(pairs);
    everywhere_ = false;
}

void Lagrangian::refresh(const Domain& domain) {
    work_ += static_cast<std::int64_t>(everywhere_ ? instance_->cost.size() : scope_.size());
    domain_ = &domain;
    first_.clear();
    pair_.clear();
    task_.clear();
    load_.clear();
    scaled_cost_.clear();
    free_.clear();
    const auto n = static_cast<std::size_t>(instance_->num_tasks);
    const auto look_at = [&](std::size_t k, int task) {
        if (!domain.allowed(k) || domain.unit_of(task) >= 0) return;
        pair_.push_back(k);
        task_.push_back(task);
        load_.push_back(instance_->load[k]);
        scaled_cost_.push_back(scale_ * instance_->cost[k]);
    };
    auto next = scope_.begin();
    for (std::size_t i = 0; i < static_cast<std::size_t>(instance_->num_units); ++i) {
        first_.push_back(pair_.size());
        if (everywhere_) {
            for (std::size_t j = 0; j < n; ++j) look_at(i * n + j, static_cast<int>(j));
        } else {
            for (; next != scope_.end() && *next < (i + 1) * n; ++next) look_at(*next, static_cast<int>(*next - i * n));
        }
    }
    first_.push_back(pair_.size());
    for (int j = 0; j < instance_->num_tasks; ++j) {
        if (domain.unit_of(j) < 0) free_.push_back(j);
    }
}

Int Lagrangian::evaluate(const std::vector<Int>& multiplier) {
    Int bound = scale_ * domain_->placed_cost();
    for (const int j : free_) {
        bound += multiplier[static_cast<std::size_t>(j)];
        cover_[static_cast<std::size_t>(j)] = 0;
    }
    work_ += static_cast<std::int64_t>(pair_.size());
    best_.assign(static_cast<std::size_t>(instance_->num_units), 0);
    picks_.clear();
    for (std::size_t i = 0; i < static_cast<std::size_t>(instance_->num_units); ++i) {
        profit_.clear();
        weight_.clear();
        slot_.clear();
        for (std::size_t k = first_[i]; k < first_[i + 1]; ++k) {
            const Int profit = multiplier[static_cast<std::size_t>(task_[k])] - scaled_cost_[k];
            if (profit <= 0) continue;
            profit_.push_back(profit);
            weight_.push_back(load_[k]);
            slot_.push_back(k);
        }
        if (profit_.empty()) continue;
        best_[i] = knapsack_.solve(profit_, weight_, domain_->residual(static_cast<int>(i)), taken_);
        bound -= best_[i];
        for (std::size_t q = 0; q < slot_.size(); ++q) {
            if (!taken_[q]) continue;
            ++cover_[static_cast<std::size_t>(task_[slot_[q]])];
            picks_.push_back(pair_[slot_[q]]);
        }
    }
    return bound;
}

bool Lagrangian::fix(Domain& domain, const std::vector<Int>& multiplier, Int limit, int& removed) {
    removed = 0;
    Int bound = scale_ * domain_->placed_cost();
    for (const int j : free_) bound += multiplier[static_cast<std::size_t>(j)];
    const auto worth = [&](std::size_t k) { return multiplier[static_cast<std::size_t>(task_[k])] - scaled_cost_[k]; };
    const auto gather = [&](std::size_t unit, bool positive) {
        for (std::size_t k = first_[unit]; k < first_[unit + 1]; ++k) {
            const Int profit = worth(k);
            if ((profit > 0) != positive) continue;
            profit_.push_back(profit);
            weight_.push_back(load_[k]);
            slot_.push_back(k);
        }
        return slot_.size();
    };
    const auto clear = [this] {
        profit_.clear();
        weight_.clear();
        slot_.clear();
    };
    const auto num_units = static_cast<std::size_t>(instance_->num_units);
    best_.assign(num_units, 0);
    for (std::size_t i = 0; i < num_units; ++i) {
        clear();
        if (gather(i, true) == 0) continue;
        best_[i] = knapsack_.solve(profit_, weight_, domain_->residual(static_cast<int>(i)), taken_);
        bound -= best_[i];
    }
    Int gap = limit - bound;
    if (gap < 0) return false;
    price_in_.assign(pair_.size(), 0);   // of forcing the pair in, on its own unit; where it exceeds the gap, perhaps less
    price_out_.assign(pair_.size(), 0);  // of forcing it out
    sum_out_.assign(static_cast<std::size_t>(instance_->num_tasks), 0);
    for (std::size_t i = 0; i < num_units; ++i) {
        clear();
        const std::size_t num_items = gather(i, true);
        if (gather(i, false) == 0) continue;
        const Int best = knapsack_.condition(profit_, weight_, num_items, domain_->residual(static_cast<int>(i)), best_[i] - gap,
                                             with_, without_);
        for (std::size_t q = 0; q < slot_.size(); ++q) {
            price_in_[slot_[q]] = best - with_[q];
            if (q >= num_items) continue;
            price_out_[slot_[q]] = best - without_[q];
            sum_out_[static_cast<std::size_t>(task_[slot_[q]])] += best - without_[q];
        }
    }
    // x_ij = 1 forces the task out of every other unit.
    for (std::size_t k = 0; k < pair_.size(); ++k) {
        const auto j = static_cast<std::size_t>(task_[k]);
        if (price_in_[k] + sum_out_[j] - price_out_[k] <= gap) continue;
        domain.remove(static_cast<int>(pair_[k] / static_cast<std::size_t>(instance_->num_tasks)), task_[k]);
        ++removed;
    }
    return removed == 0 || domain.propagate();
}

}  // namespace optalloc::assignment

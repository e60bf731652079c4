// The ascent of the multipliers at a node: bounds, plans found on the way, and pairs removed.
#include "assignment/search.hpp"

#include <algorithm>
#include <limits>

namespace optalloc::assignment {

namespace {

constexpr double kShrink = 0.6;
constexpr double kLeastTheta = 0.002;
constexpr double kMemory = 0.9;       // of the averaged knapsack solutions
constexpr double kDeflection = 0.5;
constexpr double kWorthwhile = 0.02;  // part of what the bound lacks that an ascent must have won to ascend on
constexpr int kLonger = 4;            // times the steps and the patience
constexpr double kHugeWeight = 1e100;
constexpr double kReach = 0.005;      // how far above the best bound a step aims, of the ceiling
constexpr int kPollSteps = 16;

}  // namespace

void Search::round(const std::vector<double>& multiplier, std::vector<Int>& rounded) const {
    rounded.resize(multiplier.size());
    for (std::size_t j = 0; j < multiplier.size(); ++j) {
        rounded[j] = scaled_multiplier(multiplier[j], ceiling_, scale_);
    }
}

Int Search::bound_at(const std::vector<double>& multiplier, std::vector<Int>& rounded) {
    round(multiplier, rounded);
    lagrangian_.refresh(domain_);
    return lagrangian_.evaluate(rounded);
}

// Where every free task was picked, keeping each task's cheapest copy is feasible.
void Search::offer_cover() {
    scratch_.unit.assign(static_cast<std::size_t>(instance_->num_tasks), -1);
    for (int j = 0; j < instance_->num_tasks; ++j) {
        scratch_.unit[static_cast<std::size_t>(j)] = domain_.unit_of(j);
    }
    const auto n = static_cast<std::size_t>(instance_->num_tasks);
    for (const std::size_t k : lagrangian_.picks()) {
        int& unit = scratch_.unit[k % n];
        const int other = static_cast<int>(k / n);
        if (unit < 0 || instance_->cost[k] < instance_->cost[instance_->at(unit, static_cast<int>(k % n))]) {
            unit = other;
        }
    }
    scratch_.cost = 0;
    for (int j = 0; j < instance_->num_tasks; ++j) {
        scratch_.cost += instance_->cost[instance_->at(scratch_.unit[static_cast<std::size_t>(j)], j)];
    }
    if (offer(scratch_)) {
        improver_.polish(scratch_);
        offer(scratch_);
    }
}

void Search::repair() {
    if (!improver_.repair(domain_, lagrangian_.picks(), scratch_)) return;
    improver_.polish(scratch_);
    offer(scratch_);
}

// The bound at these multipliers exceeds the target, and says so in the record.
Outcome Search::closed_by(const std::vector<Int>& multiplier) {
    if (record) record->leaf(domain_, multiplier);
    return Outcome::kClosed;
}

Outcome Search::ascend(std::vector<double>& multiplier, const Ascent& how) {
    const std::int64_t before = lagrangian_.work();
    const Outcome outcome = climb(multiplier, how);
    control_->work += lagrangian_.work() - before;
    return outcome;
}

Outcome Search::climb(std::vector<double>& multiplier, const Ascent& how) {
    const auto n = static_cast<std::size_t>(instance_->num_tasks);
    std::vector<double> best_multiplier = multiplier;
    direction_.assign(n, 0.0);
    rounded_.resize(n);
    lagrangian_.refresh(domain_);
    for (const std::size_t k : lagrangian_.pairs()) share_[k] = 0.0;
    weight_ = 0.0;
    best_bound_ = std::numeric_limits<Int>::min();
    const double reach = std::max(1.0, kReach * static_cast<double>(ceiling_));
    double theta = how.theta, gain = 1.0;
    int stale = 0;
    std::int64_t polled = lagrangian_.work();
    bool fixed_here = false;  // nothing new to fix since the last sweep
    Int fixed_target = 0;

    for (int step = 1; step <= how.steps && theta >= kLeastTheta; ++step) {
        if (step % kPollSteps == 0 || lagrangian_.work() - polled > Control::kPollWork) {
            polled = lagrangian_.work();
            if (control_->poll()) return Outcome::kStopped;
        }
        if (domain_.num_free() == 0) break;
        for (const int j : lagrangian_.free()) {
            const auto t = static_cast<std::size_t>(j);
            rounded_[t] = scaled_multiplier(multiplier[t], ceiling_, scale_);
        }
        const Int bound = lagrangian_.evaluate(rounded_);
        if (bound > scale_ * target_) return closed_by(rounded_);

        gain /= kMemory;
        if (gain > kHugeWeight) {
            for (const std::size_t k : lagrangian_.pairs()) share_[k] /= gain;
            weight_ /= gain;
            gain = 1.0;
        }
        weight_ += gain;
        for (const std::size_t k : lagrangian_.picks()) share_[k] += gain;

        bool covered = true, exact = true;
        for (const int j : lagrangian_.free()) {
            const int count = lagrangian_.cover()[static_cast<std::size_t>(j)];
            covered = covered && count >= 1;
            exact = exact && count == 1;
        }
        if (covered) offer_cover();
        else if (how.repair_every > 0 && step % how.repair_every == 0) repair();
        if (bound > scale_ * target_) return closed_by(rounded_);
        if (best_bound_ > scale_ * target_) {
            multiplier = best_multiplier;
            return closed_by(best_rounded_);
        }

        if (bound > best_bound_) {
            best_bound_ = bound;
            best_multiplier = multiplier;
            best_rounded_ = rounded_;
            stale = 0;
            fixed_here = false;
        } else if (++stale >= how.patience) {
            stale = 0;
            theta *= kShrink;
            multiplier = best_multiplier;
            std::fill(direction_.begin(), direction_.end(), 0.0);
            continue;
        }
        if (how.fix_every > 0 && (step % how.fix_every == 0 || step == how.steps) &&
            (!fixed_here || fixed_target != target_)) {
            int removed = 0;
            if (record) record->fix(domain_, best_rounded_);
            const bool some_left = lagrangian_.fix(domain_, best_rounded_, scale_ * target_, removed);
            if (record && removed == 0) record->forget();
            if (!some_left) {
                if (removed == 0) return closed_by(best_rounded_);
                if (record) record->dead();
                return Outcome::kClosed;
            }
            if (removed > 0) lagrangian_.refresh(domain_);
            fixed_here = removed == 0;
            fixed_target = target_;
        }
        if (exact) break;  // the knapsacks agree: no multiplier does better
        double norm = 0.0;
        for (const int j : lagrangian_.free()) {
            const auto t = static_cast<std::size_t>(j);
            direction_[t] = kDeflection * direction_[t] + 1.0 - lagrangian_.cover()[t];
            norm += direction_[t] * direction_[t];
        }
        if (norm <= 0.0) continue;
        const double now = static_cast<double>(bound) / static_cast<double>(scale_);
        const double best_now = static_cast<double>(best_bound_) / static_cast<double>(scale_);
        const double goal = std::min(static_cast<double>(target_) + 1.0, best_now + reach);
        const double stride = theta * std::max(goal - now, 0.5 / static_cast<double>(scale_)) / norm;
        for (const int j : lagrangian_.free()) {
            multiplier[static_cast<std::size_t>(j)] += stride * direction_[static_cast<std::size_t>(j)];
        }
    }
    multiplier = best_multiplier;
    last_theta_ = theta;
    if (domain_.num_free() == 0) {
        scratch_.unit.resize(n);
        for (std::size_t j = 0; j < n; ++j) scratch_.unit[j] = domain_.unit_of(static_cast<int>(j));
        scratch_.cost = domain_.placed_cost();
        offer(scratch_);
        if (record) record->dead();
        return Outcome::kClosed;  // the only assignment left, and it is noted or too dear
    }
    return Outcome::kOpen;
}

// Better multipliers for a decision that turns out to be hard: they fix more pairs, and every node starts from them.
Outcome Search::refine(std::vector<double>& multiplier, Ascent how) {
    double lacked = std::numeric_limits<double>::infinity();  // of the bound to close the node
    Outcome outcome = ascend(multiplier, how);
    while (outcome == Outcome::kOpen && how.patience < how.most_patience) {
        const auto lacks = static_cast<double>(scale_ * target_ + 1 - best_bound_);
        if (lacked - lacks < kWorthwhile * lacked) break;
        lacked = lacks;
        how.steps *= kLonger;
        how.patience *= kLonger;
        outcome = ascend(multiplier, how);
    }
    return outcome;
}

}  // namespace optalloc::assignment

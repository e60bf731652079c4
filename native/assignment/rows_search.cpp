#include "assignment/rows_search.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

namespace optalloc::assignment::rows {

namespace {

constexpr double kMemory = 0.9;      // of the averaged knapsack solutions
constexpr double kDeflection = 0.5;
constexpr double kShrink = 0.6;
constexpr double kLeastTheta = 0.002;
constexpr int kPatience = 10;
constexpr double kInFirst = 0.4;
constexpr std::int64_t kUnlimited = std::numeric_limits<std::int64_t>::max();
constexpr double kReach = 0.02;      // how far above the best bound a step aims, of the ceiling

}  // namespace

Search::Search(const Instance& instance, Control& control)
    : instance_(&instance), control_(&control), bound_(instance), repairer_(instance, bound_.groups_of()),
      twin_(find_twins(instance)), opened_(static_cast<std::size_t>(instance.num_units)), share_(instance.cost.size()) {
    for (int j = 0; j < instance.num_tasks; ++j) {
        Int most = 0;
        for (int i = 0; i < instance.num_units; ++i) {
            if (instance.allowed[instance.at(i, j)]) most = std::max(most, instance.cost[instance.at(i, j)]);
        }
        ceiling_ += most;
    }
    target_ = ceiling_;
}

bool Search::offer(const Assignment& candidate) {
    if (has_best_ && candidate.cost >= best_.cost) return false;
    best_ = candidate;
    has_best_ = true;
    target_ = std::min(target_, best_.cost - 1);
    return true;
}

// The second cheapest unit of each task is what it would pay to be placed; without costs, its relative load.
std::vector<double> Search::first_multiplier() const {
    const Instance& in = *instance_;
    std::vector<double> multiplier(bound_.size(), 0.0);
    for (int j = 0; j < in.num_tasks; ++j) {
        if (ceiling_ == 0) {
            multiplier[static_cast<std::size_t>(j)] = bound_.scale() * bound_.least_share(j);
            continue;
        }
        Int first = -1, second = -1;
        for (int i = 0; i < in.num_units; ++i) {
            if (!in.allowed[in.at(i, j)]) continue;
            const Int cost = in.cost[in.at(i, j)];
            if (first < 0 || cost < first) {
                second = first, first = cost;
            } else if (second < 0 || cost < second) {
                second = cost;
            }
        }
        multiplier[static_cast<std::size_t>(j)] =
            static_cast<double>(bound_.scaled(std::max<Int>(0, std::max(first, second)))) + 1.0;
    }
    return multiplier;
}

// Removes pairs whose price exceeds what is left to the target; false: a task lost its last unit.
bool Search::fix(Domain& domain, Int value) {
    const Instance& in = *instance_;
    const Int gap = bound_.scaled(target_) - value;
    bool removed = false, empty = false;
    for (int j = 0; j < in.num_tasks; ++j) {
        if (domain.unit_of(j) >= 0) continue;
        Int out = 0;
        for (int i = 0; i < in.num_units; ++i) {
            if (domain.allowed(i, j)) out += bound_.out_loss()[in.at(i, j)];
        }
        int left = 0;
        for (int i = 0; i < in.num_units; ++i) {
            if (!domain.allowed(i, j)) continue;
            const std::size_t k = in.at(i, j);
            if (bound_.in_loss()[k] + out - bound_.out_loss()[k] > gap) {
                domain.remove(i, j);
                removed = true;
            } else {
                ++left;
            }
        }
        if (left == 0) {
            empty = true;
            break;
        }
    }
    if (record && removed) record->fix(domain, bound_.rounded());
    if (!empty && (!removed || domain.propagate())) return true;
    if (record) record->dead();
    return false;
}

void Search::record_leaf(const Domain& domain, const std::vector<double>& multiplier) {
    if (!record) return;
    bound_.evaluate(domain, multiplier, false);
    record->clear();
    record->leaf(domain, bound_.rounded());
}

Int Search::evaluate(const Domain& domain, const std::vector<double>& multiplier, bool losses) {
    const std::int64_t before = bound_.work();
    const Int value = bound_.evaluate(domain, multiplier, losses);
    control_->work += bound_.work() - before;
    return value;
}

Outcome Search::ascend(Domain& domain, std::vector<double>& multiplier, const Ascent& how) {
    const std::size_t size = bound_.size();
    std::vector<double> best = multiplier, direction(size, 0.0);
    std::fill(share_.begin(), share_.end(), 0.0);
    double weight = 0.0, theta = how.theta;
    Int best_value = std::numeric_limits<Int>::min();
    const double reach = kReach * bound_.scale() * static_cast<double>(ceiling_ + 1) + 1.0;
    int stale = 0;
    best_bound_ = std::numeric_limits<Int>::min();
    for (int step = 1; step <= how.steps && theta >= kLeastTheta; ++step) {
        if (step % 16 == 0 && control_->poll()) return Outcome::kStopped;
        if (domain.num_free() == 0) break;
        const bool fixing = how.fix_every > 0 && (step % how.fix_every == 0 || step == how.steps);
        const Int value = evaluate(domain, multiplier, fixing);
        if (value > bound_.scaled(target_)) {
            best_bound_ = std::max(best_bound_, bound_.unscaled(value));
            if (record) record->leaf(domain, bound_.rounded());
            return Outcome::kClosed;
        }
        weight = kMemory * weight + (1.0 - kMemory);
        for (std::size_t k = 0; k < share_.size(); ++k) {
            share_[k] = kMemory * share_[k] + (bound_.picks()[k] ? 1.0 - kMemory : 0.0);
        }
        if (value > best_value) {
            best_value = value;
            best_bound_ = std::max(best_bound_, bound_.unscaled(value));
            best = multiplier;
            stale = 0;
        } else if (++stale >= kPatience) {
            theta *= kShrink;
            multiplier = best;
            std::fill(direction.begin(), direction.end(), 0.0);
            stale = 0;
        }
        if (how.repair_every > 0 && step % how.repair_every == 0) repair(domain);
        std::vector<double> slope = bound_.slope();
        if (fixing && !fix(domain, value)) return Outcome::kClosed;
        double norm = 0.0, agree = 0.0;
        for (std::size_t k = 0; k < size; ++k) {
            double& d = direction[k];
            d = kDeflection * d + slope[k];
            if (!bound_.is_reward(k) && multiplier[k] <= 0.0 && d < 0.0) d = 0.0;
            norm += d * d;
            agree += std::abs(slope[k]);
        }
        if (norm < 1e-12) {
            if (agree < 1e-12) break;  // every row holds with equality: the picks are optimal here
            std::fill(direction.begin(), direction.end(), 0.0);
            continue;
        }
        const double goal = std::min(bound_.scale() * static_cast<double>(target_ + 1),
                                     static_cast<double>(best_value) + reach);
        const double length = theta * std::max(goal - static_cast<double>(value), 1.0) / norm;
        for (std::size_t k = 0; k < size; ++k) {
            multiplier[k] += length * direction[k];
            if (!bound_.is_reward(k)) multiplier[k] = std::max(0.0, multiplier[k]);
        }
    }
    if (weight > 0.0) {
        for (double& share : share_) share /= weight;
    }
    multiplier = best;
    return Outcome::kOpen;
}

bool Search::choose_pair(const Domain& domain, int& unit, int& task, bool& in_first) const {
    const Instance& in = *instance_;
    double most = -1.0;
    for (int j = 0; j < in.num_tasks; ++j) {
        if (domain.unit_of(j) >= 0) continue;
        for (int i = 0; i < in.num_units; ++i) {
            if (!domain.allowed(i, j)) continue;
            const double share = share_[in.at(i, j)];
            double size = 1e-3;
            for (int r = 0; r < in.num_resources; ++r) {
                const Int room = in.capacity[in.room_at(r, i)];
                if (room > 0) {
                    size = std::max(size, static_cast<double>(in.load[in.load_at(r, i, j)]) / static_cast<double>(room));
                }
            }
            const double score = (std::min(share, 1.0 - share) + 1e-6 * share) * size;
            if (score > most) most = score, unit = i, task = j;
        }
    }
    if (most < 0.0) return false;
    in_first = share_[in.at(unit, task)] >= kInFirst;
    return true;
}

// After the placements with the task on this unit, those with it on an unopened twin are the same with the two units
// swapped: no branch above tells one from the other.
void Search::forbid(Domain& domain, int unit, int task) const {
    const auto opened = [this](int i) { return opened_[static_cast<std::size_t>(i)] > 0; };
    domain.remove(unit, task);
    if (opened(unit)) return;
    for (int i = 0; i < instance_->num_units; ++i) {
        const bool is_twin = twin_[static_cast<std::size_t>(i)] == twin_[static_cast<std::size_t>(unit)];
        if (is_twin && !opened(i)) domain.remove(i, task);
    }
}

Outcome Search::close(Domain domain, const std::vector<double>& parent, const Ascent& how) {
    if (control_->poll()) return Outcome::kStopped;
    ++control_->nodes;
    if (++nodes_ > node_limit_) return Outcome::kOpen;
    if (between_nodes) {
        between_nodes();
        if (control_->stopped) return Outcome::kStopped;
    }
    std::vector<double> multiplier = parent;
    Outcome outcome = Outcome::kOpen;
    if (domain.num_free() > 0) outcome = ascend(domain, multiplier, how);
    if (outcome != Outcome::kOpen) return outcome;
    int unit = -1, task = -1;
    bool in_first = true;
    if (domain.num_free() == 0 || !choose_pair(domain, unit, task, in_first)) {
        Assignment leaf{domain.placed_cost(), std::vector<int>(static_cast<std::size_t>(instance_->num_tasks))};
        for (int j = 0; j < instance_->num_tasks; ++j) leaf.unit[static_cast<std::size_t>(j)] = domain.unit_of(j);
        offer(leaf);
        if (record) record->dead();
        return Outcome::kClosed;
    }
    const std::int64_t every = 4;
    if (nodes_ % every == 0) {
        evaluate(domain, multiplier, false);
        repair(domain);
    }
    const Ascent deeper{};
    if (record) record->branch(unit, task, in_first);
    int& opened = opened_[static_cast<std::size_t>(unit)];
    for (const bool in : {in_first, !in_first}) {
        Domain child = domain;
        if (in) {
            child.place(unit, task);
        } else {
            forbid(child, unit, task);
        }
        if (!child.propagate()) {
            if (record) record->dead();
            continue;
        }
        opened += in;
        ++depth_;
        if ((split_depth > 0 && depth_ >= split_depth) || (hand_over && in != in_first)) {
            if (record) record->subtree(static_cast<Int>(subtrees.size()));
            subtrees.push_back({std::move(child), opened_, multiplier});
            outcome = Outcome::kClosed;
        } else {
            outcome = close(std::move(child), multiplier, deeper);
        }
        --depth_;
        opened -= in;
        if (outcome != Outcome::kClosed) return outcome;
    }
    return Outcome::kClosed;
}

void Search::begin(Int target, std::int64_t node_limit) {
    target_ = has_best_ ? std::min(target, best_.cost - 1) : target;
    nodes_ = 0;
    node_limit_ = node_limit;
    depth_ = 0;
}

Outcome Search::decide(Int target, std::vector<double> multiplier, const Ascent& root_ascent,
                       std::int64_t node_limit) {
    begin(target, node_limit);
    subtrees.clear();
    if (record) record->clear();
    Domain domain = root();
    if (!domain.propagate()) {
        if (record) record->dead();
        return Outcome::kClosed;
    }
    return close(std::move(domain), multiplier, root_ascent);
}

Outcome Search::close_subtree(const Subtree& subtree, Int target) {
    begin(target, kUnlimited);
    subtrees.clear();
    if (record) record->begin_subtree();
    opened_ = subtree.opened;
    const Outcome outcome = close(subtree.domain, subtree.multiplier, Ascent{});
    std::fill(opened_.begin(), opened_.end(), 0);
    return outcome;
}

void Search::dive(Domain domain, std::vector<double> multiplier, double fraction) {
    const Instance& in = *instance_;
    const Int target = target_;
    target_ = ceiling_;  // only as a goal for the steps: dives prove nothing
    Record* const record_before = std::exchange(record, nullptr);
    const Ascent how{.steps = 30, .fix_every = 0, .repair_every = 15, .theta = 0.05};
    bool alive = true;
    while (alive && domain.num_free() > 0 && !control_->poll()) {
        if (ascend(domain, multiplier, how) != Outcome::kOpen) break;
        struct Choice {
            double share;
            int unit, task;
        };
        std::vector<Choice> choices;
        for (int j = 0; j < in.num_tasks; ++j) {
            if (domain.unit_of(j) >= 0) continue;
            Choice choice{-1.0, -1, j};
            for (int i = 0; i < in.num_units; ++i) {
                const double share = domain.allowed(i, j) ? share_[in.at(i, j)] : -1.0;
                if (share > choice.share) choice = {share, i, j};
            }
            choices.push_back(choice);
        }
        std::stable_sort(choices.begin(), choices.end(),
                         [](const Choice& a, const Choice& b) { return a.share > b.share; });
        const auto least = static_cast<std::size_t>(std::ceil(fraction * static_cast<double>(choices.size())));
        const std::size_t half = (choices.size() + 1) / 2;
        for (std::size_t q = 0; q < choices.size() && alive; ++q) {
            if (q >= least && (q >= half || choices[q].share < 0.99)) break;
            const Choice& choice = choices[q];
            if (domain.unit_of(choice.task) >= 0 || !domain.allowed(choice.unit, choice.task)) continue;
            domain.place(choice.unit, choice.task);
            alive = domain.propagate();
        }
    }
    if (alive && domain.num_free() == 0) {
        Assignment plan{domain.placed_cost(), std::vector<int>(static_cast<std::size_t>(in.num_tasks))};
        for (int j = 0; j < in.num_tasks; ++j) plan.unit[static_cast<std::size_t>(j)] = domain.unit_of(j);
        polish(plan);
        offer(plan);
    }
    target_ = has_best_ ? std::min(target, best_.cost - 1) : target;
    record = record_before;
}

}  // namespace optalloc::assignment::rows

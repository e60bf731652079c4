#include "assignment/search.hpp"

#include <algorithm>
#include <limits>

namespace optalloc::assignment {

namespace {

constexpr double kInFirst = 0.4;
constexpr double kLeastChange = 0.05;  // of a share, that a rise of the bound is put down to
constexpr double kSettled = 0.1;      // theta below which an ascent is taken to have converged
constexpr int kSettledSteps = 48;     // at the nodes below it, which begin close to their best multipliers
constexpr int kManyFree = 8;          // tasks a unit, so that placing one moves few multipliers and those little
constexpr std::int64_t kRepairGap = 8;        // nodes from one repair to the next
constexpr std::int64_t kMostRepairGap = 512;  // after repairs in vain

}  // namespace

Search::Search(const Instance& instance, Int scale, Control& control)
    : instance_(&instance),
      scale_(scale),
      control_(&control),
      domain_(instance),
      lagrangian_(instance, scale),
      improver_(instance),
      twin_(find_twins(instance)),
      opened_(static_cast<std::size_t>(instance.num_units), 0),
      ceiling_(cost_ceiling(instance)),
      target_(ceiling_),
      rise_(instance.cost.size()),
      share_(instance.cost.size(), 0.0) {}

bool Search::offer(const Assignment& candidate) {
    if (has_best_ && candidate.cost >= best_.cost) return false;
    best_ = candidate;
    has_best_ = true;
    target_ = std::min(target_, best_.cost - 1);
    return true;
}

// What the last branching added to the bound, up to what closes a node.
void Search::learn(Int bound) {
    if (!step_.taken) return;
    step_.taken = false;
    const Int gain = std::max<Int>(0, std::min(bound, scale_ * target_ + 1) - step_.bound);
    const double change = step_.in ? 1.0 - step_.choice.share : step_.choice.share;
    const double rise = static_cast<double>(gain) / std::max(change, kLeastChange);
    for (Rise* r : {&rise_[step_.choice.pair], &all_rises_}) {
        r->total[step_.in] += rise;
        r->count[step_.in] += 1.0;
    }
}

// The undecided pair that is likely to raise the bound on both sides: by what it did so far, and at first in proportion
// to its load.
Search::Branching Search::choose_pair(Int bound) const {
    const auto room = static_cast<double>(scale_ * target_ + 1 - bound);
    double loads = 0.0;
    for (const std::size_t k : lagrangian_.pairs()) loads += static_cast<double>(instance_->load[k]);
    loads = std::max(loads / static_cast<double>(lagrangian_.pairs().size()), 1e-9);
    std::array<double, 2> usual;
    for (const std::size_t side : {0, 1}) {
        usual[side] = all_rises_.count[side] > 0.0 ? all_rises_.total[side] / all_rises_.count[side] : 1.0;
        usual[side] = std::max(usual[side], 1.0);
    }
    Branching chosen{.pair = lagrangian_.pairs().front()};
    double best = -1.0;
    for (const std::size_t k : lagrangian_.pairs()) {
        const double share = weight_ > 0.0 ? std::min(share_[k] / weight_, 1.0) : 0.0;
        const double load = static_cast<double>(std::max<Int>(instance_->load[k], 1)) / loads;
        const auto likely = [&](std::size_t side, double change) {
            const Rise& rise = rise_[k];
            const double mean = (rise.total[side] + usual[side] * load) / (rise.count[side] + 1.0);
            return std::min(mean * change, room);
        };
        const double score = likely(0, share) * likely(1, 1.0 - share);
        if (score > best || (score == best && share > chosen.share)) {
            best = score;
            chosen = {k, share};
        }
    }
    return chosen;
}

Outcome Search::close(const std::vector<double>& parent, const Ascent& how) {
    ++nodes_;
    ++control_->nodes;
    if (control_->poll() || nodes_ > node_limit_) return Outcome::kStopped;
    if (between_nodes) {
        between_nodes();
        if (control_->stopped) return Outcome::kStopped;
    }
    std::vector<double> multiplier = parent;
    const Outcome outcome = refine(multiplier, how);
    if (how.most_patience > 0 && when_refined) when_refined(multiplier);
    if (outcome == Outcome::kClosed) learn(scale_ * target_ + 1);
    if (outcome != Outcome::kOpen) return outcome;
    const Int bound = best_bound_;
    learn(bound);
    if (depth_ == 0) {
        const bool local = last_theta_ < kSettled && domain_.num_free() >= kManyFree * instance_->num_units;
        below_ = local ? Ascent{.steps = kSettledSteps, .theta = kSettled} : Ascent{};
        below_.steps = static_cast<int>(length_ * below_.steps);
    }
    if (nodes_ >= next_repair_) {
        const Int before = has_best_ ? best_.cost : ceiling_ + 1;
        repair();
        const bool gained = has_best_ && best_.cost < before;
        repair_gap_ = gained ? kRepairGap : std::min(2 * repair_gap_, kMostRepairGap);
        next_repair_ = nodes_ + repair_gap_;
        if (bound > scale_ * target_) return closed_by(best_rounded_);
    }
    const double few = few_;
    if (domain_.num_free() <= few_) {
        if (close_by_patterns()) return Outcome::kClosed;
        few_ = kFewer * domain_.num_free();
    }
    const Branching choice = choose_pair(bound);
    const bool in = choice.share >= kInFirst;
    const std::vector<std::size_t> pairs = lagrangian_.pairs();
    const auto n = static_cast<std::size_t>(instance_->num_tasks);
    if (record) record->branch(static_cast<int>(choice.pair / n), static_cast<int>(choice.pair % n), in);
    for (const bool side : {in, !in}) {
        if (side != in && bound > scale_ * target_) {  // a better assignment was found on the first side
            few_ = few;
            round(multiplier, rounded_);
            return closed_by(rounded_);
        }
        lagrangian_.look_among(pairs);
        const Outcome child = branch(choice, side, side != in, bound, multiplier);
        if (child != Outcome::kClosed) return child;
    }
    few_ = few;
    return Outcome::kClosed;
}

Outcome Search::propagate_and_close(const std::vector<double>& multiplier, const Ascent& how, bool second) {
    if (!domain_.propagate()) {
        learn(scale_ * target_ + 1);
        if (record) record->dead();
        return Outcome::kClosed;
    }
    if ((split_depth > 0 && depth_ >= split_depth) || (second && hand_over)) {
        if (record) record->subtree(static_cast<Int>(subtrees.size()));
        subtrees.push_back({domain_.removed(), opened_, multiplier, how});
        return Outcome::kClosed;
    }
    return close(multiplier, how);
}

Outcome Search::branch(const Branching& choice, bool in, bool second, Int bound,
                       const std::vector<double>& multiplier) {
    const auto n = static_cast<std::size_t>(instance_->num_tasks);
    const int unit = static_cast<int>(choice.pair / n), task = static_cast<int>(choice.pair % n);
    step_ = {.choice = choice, .in = in, .taken = true, .bound = bound};
    const std::size_t mark = domain_.mark();
    int& opened = opened_[static_cast<std::size_t>(unit)];
    if (in) domain_.place(unit, task);
    else forbid(unit, task);
    opened += in;
    ++depth_;
    const Outcome outcome = propagate_and_close(multiplier, below_, second);
    --depth_;
    opened -= in;
    domain_.undo(mark);
    return outcome;
}

// After the assignments with the task on this unit, those with it on an unopened twin are the same with the two units
// swapped: no branch above tells one from the other.
void Search::forbid(int unit, int task) {
    const auto opened = [this](int i) { return opened_[static_cast<std::size_t>(i)] > 0; };
    const auto twin = [this](int i) { return twin_[static_cast<std::size_t>(i)]; };
    domain_.remove(unit, task);
    if (opened(unit)) return;
    for (int i = 0; i < instance_->num_units; ++i) {
        if (twin(i) == twin(unit) && !opened(i)) domain_.remove(i, task);
    }
}

Outcome Search::decide(Int target, std::vector<double> multiplier, const Ascent& root, std::int64_t node_limit) {
    begin(target, node_limit);
    subtrees.clear();
    const std::size_t mark = domain_.mark();
    const Outcome outcome = propagate_and_close(multiplier, root);
    undo(mark);
    return outcome;
}

Outcome Search::close_subtree(const Subtree& subtree, Int target) {
    begin(target, std::numeric_limits<std::int64_t>::max());
    subtrees.clear();
    const std::size_t mark = domain_.mark();
    const auto n = static_cast<std::size_t>(instance_->num_tasks);
    for (const std::size_t k : subtree.removed) domain_.remove(static_cast<int>(k / n), static_cast<int>(k % n));
    opened_ = subtree.opened;
    below_ = subtree.how;
    ++depth_;  // not the root
    const Outcome outcome = propagate_and_close(subtree.multiplier, below_);
    --depth_;
    std::fill(opened_.begin(), opened_.end(), 0);
    undo(mark);
    return outcome;
}

void Search::undo(std::size_t mark) {
    domain_.undo(mark);
    lagrangian_.look_everywhere();
}

void Search::begin(Int target, std::int64_t node_limit) {
    target_ = has_best_ ? std::min(target, best_.cost - 1) : target;
    lagrangian_.look_everywhere();
    if (record) record->clear();
    nodes_ = 0;
    repair_gap_ = kRepairGap;
    next_repair_ = kRepairGap;
    node_limit_ = node_limit;
    step_.taken = false;
    few_ = PatternCover::kMostTasks;
}

}  // namespace optalloc::assignment

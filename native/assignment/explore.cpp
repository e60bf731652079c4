#include "assignment/explore.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "assignment/lots.hpp"

namespace optalloc::assignment {

namespace {

// The first dives: lengths of step over two orders of magnitude.
constexpr std::array<double, 5> kStrides = {0.02, 0.06, 0.01, 0.1, 0.003};
constexpr double kFraction = 0.1;
constexpr std::size_t kKept = 3;           // rules whose neighbours are tried
constexpr double kLeastWeight = 0.05;      // of a way that has not helped for long
constexpr double kLeastBest = 0.8;         // of the way that helped last
constexpr double kFillWeight = 2.0;        // of plunges by unit at first: they alone often end at the bound itself
constexpr double kDecay = 0.9;             // of a way's weight, by a turn in vain
constexpr double kInVain = 1e8;            // work of a turn from which it counts more,
constexpr double kInVainPart = 0.05;       // or that part of all work so far where it is more
constexpr std::int64_t kGroupNodes = 20;   // a turn of the group search

}  // namespace

Explorer::Explorer(const Instance& instance, Int scale, Control& control, std::uint64_t seed)
    : instance_(&instance),
      control_(&control),
      diver_(instance, scale, control),
      improver_(instance),
      groups_(instance, scale, control, seed),
      state_(seed ^ 0x5851f42d4c957f2dULL),
      plunger_(instance, scale, control),
      plunge_target_(std::numeric_limits<Int>::max()),
      refused_(!plunger_.propagate()),
      walker_known_(std::numeric_limits<Int>::max()) {
    plunge_base_ = plunger_.domain().mark();
    efforts_[kFill].weight = kFillWeight;
}

void Explorer::set_multiplier(const std::vector<double>& multiplier) {
    multiplier_ = multiplier;
    plunge_target_ = std::numeric_limits<Int>::max();
}

void Explorer::set_root(const Prices& prices) {
    multiplier_ = prices.multiplier;
    double regret = 0.0;
    for (int j = 0; j < instance_->num_tasks; ++j) {
        const Cheapest found = cheapest(prices, j);
        if (std::isfinite(found.second)) regret += found.second - found.low;
    }
    diver_.set_regret(std::max(regret / std::max(1, instance_->num_tasks), 1e-3));
}

Explorer::Cheapest Explorer::cheapest(const Prices& prices, int task) const {
    Cheapest found;
    for (int i = 0; i < instance_->num_units; ++i) {
        const std::size_t k = instance_->at(i, task);
        if (!instance_->allowed[k]) continue;
        const double priced = static_cast<double>(instance_->cost[k]) +
                              prices.unit[static_cast<std::size_t>(i)] * static_cast<double>(instance_->load[k]);
        found.second = std::min(found.second, std::max(found.low, priced));
        if (priced >= found.low) continue;
        found.low = priced;
        found.unit = i;
    }
    return found;
}

bool Explorer::round(const Prices& prices, Assignment& out) {
    std::vector<int> unit(static_cast<std::size_t>(instance_->num_tasks), -1);
    std::vector<Int> room = instance_->capacity;
    for (int j = 0; j < instance_->num_tasks; ++j) {
        const int home = cheapest(prices, j).unit;
        if (home < 0) return false;
        const Int load = instance_->load[instance_->at(home, j)];
        Int& left = room[static_cast<std::size_t>(home)];
        if (load > left) continue;
        left -= load;
        unit[static_cast<std::size_t>(j)] = home;
    }
    if (!improver_.complete(unit, out)) return false;
    improver_.polish(out);
    return true;
}

// A grid first, then neighbours of the rules that did best.
DiveRule Explorer::next_rule() {
    const auto turn = static_cast<std::size_t>(num_dives_++);
    if (turn < kStrides.size()) return {.fraction = kFraction, .stride = kStrides[turn]};
    DiveRule rule{.fraction = kFraction, .stride = kStrides[turn % kStrides.size()]};
    if (!trials_.empty()) {
        rule = trials_[static_cast<std::size_t>(draw(state_) * static_cast<double>(trials_.size()))].rule;
    }
    rule.fraction = std::clamp(rule.fraction * std::exp2(2.0 * draw(state_) - 1.2), 0.01, 0.3);
    rule.stride = std::clamp(rule.stride * std::exp2(2.0 * draw(state_) - 1.0), 1e-4, 1.0);
    rule.steps = std::clamp(static_cast<int>(rule.steps * std::exp2(draw(state_) - 0.5)), 10, 100);
    rule.noise = 0.3 * draw(state_);
    return rule;
}

bool Explorer::dive(Assignment& out) {
    const DiveRule rule = next_rule();
    std::vector<int> unit;
    if (!diver_.dive(multiplier_, rule, state_, unit) || !improver_.complete(unit, out)) return false;
    improver_.polish(out);
    const auto place = std::find_if(trials_.begin(), trials_.end(),
                                    [&](const Trial& trial) { return out.cost <= trial.cost; });
    trials_.insert(place, {rule, out.cost});
    if (trials_.size() > kKept) trials_.pop_back();
    return true;
}

// What costs at least as much as the known assignment leaves the plunger's domain.
bool Explorer::fix_below(const Assignment& known, Assignment& out) {
    plunge_target_ = known.cost - 1;
    plunge_multiplier_ = multiplier_;
    plunger_.undo(plunge_base_);
    plunger_.set_target(plunge_target_);
    refused_ = plunger_.ascend(plunge_multiplier_, Ascent{.steps = 60, .fix_every = 20}) == Outcome::kClosed;
    if (!plunger_.has_best() || plunger_.best().cost >= known.cost) return false;
    out = plunger_.best();
    return true;
}

// Over the pairs that something better than the best known may use; the target itself may lie above it.
bool Explorer::plunge_to(Int target, bool by_unit, Assignment& out) {
    plunger_.forget_best();
    plunger_.set_target(target);
    const auto spread = [this](double low, double high) { return low * std::pow(high / low, draw(state_)); };
    PlungeRule rule;
    rule.fraction = spread(0.02, 0.12);
    rule.noise = 0.3 * draw(state_);
    rule.steps = static_cast<int>(spread(16.0, 48.0));
    rule.cell.patterns = static_cast<std::size_t>(spread(4e3, 24e3));
    rule.patience = spread(0.25, 8.0);
    rule.cell.nodes = static_cast<std::int64_t>(spread(200.0, 4e3));
    if (by_unit) {
        rule.by_unit = true;
        rule.noise *= 0.3;
        rule.balance = spread(1.0, 8.0);
        rule.give = std::max(0.0, 2.0 * draw(state_) - 1.0);
        rule.cell.patterns = static_cast<std::size_t>(spread(8e3, 64e3));
        rule.cell.nodes = static_cast<std::int64_t>(spread(1e3, 2e4));
    }
    plunger_.plunge(plunge_multiplier_, rule, state_);
    if (!plunger_.has_best() || plunger_.best().cost > target) return false;
    out = plunger_.best();
    return true;
}

// Towards a cost drawn between the bound and the best known.
bool Explorer::plunge(const Assignment& known, Int floor, bool by_unit, Assignment& out) {
    if (known.cost - 1 < plunge_target_ && fix_below(known, out)) return true;
    if (refused_) return false;
    double room = static_cast<double>(plunge_target_ + 1 - floor);
    if (by_unit) room *= std::max(0.0, 2.0 * draw(state_) - 1.0);  // the bound itself, as often as not
    if (!plunge_to(floor + static_cast<Int>(draw(state_) * room), by_unit, out)) return false;
    improver_.polish(out);
    return true;
}

// Where the groups descend from: the best known as long as that helps, afterwards another of about its cost.
bool Explorer::set_out(const Assignment& known) {
    if (known.cost < walker_known_) {
        walker_ = known;
    } else if (groups_.stalled()) {
        if (!plunge_to(known.cost + detour_, false, walker_)) {
            detour_ = 2 * detour_ + 1;
            return false;
        }
        detour_ /= 2;
    } else {
        return true;
    }
    walker_known_ = known.cost;
    groups_.begin_anew();
    return true;
}

// Group search over the pairs that something better than the best known may use.
bool Explorer::regroup(const Assignment& known, Int floor, Assignment& out) {
    if (2 * (known.cost - 1 - floor) < plunge_target_ - floor && fix_below(known, out)) return true;
    if (refused_ || !set_out(known)) return false;
    groups_.improve(walker_, plunge_multiplier_, plunger_.domain(), floor, kGroupNodes);
    const bool better = walker_.cost < known.cost;
    exhausted_ = groups_.exhausted() && !better;
    if (better) out = walker_;
    return better;
}

Explorer::Way Explorer::next_way(bool known) const {
    if (!known) return kDive;
    Way chosen = kDive;
    for (const Way way : {kGroups, kPlunge, kFill}) {
        if (refused_ || (way == kGroups && exhausted_)) continue;
        if (static_cast<double>(efforts_[way].work) * efforts_[chosen].weight <
            static_cast<double>(efforts_[chosen].work) * efforts_[way].weight) {
            chosen = way;
        }
    }
    return chosen;
}

bool Explorer::improve(const Assignment* now, Int floor, std::int64_t budget, Assignment& best) {
    const std::int64_t end = control_->work + budget;
    bool better = false;
    Assignment trial;
    while (control_->work < end && !control_->poll()) {
        const Assignment* known = better ? &best : now;
        if (known && known->cost <= floor) break;
        const Way way = next_way(known != nullptr);
        const std::int64_t before = control_->work;
        bool gained = false;
        if (way == kDive) {
            ++control_->nodes;
            gained = dive(trial) && (!known || trial.cost < known->cost);
        } else if (way == kPlunge || way == kFill) {
            ++control_->nodes;
            gained = plunge(*known, floor, way == kFill, trial);
        } else {
            gained = regroup(*known, floor, trial);
        }
        Effort& effort = efforts_[way];
        const std::int64_t work = control_->work - before;
        effort.work += work;
        if (!gained) {
            const double much = std::max(kInVain, kInVainPart * static_cast<double>(control_->work));
            effort.weight *= std::pow(kDecay, std::max(1.0, static_cast<double>(work) / much));
            effort.weight = std::max(way == champion_ ? kLeastBest : kLeastWeight, effort.weight);
            continue;
        }
        champion_ = way;
        effort.weight = 1.0;
        best = trial;
        better = true;
        if (way != kGroups) exhausted_ = false;
    }
    return better;
}

void Member::explore(Int floor, std::int64_t budget) {
    Assignment found;
    if (explorer.improve(search.has_best() ? &search.best() : nullptr, floor, budget, found)) search.offer(found);
}

}  // namespace optalloc::assignment

#include "assignment/explore.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

namespace optalloc::assignment {

namespace {

// The first dives: lengths of step over two orders of magnitude.
constexpr std::array<double, 5> kStrides = {0.02, 0.06, 0.01, 0.1, 0.003};
constexpr double kFraction = 0.1;
constexpr std::size_t kKept = 3;           // rules whose neighbours are tried
constexpr double kLeastShare = 0.1;
constexpr std::int64_t kGroupNodes = 20;   // a turn of the group search

}  // namespace

Explorer::Explorer(const Instance& instance, Int scale, Control& control, std::uint64_t seed)
    : instance_(&instance),
      control_(&control),
      diver_(instance, scale, control),
      improver_(instance),
      groups_(instance, scale, control, seed),
      state_(seed ^ 0x5851f42d4c957f2dULL) {}

double Explorer::draw() {  // splitmix64
    std::uint64_t z = (state_ += 0x9e3779b97f4a7c15ULL);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return static_cast<double>((z ^ (z >> 31)) >> 11) * 0x1.0p-53;
}

void Explorer::set_root(const Prices& prices) {
    multiplier_ = prices.multiplier;
    double regret = 0.0;
    for (int j = 0; j < instance_->num_tasks; ++j) {
        double low = std::numeric_limits<double>::infinity(), second = low;
        for (int i = 0; i < instance_->num_units; ++i) {
            const std::size_t k = instance_->at(i, j);
            if (!instance_->allowed[k]) continue;
            const double priced = static_cast<double>(instance_->cost[k]) +
                                  prices.unit[static_cast<std::size_t>(i)] * static_cast<double>(instance_->load[k]);
            second = std::min(second, std::max(low, priced));
            low = std::min(low, priced);
        }
        if (std::isfinite(second)) regret += second - low;
    }
    diver_.set_regret(std::max(regret / std::max(1, instance_->num_tasks), 1e-3));
}

// A grid first, then neighbours of the rules that did best.
DiveRule Explorer::next_rule() {
    const auto turn = static_cast<std::size_t>(num_dives_++);
    if (turn < kStrides.size()) return {.fraction = kFraction, .stride = kStrides[turn]};
    DiveRule rule{.fraction = kFraction, .stride = kStrides[turn % kStrides.size()]};
    if (!trials_.empty()) {
        rule = trials_[static_cast<std::size_t>(draw() * static_cast<double>(trials_.size()))].rule;
    }
    rule.fraction = std::clamp(rule.fraction * std::exp2(2.0 * draw() - 1.2), 0.01, 0.3);
    rule.stride = std::clamp(rule.stride * std::exp2(2.0 * draw() - 1.0), 1e-4, 1.0);
    rule.steps = std::clamp(static_cast<int>(rule.steps * std::exp2(draw() - 0.5)), 10, 100);
    rule.noise = 0.3 * draw();
    return rule;
}

bool Explorer::dive(Assignment& out) {
    const DiveRule rule = next_rule();
    const std::int64_t before = control_->work;
    std::vector<int> unit;
    const bool ended = diver_.dive(multiplier_, rule, state_, unit) && improver_.complete(unit, out);
    dive_work_ += control_->work - before;
    if (!ended) return false;
    improver_.polish(out);
    const auto place = std::find_if(trials_.begin(), trials_.end(),
                                    [&](const Trial& trial) { return out.cost <= trial.cost; });
    trials_.insert(place, {rule, out.cost});
    if (trials_.size() > kKept) trials_.pop_back();
    return true;
}

bool Explorer::improve(const Assignment* now, Int floor, std::int64_t budget, Assignment& best) {
    const std::int64_t end = control_->work + budget;
    bool better = false;
    Assignment trial;
    while (control_->work < end && !control_->poll()) {
        const Assignment* known = better ? &best : now;
        if (known && known->cost <= floor) break;
        const auto total = static_cast<double>(dive_work_ + group_work_);
        if (!known || exhausted_ || static_cast<double>(dive_work_) <= dive_share_ * total) {
            if (dive(trial) && (!known || trial.cost < known->cost)) {
                best = trial;
                better = true;
                exhausted_ = false;
                dive_share_ = 0.5;
            } else {
                dive_share_ = std::max(kLeastShare, 0.95 * dive_share_);
            }
            ++control_->nodes;
            continue;
        }
        const std::int64_t before = control_->work;
        trial = *known;
        if (groups_.improve(trial, multiplier_, floor, kGroupNodes)) {
            best = trial;
            better = true;
        }
        exhausted_ = groups_.exhausted();
        group_work_ += control_->work - before;
    }
    return better;
}

}  // namespace optalloc::assignment

#include "assignment/solve.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <memory>

#include "assignment/explore.hpp"
#include "assignment/prices.hpp"
#include "assignment/search.hpp"
#include "assignment/team.hpp"

namespace optalloc::assignment {

namespace {

constexpr Int kScale = 1000;
constexpr Int kFeasibilityScale = Int{1} << 17;
constexpr std::int64_t kFirstNodes = 2000;   // of a decision while no assignment is known
constexpr std::int64_t kTurn = 50'000'000;    // work of a visit to the heuristics
constexpr Int kFirstStep = 256;              // first target above the bound, as part of the gap
constexpr std::int64_t kQuick = 8;           // nodes of a decision that was too easy
constexpr std::int64_t kEarlyNodes = 50;     // of a decision before its multipliers are refined
constexpr std::int64_t kAnewNodes = 600;     // of a tree far below the best known before it begins anew,
constexpr std::int64_t kAnewGrowth = 2;      // times as many the next time
constexpr std::array<double, 4> kLengths = {1.0, 0.84, 1.16, 0.92};  // of the ascents at the nodes, one tree after another
constexpr Ascent kRoot{.steps = 300, .fix_every = 25, .theta = 0.5, .patience = 10};  // of a decision
constexpr Ascent kLongRoot{.steps = 1200, .fix_every = 25, .theta = 0.5, .patience = 40, .most_patience = 640};
constexpr double kExploreShare = 0.5;        // of all work, for heuristics that gain
constexpr double kLeastShare = 0.3;          // for those that have not gained for long
constexpr double kLeastNear = 0.2;           // where plan and bound nearly meet
constexpr Int kRange = Int{1} << 61;
constexpr auto kUnlimited = std::numeric_limits<std::int64_t>::max();

// The largest multiplier scale for which every sum of scaled numbers stays within 62 bits; 0: none.
Int scale_for(const Instance& instance, Int ceiling) {
    const Int room = kRange / (4 * (static_cast<Int>(instance.num_tasks) + 1)) / (ceiling + 1);
    return std::min(kScale, room);
}

class Solver {
  public:
    Solver(const Normal& normal, Int scale, const Options& options, const Watch& watch)
        : normal_(normal),
          options_(options),
          watch_(watch),
          scale_(scale),
          control_{[this] { return report(); }},
          search_(normal.instance, scale, control_),
          explorer_(normal.instance, scale, control_, options.seed) {
        if (options.prove) search_.record = &record_;
        if (options.threads > 1) {
            team_ = std::make_unique<Team<Member>>(control_, options.seed, options.threads, normal.instance, scale);
        }
    }

    Answer run();

  private:
    bool report();
    void bound_root();
    void raise(Int bound);
    void raise_by_leaf(Int bound);
    void keep_proof(Int bound);
    void raise_from_zero();
    void offer_start();
    Outcome look_for_any(std::int64_t node_limit);
    Outcome decide(Int target);
    void explore(std::int64_t budget);
    Status decide_all();
    void certify_root();

    const Normal& normal_;
    const Options& options_;
    const Watch& watch_;
    Int scale_;
    Control control_;
    Search search_;
    Explorer explorer_;
    std::vector<double> multiplier_, witness_;
    Int bound_ = 0;  // normal costs: no assignment costs less
    Answer answer_;
    std::int64_t explored_ = 0;  // work of the heuristics
    std::int64_t gained_ = 0;    // that up to their last gain
    Record record_;
    std::unique_ptr<Team<Member>> team_;  // of the further threads
};

bool Solver::report() {
    Snapshot now;
    now.nodes = control_.nodes;
    now.has_value = search_.has_best();
    if (now.has_value) {
        now.value = normal_.original(search_.best().cost);
        now.unit = search_.best().unit.data();
    }
    now.bound = normal_.original(bound_);
    return watch_ && watch_(now);
}

// The record is that of a tree that refuses every cost below the bound.
void Solver::raise(Int bound) {
    if (bound <= bound_) return;
    keep_proof(bound);
    bound_ = bound;
    control_.poll();
}

void Solver::raise_by_leaf(Int bound) {
    if (bound <= bound_) return;
    if (options_.prove) {
        std::vector<Int> rounded;
        search_.bound_at(multiplier_, rounded);
        record_.clear();
        record_.leaf(search_.domain(), rounded);
    }
    raise(bound);
}

// No normal cost is negative: multipliers 0 prove it.
void Solver::raise_from_zero() {
    record_.leaf(search_.domain(), std::vector<Int>(static_cast<std::size_t>(normal_.instance.num_tasks), 0));
    keep_proof(0);
}

void Solver::offer_start() {
    const Instance& instance = normal_.instance;
    if (options_.start.size() != static_cast<std::size_t>(instance.num_tasks)) return;
    Assignment start{.unit = options_.start, .cost = 0};
    for (int j = 0; j < instance.num_tasks; ++j) {
        start.cost += instance.cost[instance.at(start.unit[static_cast<std::size_t>(j)], j)];
    }
    search_.offer(start);
    control_.poll();
}

void Solver::keep_proof(Int bound) {
    if (!options_.prove) return;
    answer_.proof = {.rows = std::move(record_.rows()), .scale = scale_, .target = bound - 1};
}

// Ascent without fixing first, so that the best multipliers are a witness over all allowed pairs.
void Solver::bound_root() {
    const Prices prices = find_prices(normal_.instance, [this] { return control_.poll(); });
    multiplier_ = prices.multiplier;
    explorer_.set_root(prices);
    if (team_) team_->tell([&](Member& member) { member.explorer.set_root(prices); });
    witness_ = multiplier_;
    if (control_.stopped) return;
    std::vector<Int> rounded;
    raise_by_leaf(ceil_div(search_.bound_at(multiplier_, rounded), scale_));
    Assignment first;
    if (explorer_.round(prices, first) && search_.offer(first)) control_.poll();
    if (explorer_.dive(first) && search_.offer(first)) control_.poll();
    search_.set_target(search_.has_best() ? search_.best().cost - 1 : search_.ceiling());
    const Ascent how{.steps = 400, .fix_every = 0, .repair_every = 0, .theta = 1.0, .patience = 12};
    const Outcome outcome = search_.ascend(multiplier_, how);
    witness_ = multiplier_;
    if (outcome == Outcome::kStopped) return;
    if (outcome == Outcome::kClosed) {
        raise_by_leaf(search_.has_best() ? search_.best().cost : search_.ceiling() + 1);
        return;
    }
    raise_by_leaf(ceil_div(search_.best_bound(), scale_));
    explorer_.set_multiplier(multiplier_);
    if (team_) team_->tell([this](Member& member) { member.explorer.set_multiplier(multiplier_); });
}

// The same search with all costs 0 looks for any assignment at all; closed without one is a proof.
Outcome Solver::look_for_any(std::int64_t node_limit) {
    Instance free = normal_.instance;
    std::fill(free.cost.begin(), free.cost.end(), 0);
    std::vector<double> reward(static_cast<std::size_t>(free.num_tasks), 1.0);
    for (int j = 0; j < free.num_tasks; ++j) {
        double& r = reward[static_cast<std::size_t>(j)];
        for (int i = 0; i < free.num_units; ++i) {
            if (!free.allowed[free.at(i, j)]) continue;
            r = std::min(r, static_cast<double>(free.load[free.at(i, j)]) /
                                std::max(1.0, static_cast<double>(free.capacity[static_cast<std::size_t>(i)])));
        }
    }
    Search search(free, kFeasibilityScale, control_);
    Record record;
    if (options_.prove) search.record = &record;
    const Ascent root{.steps = 300, .fix_every = 50, .repair_every = 10, .theta = 1.0, .patience = 10};
    const Outcome outcome = search.decide(0, reward, root, node_limit);
    if (outcome == Outcome::kClosed && !search.has_best()) {
        bound_ = search_.ceiling() + 1;
        if (options_.prove) {
            answer_.proof = {
                .rows = std::move(record.rows()), .scale = kFeasibilityScale, .target = 0, .without_costs = true};
        }
    }
    if (!search.has_best()) return outcome;
    Assignment found = search.best();
    found.cost = 0;
    const Instance& real = normal_.instance;
    for (int j = 0; j < real.num_tasks; ++j) {
        found.cost += real.cost[real.at(found.unit[static_cast<std::size_t>(j)], j)];
    }
    Improver(real).polish(found);
    search_.offer(found);
    return Outcome::kStopped;
}

void Solver::explore(std::int64_t budget) {
    const std::int64_t before = control_.work;
    const Int known = search_.has_best() ? search_.best().cost : search_.ceiling() + 1;
    Assignment found;
    if (team_) team_->explore(search_, bound_, budget);
    else if (explorer_.improve(search_.has_best() ? &search_.best() : nullptr, bound_, budget, found)) search_.offer(found);
    explored_ += control_.work - before;
    if (search_.has_best() && search_.best().cost < known) gained_ = explored_;
}

// Begins anew with a longer ascent when the first nodes do not close it. Far below the best known there is likely something
// to find, early in most trees and very late in some: there it begins anew with other steps, too, and with what the
// branchings so far have told.
Outcome Solver::decide(Int target) {
    search_.split_depth = 0;
    search_.set_length(1.0);
    Outcome outcome = search_.decide(target, multiplier_, kRoot, kEarlyNodes);
    search_.split_depth = team_ ? team_->split_depth() : 0;
    std::int64_t limit = kAnewNodes;
    for (std::size_t turn = 0; outcome == Outcome::kStopped && !control_.stopped; ++turn, limit *= kAnewGrowth) {
        if (search_.best().cost <= bound_) break;
        const bool far = search_.best().cost - bound_ > 1;
        search_.set_length(kLengths[turn % kLengths.size()]);
        outcome = search_.decide(target, multiplier_, kLongRoot, far && !team_ ? limit : kUnlimited);
    }
    return outcome;
}

// Decisions at rising targets until the bound meets the best assignment.
Status Solver::decide_all() {
    search_.between_nodes = [this] {
        const auto explored = static_cast<double>(explored_);
        const bool near = search_.has_best() && search_.best().cost - bound_ <= 1;  // the tree alone may be enough
        const double gaining = kExploreShare * static_cast<double>(gained_) / std::max(explored, 1.0);
        const double share = std::max(near ? kLeastNear : kLeastShare, gaining);
        if (explored < share * static_cast<double>(control_.work)) explore(kTurn);
    };
    search_.when_refined = [this](const std::vector<double>& multiplier) {
        multiplier_ = multiplier;
        explorer_.set_multiplier(multiplier_);
        if (team_) team_->tell([this](Member& member) { member.explorer.set_multiplier(multiplier_); });
    };
    std::int64_t node_limit = kFirstNodes;
    Int step = 0, least_step = 0;
    bool first = true;
    while (true) {
        if (search_.has_best() && search_.best().cost <= bound_) {
            bound_ = search_.best().cost;
            return Status::kOptimal;
        }
        if (!search_.has_best() && bound_ > search_.ceiling()) return Status::kInfeasible;
        if (control_.poll()) return Status::kStopped;
        const Int known = search_.has_best() ? search_.best().cost : search_.ceiling() + 1;
        if (first && search_.has_best()) step = least_step = (known - bound_) / kFirstStep;
        first = false;
        const Int target = std::min(bound_ + step, known - 1);
        const std::int64_t before = control_.nodes;
        Outcome outcome = Outcome::kOpen;
        const bool bold = step > least_step;
        if (search_.has_best() && !bold) {
            outcome = decide(target);
        } else {
            search_.split_depth = 0;
            outcome = search_.decide(target, multiplier_, kRoot, search_.has_best() ? kEarlyNodes : node_limit);
        }
        if (outcome == Outcome::kClosed && !search_.subtrees.empty()) outcome = team_->close(search_, bound_);
        if (control_.stopped) return Status::kStopped;
        if (outcome == Outcome::kClosed) {
            const bool found = search_.has_best() && search_.best().cost <= target;
            raise(found ? search_.best().cost : target + 1);
            // Quick refusals say that the optimum is far above, others that it is near.
            step = control_.nodes - before <= kQuick ? std::max<Int>(2 * step, 1) : std::max(least_step, step / 2);
            continue;
        }
        if (bold) step = std::max(least_step, step / 2);
        if (search_.has_best()) continue;
        node_limit *= 2;
        if (look_for_any(node_limit) == Outcome::kClosed) return Status::kInfeasible;
    }
}

// The scaled bound of the root multipliers over the instance as given, nothing propagated or fixed.
void Solver::certify_root() {
    const Instance& instance = normal_.instance;
    if (witness_.empty()) return;
    Search whole(instance, scale_, control_);
    std::vector<Int> rounded;
    Int bound = whole.bound_at(witness_, rounded);
    // Tasks with one unit take no part in the knapsacks of a domain. In a pass over all pairs their
    // multiplier must keep them there: more than everything else on the unit is worth.
    for (int i = 0; i < instance.num_units; ++i) {
        Int rest = 1;
        for (int j = 0; j < instance.num_tasks; ++j) {
            if (whole.domain().unit_of(j) >= 0 || !instance.allowed[instance.at(i, j)]) continue;
            rest += std::max<Int>(0, rounded[static_cast<std::size_t>(j)] - scale_ * instance.cost[instance.at(i, j)]);
        }
        for (int j = 0; j < instance.num_tasks; ++j) {
            if (whole.domain().unit_of(j) == i) {
                rounded[static_cast<std::size_t>(j)] = scale_ * instance.cost[instance.at(i, j)] + rest;
            }
        }
    }
    answer_.scale = scale_;
    answer_.witness_bound = scale_ * normal_.offset + normal_.granularity * bound;
    answer_.multiplier.resize(rounded.size());
    for (std::size_t j = 0; j < rounded.size(); ++j) {
        answer_.multiplier[j] = scale_ * normal_.task_offset[j] + normal_.granularity * rounded[j];
    }
}

Answer Solver::run() {
    if (!search_.propagate()) {
        answer_.status = Status::kInfeasible;
        record_.dead();
        raise(search_.ceiling() + 1);
    } else {
        raise_from_zero();
        if (options_.floor) bound_ = std::max(bound_, normal_.above(*options_.floor));
        offer_start();
        bound_root();
        if (!control_.stopped && !search_.has_best() && bound_ <= search_.ceiling()) look_for_any(kFirstNodes);
        if (!control_.stopped) explore(kTurn);
        answer_.status = control_.stopped ? Status::kStopped : decide_all();
    }
    certify_root();
    answer_.has_value = search_.has_best();
    if (answer_.has_value) {
        answer_.unit = search_.best().unit;
        answer_.value = normal_.original(search_.best().cost);
    }
    answer_.bound = normal_.original(bound_);
    answer_.nodes = control_.nodes;
    return answer_;
}

}  // namespace

Answer solve(std::span<const Int> costs, std::span<const Int> loads, std::span<const Int> capacities,
             std::span<const std::uint8_t> allowed, const Options& options, const Watch& watch) {
    const Normal normal = normalise(costs, loads, capacities, allowed);
    const Int scale = scale_for(normal.instance, cost_ceiling(normal.instance));
    if (scale < 1) {
        Answer answer;
        answer.status = Status::kTooLarge;
        return answer;
    }
    return Solver(normal, scale, options, watch).run();
}

}  // namespace optalloc::assignment

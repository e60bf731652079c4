// The exact solver of rows: bound, dives, re-solved groups of units, and decisions up to the proof.
#include <algorithm>
#include <limits>
#include <memory>
#include <numeric>

#include "assignment/rows_explore.hpp"
#include "assignment/team.hpp"

namespace optalloc::assignment::rows {

namespace {

constexpr std::int64_t kFirstNodes = 200;
constexpr std::int64_t kAlone = 20;      // nodes of a decision before further threads join
constexpr auto kUnlimited = std::numeric_limits<std::int64_t>::max();
constexpr std::int64_t kGroupShare = 1;  // nodes of groups for each node of a decision left open
constexpr int kQuick = 8;                // nodes of a decision that was too easy
constexpr Int kFirstStep = 256;          // first target above the bound, as part of the gap
constexpr int kFewRounds = 10;           // of groups before the first decision

Int floor_div(Int a, Int b) { return a / b - (a % b < 0 ? 1 : 0); }
Int ceil_div(Int a, Int b) { return -floor_div(-a, b); }

class Solver {
  public:
    Solver(Instance instance, const Options& options, const Watch& watch)
        : instance_(std::move(instance)), options_(options), watch_(watch) {
        normalise();
    }
    Answer run();

  private:
    void normalise();
    bool is_enough() const {
        return goal_ && ((search_->has_best() && search_->best().cost <= *goal_) || bound_ > *goal_);
    }
    void raise(Int bound);
    void keep_proof(const Bound& bound, Record& record, Int target, bool without_costs = false);
    bool report();
    using Crew = std::unique_ptr<Team<Member>>;
    Outcome decide(Search& search, Crew& crew, Int target, const std::vector<double>& multiplier, const Ascent& root,
                   std::int64_t node_limit);
    Outcome look_for_any(std::int64_t node_limit);
    Status decide_all();
    Status solve_root();

    Instance instance_;
    const Options& options_;
    std::optional<Int> goal_;  // what is enough, in normal costs
    const Watch& watch_;
    Int offset_ = 0, granularity_ = 1, bound_ = 0;
    Control control_;
    Search* search_ = nullptr;
    Explorer* explorer_ = nullptr;
    Crew crew_;  // of the further threads, once there is work for them
    std::vector<double> multiplier_;
    Assignment shown_;
    Record record_;
    Answer answer_;
};

// The cheapest unit of each task costs 0, and the costs have no common divisor.
void Solver::normalise() {
    Instance& in = instance_;
    Int divisor = 0;
    for (int j = 0; j < in.num_tasks; ++j) {
        bool any = false;
        Int least = 0;
        for (int i = 0; i < in.num_units; ++i) {
            const std::size_t k = in.at(i, j);
            if (!in.allowed[k]) continue;
            least = any ? std::min(least, in.cost[k]) : in.cost[k];
            any = true;
        }
        offset_ += least;
        for (int i = 0; i < in.num_units; ++i) {
            const std::size_t k = in.at(i, j);
            in.cost[k] = in.allowed[k] ? in.cost[k] - least : 0;
            divisor = std::gcd(divisor, in.cost[k]);
        }
    }
    granularity_ = std::max<Int>(divisor, 1);
    for (Int& cost : in.cost) cost /= granularity_;
    if (options_.enough) goal_ = floor_div(*options_.enough - offset_, granularity_);
    if (options_.floor) bound_ = std::max(bound_, ceil_div(*options_.floor - offset_, granularity_));
}

bool Solver::report() {
    if (is_enough()) return true;
    Snapshot now;
    now.nodes = control_.nodes;
    if (search_->has_best()) {
        shown_ = search_->best();
        shown_.cost = offset_ + granularity_ * shown_.cost;
        now.best = &shown_;
    }
    now.bound = offset_ + granularity_ * bound_;
    return watch_ && watch_(now);
}

// The record is that of a tree that refuses every cost below the bound.
void Solver::raise(Int bound) {
    if (bound <= bound_) return;
    bound_ = bound;
    keep_proof(search_->bound(), record_, bound - 1);
}

void Solver::keep_proof(const Bound& bound, Record& record, Int target, bool without_costs) {
    if (!options_.prove) return;
    answer_.proof = {.rows = std::move(record.rows()),
                     .scale = bound.factor(),
                     .shift = bound.shift(),
                     .target = target,
                     .without_costs = without_costs};
    answer_.kept = bound.tightest();
    answer_.classes = bound.classes();
}

// By this thread alone as long as that is little work, else by all.
Outcome Solver::decide(Search& search, Crew& crew, Int target, const std::vector<double>& multiplier,
                       const Ascent& root, std::int64_t node_limit) {
    search.split_depth = 0;
    if (options_.threads == 1 || node_limit <= kFirstNodes) return search.decide(target, multiplier, root, node_limit);
    Outcome outcome = Outcome::kOpen;
    if (node_limit == kUnlimited) outcome = search.decide(target, multiplier, root, kAlone);
    if (outcome != Outcome::kOpen) return outcome;
    if (!crew) {
        crew = std::make_unique<Team<Member>>(control_, options_.seed, options_.threads, search.instance(), multiplier);
    }
    search.split_depth = crew->split_depth();
    outcome = search.decide(target, multiplier, root, kUnlimited);
    if (outcome != Outcome::kClosed || search.subtrees.empty()) return outcome;
    return crew->close(search, bound_, node_limit);
}

// The same search without costs looks for any assignment at all; closed without one is a proof.
Outcome Solver::look_for_any(std::int64_t node_limit) {
    Instance free = instance_;
    std::fill(free.cost.begin(), free.cost.end(), 0);
    Search search(free, control_);
    Record record;
    if (options_.prove) search.record = &record;
    const Ascent root{.steps = 200, .fix_every = 50, .repair_every = 10, .theta = 1.0};
    Crew crew;
    const Outcome outcome = decide(search, crew, 0, search.first_multiplier(), root, node_limit);
    if (!search.has_best()) {
        if (outcome == Outcome::kClosed) keep_proof(search.bound(), record, 0, true);
        return outcome;
    }
    Assignment found = search.best();
    found.cost = 0;
    for (int j = 0; j < instance_.num_tasks; ++j) {
        found.cost += instance_.cost[instance_.at(found.unit[static_cast<std::size_t>(j)], j)];
    }
    search_->polish(found);
    search_->offer(found);
    return Outcome::kOpen;
}

Status Solver::solve_root() {
    Domain domain = search_->root();
    if (!domain.propagate()) {
        record_.dead();
        raise(search_->ceiling() + 1);
        return Status::kInfeasible;
    }
    search_->record_leaf(domain, std::vector<double>(search_->bound().size(), 0.0));  // no cost is negative
    keep_proof(search_->bound(), record_, -1);
    record_.clear();
    multiplier_ = search_->first_multiplier();
    const Ascent how{.steps = 400, .fix_every = 0, .repair_every = 10, .theta = 1.0};
    const Outcome outcome = search_->ascend(domain, multiplier_, how);
    if (outcome == Outcome::kStopped) return is_enough() ? Status::kEnough : Status::kStopped;
    if (outcome == Outcome::kClosed) {
        raise(search_->has_best() ? search_->best().cost : search_->ceiling() + 1);
        if (!search_->has_best()) return Status::kInfeasible;
    } else {
        search_->record_leaf(domain, multiplier_);
        raise(search_->best_bound());
    }
    explorer_->set_multiplier(multiplier_);
    for (const double fraction : {0.15, 0.05}) {
        if (control_.poll() || (search_->has_best() && search_->best().cost <= bound_)) break;
        search_->dive(domain, multiplier_, fraction);
    }
    return decide_all();
}

// Decisions at rising targets until the bound meets the best assignment.
Status Solver::decide_all() {
    std::int64_t node_limit = kFirstNodes;
    Int step = 0;
    bool first = true;
    const Ascent root{.steps = 150, .fix_every = 25, .repair_every = 25, .theta = 0.5};
    while (true) {
        if (is_enough()) return Status::kEnough;
        if (search_->has_best() && search_->best().cost <= bound_) {
            bound_ = search_->best().cost;
            return Status::kOptimal;
        }
        if (!search_->has_best() && bound_ > search_->ceiling()) return Status::kInfeasible;
        if (control_.poll()) return is_enough() ? Status::kEnough : Status::kStopped;
        if (first && search_->has_best()) explorer_->improve(kFewRounds, kFirstNodes, bound_);
        if (control_.stopped) continue;
        const Int known = search_->has_best() ? search_->best().cost : search_->ceiling() + 1;
        if (known <= bound_) continue;
        if (first && search_->has_best()) step = (known - bound_) / kFirstStep;
        first = false;
        // What is enough is the only question, where one is given.
        const Int target = std::min(goal_ ? std::max(*goal_, bound_) : bound_ + step, known - 1);
        const std::int64_t before = control_.nodes;
        // Further threads explore on their own.
        const bool whole = options_.threads > 1 && (search_->has_best() || goal_);
        const Outcome outcome =
            decide(*search_, crew_, target, multiplier_, root, whole ? kUnlimited : node_limit);
        if (control_.stopped) continue;
        if (outcome == Outcome::kClosed) {
            const bool found = search_->has_best() && search_->best().cost <= target;
            raise(found ? search_->best().cost : target + 1);
            if (control_.nodes - before <= kQuick) step = std::max<Int>(2 * step, 1);
            continue;
        }
        const std::int64_t spent = kGroupShare * (control_.nodes - before);
        if (search_->has_best() && !goal_ && options_.threads == 1) explorer_->explore(spent, bound_);
        node_limit *= 2;
        if (!search_->has_best() && look_for_any(node_limit) == Outcome::kClosed && !control_.stopped) {
            return Status::kInfeasible;
        }
    }
}

Answer Solver::run() {
    Search search(instance_, control_);
    Explorer explorer(instance_, search, control_, options_.seed);
    search_ = &search;
    explorer_ = &explorer;
    if (options_.prove) search.record = &record_;
    control_.should_stop = [this] { return report(); };
    if (!options_.start.empty()) {
        Assignment start{0, options_.start};
        for (int j = 0; j < instance_.num_tasks; ++j) {
            start.cost += instance_.cost[instance_.at(start.unit[static_cast<std::size_t>(j)], j)];
        }
        search.offer(start);
    }
    answer_.status = solve_root();
    answer_.has_best = search.has_best();
    if (answer_.has_best) {
        answer_.best = search.best();
        answer_.best.cost = offset_ + granularity_ * answer_.best.cost;
    }
    answer_.bound = offset_ + granularity_ * bound_;
    answer_.nodes = control_.nodes;
    return std::move(answer_);
}

}  // namespace

Answer solve(const Instance& instance, const Options& options, const Watch& watch) {
    return Solver(instance, options, watch).run();
}

}  // namespace optalloc::assignment::rows

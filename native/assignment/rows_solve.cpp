// The exact solver of rows: bound, dives, re-solved groups of units, and decisions up to the proof.
#include <algorithm>
#include <limits>
#include <numeric>
#include <random>

#include "assignment/rows_search.hpp"

namespace optalloc::assignment::rows {

namespace {

constexpr std::int64_t kFirstNodes = 200;
constexpr std::int64_t kGroupNodes = 300;
constexpr std::int64_t kGroupShare = 1;  // nodes of groups for each node of a decision left open
constexpr int kQuick = 8;                // nodes of a decision that was too easy
constexpr Int kFirstStep = 256;          // first target above the bound, as part of the gap
constexpr std::int64_t kMovesPerNode = 1000;  // of annealing for each of those nodes
constexpr int kFewRounds = 10;           // of groups before the first decision

Int floor_div(Int a, Int b) { return a / b - (a % b < 0 ? 1 : 0); }
Int ceil_div(Int a, Int b) { return -floor_div(-a, b); }

class Solver {
  public:
    Solver(Instance instance, const Options& options, const Watch& watch)
        : instance_(std::move(instance)), options_(options), watch_(watch), random_(options.seed) {
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
    Outcome look_for_any(std::int64_t node_limit);
    void improve(int rounds, std::int64_t nodes);
    bool improve_part(const std::vector<int>& tasks, const std::vector<int>& units);
    Status decide_all();
    Status solve_root();

    Instance instance_;
    const Options& options_;
    std::optional<Int> goal_;  // what is enough, in normal costs
    const Watch& watch_;
    std::mt19937_64 random_;
    Int offset_ = 0, granularity_ = 1, bound_ = 0;
    Control control_;
    Search* search_ = nullptr;
    std::vector<double> multiplier_;
    double units_drawn_ = 3.0, tasks_drawn_ = 12.0;
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

// The same search without costs looks for any assignment at all; closed without one is a proof.
Outcome Solver::look_for_any(std::int64_t node_limit) {
    Instance free = instance_;
    std::fill(free.cost.begin(), free.cost.end(), 0);
    Search search(free, control_);
    Record record;
    if (options_.prove) search.record = &record;
    const Ascent root{.steps = 200, .fix_every = 50, .repair_every = 10, .theta = 1.0};
    const Outcome outcome = search.decide(0, search.first_multiplier(), root, node_limit);
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

// Some tasks on some units, all others where they are: a smaller problem of the same kind.
bool Solver::improve_part(const std::vector<int>& tasks, const std::vector<int>& units) {
    const Instance& in = instance_;
    const Assignment& best = search_->best();
    std::vector<int> number(static_cast<std::size_t>(in.num_tasks), -1);
    Int present = 0;
    for (std::size_t q = 0; q < tasks.size(); ++q) {
        number[static_cast<std::size_t>(tasks[q])] = static_cast<int>(q);
        present += in.cost[in.at(best.unit[static_cast<std::size_t>(tasks[q])], tasks[q])];
    }
    // What the others leave of every row.
    Slack slack(in, search_->bound().groups_of());
    std::vector<Int> residual = in.capacity;
    for (int j = 0; j < in.num_tasks; ++j) {
        if (number[static_cast<std::size_t>(j)] >= 0) continue;
        const int i = best.unit[static_cast<std::size_t>(j)];
        slack.add(i, j, 1);
        for (int r = 0; r < in.num_resources; ++r) residual[in.room_at(r, i)] -= in.load[in.load_at(r, i, j)];
    }
    Instance small;
    small.num_tasks = static_cast<int>(tasks.size());
    small.num_units = static_cast<int>(units.size());
    small.num_resources = in.num_resources;
    small.cells = in.cells;
    for (std::size_t p = 0; p < units.size(); ++p) {
        if (units[p] == in.open) small.open = static_cast<int>(p);
        for (const int j : tasks) {
            const bool fits = slack.fits(units[p], j);
            small.cost.push_back(fits ? in.cost[in.at(units[p], j)] : 0);
            small.allowed.push_back(fits);
        }
    }
    for (int r = 0; r < in.num_resources; ++r) {
        for (const int i : units) {
            small.capacity.push_back(residual[in.room_at(r, i)]);
            for (const int j : tasks) small.load.push_back(in.load[in.load_at(r, i, j)]);
        }
    }
    std::vector<int> kept;  // the group of each small group
    for (std::size_t g = 0; g < in.apart.size(); ++g) {
        std::vector<int> members;
        for (const int j : in.apart[g]) {
            if (number[static_cast<std::size_t>(j)] >= 0) members.push_back(number[static_cast<std::size_t>(j)]);
        }
        if (members.size() < 2) continue;
        kept.push_back(static_cast<int>(g));
        small.apart.push_back(std::move(members));
    }
    Search search(small, control_);
    std::vector<double> multiplier = search.first_multiplier();
    const Bound &from = search_->bound(), &to = search.bound();
    const double ratio = to.scale() / from.scale();
    for (std::size_t q = 0; q < tasks.size(); ++q) {
        multiplier[q] = ratio * multiplier_[static_cast<std::size_t>(tasks[q])];
    }
    for (std::size_t p = 0; p < units.size(); ++p) {
        const int unit = static_cast<int>(p);
        for (int r = 0; r < in.num_resources; ++r) {
            const Int whole = in.capacity[in.room_at(r, units[p])], left = small.capacity[small.room_at(r, unit)];
            const double share = whole > 0 ? static_cast<double>(left) / static_cast<double>(whole) : 0.0;
            multiplier[to.resource(r, unit)] = ratio * share * multiplier_[from.resource(r, units[p])];
        }
        for (std::size_t g = 0; g < kept.size(); ++g) {
            multiplier[to.group(static_cast<int>(g), unit)] = ratio * multiplier_[from.group(kept[g], units[p])];
        }
    }
    const Ascent root{.steps = 60, .fix_every = 15, .repair_every = 15, .theta = 0.3};
    const Outcome outcome = search.decide(present - 1, std::move(multiplier), root, kGroupNodes);
    if (search.has_best() && search.best().cost < present) {
        Assignment better = best;
        better.cost += search.best().cost - present;
        for (std::size_t q = 0; q < tasks.size(); ++q) {
            better.unit[static_cast<std::size_t>(tasks[q])] =
                units[static_cast<std::size_t>(search.best().unit[q])];
        }
        search_->polish(better);
        search_->offer(better);
        control_.poll();
    }
    return outcome == Outcome::kClosed;
}

// Re-solves by turns the tasks of some units and some tasks of all units, drawn by lot.
void Solver::improve(int rounds, std::int64_t nodes) {
    const std::int64_t until = control_.nodes + nodes;
    const auto draw = [this](std::vector<int>& all, std::size_t count) {
        for (std::size_t p = 0; p < count; ++p) std::swap(all[p], all[p + random_() % (all.size() - p)]);
        return std::vector<int>(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(count));
    };
    std::vector<int> units(static_cast<std::size_t>(instance_.num_units));
    std::vector<int> tasks(static_cast<std::size_t>(instance_.num_tasks));
    std::iota(units.begin(), units.end(), 0);
    std::iota(tasks.begin(), tasks.end(), 0);
    for (int round = 0; round < rounds && control_.nodes < until && !control_.stopped; ++round) {
        if (search_->best().cost <= bound_) return;
        double& size = round % 2 == 0 ? units_drawn_ : tasks_drawn_;
        const std::vector<int>& all = round % 2 == 0 ? units : tasks;
        size = std::clamp(size, 2.0, static_cast<double>(std::max<std::size_t>(all.size(), 2)));
        const auto count = static_cast<std::size_t>(size);
        if (count >= all.size()) continue;  // that is the whole problem
        bool closed = false;
        if (round % 2 == 0) {
            const std::vector<int> some = draw(units, count);
            std::vector<int> theirs;
            for (int j = 0; j < instance_.num_tasks; ++j) {
                const int i = search_->best().unit[static_cast<std::size_t>(j)];
                if (std::find(some.begin(), some.end(), i) != some.end()) theirs.push_back(j);
            }
            closed = improve_part(theirs, some);
            size += closed ? 0.1 : -0.2;
        } else {
            std::vector<int> every(units);
            std::sort(every.begin(), every.end());
            closed = improve_part(draw(tasks, count), every);
            size *= closed ? 1.02 : 0.96;
        }
    }
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
        if (first && search_->has_best()) improve(kFewRounds, kFirstNodes);
        if (control_.stopped) continue;
        const Int known = search_->has_best() ? search_->best().cost : search_->ceiling() + 1;
        if (known <= bound_) continue;
        if (first && search_->has_best()) step = (known - bound_) / kFirstStep;
        first = false;
        // What is enough is the only question, where one is given.
        const Int target = std::min(goal_ ? std::max(*goal_, bound_) : bound_ + step, known - 1);
        const std::int64_t before = control_.nodes;
        const Outcome outcome = search_->decide(target, multiplier_, root, node_limit);
        if (control_.stopped) continue;
        if (outcome == Outcome::kClosed) {
            const bool found = search_->has_best() && search_->best().cost <= target;
            raise(found ? search_->best().cost : target + 1);
            if (control_.nodes - before <= kQuick) step = std::max<Int>(2 * step, 1);
            continue;
        }
        const std::int64_t spent = kGroupShare * (control_.nodes - before);
        if (search_->has_best() && !goal_) {
            search_->anneal(kMovesPerNode * spent, random_);
            improve(static_cast<int>(spent), spent);
        }
        node_limit *= 2;
        if (!search_->has_best() && look_for_any(node_limit) == Outcome::kClosed && !control_.stopped) {
            return Status::kInfeasible;
        }
    }
}

Answer Solver::run() {
    Search search(instance_, control_);
    search_ = &search;
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

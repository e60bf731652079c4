// Cuts with one chunk a stage: path bounds, tables over suffixes, depth-first search under a rising cap.
#include "training/solver.hpp"

#include <algorithm>
#include <cmath>

namespace optalloc::training {

namespace {

// The largest of low..high that holds, or low - 1, where what holds ends somewhere. The search begins at `hint` and
// doubles its steps.
template <typename Holds>
int largest(int hint, int low, int high, const Holds& holds) {
    if (high < low) return low - 1;
    int size = std::clamp(hint, low, high);
    --low;   // holds, or is none
    ++high;  // does not hold
    for (int step = 1; low + 1 < high; step *= 2) {
        const bool fit = holds(size);
        (fit ? low : high) = size;
        const int next = fit ? low + step : high - step;
        size = next > low && next < high ? next : (low + high) / 2;
    }
    return low;
}

}  // namespace

// A stage's work times m is a path through the schedule, and so is the round trip with the stage's other
// work: both bound its size, and with it where every stage can begin.
void Solver::set_window(double limit) {
    double own = kInf, turn = kInf;
    for (std::size_t t = 1; t + 1 < mesh_.layer.size(); ++t) {
        const LayerCost& c = mesh_.layer[t];
        StageOption o;
        o.forward = c.forward;
        o.backward = c.backward;
        o.weight = c.weight;
        own = std::min(own, mesh_.shape.num_micro * o.work());
        for (int i = 0; i < pp_; ++i) turn = std::min(turn, turn_path(i, o));
    }
    const double room = std::min(limit / std::max(own, 1e-300), (limit - round_) / std::max(turn, 1e-300)) *
                        (1.0 + 1e-9);
    const int largest = room >= num_layers_ ? num_layers_ : room < 0.0 ? 0 : static_cast<int>(room);
    if (largest == largest_) return;
    largest_ = largest;
    const std::size_t n = static_cast<std::size_t>(std::max(0, slack())) + 1;
    const std::size_t cells = static_cast<std::size_t>(pp_) * n * n;
    remembers_ = cells <= kMemoCells;
    if (remembers_) memo_.start(cells);
}

Solver::Sizes Solver::begins(int stage) const {
    if (stage == 0) return {0, 0};
    return {std::max(stage - 1, num_layers_ - (pp_ - stage) * largest_),
            std::min(num_layers_, stage * largest_)};
}

// Every stage but the first and the last has a layer.
Solver::Sizes Solver::sizes(int stage, int begin) const {
    const int rest = num_layers_ - begin;
    if (stage == pp_ - 1) return {rest, std::min(rest, largest_)};
    const int later = pp_ - stage - 1;
    return {std::max(stage == 0 ? 0 : 1, rest - later * largest_),
            std::min(largest_, rest - (later - 1))};
}

const StageOption& Solver::single(int stage, int begin, int size) {
    const Range r{begin, begin + size};
    if (!remembers_) return loose_ = option(stage, std::span<const Range>(&r, 1));
    // begin and size each lie in a window as wide as the slack.
    const std::size_t n = static_cast<std::size_t>(slack()) + 1;
    const auto from = static_cast<std::size_t>(begin - std::max(0, num_layers_ - (pp_ - stage) * largest_));
    const auto short_by = static_cast<std::size_t>(largest_ - size);
    const std::size_t key = (static_cast<std::size_t>(stage) * n + from) * n + short_by;
    if (memo_.stamps[key] != memo_.now) {
        memo_.stamps[key] = memo_.now;
        memo_.options[key] = option(stage, std::span<const Range>(&r, 1));
    }
    return memo_.options[key];
}

// Time from a stage's first operation to the end of the step that its own work alone forces, without the
// parts that `advance` adds for earlier stages.
double Solver::own_path(int stage, const StageOption& o) const {
    const double m = mesh_.shape.num_micro;
    if (stage == 0) return m * o.work();
    const double after = facts_.trailing[static_cast<std::size_t>(stage)];
    return m * (o.forward + o.backward + o.weight) - after * (mesh_.shape.splits_backward() ? o.weight : 0);
}

// What a stage adds to the path of every later one: down with the first forward, back with the last
// input gradient, over both links.
double Solver::advance(int stage, int layers_done, const StageOption& o) const {
    const double back = mesh_.shape.splits_backward() ? o.backward : o.backward + o.weight;
    return o.forward + back + 2.0 * link(stage, layers_done);
}

// What a stage adds to the round trip of the first micro-batch (all stages down and back): the rest of its
// own work up to its last input gradient.
double Solver::turn_path(int stage, const StageOption& o) const {
    const Shape& s = mesh_.shape;
    const auto i = static_cast<std::size_t>(stage);
    const double m = s.num_micro;
    if (s.schedule == Schedule::kGpipe) return (m - 1.0) * o.work();
    const double forwards = (m - facts_.warmup[i]) * o.forward;
    if (!s.splits_backward()) return forwards + (m - 1.0) * (o.backward + o.weight);
    return forwards + (m - 1.0) * o.backward + (m - facts_.trailing[i]) * o.weight;
}

// Can stages that take as many layers as path bounds allow hold them all by `limit`? Quick, and true for too many.
//
// Let P_i(e) be the path down and back over the first e layers on i stages without recomputation, over the cheapest
// links, and x_i(e) the end of the largest stage i that begins at e, whose states fit and for which P_i(e) + own_path
// and round_ + turn_path stay within the limit with `least_extra` for its recomputation. If e < e' <= x_i(e), the
// stage [e', x_i(e)) holds less, has at most own_path less m times the work of [e, e'), and P_i(e') is larger by at
// most that work once: so x_i(e') >= x_i(e), and stages that each reach as far as they can end behind those of any
// partition.
bool Solver::reaches(double limit) const {
    const Shape& s = mesh_.shape;
    const double most = limit * (1.0 + 1e-9);
    const auto down_and_back = [&](const LayerCost& c) {
        return c.forward + c.backward + (s.splits_backward() ? 0.0 : c.weight);
    };
    // Of a fixed number recomputed whole, a later stage may recompute others, and need more memory.
    const bool shrinks = mesh_.recompute_rule < 4 || chain_.run_end.front() == static_cast<std::size_t>(num_layers_);
    double links = 0.0;
    int done = 0, size = num_layers_ / pp_;
    for (int i = 0; i < pp_; ++i) {
        const auto at = static_cast<std::size_t>(done);
        double before = links;
        if (i > 0) before += down_and_back(chain_.at[at]) + down_and_back(mesh_.layer.front());
        const auto holds = [&](int count) {
            const Range r{done, done + count};
            const std::span<const Range> one(&r, 1);
            StageOption o = timed(one, i, 0, 0);
            o.backward += least_extra(i, one);
            return before + own_path(i, o) <= most && round_ + turn_path(i, o) <= most &&
                   (!shrinks || any_choice(i, one));
        };
        size = largest(size, 1, num_layers_ - done, holds);
        done += size;
        if (done == num_layers_) return true;
        links += 2.0 * link(i, nearest_);
    }
    return false;
}

// entry_[i][e]: the largest prefix with which stage i may start after e layers so that the rest can still
// end by `limit` (negative infinity: it cannot). least_[i][e]: the least sum of `advance` over stages i...
// peak_[i][e]: the least that the largest `turn_path` of stages i... can be.
bool Solver::suffix_tables(double limit) {
    const auto n = static_cast<std::size_t>(num_layers_) + 1;
    const Shape& s = mesh_.shape;
    const std::size_t cells = static_cast<std::size_t>(pp_) * n;
    entry_.assign(cells, -kInf);
    least_.assign(cells, kInf);
    peak_.assign(cells, kInf);
    set_window(limit);
    if (slack() < 0) return false;
    work_ += kWorkOfOption * pp_ * (std::min(slack(), num_layers_) + 1);
    for (int i = pp_ - 1; i >= 0; --i) {
        const bool last = i == pp_ - 1, first = i == 0;
        const Sizes from = begins(i);
        for (int e = from.low; e <= from.high; ++e) {
            const Sizes range = sizes(i, e);
            double best = -kInf, least = kInf, peak = kInf;
            for (int size = range.low; size <= range.high; ++size) {
                double next_entry = kInf, next_least = 0.0, next_peak = 0.0;
                if (!last) {
                    const auto k = static_cast<std::size_t>(i + 1) * n + static_cast<std::size_t>(e + size);
                    next_entry = entry_[k];
                    next_least = least_[k];
                    next_peak = peak_[k];
                    if (next_entry == -kInf) continue;
                }
                const StageOption& o = single(i, e, size);
                if (!o.feasible) continue;
                const double turn = std::max(next_peak, turn_path(i, o));
                if (round_ + turn >= limit) continue;
                const double step =
                    last ? o.forward + (s.splits_backward() ? o.backward : o.backward + o.weight)
                         : advance(i, e + size, o);
                const double tail = first ? o.tail + (s.splits_backward() ? o.weight : 0.0) : 0.0;
                const double own = own_path(i, o) + (first ? o.tail : 0.0);
                double start = limit - own;
                if (!last) start = std::min(start, next_entry - step - tail);
                if (start < 0.0) continue;
                best = std::max(best, start);
                least = std::min(least, step + tail + next_least);
                peak = std::min(peak, turn);
            }
            const auto k = static_cast<std::size_t>(i) * n + static_cast<std::size_t>(e);
            entry_[k] = best;
            least_[k] = least;
            peak_[k] = peak;
        }
    }
    return entry_[0] >= 0.0;
}

// Depth-first over all partitions whose path bounds stay below the limit.
//   prefix: sum of `advance` of earlier stages with the first stage's tail
//   turn:   largest `turn_path` so far (GPipe: largest forward and backward, which need not coincide)
void Solver::descend(int stage, int done, double prefix, double turn, double turn_f, double turn_b) {
    if (stopped_) return;
    work_ += kWorkOfNode;
    if (work_ >= work_limit_ || cancelled()) {
        stopped_ = true;
        return;
    }
    const auto n = static_cast<std::size_t>(num_layers_) + 1;
    const Shape& s = mesh_.shape;
    const bool last = stage == pp_ - 1, first = stage == 0;
    const Sizes range = sizes(stage, done);
    const bool gpipe = s.schedule == Schedule::kGpipe;
    for (int size = range.low; size <= range.high; ++size) {
        if (!last && entry_[static_cast<std::size_t>(stage + 1) * n + static_cast<std::size_t>(done + size)] ==
                         -kInf) {
            continue;
        }
        const StageOption& o = single(stage, done, size);
        if (!o.feasible) continue;
        const double tail = first ? o.tail + (s.splits_backward() ? o.weight : 0.0) : 0.0;
        const double step = last ? o.forward + (s.splits_backward() ? o.backward : o.backward + o.weight)
                                 : advance(stage, done + size, o);
        const double own = own_path(stage, o) + (first ? o.tail : 0.0);
        if (prefix + own >= limit_) continue;
        const double passed = prefix + step + tail;
        double rest = 0.0, peak = 0.0;
        if (!last) {
            const auto k = static_cast<std::size_t>(stage + 1) * n + static_cast<std::size_t>(done + size);
            if (passed > entry_[k]) continue;
            rest = least_[k];
            peak = peak_[k];
        }
        const double longest = std::max(turn, turn_path(stage, o));
        const double most_f = std::max(turn_f, o.forward), most_b = std::max(turn_b, o.backward + o.weight);
        const double widest = gpipe ? (s.num_micro - 1.0) * (most_f + most_b) : longest;
        const double around = std::max(widest, peak);
        if (passed + rest + around >= limit_) continue;
        current_.chunks[static_cast<std::size_t>(stage)] = {done, done + size};
        current_.options[static_cast<std::size_t>(stage)] = o;
        if (last) {
            offer(current_);
        } else if (!prefix_excludes(stage, done + size, rest)) {
            descend(stage + 1, done + size, passed, longest, most_f, most_b);
        }
        if (stopped_) return;
    }
}

// True if the stages so far cannot end below the limit even when the others only delay each micro-batch.
bool Solver::prefix_excludes(int stage, int done, double rest) {
    const auto count = static_cast<std::size_t>(stage) + 1;
    for (std::size_t j = 0, e = 0; j < count; ++j) {
        const StageOption& o = current_.options[j];
        e = static_cast<std::size_t>(current_.chunks[j].end);
        f_[j] = o.forward;
        b_[j] = o.backward;
        w_[j] = o.weight;
        l_[j] = link(static_cast<int>(j), static_cast<int>(e));
    }
    const double turn = rest + 2.0 * link(stage, done);
    work_ += clock_work(stage + 1);
    facts_.clock.ends({f_, b_, w_, l_}, stage_end_, stage + 1, turn);
    for (std::size_t j = 0; j < count; ++j) {
        if (stage_end_[j] + current_.options[j].tail >= limit_) return true;
    }
    return false;
}

// One partition that meets every table entry at `limit`; true if there is one.
bool Solver::follow_tables(double limit, Pick& pick) {
    const auto n = static_cast<std::size_t>(num_layers_) + 1;
    const Shape& s = mesh_.shape;
    double prefix = 0.0;
    int done = 0;
    for (int i = 0; i < pp_; ++i) {
        const bool last = i == pp_ - 1, first = i == 0;
        int best_size = -1;
        double best_slack = -kInf, best_passed = 0.0;
        const Sizes range = sizes(i, done);
        for (int size = range.low; size <= range.high; ++size) {
            if (!last && entry_[static_cast<std::size_t>(i + 1) * n +
                                static_cast<std::size_t>(done + size)] == -kInf) {
                continue;
            }
            const StageOption& o = single(i, done, size);
            if (!o.feasible) continue;
            const double tail = first ? o.tail + (s.splits_backward() ? o.weight : 0.0) : 0.0;
            const double own = own_path(i, o) + (first ? o.tail : 0.0);
            double slack = limit - own - prefix, passed = prefix;
            if (!last) {
                passed = prefix + advance(i, done + size, o) + tail;
                slack = std::min(slack, entry_[static_cast<std::size_t>(i + 1) * n +
                                               static_cast<std::size_t>(done + size)] -
                                            passed);
            }
            if (slack > best_slack) {
                best_slack = slack;
                best_size = size;
                best_passed = passed;
            }
        }
        if (best_size < 0 || best_slack < 0.0) return false;
        pick.chunks[static_cast<std::size_t>(i)] = {done, done + best_size};
        pick.options[static_cast<std::size_t>(i)] = single(i, done, best_size);
        done += best_size;
        prefix = best_passed;
    }
    return done == num_layers_;
}

// The largest stage that fits from this begin on, or -1. Dropping the last layer never needs more memory.
int Solver::largest_fit(int stage, int begin, int hint) const {
    const auto holds = [&](int size) {
        const Range r{begin, begin + size};
        return any_choice(stage, std::span<const Range>(&r, 1));
    };
    const int least_size = least(stage);
    const int size = largest(hint, least_size, num_layers_ - begin - std::max(0, pp_ - 2 - stage), holds);
    return size < least_size ? -1 : size;
}

// Is there a cut of which every stage fits? Stages that take as many layers as they can hold end behind those of
// any cut, since dropping the first layers needs no more memory either. Two things spoil this: a stage that
// cannot hold the next layer, though it could an earlier one, and one that recomputes a fixed number of
// layers, which may then be others. With them every begin counts.
bool Solver::fits() const {
    if (mesh_.recompute_rule < 4 || chain_.run_end.front() == static_cast<std::size_t>(num_layers_)) {
        int done = 0, size = 0;
        for (int i = 0; i < pp_ && size >= 0; ++i) {
            size = largest_fit(i, done, i == 0 ? num_layers_ / pp_ : size);
            done += size;
        }
        if (size >= 0) return done == num_layers_;
    }
    std::vector<char> begins(static_cast<std::size_t>(num_layers_) + 1, 0), ends;
    begins[0] = 1;
    int size = num_layers_ / pp_;
    for (int i = 0; i < pp_; ++i) {
        ends.assign(begins.size(), 0);
        for (int begin = 0; begin <= num_layers_; ++begin) {
            if (!begins[static_cast<std::size_t>(begin)]) continue;
            size = largest_fit(i, begin, size);
            if (size >= 0) std::fill(ends.begin() + begin + least(i), ends.begin() + begin + size + 1, 1);
        }
        begins.swap(ends);
    }
    return begins.back() != 0;
}

void Solver::solve_single() {
    if (limit_ == kInf && !fits()) {  // below a limit `reaches` looks at memory and time together
        answer_.outcome = Outcome::kMemory;
        return;
    }
    const auto stages = static_cast<std::size_t>(pp_);
    current_.chunks.resize(stages);
    current_.options.resize(stages);
    for (auto* values : {&f_, &b_, &w_, &l_, &stage_end_}) values->resize(stages);
    // Search under a rising cap: while it is low the path bounds leave little to search, every cap without a
    // partition is a proven bound, and the first one with a partition has the best one.
    double best = limit_, cap = tightest_;
    bool searched = false;
    if (best < kInf && !(reaches(best) && suffix_tables(best))) {  // most meshes end here
        tightest_ = best;
        answer_.outcome = Outcome::kStageBound;
        return;
    }
    for (double step = 0.001;; step = std::min(1.0, step * 1.5)) {
        cap = std::min(cap * (1.0 + step), best);
        if (reaches(cap) && suffix_tables(cap)) {
            if (!searched && follow_tables(cap, current_)) {
                limit_ = best;
                offer(current_);
                best = limit_;
            }
            searched = true;
            limit_ = std::min(cap, best);
            const double before = limit_;
            descend(0, 0, 0.0, 0.0, 0.0, 0.0);
            if (stopped_ || limit_ < before) break;
        }
        tightest_ = cap;
        if (cap >= best) break;
    }
    if (answer_.outcome != Outcome::kSolved) {
        answer_.outcome = searched ? Outcome::kSearch : Outcome::kStageBound;
    }
}

}  // namespace optalloc::training

#include "training/partition.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace optalloc::training {

namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();
// Values this close are ties: an improvement must be larger, so the search ends on equal plans.
constexpr double kTie = 1e-9;
// Work is counted in operations of the event clock; these cost about as much as so many.
constexpr std::int64_t kWorkOfNode = 10, kWorkOfOption = 5;
// Interleaved cuts are all tried where there are at most this many.
constexpr double kAllLayouts = 1000.0;
// Stage options remembered at once; beyond, they are computed anew.
constexpr std::size_t kMemoCells = 400'000;

// Prefix sums over the chain: at[e] sums the first e layers.
struct Chain {
    std::vector<LayerCost> at;
    std::vector<double> scratch_full, scratch_selective;  // of each layer
    std::vector<std::size_t> run_end;                     // first layer of another type behind each layer

    Chain(const MeshCost& mesh, std::span<const int> sequence) {
        at.resize(sequence.size() + 1);
        at[0] = LayerCost{};
        scratch_full.resize(sequence.size());
        scratch_selective.resize(sequence.size());
        run_end.assign(sequence.size(), 0);
        for (std::size_t e = 0; e < sequence.size(); ++e) {
            const LayerCost& cost = mesh.layer[static_cast<std::size_t>(sequence[e])];
            LayerCost sum = at[e];
            sum.forward += cost.forward;
            sum.backward += cost.backward;
            sum.weight += cost.weight;
            sum.extra_selective += cost.extra_selective;
            sum.extra_full += cost.extra_full;
            sum.held += cost.held;
            sum.held_selective += cost.held_selective;
            sum.held_full += cost.held_full;
            sum.state += cost.state;
            sum.reduce += cost.reduce;
            sum.gather += cost.gather;
            sum.update += cost.update;
            at[e + 1] = sum;
            if (e > 0 && sequence[e] != sequence[e - 1]) {
                for (std::size_t k = e; k-- > 0 && run_end[k] == 0;) run_end[k] = e;
            }
            scratch_full[e] = cost.scratch_full;
            scratch_selective[e] = cost.scratch_selective;
        }
        for (std::size_t& end : run_end) end = end == 0 ? sequence.size() : end;
    }

    // Largest value among layers begin..end-1.
    double largest(const std::vector<double>& values, std::size_t begin, std::size_t end) const {
        double most = 0.0;
        for (std::size_t k = begin; k < end; k = run_end[k]) most = std::max(most, values[k]);
        return most;
    }
};

struct Range {
    int begin, end;
    int size() const { return end - begin; }
};

class Solver {
  public:
    Solver(const MeshCost& mesh, std::span<const int> sequence, std::span<const double> boundary,
           ShapeFacts& facts)
        : mesh_(mesh),
          boundary_(boundary),
          facts_(facts),
          chain_(mesh, sequence),
          num_layers_(static_cast<int>(sequence.size())),
          pp_(mesh.shape.num_stages),
          v_(mesh.shape.chunks_per_stage) {
        // One micro-batch down and back over all stages, without recomputation.
        const LayerCost &all = chain_.at.back(), &head = mesh.layer.back(), &tail = mesh.layer.front();
        round_ = all.forward + all.backward + head.forward + head.backward + tail.forward + tail.backward;
        if (!mesh.shape.splits_backward()) round_ += all.weight + head.weight + tail.weight;
        const int nearest = static_cast<int>(std::min_element(boundary.begin(), boundary.end()) -
                                             boundary.begin());
        for (int i = 0; v_ == 1 && i + 1 < pp_; ++i) round_ += 2.0 * link(i, nearest);
    }

    double link(int chunk, int layers_done) const;
    StageOption option(int stage, std::span<const Range> chunks) const;
    StageOption fixed_option(int stage, std::span<const Range> chunks, int full, int selective,
                             double* bytes) const;
    double event_value(std::span<const Range> chunks, std::span<const StageOption> options,
                       std::span<double> stage_end);
    Answer solve(double floor, double threshold, std::int64_t work_limit, const int* cancel);

  private:
    struct Pick {
        std::vector<Range> chunks;
        std::vector<StageOption> options;
    };

    std::int64_t clock_work(int chunks) const {
        const int m = mesh_.shape.num_micro;
        const bool repeats = v_ == 1 && mesh_.shape.schedule != Schedule::kGpipe;
        return 2 * static_cast<std::int64_t>(repeats ? std::min(m, 3 * pp_) : m) * chunks;
    }
    bool cancelled() const { return cancel_ != nullptr && *static_cast<const volatile int*>(cancel_) != 0; }
    double memory(int stage, std::span<const Range> chunks, int full, int selective) const;
    StageOption timed(std::span<const Range> chunks, int stage, int full, int selective) const;
    void chunk_times(const Range& r, bool first, bool last, int full, int selective, double out[3]) const;

    // One chunk a stage.
    int slack() const { return pp_ * largest_ - num_layers_; }
    struct Sizes {
        int low, high;
    };
    void set_window(double limit);
    Sizes begins(int stage) const;
    Sizes sizes(int stage, int begin) const;
    const StageOption& single(int stage, int begin, int size);
    bool fits() const;
    bool suffix_tables(double limit);
    double own_path(int stage, const StageOption& o) const;
    double advance(int stage, int layers_done, const StageOption& o) const;
    double turn_path(int stage, const StageOption& o) const;
    bool follow_tables(double limit, Pick& pick);
    void descend(int stage, int done, double prefix, double turn, double turn_f, double turn_b);
    bool prefix_excludes(int stage, int done, double rest);
    void offer(const Pick& pick);
    void solve_single();
    // Several chunks a stage.
    void solve_interleaved();
    void all_layouts(std::vector<int>& sizes, std::size_t chunk, int left);
    void try_layout(std::span<const int> sizes);

    const MeshCost& mesh_;
    std::span<const double> boundary_;
    ShapeFacts& facts_;
    Chain chain_;
    int num_layers_, pp_, v_;
    double round_ = 0.0;

    double limit_ = kInf;      // only values below are wanted
    double tightest_ = 0.0;    // largest value proven impossible to beat
    Answer answer_;
    std::int64_t work_limit_ = 0, work_ = 0;
    const int* cancel_ = nullptr;
    bool stopped_ = false, any_fits_ = false;
    int largest_ = -1;  // layers of the largest stage worth looking at
    std::vector<StageOption> memo_;
    std::vector<char> known_;
    StageOption loose_;
    std::vector<double> entry_, least_, peak_;  // [stage][layers done]
    std::vector<double> stage_end_, f_, b_, w_, l_;
    Pick current_;
};

double Solver::link(int chunk, int layers_done) const {
    // Stages lie one after another; a boundary is near when both its stages lie in one domain.
    const long long stage = chunk % pp_, domain = mesh_.domain_devices, each = mesh_.stage_devices;
    const bool wraps = stage == pp_ - 1;  // from the last stage back to the first
    const bool near = wraps ? pp_ * each <= domain : stage * each / domain == ((stage + 2) * each - 1) / domain;
    const double factor = boundary_[static_cast<std::size_t>(layers_done)];
    return near ? mesh_.link_latency_near + factor * mesh_.link_transfer_near
                : mesh_.link_latency_far + factor * mesh_.link_transfer_far;
}

double Solver::memory(int stage, std::span<const Range> chunks, int full, int selective) const {
    double state = 0.0, scratch = 0.0;
    double held[2][64];
    for (std::size_t c = 0; c < chunks.size(); ++c) {
        const Range r = chunks[c];
        const int cut1 = std::min(r.end, r.begin + full);
        const int cut2 = std::min(r.end, cut1 + selective);
        const auto& at = chain_.at;
        const auto b = static_cast<std::size_t>(r.begin), e = static_cast<std::size_t>(r.end);
        const auto c1 = static_cast<std::size_t>(cut1), c2 = static_cast<std::size_t>(cut2);
        state += at[e].state - at[b].state;
        const bool first = stage == 0 && c == 0;
        const bool last = stage == pp_ - 1 && c + 1 == chunks.size();
        double all = at[e].held - at[b].held;
        double kept = at[c1].held_full - at[b].held_full + at[c2].held_selective -
                      at[c1].held_selective + at[e].held - at[c2].held;
        if (first) {
            state += mesh_.layer.front().state;
            all += mesh_.layer.front().held;
            kept += mesh_.layer.front().held;
        }
        if (last) {
            state += mesh_.layer.back().state;
            all += mesh_.layer.back().held;
            kept += mesh_.layer.back().held;
        }
        held[0][c] = kept;
        held[1][c] = all;
        scratch = std::max({scratch, chain_.largest(chain_.scratch_full, b, c1),
                            chain_.largest(chain_.scratch_selective, c1, c2)});
    }
    const auto& vectors = facts_.held[static_cast<std::size_t>(stage)];
    const auto width = static_cast<std::size_t>(2 * v_);
    double peak = 0.0;
    for (std::size_t k = 0; k < vectors.size(); k += width) {
        double sum = 0.0;
        for (std::size_t c = 0; c < static_cast<std::size_t>(v_); ++c) {
            sum += vectors[k + c] * held[0][c] + vectors[k + c + static_cast<std::size_t>(v_)] * held[1][c];
        }
        peak = std::max(peak, sum);
    }
    return state + peak + scratch + (stage == pp_ - 1 ? mesh_.logits : 0.0);
}

void Solver::chunk_times(const Range& r, bool first, bool last, int full, int selective,
                         double out[3]) const {
    const auto& at = chain_.at;
    const auto b = static_cast<std::size_t>(r.begin), e = static_cast<std::size_t>(r.end);
    const auto c1 = static_cast<std::size_t>(std::min(r.end, r.begin + full));
    const auto c2 = std::min(e, c1 + static_cast<std::size_t>(selective));
    out[0] = at[e].forward - at[b].forward;
    out[1] = at[e].backward - at[b].backward + at[c1].extra_full - at[b].extra_full +
             at[c2].extra_selective - at[c1].extra_selective;
    out[2] = at[e].weight - at[b].weight;
    for (const bool end : {false, true}) {
        if (end ? !last : !first) continue;
        const LayerCost& cost = end ? mesh_.layer.back() : mesh_.layer.front();
        out[0] += cost.forward;
        out[1] += cost.backward;
        out[2] += cost.weight;
    }
}

StageOption Solver::timed(std::span<const Range> chunks, int stage, int full, int selective) const {
    StageOption o;
    o.full = full;
    o.selective = selective;
    o.feasible = true;
    double reduce = 0.0, gather = 0.0, update = 0.0;
    const auto add = [&](const LayerCost& hi, const LayerCost& lo) {
        reduce += hi.reduce - lo.reduce;
        gather += hi.gather - lo.gather;
        update += hi.update - lo.update;
    };
    for (std::size_t c = 0; c < chunks.size(); ++c) {
        const bool first = stage == 0 && c == 0;
        const bool last = stage == pp_ - 1 && c + 1 == chunks.size();
        double t[3];
        chunk_times(chunks[c], first, last, full, selective, t);
        o.forward += t[0];
        o.backward += t[1];
        o.weight += t[2];
        add(chain_.at[static_cast<std::size_t>(chunks[c].end)],
            chain_.at[static_cast<std::size_t>(chunks[c].begin)]);
        if (first) add(mesh_.layer.front(), LayerCost{});
        if (last) add(mesh_.layer.back(), LayerCost{});
    }
    // The last micro-batch's backward hides part of the reduction, the first forward part of the gather.
    o.tail = std::max(0.0, reduce - mesh_.overlap * (o.backward + o.weight)) +
             std::max(0.0, gather - mesh_.overlap * o.forward) + update;
    if (pp_ > 1 && (stage == 0 || stage == pp_ - 1)) o.tail += mesh_.tied;
    return o;
}

StageOption Solver::fixed_option(int stage, std::span<const Range> chunks, int full, int selective,
                                 double* bytes) const {
    *bytes = memory(stage, chunks, full, selective);
    StageOption o = timed(chunks, stage, full, selective);
    o.feasible = *bytes <= mesh_.capacity;
    return o;
}

// The recomputation of least extra time that fits. Event time and tail never fall when a backward grows
// (a longer operation cannot end a longest path earlier, and hides at most what it adds), so least extra
// time is optimal for the stage.
StageOption Solver::option(int stage, std::span<const Range> chunks) const {
    int largest = 0;
    for (const Range& r : chunks) largest = std::max(largest, r.size());
    const int rule = mesh_.recompute_rule;
    if (rule >= 1 && rule <= 3) {
        double bytes;
        return fixed_option(stage, chunks, rule == 3 ? largest : 0, rule == 2 ? largest : 0, &bytes);
    }
    if (rule >= 4) {  // equal counts on every stage: rule - 4 layers of each chunk in full
        double bytes;
        return fixed_option(stage, chunks, std::min(largest, rule - 4), 0, &bytes);
    }
    const auto fits = [&](int full, int selective) {
        return memory(stage, chunks, full, selective) <= mesh_.capacity;
    };
    if (fits(0, 0)) return timed(chunks, stage, 0, 0);
    // With more layers recomputed whole, fewer need the selective kind: one pass over both counts.
    StageOption best;
    double best_backward = kInf;
    int selective = largest;
    for (int full = 0; full <= largest; ++full) {
        selective = std::min(selective, largest - full);
        if (!fits(full, selective)) {  // the working set of a layer recomputed whole is new
            selective = largest - full;
            if (!fits(full, selective)) continue;
        }
        while (selective > 0 && fits(full, selective - 1)) --selective;
        const StageOption o = timed(chunks, stage, full, selective);
        if (o.backward < best_backward) {
            best_backward = o.backward;
            best = o;
        }
        if (selective == 0) break;  // more full layers only add time
    }
    return best;
}

double Solver::event_value(std::span<const Range> chunks, std::span<const StageOption> options,
                           std::span<double> stage_end) {
    const std::size_t count = chunks.size();
    f_.resize(count);
    b_.resize(count);
    w_.resize(count);
    l_.resize(count);
    for (std::size_t c = 0; c < count; ++c) {
        const StageOption& o = options[c % static_cast<std::size_t>(pp_)];
        double t[3];
        chunk_times(chunks[c], c == 0, c + 1 == count, o.full, o.selective, t);
        f_[c] = t[0];
        b_[c] = t[1];
        w_[c] = t[2];
        if (c + 1 < count) l_[c] = link(static_cast<int>(c), chunks[c].end);
    }
    stage_end_.resize(static_cast<std::size_t>(pp_));
    facts_.clock.ends({f_, b_, w_, std::span<const double>(l_.data(), count - 1)}, stage_end_, pp_, 0.0);
    double value = 0.0;
    for (std::size_t i = 0; i < static_cast<std::size_t>(pp_); ++i) {
        value = std::max(value, stage_end_[i] + options[i].tail);
        if (!stage_end.empty()) stage_end[i] = stage_end_[i];
    }
    return value;
}

// ---- one chunk a stage -------------------------------------------------------------------------------

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
    known_.assign(cells <= kMemoCells ? cells : 0, 0);
    if (memo_.size() < known_.size()) memo_.resize(known_.size());
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
    if (known_.empty()) return loose_ = option(stage, std::span<const Range>(&r, 1));
    // begin and size each lie in a window as wide as the slack.
    const std::size_t n = static_cast<std::size_t>(slack()) + 1;
    const auto from = static_cast<std::size_t>(begin - std::max(0, num_layers_ - (pp_ - stage) * largest_));
    const auto short_by = static_cast<std::size_t>(largest_ - size);
    const std::size_t key = (static_cast<std::size_t>(stage) * n + from) * n + short_by;
    if (!known_[key]) {
        known_[key] = 1;
        memo_[key] = option(stage, std::span<const Range>(&r, 1));
    }
    return memo_[key];
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

// entry_[i][e]: the largest prefix with which stage i may start after e layers so that the rest can still
// end by `limit` (negative infinity: it cannot). least_[i][e]: the least sum of `advance` over stages i...
// peak_[i][e]: the least that the largest `turn_path` of stages i... can be.
bool Solver::suffix_tables(double limit) {
    const auto n = static_cast<std::size_t>(num_layers_) + 1;
    const Shape& s = mesh_.shape;
    std::fill(entry_.begin(), entry_.end(), -kInf);
    std::fill(least_.begin(), least_.end(), kInf);
    std::fill(peak_.begin(), peak_.end(), kInf);
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

void Solver::offer(const Pick& pick) {
    ++answer_.leaves;
    work_ += clock_work(pp_ * v_);
    const double value = event_value(pick.chunks, pick.options, {});
    if (value >= limit_) return;
    limit_ = value - kTie * value;
    answer_.outcome = Outcome::kSolved;
    answer_.value = value;
    answer_.layers_per_chunk.clear();
    answer_.full.clear();
    answer_.selective.clear();
    for (const Range& r : pick.chunks) answer_.layers_per_chunk.push_back(r.size());
    for (const StageOption& o : pick.options) {
        answer_.full.push_back(o.full);
        answer_.selective.push_back(o.selective);
    }
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

// Memory grows with the layers of a stage, so stages that take as many layers as they can hold reach the last
// layer if any partition does.
bool Solver::fits() const {
    int done = 0;
    for (int i = 0; i < pp_; ++i) {
        const int least = i == 0 || i == pp_ - 1 ? 0 : 1;
        const int most = num_layers_ - done - std::max(0, pp_ - 2 - i);
        const auto holds = [&](int size) {
            const Range r{done, done + size};
            return option(i, std::span<const Range>(&r, 1)).feasible;
        };
        if (most < least || !holds(least)) return false;
        int low = least, high = most;  // the largest size that fits
        while (low < high) {
            const int middle = (low + high + 1) / 2;
            if (holds(middle)) low = middle; else high = middle - 1;
        }
        done += low;
    }
    return done == num_layers_;
}

void Solver::solve_single() {
    if (!fits()) {
        answer_.outcome = Outcome::kMemory;
        return;
    }
    const auto n = static_cast<std::size_t>(num_layers_) + 1;
    const auto stages = static_cast<std::size_t>(pp_);
    entry_.resize(stages * n);
    least_.resize(stages * n);
    peak_.resize(stages * n);
    current_.chunks.resize(stages);
    current_.options.resize(stages);
    for (auto* values : {&f_, &b_, &w_, &l_, &stage_end_}) values->resize(stages);
    // Search under a rising cap: while it is low the path bounds leave little to search, every cap without a
    // partition is a proven bound, and the first one with a partition has the best one.
    double best = limit_, cap = tightest_;
    bool searched = false;
    for (double step = 0.001;; step = std::min(1.0, step * 1.5)) {
        cap = std::min(cap * (1.0 + step), best);
        if (suffix_tables(cap)) {
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

// ---- several chunks a stage --------------------------------------------------------------------------

void Solver::try_layout(std::span<const int> sizes) {
    const std::size_t count = sizes.size();
    work_ += kWorkOfOption * pp_ * v_;
    if (stopped_ || work_ >= work_limit_ || cancelled()) {
        stopped_ = true;
        return;
    }
    Pick& pick = current_;
    int done = 0;
    for (std::size_t c = 0; c < count; ++c) {
        pick.chunks[c] = {done, done + sizes[c]};
        done += sizes[c];
    }
    std::vector<Range> mine(static_cast<std::size_t>(v_));
    const double m = mesh_.shape.num_micro;
    // Path bound without recomputation first: it is cheap.
    for (const bool final_times : {false, true}) {
        double prefix = 0.0;
        for (int i = 0; i < pp_; ++i) {
            for (std::size_t k = 0; k < mine.size(); ++k) {
                mine[k] = pick.chunks[k * static_cast<std::size_t>(pp_) + static_cast<std::size_t>(i)];
            }
            StageOption& o = pick.options[static_cast<std::size_t>(i)];
            o = final_times ? option(i, mine) : timed(mine, i, 0, 0);
            if (!o.feasible) return;
            if (final_times) any_fits_ = true;
            if (i == 0) prefix = o.tail;
            if (prefix + m * o.work() >= limit_) {
                if (!final_times) any_fits_ = true;
                return;
            }
            if (i == 0) prefix = pick.options[0].tail;
            double t[3];
            chunk_times(mine[0], i == 0, false, o.full, o.selective, t);
            prefix += t[0] + t[1] + t[2] + 2.0 * link(i, mine[0].end);
        }
    }
    offer(pick);
}

// Every cut where there are few of them (middle chunks hold a layer); else the first chunk has x <= q layers,
// the last y <= q, and all others q.
void Solver::solve_interleaved() {
    const int count = pp_ * v_, middle = count - 2;
    current_.chunks.resize(static_cast<std::size_t>(count));
    current_.options.resize(static_cast<std::size_t>(pp_));
    std::vector<int> sizes(static_cast<std::size_t>(count));
    double cuts = 1.0;  // binomial(layers - middle + count - 1, count - 1)
    for (int k = 1; k < count; ++k) cuts = cuts * (num_layers_ - middle + k) / k;
    if (cuts <= kAllLayouts) {
        all_layouts(sizes, 0, num_layers_);
    } else {
        for (int q = 1; q * middle <= num_layers_; ++q) {
            const int rest = num_layers_ - q * middle;
            if (rest > 2 * q) continue;
            std::fill(sizes.begin(), sizes.end(), q);
            for (int x = std::max(0, rest - q); x <= std::min(q, rest); ++x) {
                sizes.front() = x;
                sizes.back() = rest - x;
                try_layout(sizes);
            }
        }
    }
    if (answer_.outcome != Outcome::kSolved) {
        answer_.outcome = any_fits_ ? Outcome::kSearch : Outcome::kMemory;
    }
}

void Solver::all_layouts(std::vector<int>& sizes, std::size_t chunk, int left) {
    if (chunk + 1 == sizes.size()) {
        sizes[chunk] = left;
        return try_layout(sizes);
    }
    const int least = chunk == 0 ? 0 : 1;
    const int later = static_cast<int>(sizes.size() - chunk) - 2;  // middle chunks still to come
    for (int size = least; size <= left - later; ++size) {
        sizes[chunk] = size;
        all_layouts(sizes, chunk + 1, left - size);
    }
}

Answer Solver::solve(double floor, double threshold, std::int64_t work_limit, const int* cancel) {
    tightest_ = floor;
    limit_ = threshold;
    work_limit_ = work_limit;
    cancel_ = cancel;
    if (v_ > 1) solve_interleaved(); else solve_single();
    answer_.bound = tightest_;
    if (stopped_) answer_.outcome = Outcome::kLimit;
    return answer_;
}

}  // namespace

ShapeFacts::ShapeFacts(const Shape& shape) : clock(shape) {
    for (int i = 0; i < shape.num_stages; ++i) {
        held.push_back(held_vectors(shape, i));
        warmup.push_back(warmup_forwards(shape, i));
        trailing.push_back(trailing_weights(shape, i));
    }
}

ShapeFacts& ShapeCache::get(const Shape& s) {
    auto& slot = facts_[{static_cast<int>(s.schedule), s.num_stages, s.chunks_per_stage, s.num_micro}];
    if (!slot) slot = std::make_unique<ShapeFacts>(s);
    return *slot;
}

Answer solve_mesh(const MeshCost& mesh, std::span<const int> sequence, std::span<const double> boundary,
                  ShapeFacts& facts, double floor, double threshold, std::int64_t work_limit,
                  const int* cancel) {
    return Solver(mesh, sequence, boundary, facts).solve(floor, threshold, work_limit, cancel);
}

double evaluate(const MeshCost& mesh, std::span<const int> sequence, std::span<const double> boundary,
                ShapeFacts& facts, std::span<const int> layers_per_chunk, std::span<const int> full,
                std::span<const int> selective, std::span<double> stage_bytes,
                std::span<double> stage_end) {
    Solver solver(mesh, sequence, boundary, facts);
    const auto pp = static_cast<std::size_t>(mesh.shape.num_stages);
    std::vector<Range> chunks;
    int done = 0;
    for (const int size : layers_per_chunk) {
        chunks.push_back({done, done + size});
        done += size;
    }
    std::vector<StageOption> options(pp);
    std::vector<Range> mine;
    for (std::size_t i = 0; i < pp; ++i) {
        mine.clear();
        for (std::size_t c = i; c < chunks.size(); c += pp) mine.push_back(chunks[c]);
        options[i] = solver.fixed_option(static_cast<int>(i), mine, full[i], selective[i], &stage_bytes[i]);
    }
    return solver.event_value(chunks, options, stage_end);
}

std::vector<Answer> solve_block(const BlockInput& input, std::span<const int> sequence,
                                std::span<const double> boundary, ShapeCache& cache,
                                std::vector<Leader>& leaders, std::size_t num_leaders,
                                const int* cancel) {
    std::vector<Answer> answers(input.meshes.size());
    for (std::size_t k = 0; k < input.meshes.size(); ++k) {
        const std::int64_t group = input.groups[k];
        const auto mine = std::find_if(leaders.begin(), leaders.end(),
                                       [&](const Leader& l) { return l.group == group; });
        double goal = leaders.size() < num_leaders ? kInf : leaders.back().value;
        if (mine != leaders.end()) goal = mine->value;
        goal = std::min(goal, input.weights[k] * input.ceiling);
        Answer& answer = answers[k];
        if (input.bounds[k] >= goal) {
            answer.outcome = Outcome::kMeshBound;
            continue;
        }
        const double threshold = goal == kInf ? kInf : goal / input.weights[k] - input.fixed[k];
        const double floor = input.bounds[k] / input.weights[k] - input.fixed[k];
        answer = solve_mesh(input.meshes[k], sequence, boundary, cache.get(input.meshes[k].shape), floor, threshold,
                            input.work_limit, cancel);
        answer.bound = input.weights[k] * (answer.bound + input.fixed[k]);
        if (answer.layers_per_chunk.empty()) continue;
        answer.value = input.weights[k] * (answer.value + input.fixed[k]);
        if (answer.value >= goal) continue;
        if (mine != leaders.end()) leaders.erase(mine);
        const Leader leader{group, answer.value};
        leaders.insert(std::upper_bound(leaders.begin(), leaders.end(), leader,
                                        [](const Leader& a, const Leader& b) { return a.value < b.value; }),
                       leader);
        if (leaders.size() > num_leaders) leaders.pop_back();
    }
    return answers;
}

}  // namespace optalloc::training

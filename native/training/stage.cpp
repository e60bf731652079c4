// What a stage costs: times, memory, the best recomputation that fits, and the value of a whole partition.
#include "training/solver.hpp"

#include <algorithm>
#include <cmath>
#include <functional>

namespace optalloc::training {

double Solver::link(int chunk, int layers_done) const {
    // Stages lie one after another; a boundary is near when both its stages lie in one domain.
    const long long stage = chunk % pp_, domain = mesh_.domain_devices, each = mesh_.stage_devices;
    const bool wraps = stage == pp_ - 1;  // from the last stage back to the first
    const bool near = wraps ? pp_ * each <= domain : stage * each / domain == ((stage + 2) * each - 1) / domain;
    const double factor = boundary_[static_cast<std::size_t>(layers_done)];
    return near ? mesh_.link_latency_near + factor * mesh_.link_transfer_near
                : mesh_.link_latency_far + factor * mesh_.link_transfer_far;
}

Solver::Bytes Solver::bytes(int stage, std::span<const Range> chunks, int full, int selective, bool working) const {
    const bool splits = mesh_.shape.splits_backward();
    double state = 0.0;
    Bytes out;
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
        double all = splits ? at[e].held - at[b].held : 0.0;
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
        if (!working) continue;
        out.working = std::max({out.working, chain_.largest(chain_.scratch_full, b, c1),
                                chain_.largest(chain_.scratch_selective, c1, c2)});
    }
    // With whole backwards nothing waits for its weight gradients: the second half of each vector is 0.
    const auto& vectors = facts_.held[static_cast<std::size_t>(stage)];
    const auto v = static_cast<std::size_t>(v_), width = 2 * v;
    double peak = 0.0;
    for (std::size_t k = 0; k < vectors.size(); k += width) {
        double sum = 0.0;
        for (std::size_t c = 0; c < v; ++c) sum += vectors[k + c] * held[0][c];
        for (std::size_t c = 0; splits && c < v; ++c) sum += vectors[k + v + c] * held[1][c];
        peak = std::max(peak, sum);
    }
    out.base = state + peak;
    // The logits are gone before the first layer is recomputed.
    if (stage == pp_ - 1) out.logits = mesh_.logits;
    return out;
}

double Solver::memory(int stage, std::span<const Range> chunks, int full, int selective, bool working) const {
    return bytes(stage, chunks, full, selective, working).total();
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
    double reduce = 0.0, gather = 0.0, update = 0.0, plain = 0.0;
    const auto add = [&](const LayerCost& hi, const LayerCost& lo) {
        plain += hi.backward - lo.backward;
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
    // One micro-batch's backward, without recomputation, hides part of the reduction, its forward part of
    // the gather.
    o.tail = std::max(0.0, reduce - mesh_.overlap * (plain + o.weight)) +
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

// The fewest layers recomputed in their core that fit beside `full` whole ones, or -1. One more takes no more
// memory unless its working set is the largest so far, so between such layers memory only falls. `hint` is where
// the search begins.
int Solver::least_selective(int stage, std::span<const Range> chunks, int full, int largest, int hint) const {
    const auto fits = [&](int count) { return memory(stage, chunks, full, count) <= mesh_.capacity; };
    if (fits(0)) return 0;
    const auto working_set = [&](int count) {
        double most = 0.0;
        for (const Range& r : chunks) {
            const int from = std::min(r.end, r.begin + full), to = std::min(r.end, from + count);
            most = std::max(most, chain_.largest(chain_.scratch_selective, static_cast<std::size_t>(from),
                                                 static_cast<std::size_t>(to)));
        }
        return most;
    };
    for (int low = 1; low <= largest - full;) {
        int high = largest - full;  // the last count with the working set of `low`
        if (!chain_.equal_cores) {
            const double set = working_set(low);
            if (working_set(high) > set) {
                high = low;
                while (working_set(high + 1) <= set) ++high;
            }
        }
        int count = std::clamp(hint, low, high);
        if (!fits(count)) count = high;
        if (fits(count)) {
            while (count > low && fits(count - 1)) --count;
            return count;
        }
        low = high + 1;
    }
    return -1;
}

// Calls visit(full, selective) for each choice that fits and of which no smaller one does, until it is true.
template <typename Visit>
void Solver::each_choice(int stage, std::span<const Range> chunks, const Visit& visit) const {
    int largest = 0;
    for (const Range& r : chunks) largest = std::max(largest, r.size());
    const int rule = mesh_.recompute_rule;
    if (rule > 0) {  // none, all in their core, all whole; then equal counts on every stage, rule - 4 whole
        const int full = rule == 3 ? largest : rule >= 4 ? std::min(largest, rule - 4) : 0;
        const int selective = rule == 2 ? largest : 0;
        if (memory(stage, chunks, full, selective) <= mesh_.capacity) visit(full, selective);
        return;
    }
    const auto fits = [&](int full, int selective, bool working) {
        return memory(stage, chunks, full, selective, working) <= mesh_.capacity;
    };
    int full = 0;
    if (chain_.whole_is_least) {
        if (fits(0, 0, true)) {
            visit(0, 0);
            return;
        }
        // The fewest whole layers with which all others in their core would fit, without their working sets.
        int high = largest;
        if (!fits(high, 0, false)) return;
        while (full < high) {
            const int middle = (full + high) / 2;
            if (fits(middle, largest - middle, false)) high = middle;
            else full = middle + 1;
        }
    }
    int hint = largest;  // with more layers recomputed whole, fewer need the other kind
    for (; full <= largest; ++full) {
        const int selective = least_selective(stage, chunks, full, largest, hint);
        if (selective < 0) continue;
        if (visit(full, selective) || selective == 0) return;  // more whole layers only add time
        hint = selective;
    }
}

// The recomputation of least extra time that fits. The tail does not depend on it, and event time never falls
// when a backward grows, so with one chunk least extra time is optimal for the stage.
StageOption Solver::option(int stage, std::span<const Range> chunks) const {
    StageOption best;
    each_choice(stage, chunks, [&](int full, int selective) {
        const StageOption o = timed(chunks, stage, full, selective);
        if (!best.feasible || o.backward < best.backward) best = o;
        double next[3];  // one more whole layer and nothing else: no later choice is faster
        chunk_times(chunks[0], stage == 0, stage == pp_ - 1, full + 1, 0, next);
        return next[1] >= best.backward;
    });
    return best;
}

// The extremes first: where one of them fits, as it mostly does, nothing else need be looked at.
bool Solver::any_choice(int stage, std::span<const Range> chunks) const {
    if (mesh_.recompute_rule == 0) {
        int largest = 0;
        for (const Range& r : chunks) largest = std::max(largest, r.size());
        const Bytes whole = bytes(stage, chunks, largest, 0);
        if (whole.total() <= mesh_.capacity) return true;
        if (chain_.whole_is_least && whole.base + whole.logits > mesh_.capacity) return false;
        if (!chain_.whole_is_least && memory(stage, chunks, 0, 0) <= mesh_.capacity) return true;
    }
    bool found = false;
    each_choice(stage, chunks, [&](int, int) { return found = true; });
    return found;
}

// A lower bound of the time that recomputation adds to one micro-batch so that a stage fits. The fullest moment holds
// at most `most_held` micro-batches of any layer, so each byte it has too many costs at least price_ / most_held.
double Solver::least_extra(int stage, std::span<const Range> chunks) const {
    const double over = memory(stage, chunks, 0, 0, false) - mesh_.capacity;
    if (over <= 0.0) return 0.0;
    return over * price_ / facts_.most_held[static_cast<std::size_t>(stage)] * (1.0 - 1e-9);
}

// With several chunks: every choice that fits, but those as slow as another in each chunk.
void Solver::options(int stage, std::span<const Range> chunks, std::vector<StageOption>& out) const {
    out.clear();
    std::vector<std::vector<double>> times;  // backward of each chunk
    const auto chunk_backwards = [&](int full, int selective) {
        std::vector<double> own;
        for (const Range& r : chunks) {
            double t[3];
            chunk_times(r, false, false, full, selective, t);
            own.push_back(t[1]);
        }
        return own;
    };
    const auto no_slower = [](const std::vector<double>& a, const std::vector<double>& b) {
        return std::equal(a.begin(), a.end(), b.begin(), std::less_equal<>());
    };
    const auto matched = [&](const std::vector<double>& own) {
        return std::any_of(times.begin(), times.end(), [&](const auto& other) { return no_slower(other, own); });
    };
    each_choice(stage, chunks, [&](int full, int selective) {
        std::vector<double> own = chunk_backwards(full, selective);
        if (!matched(own)) {
            for (std::size_t k = times.size(); k-- > 0;) {
                if (!no_slower(own, times[k])) continue;
                times.erase(times.begin() + static_cast<std::ptrdiff_t>(k));
                out.erase(out.begin() + static_cast<std::ptrdiff_t>(k));
            }
            times.push_back(std::move(own));
            out.push_back(timed(chunks, stage, full, selective));
        }
        return matched(chunk_backwards(full + 1, 0));  // no later choice is faster in any chunk
    });
    std::sort(out.begin(), out.end(),
              [](const StageOption& a, const StageOption& b) { return a.backward < b.backward; });
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

}  // namespace optalloc::training

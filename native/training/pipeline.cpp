#include "training/pipeline.hpp"

#include <algorithm>
#include <cmath>

namespace optalloc::training {

namespace {

// Forward number k of an interleaved stage: micro-batches go in groups of one per stage, chunk by chunk.
Op interleaved_op(const Shape& s, int k, Pass pass) {
    const int group = s.num_stages * s.chunks_per_stage;
    const int chunk = (k % group) / s.num_stages;
    const int micro = (k / group) * s.num_stages + k % s.num_stages;
    return {pass, pass == Pass::kForward ? chunk : s.chunks_per_stage - 1 - chunk, micro};
}

std::vector<Op> interleaved_order(const Shape& s, int stage) {
    const int total = s.num_micro * s.chunks_per_stage;
    const int warmup = std::min(
        total, 2 * (s.num_stages - stage - 1) + (s.chunks_per_stage - 1) * s.num_stages);
    std::vector<Op> order;
    order.reserve(2 * static_cast<std::size_t>(total));
    for (int k = 0; k < warmup; ++k) order.push_back(interleaved_op(s, k, Pass::kForward));
    for (int k = warmup; k < total; ++k) {
        order.push_back(interleaved_op(s, k, Pass::kForward));
        order.push_back(interleaved_op(s, k - warmup, Pass::kBackward));
    }
    for (int k = total - warmup; k < total; ++k) {
        order.push_back(interleaved_op(s, k, Pass::kBackward));
    }
    return order;
}

// 1F1B and ZB-H1 share their forwards and backwards; ZB-H1 starts weight gradients `stage` micro-batches
// late, so that every stage holds at most as many micro-batches as the first.
std::vector<Op> one_forward_one_backward(const Shape& s, int stage, bool split) {
    const int m = s.num_micro;
    const int warmup = std::min(m, s.num_stages - stage);
    std::vector<Op> order;
    order.reserve(3 * static_cast<std::size_t>(m));
    int forwards = 0, backwards = 0, weights = 0;
    for (; forwards < warmup; ++forwards) order.push_back({Pass::kForward, 0, forwards});
    while (backwards < m) {
        order.push_back({Pass::kBackward, 0, backwards++});
        if (split && backwards - weights > stage) order.push_back({Pass::kWeight, 0, weights++});
        if (forwards < m) order.push_back({Pass::kForward, 0, forwards++});
    }
    while (split && weights < m) order.push_back({Pass::kWeight, 0, weights++});
    return order;
}

}  // namespace

std::vector<Op> stage_order(const Shape& s, int stage) {
    if (s.schedule == Schedule::kInterleaved) return interleaved_order(s, stage);
    if (s.schedule != Schedule::kGpipe) {
        return one_forward_one_backward(s, stage, s.splits_backward());
    }
    std::vector<Op> order;
    for (int k = 0; k < s.num_micro; ++k) order.push_back({Pass::kForward, 0, k});
    for (int k = 0; k < s.num_micro; ++k) order.push_back({Pass::kBackward, 0, k});
    return order;
}

int warmup_forwards(const Shape& s, int stage) {
    if (s.schedule == Schedule::kGpipe) return s.num_micro;
    return std::min(s.num_micro, s.num_stages - stage);
}

int trailing_weights(const Shape& s, int stage) {
    // Before the last input gradient, max(0, m - 1 - stage) weight gradients have run.
    return s.splits_backward() ? std::min(s.num_micro, stage + 1) : 0;
}

std::vector<int> held_vectors(const Shape& s, int stage) {
    const int v = s.chunks_per_stage;
    const std::size_t width = 2 * static_cast<std::size_t>(v);
    std::vector<int> held(width, 0);
    std::vector<std::vector<int>> best;
    bool grew = false;
    const auto keep = [&] {
        for (const auto& other : best) {
            if (std::equal(held.begin(), held.end(), other.begin(), std::less_equal<>())) return;
        }
        std::erase_if(best, [&](const auto& other) {
            return std::equal(other.begin(), other.end(), held.begin(), std::less_equal<>());
        });
        best.push_back(held);
    };
    // Behind the warm-up the vectors repeat with every group of micro-batches, so a shorter run has them all.
    Shape shorter = s;
    if (s.schedule != Schedule::kGpipe) shorter.num_micro = std::min(s.num_micro, 4 * s.num_stages);
    for (const Op& op : stage_order(shorter, stage)) {
        const auto c = static_cast<std::size_t>(op.chunk);
        if (op.pass == Pass::kForward) {
            ++held[c];
            grew = true;
            continue;
        }
        if (grew) keep();
        if (op.pass == Pass::kWeight) {
            --held[c + static_cast<std::size_t>(v)];
            grew = false;
        } else {
            --held[c];
            if (s.splits_backward()) ++held[c + static_cast<std::size_t>(v)];
            grew = s.splits_backward();
        }
    }
    std::vector<int> flat;
    for (const auto& vector : best) flat.insert(flat.end(), vector.begin(), vector.end());
    return flat;
}

EventClock::EventClock(const Shape& shape) : shape_(shape), next_(static_cast<std::size_t>(shape.num_stages)) {}

// Most shapes are never run: their orders are made when the first one is.
void EventClock::prepare() {
    if (!orders_.empty()) return;
    const std::size_t cells =
        static_cast<std::size_t>(shape_.num_chunks()) * static_cast<std::size_t>(shape_.num_micro);
    forward_end_.resize(cells);
    backward_end_.resize(std::max(cells, static_cast<std::size_t>(shape_.num_stages)));
    for (int i = 0; i < shape_.num_stages; ++i) {
        orders_.push_back(stage_order(shape_, i));
        starts_.emplace_back(orders_.back().size());
    }
}

bool EventClock::run(const ChunkTimes& times, std::span<double> stage_end, int stages, double turn) {
    prepare();
    const bool whole = stages == shape_.num_stages;
    const int chunks = whole ? shape_.num_chunks() : stages, m = shape_.num_micro;
    const auto used = static_cast<std::ptrdiff_t>(chunks) * m;
    std::fill(forward_end_.begin(), forward_end_.begin() + used, -1.0);
    std::fill(backward_end_.begin(), backward_end_.begin() + used, -1.0);
    std::fill(next_.begin(), next_.end(), 0);
    std::fill(stage_end.begin(), stage_end.end(), 0.0);
    std::size_t left = 0;
    for (std::size_t i = 0; i < static_cast<std::size_t>(stages); ++i) left += orders_[i].size();
    while (left > 0) {
        const std::size_t before = left;
        for (int i = 0; i < stages; ++i) {
            const auto stage = static_cast<std::size_t>(i);
            const auto& order = orders_[stage];
            double now = stage_end[stage];
            while (next_[stage] < order.size()) {
                const Op op = order[next_[stage]];
                const int c = op.chunk * stages + i;  // chunk number in model order
                const auto cell = static_cast<std::size_t>(c) * static_cast<std::size_t>(m) +
                                  static_cast<std::size_t>(op.micro);
                const auto uc = static_cast<std::size_t>(c), um = static_cast<std::size_t>(m);
                double ready = 0.0, length = 0.0;
                if (op.pass == Pass::kForward) {
                    if (c > 0) {
                        if (forward_end_[cell - um] < 0.0) break;
                        ready = forward_end_[cell - um] + times.link[uc - 1];
                    }
                    length = times.forward[uc];
                } else if (op.pass == Pass::kBackward) {
                    if (forward_end_[cell] < 0.0) break;
                    ready = forward_end_[cell] + (c + 1 == chunks ? turn : 0.0);
                    if (c + 1 < chunks) {
                        if (backward_end_[cell + um] < 0.0) break;
                        ready = std::max(ready, backward_end_[cell + um] + times.link[uc]);
                    }
                    length = times.backward[uc];
                    if (!shape_.splits_backward()) length += times.weight[uc];
                } else {
                    if (backward_end_[cell] < 0.0) break;
                    length = times.weight[uc];
                }
                const double start = std::max(now, ready);
                now = start + length;
                starts_[stage][next_[stage]] = start;
                if (op.pass == Pass::kForward) forward_end_[cell] = now;
                if (op.pass == Pass::kBackward) backward_end_[cell] = now;
                ++next_[stage];
                --left;
            }
            stage_end[stage] = now;
        }
        if (left == before) return false;
    }
    return true;
}

// One cycle of 1F1B or ZB-H1 is a backward on every stage, from the last to the first, with the weight gradient
// and the forward that follow it. Forward k + warmup of stage i needs that of stage i - 1 in the cycle before.
// The state is, per stage, the time it is free and the end of its newest forward, and for the last stage the
// ends of all forwards still in flight. A cycle maps states by sums and maxima alone, so equal states up to a
// shift have equal futures up to that shift.
void EventClock::ends(const ChunkTimes& times, std::span<double> stage_end, int stages, double turn) {
    const Shape& s = shape_;
    const int m = s.num_micro;
    const bool cyclic = (s.schedule == Schedule::k1f1b || s.schedule == Schedule::kZbH1) &&
                        m > 2 * s.num_stages;
    if (!cyclic) {
        run(times, stage_end, stages, turn);
        return;
    }
    const auto count = static_cast<std::size_t>(stages);
    const bool split = s.splits_backward();
    const int in_flight = s.num_stages - stages + 1;  // of the last stage simulated
    const std::size_t width = 2 * count + static_cast<std::size_t>(in_flight);
    state_.assign(width, 0.0);
    double* now = state_.data();
    double* forward = now + count;     // end of the newest forward
    double* flying = forward + count;  // ends of the last stage's forwards, by micro-batch modulo in_flight
    // Warm-up: stage i runs num_stages - i forwards.
    std::vector<double>& arrival = arrival_;  // of the forwards of the stage before
    arrival.resize(static_cast<std::size_t>(s.num_stages));
    for (std::size_t i = 0; i < count; ++i) {
        const int warmup = s.num_stages - static_cast<int>(i);
        double last_before = 0.0;
        for (int k = 0; k < warmup; ++k) {
            const auto cell = static_cast<std::size_t>(k);
            const double ready = i == 0 ? 0.0 : arrival[cell] + times.link[i - 1];
            now[i] = std::max(now[i], ready) + times.forward[i];
            last_before = now[i];
            arrival[cell] = now[i];
            if (i + 1 == count) flying[static_cast<std::size_t>(k % in_flight)] = now[i];
        }
        forward[i] = last_before;
    }
    // arrival[] of stage i - 1 beyond the warm-up of stage i is its newest forward, kept in forward[i - 1].
    const std::size_t kept = count + 1;
    history_.resize(kept * width);
    const int last_full = m - 1 - s.num_stages;  // last cycle in which every stage has a forward
    bool jumped = false;
    for (int k = 0; k < m; ++k) {
        double below = 0.0;  // end of the backward of the stage behind
        for (std::size_t r = count; r-- > 0;) {
            const bool last = r + 1 == count;
            const double ready = last ? flying[static_cast<std::size_t>(k % in_flight)] + (stages == s.num_stages ? 0.0 : turn)
                                : below + times.link[r];
            now[r] = std::max(now[r], ready) + times.backward[r] + (split ? 0.0 : times.weight[r]);
            below = now[r];
            if (split && k >= static_cast<int>(r)) now[r] += times.weight[r];
            const int micro = k + s.num_stages - static_cast<int>(r);
            if (micro < m) {
                const double arrived = r == 0 ? 0.0 : forward[r - 1] + times.link[r - 1];
                now[r] = std::max(now[r], arrived) + times.forward[r];
                forward[r] = now[r];
                if (last) flying[static_cast<std::size_t>(micro % in_flight)] = now[r];
            }
        }
        if (jumped || k < s.num_stages || k >= last_full) continue;
        // Has the state moved on evenly since `back` cycles ago?
        const auto slot = static_cast<std::size_t>(k) % kept;
        for (std::size_t back = 1; back < kept && k - static_cast<int>(back) >= s.num_stages; ++back) {
            const double* old = history_.data() + (static_cast<std::size_t>(k) - back) % kept * width;
            const double shift = now[0] - old[0];
            const double slack = 1e-13 * now[0];
            bool even = true;
            for (std::size_t c = 1; even && c < 2 * count; ++c) even = std::abs(now[c] - old[c] - shift) <= slack;
            for (int c = 1; even && c <= in_flight; ++c) {
                const auto mine = static_cast<std::size_t>((k + c) % in_flight);
                const auto then = static_cast<std::size_t>((k - static_cast<int>(back) + c) % in_flight);
                even = std::abs(flying[mine] - old[2 * count + then] - shift) <= slack;
            }
            if (!even) continue;
            // Jump over whole repetitions; micro-batches keep their places modulo in_flight.
            const int step = static_cast<int>(back);
            const int jumps = (last_full - k) / step;
            const int skipped = jumps * step;
            for (std::size_t c = 0; c < width; ++c) state_[c] += jumps * shift;
            if (skipped % in_flight != 0) {
                std::rotate(flying, flying + (in_flight - skipped % in_flight), flying + in_flight);
            }
            k += skipped;
            jumped = true;
            break;
        }
        if (!jumped) std::copy(state_.begin(), state_.end(), history_.begin() + static_cast<std::ptrdiff_t>(slot * width));
    }
    for (std::size_t i = 0; i < count; ++i) {
        stage_end[i] = now[i] + (split ? static_cast<double>(std::min(m, static_cast<int>(i))) * times.weight[i] : 0.0);
    }
}

}  // namespace optalloc::training

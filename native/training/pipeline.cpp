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

EventClock::EventClock(const Shape& shape) : shape_(shape), next_(static_cast<std::size_t>(shape.num_stages)) {
    const std::size_t cells =
        static_cast<std::size_t>(shape_.num_chunks()) * static_cast<std::size_t>(shape_.num_micro);
    forward_end_.resize(cells);
    backward_end_.resize(cells);
    for (int i = 0; i < shape_.num_stages; ++i) {
        orders_.push_back(stage_order(shape_, i));
        starts_.emplace_back(orders_.back().size());
    }
}

bool EventClock::run(const ChunkTimes& times, std::span<double> stage_end) {
    const int stages = shape_.num_stages, chunks = shape_.num_chunks(), m = shape_.num_micro;
    std::fill(forward_end_.begin(), forward_end_.end(), -1.0);
    std::fill(backward_end_.begin(), backward_end_.end(), -1.0);
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
                    ready = forward_end_[cell];
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

}  // namespace optalloc::training

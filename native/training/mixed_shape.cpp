// One shape of a mixed pipeline: bounds on its micro-batches, the cheapest first.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <utility>

#include "training/mixed.hpp"

namespace optalloc::training {

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kStep = 1.01;  // of the grid of beta
const double kPerLog = 1.0 / std::log(kStep);
constexpr int kTailSteps = 48;  // of the grid of theta, finer at its beginning
constexpr double kNarrow = 0.9;  // a target below this share of the grid of theta has one of its own
constexpr std::int16_t kUnknown = -2;

}  // namespace

MixedStages::Role MixedSearch::role(int stage, int stages) const {
    if (stages == 1) return MixedStages::kSingle;
    if (stage == 0) return MixedStages::kFirst;
    return stage == stages - 1 ? MixedStages::kLast : MixedStages::kMiddle;
}

int MixedSearch::kind_of(const MixedShape& shape, int stage) const {
    int block = 0;
    while (stage >= shape.count[block]) stage -= shape.count[block++];
    return shape.kind[block];
}

// The link behind a stage: inside a block near where the block fills an aligned part of a domain.
MixedLink MixedSearch::link_behind(const MixedShape& shape, int stage) const {
    int block = 0, inside = stage;
    while (inside >= shape.count[block]) inside -= shape.count[block++];
    const MixedKind& kind = input_.kinds[static_cast<std::size_t>(shape.kind[block])];
    const auto group = static_cast<std::size_t>(kind.group);
    if (inside + 1 < shape.count[block]) {
        const int devices = kind.devices * shape.count[block], domain = input_.domain[group];
        const bool aligned = devices == domain || (domain % devices == 0 && (devices & (devices - 1)) == 0);
        const MixedLink& link = aligned ? input_.near[group] : input_.far[group];
        return {link.latency, link.seconds_per_byte * kind.sent};
    }
    const MixedKind& next = input_.kinds[static_cast<std::size_t>(shape.kind[block + 1])];
    const MixedLink& link = input_.across[group][static_cast<std::size_t>(next.group)];
    return {link.latency, link.seconds_per_byte * std::max(kind.sent, next.sent)};
}

double MixedSearch::shape_links(const MixedShape& shape) const {
    double total = 0.0;
    int before = 0;
    for (int block = 0; block < shape.blocks; ++block) {
        const int count = shape.count[block];
        if (count > 1) {
            const MixedLink inner = link_behind(shape, before);
            total += (count - 1) * 2.0 * (inner.latency + least_boundary_ * inner.seconds_per_byte);
        }
        before += count;
        if (block + 1 < shape.blocks) {
            const MixedLink outer = link_behind(shape, before - 1);
            total += 2.0 * (outer.latency + least_boundary_ * outer.seconds_per_byte);
        }
    }
    return total;
}

// Greedy: every stage takes as many layers as stay within beta, none where one is too long. A stage's time never
// falls with more layers, so this reaches the end if any cut does.
bool MixedSearch::covers(const MixedShape& shape, double beta) {
    const int stages = shape.stages();
    int begin = 0;
    for (int i = 0; i < stages; ++i) {
        const int kind = kind_of(shape, i);
        const auto r = role(i, stages);
        if (i == stages - 1) return stages_.at(kind, 1, r, begin, layers_).tau <= beta;
        const int most = layers_ - std::max(0, stages - 2 - i);  // a layer for each middle stage behind
        if (i == 0 && stages_.at(kind, stages, r, 0, 0).tau > beta) return false;
        int low = begin, high = std::max(begin, most);
        while (low < high) {
            const int middle = (low + high + 1) / 2;
            if (stages_.at(kind, stages - i, r, begin, middle).tau <= beta) {
                low = middle;
            } else {
                high = middle - 1;
            }
        }
        begin = low;
    }
    return false;
}

// The least sum of all stages where none is longer than `cap`: the fastest take all they can.
double MixedSearch::least_pass(const MixedShape& shape, double cap) const {
    double left = 1.0, sum = 0.0, before = kInfinity;
    while (left > 0.0) {
        double rate = 0.0;
        int count = 0;
        for (int b = 0; b < shape.blocks; ++b) {
            const double own = rate_[static_cast<std::size_t>(shape.kind[b])];
            if (own < before && own > rate) {
                rate = own;
                count = 0;
            }
            if (own == rate) count += shape.count[b];
        }
        if (rate <= 0.0) break;
        const double part = std::min(left, cap * rate * count);
        sum += part / rate;
        left -= part;
        before = rate;
    }
    return sum;
}

// The grid of beta from the share of one device of all to the target, and that of theta to the target or just above.
void MixedSearch::open_grid(double target) {
    double rates = 0.0;
    for (std::size_t g = 0; g < device_rate_.size(); ++g) rates += device_rate_[g] * input_.available[g];
    first_step_ = static_cast<int>(std::floor(-std::log(rates) * kPerLog)) - 2;
    const int last = static_cast<int>(std::ceil(std::log(target) * kPerLog)) + 2;
    if (beta_.empty() || last > last_step_) {
        last_step_ = last;
        beta_.clear();
        for (int k = first_step_; k <= last; ++k) beta_.push_back(std::pow(kStep, k));
        capacity_.assign(input_.kinds.size(), {});
    }
    if (theta_.empty() || target > theta_.back() || target < kNarrow * theta_.back()) {
        theta_.resize(kTailSteps + 1);
        for (int k = 0; k <= kTailSteps; ++k) {
            theta_[static_cast<std::size_t>(k)] = target * k * k / (kTailSteps * kTailSteps);
        }
        tail_capacity_.assign(input_.kinds.size(), {});
    }
}

// How many layers stages of a kind hold within the beta of a step, as far as that is known.
std::int16_t* MixedSearch::capacities(int step, int kind) {
    auto& own = capacity_[static_cast<std::size_t>(kind)];
    const auto size = static_cast<std::size_t>(2 * input_.most_stages + 2);
    if (own.empty()) own.assign(beta_.size() * size, kUnknown);
    return own.data() + static_cast<std::size_t>(step - first_step_) * size;
}

// The most layers of a stage among these; -1 where it holds none within beta.
int MixedSearch::capacity(std::int16_t* own, int step, int kind, int in_flight, MixedStages::Role r) {
    const int stages = input_.most_stages;
    std::int16_t& most = own[r == MixedStages::kMiddle   ? in_flight - 1
                             : r == MixedStages::kFirst  ? stages + in_flight - 1
                             : r == MixedStages::kLast   ? 2 * stages
                                                         : 2 * stages + 1];
    if (most == kUnknown) {
        const auto& row = stages_.row(kind, in_flight, r);
        const double beta = beta_[static_cast<std::size_t>(step - first_step_)];
        most = static_cast<std::int16_t>(std::upper_bound(row.begin(), row.end(), beta) - row.begin() - 1);
    }
    return most;
}

// By number of layers: the most layers up to that number whose tail is within the theta of a step; -1 if there is no
// such number.
const std::int16_t* MixedSearch::tail_capacity(int step, int kind, MixedStages::Role r) {
    const auto size = static_cast<std::size_t>(layers_) + 1;
    auto& all = tail_capacity_[static_cast<std::size_t>(kind)];
    if (all.empty()) all.assign((kTailSteps + 1) * 4 * size, kUnknown);
    std::int16_t* own = all.data() + (static_cast<std::size_t>(step) * 4 + r) * size;
    if (own[0] != kUnknown) return own;
    const double theta = theta_[static_cast<std::size_t>(step)];
    const auto& row = stages_.tails(kind, r);
    std::int16_t most = -1;
    for (std::size_t n = 0; n < size; ++n) {
        if (row[n] <= theta) most = static_cast<std::int16_t>(n);
        own[n] = most;
    }
    return own;
}

// The least sum of all stages within the beta and the theta of two steps, the quickest kinds holding all the layers
// they can; infinite where the stages together do not hold as many as there are.
double MixedSearch::pass_within(const MixedShape& shape, int step, int tail_step) {
    const int stages = shape.stages();
    std::array<std::pair<double, int>, kMostBlocks> room;  // seconds of a layer, layers: the quickest first
    int total = 0, place = stages;                         // from the end
    for (int b = 0; b < shape.blocks; ++b) {
        const int kind = shape.kind[b];
        std::int16_t* by_beta = capacities(step, kind);
        int own = 0;
        const auto holds = [&](int at, MixedStages::Role r, const std::int16_t* by_theta) {
            int most = capacity(by_beta, step, kind, at, r);
            if (most >= 0) most = by_theta[most];
            own += most;
            return most >= (r == MixedStages::kMiddle ? 1 : 0);
        };
        const int behind = place - shape.count[b];
        if (place == stages) {
            const auto r = role(0, stages);
            if (!holds(place--, r, tail_capacity(tail_step, kind, r))) return kInfinity;
        }
        if (place > 0 && behind == 0) {
            if (!holds(1, MixedStages::kLast, tail_capacity(tail_step, kind, MixedStages::kLast))) return kInfinity;
        }
        if (place > std::max(behind, 1)) {
            const std::int16_t* middle = tail_capacity(tail_step, kind, MixedStages::kMiddle);
            for (int at = place; at > std::max(behind, 1); --at) {
                if (!holds(at, MixedStages::kMiddle, middle)) return kInfinity;
            }
        }
        place = behind;
        total += own;
        const double layer = layer_[static_cast<std::size_t>(shape.kind[b])];
        auto at = static_cast<std::size_t>(b);
        for (; at > 0 && room[at - 1].first > layer; --at) room[at] = room[at - 1];
        room[at] = {layer, own};
    }
    if (total < layers_) return kInfinity;
    double sum = first_[static_cast<std::size_t>(shape.kind[0])] +
                 last_[static_cast<std::size_t>(shape.kind[shape.blocks - 1])];
    for (int b = 0, left = layers_; left > 0; ++b) {
        const auto& [layer, own] = room[static_cast<std::size_t>(b)];
        sum += layer * std::min(left, own);
        left -= own;
    }
    return sum * (1.0 - 1e-12);
}

// Whether a bound by counts lets a shape take so many micro-batches within the target: for some theta, from the least
// that it can have, the beta that it leaves. A theta too small for the largest beta left is too small for all: it
// rises until it is not.
bool MixedSearch::can_take(const MixedShape& shape, double target, int num_micro) {
    const double least = shape.least_tail * (1.0 - 1e-12);
    const auto room = [&](int tail) {
        return target - shape.links - std::max(least, theta_[static_cast<std::size_t>(tail - 1)]);
    };
    const auto step_of = [&](double beta) {  // below the grid: none
        if (!(beta >= beta_.front())) return first_step_ - 1;
        return std::min(last_step_, static_cast<int>(std::ceil(std::log(beta * (1.0 + 1e-12)) * kPerLog)));
    };
    int tail = std::max(1, static_cast<int>(std::sqrt(std::max(0.0, least) / theta_.back()) * kTailSteps) - 1);
    while (tail < kTailSteps && theta_[static_cast<std::size_t>(tail)] < least) ++tail;
    while (tail <= kTailSteps) {
        double beta = room(tail) / num_micro;
        if (num_micro > 1 && beta > 0.0) beta = std::min(beta, (room(tail) - least_pass(shape, beta)) / (num_micro - 1));
        const int widest = step_of(beta);
        if (widest < first_step_) return false;
        double pass = pass_within(shape, widest, tail);
        if (pass == kInfinity) {
            if (pass_within(shape, widest, kTailSteps) == kInfinity) return false;
            int bad = tail, good = kTailSteps;
            while (bad + 1 < good) {
                const int middle = (bad + good) / 2;
                (pass_within(shape, widest, middle) < kInfinity ? good : bad) = middle;
            }
            tail = good;
            continue;
        }
        // The stages that hold the layers take their time, which leaves less for the slowest of them, and so on.
        for (int step = widest; pass <= room(tail);) {
            const int next = num_micro > 1 ? step_of((room(tail) - pass) / (num_micro - 1)) : step;
            if (next >= step) return true;
            if (next < first_step_) break;
            step = next;
            pass = pass_within(shape, step, tail);
        }
        ++tail;
    }
    return false;
}

// A lower bound of the slowest stage over all cuts, to a ten-thousandth; infinite where nothing fits.
void MixedSearch::measure(MixedShape& shape) {
    shape.measured = true;
    double total = 0.0;
    for (int block = 0; block < shape.blocks; ++block) {
        total += shape.count[block] * rate_[static_cast<std::size_t>(shape.kind[block])];
    }
    if (!covers(shape, std::numeric_limits<double>::max())) {
        shape.least_beta = kInfinity;
        return;
    }
    double low = 1.0 / total, high = 1.25 * low;
    while (!covers(shape, high)) {
        low = high;
        high *= 1.25;
    }
    while (high - low > 1e-4 * high) {
        const double middle = 0.5 * (low + high);
        (covers(shape, middle) ? high : low) = middle;
    }
    shape.least_beta = low;
}

// The most micro-batches within the target if no cut has a slowest stage below beta.
int MixedSearch::most_within(const MixedShape& shape, double target, double beta) const {
    const double room = target - shape.links - shape.least_tail;
    int most = static_cast<int>(std::clamp(std::floor(room / beta * (1.0 + 1e-12)), 0.0, static_cast<double>(shape.most_micro)));
    while (most > 0 && least_pass(shape, room / most) * (1.0 - 1e-12) + (most - 1) * beta > room) --most;
    return most;
}

// Sharpens the number of micro-batches a shape takes until it is exact or less than needed: by whether its stages
// can hold the layers in the time that is left for them, by the slowest stage at best, and by its cuts.
void MixedSearch::refine(MixedShape& shape, double target, int needed, MixedAnswer& answer) {
    ++answer.refined;
    if (!shape.measured) {
        if (needed > 1) {
            const double room = target - shape.links - shape.least_tail;
            double cap = room / needed;
            cap = std::min(cap, (room - least_pass(shape, cap)) / (needed - 1)) * (1.0 + 1e-12);
            if (!covers(shape, cap)) {
                shape.most_micro = needed - 1;
                return;
            }
        }
        measure(shape);
    }
    shape.most_micro = shape.least_beta < kInfinity ? most_within(shape, target, shape.least_beta) : 0;
    if (shape.most_micro < needed) return;
    ++answer.solved;
    int reached = 0;
    if (solve(shape, needed, target, nullptr, &reached) == kInfinity) {
        shape.most_micro = needed - 1;
    } else {
        shape.most_micro = std::min(shape.most_micro, reached);
        shape.exact = true;
    }
}

}  // namespace optalloc::training

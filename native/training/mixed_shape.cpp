// One shape of a mixed pipeline: bounds on its micro-batches and its best cuts.
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

// The grid of beta from the share of one device of all to the target.
void MixedSearch::open_grid(double target) {
    double rates = 0.0;
    for (std::size_t g = 0; g < device_rate_.size(); ++g) rates += device_rate_[g] * input_.available[g];
    first_step_ = static_cast<int>(std::floor(-std::log(rates) * kPerLog)) - 2;
    last_step_ = static_cast<int>(std::ceil(std::log(target) * kPerLog)) + 2;
    const int steps = std::max(0, last_step_ - first_step_ + 1), size = 2 * input_.most_stages + 3;
    beta_.resize(static_cast<std::size_t>(steps));
    for (int k = 0; k < steps; ++k) beta_[static_cast<std::size_t>(k)] = std::pow(kStep, first_step_ + k);
    capacity_.assign(static_cast<std::size_t>(steps) * input_.kinds.size() * static_cast<std::size_t>(size), -1);
    theta_.resize(kTailSteps + 1);
    for (int k = 0; k <= kTailSteps; ++k) {
        theta_[static_cast<std::size_t>(k)] = target * k * k / (kTailSteps * kTailSteps);
    }
    const std::size_t lengths = 4 * (static_cast<std::size_t>(layers_) + 1);
    tail_capacity_.assign((kTailSteps + 1) * input_.kinds.size() * lengths, -2);
}

// How many layers stages of a kind hold within the beta of a step.
const std::int16_t* MixedSearch::capacity(int step, int kind) {
    const int stages = input_.most_stages, size = 2 * stages + 3;
    const std::size_t at = static_cast<std::size_t>(kind) * beta_.size() + static_cast<std::size_t>(step - first_step_);
    std::int16_t* own = capacity_.data() + at * static_cast<std::size_t>(size);
    if (own[0] == 0) return own;
    const double beta = beta_[static_cast<std::size_t>(step - first_step_)];
    const auto most = [&](int in_flight, MixedStages::Role r) {
        const auto& row = stages_.row(kind, in_flight, r);
        return static_cast<std::int16_t>(std::upper_bound(row.begin(), row.end(), beta) - row.begin() - 1);
    };
    own[0] = 0;
    for (int f = 1; f <= stages; ++f) own[f] = most(f, MixedStages::kMiddle);
    for (int f = 1; f <= stages; ++f) own[stages + f] = most(f, MixedStages::kFirst);
    own[size - 2] = most(1, MixedStages::kLast);
    own[size - 1] = most(1, MixedStages::kSingle);
    return own;
}

// By role and number of layers: the most layers up to that number whose tail is within the theta of a step; -1 if
// there is no such number.
const std::int16_t* MixedSearch::tail_capacity(int step, int kind) {
    const auto size = static_cast<std::size_t>(layers_) + 1;
    std::int16_t* own = tail_capacity_.data() +
                        (static_cast<std::size_t>(step) * input_.kinds.size() + static_cast<std::size_t>(kind)) * 4 * size;
    if (own[0] != -2) return own;
    const double theta = theta_[static_cast<std::size_t>(step)];
    for (int r = 0; r < 4; ++r) {
        const auto& row = stages_.tails(kind, static_cast<MixedStages::Role>(r));
        std::int16_t most = -1;
        for (std::size_t n = 0; n < size; ++n) {
            if (row[n] <= theta) most = static_cast<std::int16_t>(n);
            own[static_cast<std::size_t>(r) * size + n] = most;
        }
    }
    return own;
}

// The least sum of all stages within the beta and the theta of two steps, the quickest kinds holding all the layers
// they can; infinite where the stages together do not hold as many as there are.
double MixedSearch::pass_within(const MixedShape& shape, int step, int tail_step) {
    const int stages = shape.stages(), limit = input_.most_stages, size = layers_ + 1;
    std::array<std::pair<double, int>, kMostGroups> room;  // seconds of a layer, layers: the quickest first
    int total = 0, place = stages;                         // from the end
    for (int b = 0; b < shape.blocks; ++b) {
        const std::int16_t* by_beta = capacity(step, shape.kind[b]);
        const std::int16_t* by_theta = tail_capacity(tail_step, shape.kind[b]);
        int own = 0;
        for (int i = 0; i < shape.count[b]; ++i, --place) {
            const auto r = role(stages - place, stages);
            int most = by_beta[place];
            if (r != MixedStages::kMiddle) {
                most = by_beta[r == MixedStages::kFirst ? limit + place : 2 * limit + (r == MixedStages::kLast ? 1 : 2)];
            }
            if (most >= 0) most = by_theta[r * size + most];
            if (most < (r == MixedStages::kMiddle ? 1 : 0)) return kInfinity;
            own += most;
        }
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

// Whether a bound by counts lets a shape take so many micro-batches within the target: for some theta, the beta that
// it leaves. A theta too small for the largest beta left is too small for all: it rises until it is not.
bool MixedSearch::can_take(const MixedShape& shape, double target, int num_micro) {
    const auto room = [&](int tail) { return target - shape.links - theta_[static_cast<std::size_t>(tail - 1)]; };
    const auto step_of = [&](double beta) {  // below the grid: none
        if (!(beta >= beta_.front())) return first_step_ - 1;
        return std::min(last_step_, static_cast<int>(std::ceil(std::log(beta * (1.0 + 1e-12)) * kPerLog)));
    };
    for (int tail = 1; tail <= kTailSteps;) {
        double beta = room(tail) / num_micro;
        if (num_micro > 1 && beta > 0.0) beta = std::min(beta, (room(tail) - least_pass(shape, beta)) / (num_micro - 1));
        const int widest = step_of(beta);
        if (widest < first_step_ || pass_within(shape, widest, kTailSteps) == kInfinity) return false;
        // The stages that hold the layers take their time, which leaves less for the slowest of them, and so on.
        double pass = pass_within(shape, widest, tail);
        for (int step = widest; pass <= room(tail);) {
            const int next = num_micro > 1 ? step_of((room(tail) - pass) / (num_micro - 1)) : step;
            if (next >= step) return true;
            if (next < first_step_) break;
            step = next;
            pass = pass_within(shape, step, tail);
        }
        int bad = tail, good = tail + 1;
        if (pass_within(shape, widest, tail) == kInfinity) {
            for (good = kTailSteps; bad + 1 < good;) {
                const int middle = (bad + good) / 2;
                (pass_within(shape, widest, middle) < kInfinity ? good : bad) = middle;
            }
        }
        tail = good;
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

// min over cuts of S + (m - 1) max tau + max tail, where that is at most `cutoff`; else infinity. Labels (S, max
// tau, max tail) go from stage to stage; one is dropped if another of the same cut is no worse in all three, or
// if what is left at best brings it beyond the cutoff.
double MixedSearch::solve(const MixedShape& shape, int num_micro, double cutoff, MixedReplica* out, int* most) {
    const int stages = shape.stages(), size = layers_ + 1;
    const double more = num_micro - 1;
    std::vector<double> fastest(static_cast<std::size_t>(stages) + 1, 0.0);  // best rate from a stage on
    std::vector<double> links(static_cast<std::size_t>(stages) + 1, 0.0);    // least links from a stage on
    for (int i = stages - 1; i >= 0; --i) {
        const auto at = static_cast<std::size_t>(i);
        fastest[at] = std::max(fastest[at + 1], rate_[static_cast<std::size_t>(kind_of(shape, i))]);
        if (i + 1 < stages) {
            const MixedLink link = link_behind(shape, i);
            links[at] = links[at + 1] + 2.0 * (link.latency + least_boundary_ * link.seconds_per_byte);
        }
    }
    const double room = cutoff - links[0] - shape.least_tail;
    double cap = room / num_micro;
    if (more > 0) cap = std::min(cap, (room - least_pass(shape, cap)) / more);
    if (!(cap >= shape.least_beta)) return kInfinity;
    // From the right, no fewer layers than these can be done before a stage.
    std::vector<int> least(static_cast<std::size_t>(stages) + 1, layers_);
    for (int i = stages - 1; i > 0; --i) {
        const int kind = kind_of(shape, i), end = least[static_cast<std::size_t>(i) + 1];
        const auto r = role(i, stages);
        if (i == stages - 1 && stages_.at(kind, 1, r, end, end).tau > cap) return kInfinity;
        int low = 0, high = end;  // the last of these always is possible: the stage then ends further right
        while (low < high) {
            const int middle = (low + high) / 2;
            if (stages_.at(kind, stages - i, r, middle, end).tau <= cap) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        least[static_cast<std::size_t>(i)] = low;
    }
    std::vector<std::vector<std::vector<Label>>> cells(static_cast<std::size_t>(stages) + 1);
    for (auto& row : cells) row.resize(static_cast<std::size_t>(size));
    cells[0][0].push_back({0.0, 0.0, 0.0, 0, 0});
    const double floor = shape.least_beta;
    for (int i = 0; i < stages; ++i) {
        const auto at = static_cast<std::size_t>(i);
        const int kind = kind_of(shape, i);
        const auto r = role(i, stages);
        const bool last = i == stages - 1;
        const MixedLink link = last ? MixedLink{0.0, 0.0} : link_behind(shape, i);
        for (int begin = 0; begin <= layers_; ++begin) {
            const auto& from = cells[at][static_cast<std::size_t>(begin)];
            if (from.empty()) continue;
            const int lowest = std::max(begin + (i > 0 && !last ? 1 : 0), last ? layers_ : least[at + 1]);
            const int highest = last ? layers_ : layers_ - std::max(0, stages - 2 - i);
            for (int end = lowest; end <= highest; ++end) {
                const MixedOption option = stages_.at(kind, stages - i, r, begin, end);
                if (option.tau > cap) break;
                double step = option.tau;
                if (!last) {
                    step += 2.0 * (link.latency +
                                   input_.boundary[static_cast<std::size_t>(end)] * link.seconds_per_byte);
                }
                double rest = 0.0;
                if (!last) {
                    rest = links[at + 1] +
                           std::max(0.0, 1.0 - work_prefix_[static_cast<std::size_t>(end)]) / fastest[at + 1];
                }
                auto& to = cells[at + 1][static_cast<std::size_t>(end)];
                for (std::size_t index = 0; index < from.size(); ++index) {
                    Label label{from[index].s + step, std::max(from[index].beta, option.tau),
                                std::max(from[index].theta, option.tail), begin,
                                static_cast<std::int32_t>(index)};
                    const double beta = std::max(label.beta, floor);
                    if ((label.s + rest + more * beta + label.theta) * (1.0 - 1e-13) > cutoff) continue;
                    bool worse = false;
                    for (const Label& other : to) {
                        if (other.s <= label.s && std::max(other.beta, floor) <= beta &&
                            other.theta <= label.theta) {
                            worse = true;
                            break;
                        }
                    }
                    if (worse) continue;
                    std::erase_if(to, [&](const Label& other) {
                        return label.s <= other.s && beta <= std::max(other.beta, floor) &&
                               label.theta <= other.theta;
                    });
                    to.push_back(label);
                }
            }
        }
    }
    const auto& done = cells[static_cast<std::size_t>(stages)][static_cast<std::size_t>(layers_)];
    double best = kInfinity;
    std::size_t which = 0;
    for (std::size_t k = 0; k < done.size(); ++k) {
        const double value = done[k].s + more * done[k].beta + done[k].theta;
        if (most != nullptr) {  // this label is within the cutoff, but for rounding
            const double spare = std::max(0.0, std::floor((cutoff - value) / done[k].beta * (1.0 + 1e-12)));
            *most = std::max(*most, num_micro + static_cast<int>(std::min(spare, 1e6)));
        }
        if (value < best) {
            best = value;
            which = k;
        }
    }
    if (best > cutoff) return kInfinity;
    if (out != nullptr) {
        out->num_micro = num_micro;
        out->value = best;
        out->beta = done[which].beta;
        const auto count = static_cast<std::size_t>(stages);
        out->kinds.assign(count, 0);
        out->layers.assign(count, 0);
        out->full.assign(count, 0);
        out->selective.assign(count, 0);
        int end = layers_;
        for (int i = stages - 1; i >= 0; --i) {
            const auto at = static_cast<std::size_t>(i);
            const Label& label = cells[at + 1][static_cast<std::size_t>(end)][which];
            const int kind = kind_of(shape, i);
            out->kinds[at] = kind;
            out->layers[at] = end - label.from_end;
            stages_.compute(kind, stages - i, role(i, stages), label.from_end, end, &out->full[at],
                            &out->selective[at]);
            which = static_cast<std::size_t>(label.from_index);
            end = label.from_end;
        }
    }
    return best;
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

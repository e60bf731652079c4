// The space of a mixed search: rates of the kinds, and the shapes that can be part of a plan within a target.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <map>
#include <utility>

#include "training/mixed.hpp"

namespace optalloc::training {

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

}  // namespace

MixedSearch::MixedSearch(MixedInput input)
    : input_(std::move(input)), stages_(input_), layers_(static_cast<int>(input_.sequence.size())) {
    const std::size_t types = input_.kinds.empty() ? 0 : input_.kinds[0].layer.size();
    const std::size_t groups = input_.available.size();
    std::vector<double> counts(types, 0.0);
    for (const int type : input_.sequence) counts[static_cast<std::size_t>(type)] += 1.0;
    if (types > 0) counts.front() = counts.back() = 1.0;
    const auto seconds = [&](const MixedKind& k, std::size_t type) {
        const LayerCost& c = k.layer[type];
        return c.forward + c.backward;
    };
    // A layer type's share of the work: its time when the whole cluster runs nothing else at its best.
    std::vector<double> work(types, 0.0);
    for (std::size_t type = 0; type < types; ++type) {
        double speed = 0.0;
        for (std::size_t g = 0; g < groups; ++g) {
            double least = kInfinity;
            for (const MixedKind& k : input_.kinds) {
                if (k.group == static_cast<int>(g)) least = std::min(least, k.devices * seconds(k, type));
            }
            speed += least == kInfinity ? 0.0 : least > 0.0 ? input_.available[g] / least : kInfinity;
        }
        work[type] = speed > 0.0 && speed < kInfinity ? 1.0 / speed : 0.0;
    }
    double total = 0.0;
    for (std::size_t type = 0; type < types; ++type) total += counts[type] * work[type];
    for (double& w : work) w /= total;
    device_rate_.assign(groups, 0.0);
    for (const MixedKind& k : input_.kinds) {
        double rate = 0.0;
        for (std::size_t type = 0; type < types; ++type) {
            if (work[type] > 0.0) rate = std::max(rate, work[type] / seconds(k, type));
        }
        rate_.push_back(rate);
        // The tail is at least the update, and at least what the passes cannot hide, but for what those of the
        // embedding hide beyond its own; both by unit of work.
        double update = kInfinity, seen = kInfinity;
        for (std::size_t type = 0; type < types; ++type) {
            if (!(work[type] > 0.0) || type == 0) continue;
            for (const LayerCost* c : {&k.layer[type], &k.head_alone}) {
                if (c == &k.head_alone && type + 1 < types) continue;
                update = std::min(update, c->update / work[type]);
                seen = std::min(seen, (c->update + c->reduce + c->gather -
                                       input_.overlap * (c->forward + c->backward)) / work[type]);
            }
        }
        update_.push_back(std::max(0.0, update));
        tail_.push_back(std::max({0.0, update, seen}));
        const LayerCost& first = k.layer.front();
        hides_.push_back(std::max(0.0, input_.overlap * (first.forward + first.backward) -
                                           (first.update + first.reduce + first.gather)));
        double layer = kInfinity;
        for (const int type : input_.sequence) layer = std::min(layer, seconds(k, static_cast<std::size_t>(type)));
        layer_.push_back(layer);
        first_.push_back(seconds(k, 0));
        last_.push_back(std::min(seconds(k, types - 1), k.head_alone.forward + k.head_alone.backward));
        double& best = device_rate_[static_cast<std::size_t>(k.group)];
        best = std::max(best, rate / k.devices);
    }
    work_first_ = types > 0 ? work.front() : 0.0;
    work_last_ = types > 0 ? work.back() : 0.0;
    work_prefix_.assign(static_cast<std::size_t>(layers_) + 1, work_first_);
    for (std::size_t j = 0; j < input_.sequence.size(); ++j) {
        work_prefix_[j + 1] = work_prefix_[j] + work[static_cast<std::size_t>(input_.sequence[j])];
    }
    for (std::size_t type = 0; type < types; ++type) {
        double least = kInfinity;
        for (const MixedKind& k : input_.kinds) {
            const LayerCost& c = k.layer[type];
            double bytes = c.state + std::min({c.held, c.held_selective, c.held_full});
            if (type + 1 == types) bytes = std::min(bytes, k.head_alone.state + k.head_alone.held);
            least = std::min(least, k.devices * bytes);
        }
        least_state_ += counts[type] * least;
    }
    least_boundary_ = *std::min_element(input_.boundary.begin(), input_.boundary.end());
    num_kinds_ = input_.kinds.size();
    add_families();
}

// Kinds of one group and size as one, at least as good as each of them in every respect that bounds look at.
void MixedSearch::add_families() {
    std::map<std::pair<int, int>, std::vector<int>> members;
    for (std::size_t k = 0; k < num_kinds_; ++k) {
        members[{input_.kinds[k].group, input_.kinds[k].devices}].push_back(static_cast<int>(k));
    }
    for (auto& [key, own] : members) {
        MixedKind family = input_.kinds[static_cast<std::size_t>(own.front())];
        double rate = 0.0, tail = kInfinity, update = kInfinity, hides = 0.0;
        double layer = kInfinity, first = kInfinity, last = kInfinity;
        for (const int member : own) {
            const auto k = static_cast<std::size_t>(member);
            family.capacity = std::max(family.capacity, input_.kinds[k].capacity);
            family.sent = std::min(family.sent, input_.kinds[k].sent);
            rate = std::max(rate, rate_[k]);
            tail = std::min(tail, tail_[k]);
            update = std::min(update, update_[k]);
            hides = std::max(hides, hides_[k]);
            layer = std::min(layer, layer_[k]);
            first = std::min(first, first_[k]);
            last = std::min(last, last_[k]);
        }
        rate_.push_back(rate);
        tail_.push_back(tail);
        update_.push_back(update);
        hides_.push_back(hides);
        layer_.push_back(layer);
        first_.push_back(first);
        last_.push_back(last);
        input_.kinds.push_back(std::move(family));
        stages_.add_family(std::move(own));
    }
}

// Bounds a shape in O(blocks) and says whether it can be part of a plan within the target. With x_i of the work on
// stage i, S + (m-1) max tau >= sum x_i/r_i + (m-1) max x_i/r_i, least where the q fastest stages are equally long
// and the others empty: (q + m - 1) / R_q with R_q the sum of their rates r. In q this is monotone inside a block.
// The tails are at least t_i x_i (the embedding's work left out), less what the embedding hides on the first stage,
// so the longest is at least their harmonic mean over the number of stages, less that.
bool MixedSearch::admit(MixedShape& shape, double target, MixedAnswer& answer) {
    ++answer.shapes;
    std::array<std::pair<double, int>, kMostBlocks> parts;  // rate and stages, the fastest first
    double room = 0.0, price = 0.0;
    for (int b = 0; b < shape.blocks; ++b) {
        const auto k = static_cast<std::size_t>(shape.kind[b]);
        const MixedKind& kind = input_.kinds[k];
        auto place = static_cast<std::size_t>(b);
        for (; place > 0 && parts[place - 1].first < rate_[k]; --place) parts[place] = parts[place - 1];
        parts[place] = {rate_[k], shape.count[b]};
        shape.group[b] = static_cast<std::int8_t>(kind.group);
        shape.devices[b] = shape.count[b] * kind.devices;
        room += shape.count[b] * kind.devices * kind.capacity;
        price += shape.count[b] * kind.devices * device_rate_[static_cast<std::size_t>(kind.group)];
    }
    if (room < least_state_ * (1.0 - 1e-9)) return false;
    shape.links = shape_links(shape);
    double by_tail = 0.0, by_update = 0.0;
    for (int b = 0; b < shape.blocks; ++b) {
        by_tail += shape.count[b] / tail_[static_cast<std::size_t>(shape.kind[b])];
        by_update += shape.count[b] / update_[static_cast<std::size_t>(shape.kind[b])];
    }
    const double hidden = hides_[static_cast<std::size_t>(shape.kind[0])];
    shape.least_tail = std::max((1.0 - work_first_) / by_update, (1.0 - work_first_) / by_tail - hidden);
    const double time = target - shape.links - shape.least_tail;
    double most = time * parts[0].first, rates = 0.0;
    int stages = 0;
    for (int b = 0; b < shape.blocks; ++b) {
        const auto& [rate, count] = parts[static_cast<std::size_t>(b)];
        rates += rate * count;
        stages += count;
        most = std::max(most, time * rates - stages + 1.0);
    }
    most = std::min(std::floor(most * (1.0 + 1e-12) + 1e-9), static_cast<double>(input_.num_micro));
    if (most < 1.0) return false;
    // Every device is worth its best rate; what a shape wastes must not exceed what can be spared.
    const double worth = target * price * (1.0 - 1e-12) - slack_ - 1e-6;
    if (most < worth) return false;
    shape.most_micro = static_cast<std::int32_t>(most);
    return true;
}

void MixedSearch::extend(MixedShape& shape, unsigned used, int stages, double wasted, double target,
                         MixedAnswer& answer) {
    const int most = std::min(input_.most_stages, layers_ + 2);
    for (std::size_t k = num_kinds_; k < input_.kinds.size(); ++k) {
        const MixedKind& kind = input_.kinds[k];
        if (used & (1u << kind.group)) continue;
        const int block = shape.blocks;
        shape.blocks = static_cast<std::int8_t>(block + 1);
        shape.kind[block] = static_cast<std::int16_t>(k);
        const int limit = std::min(most - stages, input_.available[static_cast<std::size_t>(kind.group)] / kind.devices);
        // Every stage adds at least this to what is wasted: a micro-batch of bubble and what the kind is slower than
        // the best, or all it could do.
        const double worth = target * kind.devices * device_rate_[static_cast<std::size_t>(kind.group)];
        const double loss = std::min(worth, worth - target * rate_[k] + 1.0);
        for (int count = 1; count <= limit; ++count) {
            if (*cancel_ != 0 || wasted + count * loss - 1.0 > slack_ * (1.0 + 1e-9) + 1e-6) break;
            shape.count[block] = static_cast<std::int16_t>(count);
            MixedShape own = shape;
            if (admit(own, target, answer)) shapes_.push_back(own);
            if (shape.blocks < input_.most_blocks) {
                extend(shape, used | (1u << kind.group), stages + count, wasted + count * loss, target, answer);
            }
        }
        shape.count[block] = 0;
        shape.blocks = static_cast<std::int8_t>(block);
    }
}

// The shapes that can be part of a plan within the target; those known from a greater one stay.
void MixedSearch::open(double target, MixedAnswer& answer) {
    double all = 0.0;
    for (std::size_t g = 0; g < device_rate_.size(); ++g) all += device_rate_[g] * input_.available[g];
    slack_ = target * all - input_.num_micro;
    open_grid(target);
    if (opened_) {
        for (MixedShape& s : shapes_) s.exact = false;
        return;
    }
    opened_ = true;
    double room = 0.0;
    for (std::size_t g = 0; g < device_rate_.size(); ++g) {
        double best = 0.0;
        for (const MixedKind& k : input_.kinds) {
            if (k.group == static_cast<int>(g)) best = std::max(best, k.capacity);
        }
        room += best * input_.available[g];
    }
    if (slack_ < 0.0 || room < input_.least_replicas * least_state_ * (1.0 - 1e-9)) {
        shapes_.clear();
        return;
    }
    if (inherits_) {
        for (MixedShape& shape : shapes_) {
            const int known = shape.most_micro;
            shape.most_micro = admit(shape, target, answer) ? std::min(known, shape.most_micro) : 0;
        }
        return;
    }
    MixedShape shape;
    extend(shape, 0, 0, 0.0, target, answer);
}

void MixedSearch::inherit(const MixedSearch& other) {
    inherits_ = true;
    prices_ = other.prices_;
    const auto take = [&](const MixedShape& known) {
        if (known.most_micro < 1) return;
        shapes_.push_back(known);
        shapes_.back().measured = shapes_.back().exact = false;
    };
    for (const Column& column : other.true_) take(other.shapes_[column.shape]);  // these matter most
    for (const MixedShape& known : other.shapes_) take(known);
}

// A shape with each kind of its first family in place of it, behind the others; the shape itself is no longer one.
void MixedSearch::expand(std::size_t index, double target, MixedAnswer& answer) {
    const MixedShape shape = shapes_[index];
    shapes_[index].most_micro = 0;
    int block = 0;
    while (stages_.family(shape.kind[block]) == nullptr) ++block;
    for (const int member : *stages_.family(shape.kind[block])) {
        MixedShape own = shape;
        own.kind[block] = static_cast<std::int16_t>(member);
        if (!admit(own, target, answer)) continue;
        own.most_micro = std::min(own.most_micro, shape.most_micro);
        shapes_.push_back(own);
    }
}

}  // namespace optalloc::training

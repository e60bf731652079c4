// Stages of a mixed pipeline: the least time of a range of layers that fits in memory.
#include <algorithm>
#include <limits>

#include "training/mixed.hpp"

namespace optalloc::training {

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

void add(LayerCost& to, const LayerCost& c) {
    to.forward += c.forward;
    to.backward += c.backward;
    to.extra_selective += c.extra_selective;
    to.extra_full += c.extra_full;
    to.held += c.held;
    to.held_selective += c.held_selective;
    to.held_full += c.held_full;
    to.state += c.state;
    to.reduce += c.reduce;
    to.gather += c.gather;
    to.update += c.update;
}

}  // namespace

MixedStages::Sums MixedStages::summed(std::vector<const LayerCost*> layers) {
    Sums sums;
    sums.at.resize(layers.size() + 1, LayerCost{});
    sums.least_held.resize(layers.size() + 1, 0.0);
    for (std::size_t k = 0; k < layers.size(); ++k) {
        const LayerCost& c = *layers[k];
        sums.at[k + 1] = sums.at[k];
        add(sums.at[k + 1], c);
        sums.least_held[k + 1] = sums.least_held[k] + std::min({c.held, c.held_selective, c.held_full});
    }
    sums.layers = std::move(layers);
    return sums;
}

MixedStages::MixedStages(const MixedInput& input) : input_(input), size_(input.sequence.size() + 1),
      flights_(static_cast<std::size_t>(input.most_stages) + 1) {
    least_layer_.reserve(input.kinds.size());
    std::vector<int> types = input.sequence;
    std::sort(types.begin(), types.end());
    types.erase(std::unique(types.begin(), types.end()), types.end());
    uniform_ = types.size() == 1;
    for (const MixedKind& kind : input.kinds) {
        LayerCost least = kind.layer[static_cast<std::size_t>(types.front())], most = least;
        for (const int type : types) {
            const LayerCost* c = &kind.layer[static_cast<std::size_t>(type)];
            least.forward = std::min(least.forward, c->forward);
            least.backward = std::min(least.backward, c->backward);
            least.extra_selective = std::min(least.extra_selective, c->extra_selective);
            least.extra_full = std::min(least.extra_full, c->extra_full);
            least.held = std::min(least.held, c->held);
            least.held_selective = std::min(least.held_selective, c->held_selective);
            least.held_full = std::min(least.held_full, c->held_full);
            least.scratch_selective = std::min(least.scratch_selective, c->scratch_selective);
            least.scratch_full = std::min(least.scratch_full, c->scratch_full);
            least.state = std::min(least.state, c->state);
            least.reduce = std::min(least.reduce, c->reduce);
            least.gather = std::min(least.gather, c->gather);
            least.update = std::min(least.update, c->update);
            most.forward = std::max(most.forward, c->forward);
            most.backward = std::max(most.backward, c->backward);
        }
        most_layer_.push_back(most);
        least_layer_.push_back(least);
    }
    sums_.resize(input.kinds.size());
    cheapest_.resize(input.kinds.size());
    options_.resize(input.kinds.size() * flights_ * 4);
    rows_.resize(input.kinds.size() * flights_ * 4);
    tails_.resize(input.kinds.size() * 4);
}

std::size_t MixedStages::key(int kind, int in_flight, Role role) const {
    return (static_cast<std::size_t>(kind) * flights_ + static_cast<std::size_t>(in_flight)) * 4 + role;
}

// The layers of a kind in order.
const MixedStages::Sums& MixedStages::sums(std::size_t kind) {
    if (sums_[kind].at.empty()) {
        std::vector<const LayerCost*> layers;
        for (const int type : input_.sequence) layers.push_back(&input_.kinds[kind].layer[static_cast<std::size_t>(type)]);
        sums_[kind] = summed(std::move(layers));
    }
    return sums_[kind];
}

// As many layers of a kind, each the cheapest in every respect.
const MixedStages::Sums& MixedStages::cheapest(std::size_t kind) {
    if (cheapest_[kind].at.empty()) {
        cheapest_[kind] = summed(std::vector<const LayerCost*>(size_ - 1, &least_layer_[kind]));
    }
    return cheapest_[kind];
}

// Where all layers are equal only their number matters; a first stage begins and a last one ends with the chain.
const MixedOption& MixedStages::at(int kind, int in_flight, Role role, int begin, int end) {
    auto& row = options_[key(kind, in_flight, role)];
    const bool square = role == kMiddle && !uniform_;
    if (row.empty()) row.assign(square ? size_ * size_ : size_, MixedOption{-1.0, 0.0});
    const auto first = static_cast<std::size_t>(begin), last = static_cast<std::size_t>(end);
    MixedOption& option = row[square ? first * size_ + last : uniform_ ? last - first : role == kLast ? first : last];
    if (option.tau < 0.0) option = compute(kind, in_flight, role, begin, end, nullptr, nullptr);
    return option;
}

const std::vector<double>& MixedStages::row(int kind, int in_flight, Role role) {
    auto& row = rows_[key(kind, in_flight, role)];
    if (!row.empty()) return row;
    if (const std::vector<int>* members = family(kind)) {
        std::vector<double> least(size_, kInfinity);
        for (const int member : *members) {
            const auto& own = this->row(member, in_flight, role);
            for (std::size_t n = 0; n < size_; ++n) least[n] = std::min(least[n], own[n]);
        }
        row = std::move(least);
        return row;
    }
    const auto k = static_cast<std::size_t>(kind);
    // While everything can be stored, times and bytes are linear in the number of layers.
    const MixedKind& own = input_.kinds[k];
    const LayerCost& layer = least_layer_[k];
    const bool first = role == kFirst || role == kSingle, last = role == kLast || role == kSingle;
    LayerCost ends{};
    if (first) add(ends, own.layer.front());
    if (last) add(ends, role == kSingle ? own.head_alone : own.layer.back());
    const double bytes = ends.state + in_flight * ends.held + (last ? own.logits : 0.0);
    row.reserve(size_);
    for (std::size_t n = 0; n < size_; ++n) {
        const auto count = static_cast<double>(n);
        if ((bytes + count * (layer.state + in_flight * layer.held)) * (1.0 + 1e-12) > own.capacity) break;
        // A sum of floats may be this much less when added up otherwise.
        row.push_back((ends.forward + ends.backward + count * (layer.forward + layer.backward)) * (1.0 - 1e-13));
    }
    for (std::size_t n = row.size(); n < size_; ++n) {
        row.push_back(row.empty() || row.back() < kInfinity
                          ? best(input_.kinds[k], cheapest(k), in_flight, role, 0, n, nullptr, nullptr).tau
                          : kInfinity);
    }
    return row;
}

const std::vector<double>& MixedStages::tails(int kind, Role role) {
    auto& row = tails_[static_cast<std::size_t>(kind * 4 + role)];
    if (!row.empty()) return row;
    std::vector<double> least(size_, kInfinity);
    if (const std::vector<int>* members = family(kind)) {
        for (const int member : *members) {
            const auto& own = tails(member, role);
            for (std::size_t n = 0; n < size_; ++n) least[n] = std::min(least[n], own[n]);
        }
    } else {
        const auto k = static_cast<std::size_t>(kind);
        const MixedKind& own = input_.kinds[k];
        const LayerCost &low = least_layer_[k], &high = most_layer_[k];
        LayerCost ends{};
        if (role == kFirst || role == kSingle) add(ends, own.layer.front());
        if (role == kLast || role == kSingle) add(ends, role == kSingle ? own.head_alone : own.layer.back());
        for (std::size_t n = 0; n < size_; ++n) {
            const auto count = static_cast<double>(n);
            const double reduce = own.reduce0 + ends.reduce + count * low.reduce;
            const double gather = own.gather0 + ends.gather + count * low.gather;
            double tail = std::max(0.0, reduce - input_.overlap * (ends.backward + count * high.backward)) +
                          std::max(0.0, gather - input_.overlap * (ends.forward + count * high.forward)) +
                          ends.update + count * low.update;
            if (role == kFirst || role == kLast) tail += own.tied;
            // A sum of floats may be this much less when added up otherwise.
            least[n] = tail - 1e-12 * (tail + reduce + gather);
        }
    }
    row = std::move(least);
    return row;
}

void MixedStages::add_family(std::vector<int> members) {
    families_.push_back(std::move(members));
    rows_.resize(rows_.size() + flights_ * 4);
    tails_.resize(tails_.size() + 4);
}

const std::vector<int>* MixedStages::family(int kind) const {
    const auto k = static_cast<std::size_t>(kind);
    return k < sums_.size() ? nullptr : &families_[k - sums_.size()];
}

MixedOption MixedStages::compute(int kind, int in_flight, Role role, int begin, int end, int* full, int* selective) {
    const auto k = static_cast<std::size_t>(kind);
    if (uniform_) {  // the same sums for the same number of layers
        end -= begin;
        begin = 0;
    }
    return best(input_.kinds[k], sums(k), in_flight, role, static_cast<std::size_t>(begin),
                static_cast<std::size_t>(end), full, selective);
}

// The recomputation of least extra time that fits: for every number of layers recomputed whole the fewest
// recomputed in their core. The tail does not depend on it.
MixedOption MixedStages::best(const MixedKind& k, const Sums& sums, int in_flight, Role role, std::size_t b,
                              std::size_t e, int* full_out, int* selective_out) const {
    const bool first = role == kFirst || role == kSingle, last = role == kLast || role == kSingle;
    LayerCost ends{};
    if (first) add(ends, k.layer.front());
    if (last) add(ends, role == kSingle ? k.head_alone : k.layer.back());
    const LayerCost &hi = sums.at[e], &lo = sums.at[b];
    const double flight = in_flight;
    const double state = ends.state + (hi.state - lo.state) + (last ? k.logits : 0.0) + flight * ends.held;
    const double room = k.capacity - state;
    if (flight * (sums.least_held[e] - sums.least_held[b]) > room) return {kInfinity, 0.0};

    const int n = static_cast<int>(e - b);
    const auto type = [&](int j) -> const LayerCost& {
        return *sums.layers[b + static_cast<std::size_t>(j)];
    };
    // Kept by `full` whole and `selective` core layers, working sets apart.
    const auto kept = [&](int full, int selective) {
        const auto c1 = b + static_cast<std::size_t>(full), c2 = c1 + static_cast<std::size_t>(selective);
        return flight * (sums.at[c1].held_full - lo.held_full + sums.at[c2].held_selective -
                         sums.at[c1].held_selective + hi.held - sums.at[c2].held);
    };
    double best = kInfinity, scratch_full = 0.0;
    int best_full = 0, best_selective = 0;
    for (int full = 0; full <= n; ++full) {
        if (full > 0) scratch_full = std::max(scratch_full, type(full - 1).scratch_full);
        const auto c1 = b + static_cast<std::size_t>(full);
        const double whole = sums.at[c1].extra_full - lo.extra_full;
        if (whole >= best) break;
        if (kept(full, 0) + scratch_full <= room) {
            best = whole;
            best_full = full;
            best_selective = 0;
            break;  // more layers recomputed whole only add time
        }
        if (full == n) break;
        double scratch = std::max(scratch_full, type(full).scratch_selective);
        if (kept(full, n - full) + scratch > room) continue;  // cores keep no more than whole layers stored
        int low = 1, high = n - full;
        while (low < high) {  // kept falls with more cores: the least number with the working set of one
            const int middle = (low + high) / 2;
            if (kept(full, middle) + scratch <= room) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        for (int j = 1; j < low; ++j) scratch = std::max(scratch, type(full + j).scratch_selective);
        for (; low <= n - full; ++low) {
            scratch = std::max(scratch, type(full + low - 1).scratch_selective);
            if (kept(full, low) + scratch <= room) break;
        }
        if (low > n - full) continue;
        const auto c2 = c1 + static_cast<std::size_t>(low);
        const double extra = whole + sums.at[c2].extra_selective - sums.at[c1].extra_selective;
        if (extra < best) {
            best = extra;
            best_full = full;
            best_selective = low;
        }
    }
    if (best == kInfinity) return {kInfinity, 0.0};
    if (full_out != nullptr) *full_out = best_full;
    if (selective_out != nullptr) *selective_out = best_selective;
    const double forward = ends.forward + (hi.forward - lo.forward);
    const double backward = ends.backward + (hi.backward - lo.backward);
    const double reduce = k.reduce0 + ends.reduce + (hi.reduce - lo.reduce);
    const double gather = k.gather0 + ends.gather + (hi.gather - lo.gather);
    double tail = std::max(0.0, reduce - input_.overlap * backward) +
                  std::max(0.0, gather - input_.overlap * forward) + ends.update + (hi.update - lo.update);
    if (role == kFirst || role == kLast) tail += k.tied;
    return {forward + backward + best, tail};
}

}  // namespace optalloc::training

// Which mixed pipelines to use: a packing of shapes into the devices, decided by bounds that are made exact only
// where they matter.
#include "training/mixed.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

namespace optalloc::training {

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr std::int64_t kLargeTable = 3'000'000;
constexpr std::size_t kAtOnce = 64;
constexpr std::int64_t kLargestTable = 300'000'000;  // steps of one packing

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
        // The tail is at least the update, and at least what the passes cannot hide; both by unit of work.
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
        tail_.push_back(std::max({0.0, update, seen}));
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
        double rate = 0.0, tail = kInfinity;
        for (const int member : own) {
            const auto k = static_cast<std::size_t>(member);
            family.capacity = std::max(family.capacity, input_.kinds[k].capacity);
            family.sent = std::min(family.sent, input_.kinds[k].sent);
            rate = std::max(rate, rate_[k]);
            tail = std::min(tail, tail_[k]);
        }
        rate_.push_back(rate);
        tail_.push_back(tail);
        input_.kinds.push_back(std::move(family));
        stages_.add_family(std::move(own));
    }
}

// -- shapes ------------------------------------------------------------------------------------------------

// Bounds a shape in O(blocks) and says whether it can be part of a plan within the target. With x_i of the work on
// stage i, S + (m-1) max tau >= sum x_i/r_i + (m-1) max x_i/r_i, least where the q fastest stages are equally long
// and the others empty: (q + m - 1) / R_q with R_q the sum of their rates r. In q this is monotone inside a block.
// The tails are at least t_i x_i (the embedding's work left out), so the longest is at least their harmonic mean
// over the number of stages.
bool MixedSearch::admit(MixedShape& shape, double target, MixedAnswer& answer) {
    ++answer.shapes;
    std::array<std::pair<double, int>, kMostGroups> parts;  // rate and stages, the fastest first
    double room = 0.0, price = 0.0;
    for (int b = 0; b < shape.blocks; ++b) {
        const auto k = static_cast<std::size_t>(shape.kind[b]);
        const MixedKind& kind = input_.kinds[k];
        auto place = static_cast<std::size_t>(b);
        for (; place > 0 && parts[place - 1].first < rate_[k]; --place) parts[place] = parts[place - 1];
        parts[place] = {rate_[k], shape.count[b]};
        room += shape.count[b] * kind.devices * kind.capacity;
        price += shape.count[b] * kind.devices * device_rate_[static_cast<std::size_t>(kind.group)];
    }
    if (room < least_state_ * (1.0 - 1e-9)) return false;
    shape.links = shape_links(shape);
    double parts_of_tail = 0.0;
    for (int b = 0; b < shape.blocks; ++b) {
        parts_of_tail += shape.count[b] / tail_[static_cast<std::size_t>(shape.kind[b])];
    }
    shape.least_tail = (1.0 - work_first_) / parts_of_tail;
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
    // No stage is longer than this if the shape takes as many as it must, so none needs a wider grid.
    const double beta = roomy_beta(shape, 1.0 / rates, time / std::max(1.0, std::ceil(worth)));
    if (beta == kInfinity) return false;
    shape.most_micro = most_within(shape, target, beta);
    return shape.most_micro >= 1 && shape.most_micro >= worth;
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
            if (shape.blocks < kMostGroups) {
                extend(shape, used | (1u << kind.group), stages + count, wasted + count * loss, target, answer);
            }
        }
        shape.count[block] = 0;
        shape.blocks = static_cast<std::int8_t>(block);
    }
}

void MixedSearch::enumerate(double target, MixedAnswer& answer) {
    shapes_.clear();
    columns_.clear();
    double all = 0.0;
    for (std::size_t g = 0; g < device_rate_.size(); ++g) all += device_rate_[g] * input_.available[g];
    slack_ = target * all - input_.num_micro;
    double room = 0.0;
    for (std::size_t g = 0; g < device_rate_.size(); ++g) {
        double best = 0.0;
        for (const MixedKind& k : input_.kinds) {
            if (k.group == static_cast<int>(g)) best = std::max(best, k.capacity);
        }
        room += best * input_.available[g];
    }
    if (slack_ < 0.0 || room < input_.least_replicas * least_state_ * (1.0 - 1e-9)) return;
    open_grid(target);
    MixedShape shape;
    extend(shape, 0, 0, 0.0, target, answer);
    std::map<std::vector<int>, std::size_t> known;
    for (std::size_t s = 0; s < shapes_.size(); ++s) {
        std::vector<int> usage(input_.available.size(), 0);
        for (int b = 0; b < shapes_[s].blocks; ++b) {
            const MixedKind& kind = input_.kinds[static_cast<std::size_t>(shapes_[s].kind[b])];
            usage[static_cast<std::size_t>(kind.group)] += kind.devices * shapes_[s].count[b];
        }
        const auto [entry, fresh] = known.try_emplace(usage, columns_.size());
        if (fresh) columns_.push_back({std::move(usage), {}, 0, false});
        columns_[entry->second].shapes.push_back(s);
    }
    for (Column& column : columns_) refresh(column);
}

// -- columns: the devices a replica takes, and the shapes that take them -------------------------------------

void MixedSearch::refresh(Column& column) {
    std::erase_if(column.shapes, [&](std::size_t s) { return shapes_[s].most_micro < 1; });
    const auto order = [&](std::size_t a, std::size_t b) { return below(a, b); };
    std::make_heap(column.shapes.begin(), column.shapes.end(), order);
    column.micro = column.shapes.empty() ? 0 : shapes_[column.shapes.front()].most_micro;
    column.exact = column.shapes.empty() || shapes_[column.shapes.front()].exact;
}

// The fewest micro-batches with which a column can be in a packing that is large enough: by the prices, it must not
// waste more than the relaxation has to spare.
int MixedSearch::needed(const Column& column, const std::vector<double>& prices, double bound) const {
    const std::size_t groups = input_.available.size();
    double worth = prices[groups] - (bound - input_.num_micro);
    for (std::size_t g = 0; g < groups; ++g) worth += prices[g] * column.usage[g];
    return std::max(1, static_cast<int>(std::ceil(worth - 1e-6)));
}

// The order of a column's heap: the most micro-batches on top, exact ones first.
bool MixedSearch::below(std::size_t a, std::size_t b) const {
    const MixedShape &x = shapes_[a], &y = shapes_[b];
    return std::make_pair(x.most_micro, x.exact) < std::make_pair(y.most_micro, y.exact);
}

// Replaces a shape by those with each kind of its first family in place of it.
void MixedSearch::expand(Column& column, MixedShape shape, double target, MixedAnswer& answer) {
    int block = 0;
    while (stages_.family(shape.kind[block]) == nullptr) ++block;
    const int bound = shape.most_micro;
    for (const int member : *stages_.family(shape.kind[block])) {
        MixedShape own = shape;
        own.kind[block] = static_cast<std::int16_t>(member);
        if (!admit(own, target, answer)) continue;
        own.most_micro = std::min(own.most_micro, bound);
        shapes_.push_back(own);
        column.shapes.push_back(shapes_.size() - 1);
        std::push_heap(column.shapes.begin(), column.shapes.end(),
                       [&](std::size_t a, std::size_t b) { return below(a, b); });
    }
}

// Refines the best shape of a column until it is exact, or too poor to be needed. True if the column changed.
bool MixedSearch::sharpen(Column& column, double target, int needed, MixedAnswer& answer) {
    if (column.exact) return false;
    const auto order = [&](std::size_t a, std::size_t b) { return below(a, b); };
    bool changed = false;
    while (!column.shapes.empty() && *cancel_ == 0) {
        const std::size_t top = column.shapes.front();
        if (shapes_[top].exact || (changed && shapes_[top].most_micro < needed)) break;
        changed = true;
        std::pop_heap(column.shapes.begin(), column.shapes.end(), order);
        if (std::any_of(shapes_[top].kind, shapes_[top].kind + shapes_[top].blocks,
                        [&](int k) { return stages_.family(k) != nullptr; })) {
            column.shapes.pop_back();
            expand(column, shapes_[top], target, answer);
            continue;
        }
        refine(shapes_[top], target, needed, answer);
        if (shapes_[top].most_micro < 1) {
            column.shapes.pop_back();
        } else {
            std::push_heap(column.shapes.begin(), column.shapes.end(), order);
        }
    }
    column.micro = column.shapes.empty() ? 0 : shapes_[column.shapes.front()].most_micro;
    column.exact = column.shapes.empty() || shapes_[column.shapes.front()].exact;
    return true;
}

// -- packing -------------------------------------------------------------------------------------------------

// The linear relaxation: max sum n x with the devices and the number of replicas as rows, by the primal simplex
// method on an inverse of at most four rows. Returns a bound valid whatever the rounding: prices are made dual
// feasible at the end by raising that of the replicas.
double MixedSearch::relax(std::vector<double>& prices, std::vector<std::size_t>& basis) const {
    const std::size_t groups = input_.available.size(), rows = groups + 1;
    constexpr std::size_t kSlack = std::numeric_limits<std::size_t>::max();
    std::vector<std::vector<double>> inverse(rows, std::vector<double>(rows, 0.0));
    std::vector<double> value(rows), cost(rows, 0.0);
    std::vector<std::size_t> in(rows, kSlack);
    for (std::size_t r = 0; r < rows; ++r) {
        inverse[r][r] = 1.0;
        value[r] = r < groups ? input_.available[r] : input_.most_replicas;
    }
    const auto entry = [&](const Column& c, std::size_t row) {
        return row < groups ? static_cast<double>(c.usage[row]) : 1.0;
    };
    prices.assign(rows, 0.0);
    for (int round = 0; round < 200; ++round) {
        for (std::size_t r = 0; r < rows; ++r) {
            prices[r] = 0.0;
            for (std::size_t k = 0; k < rows; ++k) prices[r] += cost[k] * inverse[k][r];
        }
        double best = 1e-9;
        std::size_t enter = kSlack;
        int slack = -1;
        for (std::size_t r = 0; r < rows; ++r) {
            if (-prices[r] > best) {
                best = -prices[r];
                slack = static_cast<int>(r);
            }
        }
        for (std::size_t c = 0; c < columns_.size(); ++c) {
            if (columns_[c].micro == 0) continue;
            double reduced = columns_[c].micro;
            for (std::size_t r = 0; r < rows; ++r) reduced -= prices[r] * entry(columns_[c], r);
            if (reduced > best) {
                best = reduced;
                enter = c;
                slack = -1;
            }
        }
        if (enter == kSlack && slack < 0) break;
        std::vector<double> direction(rows, 0.0);
        for (std::size_t k = 0; k < rows; ++k) {
            for (std::size_t r = 0; r < rows; ++r) {
                const double a = slack >= 0 ? (static_cast<int>(r) == slack ? 1.0 : 0.0) : entry(columns_[enter], r);
                direction[k] += inverse[k][r] * a;
            }
        }
        std::size_t leave = rows;
        double ratio = kInfinity;
        for (std::size_t k = 0; k < rows; ++k) {
            if (direction[k] > 1e-12 && value[k] / direction[k] < ratio) {
                ratio = value[k] / direction[k];
                leave = k;
            }
        }
        if (leave == rows) break;
        for (std::size_t k = 0; k < rows; ++k) {
            if (k != leave) value[k] = std::max(0.0, value[k] - ratio * direction[k]);
        }
        value[leave] = ratio;
        for (std::size_t r = 0; r < rows; ++r) inverse[leave][r] /= direction[leave];
        for (std::size_t k = 0; k < rows; ++k) {
            if (k == leave) continue;
            for (std::size_t r = 0; r < rows; ++r) inverse[k][r] -= direction[k] * inverse[leave][r];
        }
        in[leave] = enter;
        cost[leave] = slack >= 0 ? 0.0 : columns_[enter].micro;
    }
    double missing = 0.0;
    for (double& p : prices) p = std::max(0.0, p);
    for (const Column& column : columns_) {
        double reduced = column.micro;
        for (std::size_t r = 0; r < rows; ++r) reduced -= prices[r] * entry(column, r);
        if (column.micro > 0) missing = std::max(missing, reduced);
    }
    prices[groups] += missing;
    double bound = prices[groups] * input_.most_replicas;
    for (std::size_t r = 0; r < groups; ++r) bound += prices[r] * input_.available[r];
    basis.clear();
    for (std::size_t k = 0; k < rows; ++k) {
        if (in[k] != kSlack && value[k] > 1e-9) basis.push_back(in[k]);
    }
    return bound;
}

// The most micro-batches that a whole number of replicas takes, by dynamic programming over devices used of each
// group and replicas; `chosen` lists a column a replica, or columns to make exact before that is worth its time. Columns that waste more than can be spared are left out.
int MixedSearch::pack(const std::vector<double>& prices, double bound, std::vector<std::size_t>& chosen,
                      MixedAnswer& answer, bool& too_large) {
    ++answer.packings;
    chosen.clear();
    const std::size_t groups = input_.available.size();
    std::vector<std::size_t> left;
    for (std::size_t c = 0; c < columns_.size(); ++c) {
        if (columns_[c].micro > 0 && columns_[c].micro >= needed(columns_[c], prices, bound)) left.push_back(c);
    }
    // Where one takes no more devices for as many micro-batches, another is of no use.
    std::sort(left.begin(), left.end(), [&](std::size_t x, std::size_t y) {
        return std::make_pair(-columns_[x].micro, columns_[x].usage) < std::make_pair(-columns_[y].micro, columns_[y].usage);
    });
    std::size_t kept = 0;
    for (const std::size_t c : left) {
        const bool beaten = std::any_of(left.begin(), left.begin() + static_cast<std::ptrdiff_t>(kept), [&](std::size_t k) {
            return std::equal(columns_[k].usage.begin(), columns_[k].usage.end(), columns_[c].usage.begin(),
                              std::less_equal<>());
        });
        if (!beaten) left[kept++] = c;
    }
    left.resize(kept);
    std::vector<int> unit(groups, 0), extent(groups);
    for (const std::size_t c : left) {
        for (std::size_t g = 0; g < groups; ++g) unit[g] = std::gcd(unit[g], columns_[c].usage[g]);
    }
    std::int64_t states = 1;
    for (std::size_t g = 0; g < groups; ++g) {
        extent[g] = unit[g] == 0 ? 1 : input_.available[g] / unit[g] + 1;
        states *= extent[g];
        if (states > kLargestTable) break;
    }
    // Where no packing can have more replicas than allowed, only the fewest are counted: the last layer then holds
    // that many or more.
    int smallest = std::numeric_limits<int>::max();
    for (const std::size_t c : left) {
        smallest = std::min(smallest, std::accumulate(columns_[c].usage.begin(), columns_[c].usage.end(), 0));
    }
    const int devices = std::accumulate(input_.available.begin(), input_.available.end(), 0);
    const bool open = left.empty() || input_.most_replicas >= std::min(devices / smallest, input_.num_micro);
    const int most = open ? std::min(input_.least_replicas, input_.most_replicas) : input_.most_replicas;
    if (states * most * static_cast<std::int64_t>(left.size()) > kLargeTable) {
        // First make exact some of the columns that count: most then do not.
        for (const std::size_t c : left) {
            if (!columns_[c].exact && chosen.size() < kAtOnce) chosen.push_back(c);
        }
        if (!chosen.empty()) return input_.num_micro;
    }
    if (states * most > kLargestTable / 30 ||
        states * most * static_cast<std::int64_t>(left.size()) > kLargestTable) {
        too_large = true;
        return 0;
    }
    // Devices in units, and how far back in the table the rest of the devices lies.
    std::vector<int> takes(left.size() * groups);
    std::vector<std::size_t> back(left.size(), 0);
    for (std::size_t i = 0; i < left.size(); ++i) {
        for (std::size_t g = 0; g < groups; ++g) {
            const int own = unit[g] == 0 ? 0 : columns_[left[i]].usage[g] / unit[g];
            takes[i * groups + g] = own;
            back[i] = back[i] * static_cast<std::size_t>(extent[g]) + static_cast<std::size_t>(own);
        }
    }
    const auto total = static_cast<std::size_t>(states);
    constexpr int kNever = -1;
    std::vector<int> before(total, 0), now(total);
    std::vector<std::vector<std::int32_t>> choice(static_cast<std::size_t>(most) + 1);  // ~i: stays in the layer
    std::vector<int> at(groups);
    int best = 0, best_layer = 0;
    for (int r = 1; r <= most; ++r) {
        if (*cancel_ != 0) return 0;
        auto& pick = choice[static_cast<std::size_t>(r)];
        pick.assign(total, 0);
        std::fill(now.begin(), now.end(), kNever);
        std::fill(at.begin(), at.end(), 0);
        const bool stays = open && r == most;
        for (std::size_t v = 0; v < total; ++v) {
            for (std::size_t i = 0; i < left.size(); ++i) {
                bool fits = true;
                for (std::size_t g = 0; g < groups; ++g) fits = fits && takes[i * groups + g] <= at[g];
                if (!fits) continue;
                const std::size_t source = v - back[i];
                const int micro = columns_[left[i]].micro;
                if (before[source] != kNever && before[source] + micro > now[v]) {
                    now[v] = before[source] + micro;
                    pick[v] = static_cast<std::int32_t>(i);
                }
                if (stays && now[source] != kNever && now[source] + micro > now[v]) {
                    now[v] = now[source] + micro;
                    pick[v] = ~static_cast<std::int32_t>(i);
                }
            }
            for (std::size_t g = groups; g-- > 0;) {
                if (++at[g] < extent[g]) break;
                at[g] = 0;
            }
        }
        if (r >= input_.least_replicas && now[total - 1] > best) {
            best = now[total - 1];
            best_layer = r;
        }
        std::swap(before, now);
    }
    // Walk back from the whole cluster.
    std::size_t v = total - 1;
    for (int r = best_layer; r > 0;) {
        const std::int32_t pick = choice[static_cast<std::size_t>(r)][v];
        const auto i = static_cast<std::size_t>(pick < 0 ? ~pick : pick);
        chosen.push_back(left[i]);
        v -= back[i];
        if (pick >= 0) --r;
    }
    return best;
}

MixedAnswer MixedSearch::improve(double target, double step, std::int64_t most_solved, const int* cancel) {
    cancel_ = cancel;
    MixedAnswer answer;
    if (input_.kinds.empty() || input_.least_replicas > input_.num_micro) return answer;
    enumerate(target, answer);
    std::vector<double> prices;
    std::vector<std::size_t> basis, chosen;
    const auto stopped = [&](MixedStatus status) {
        answer.status = status;
        return answer;
    };
    while (true) {
        if (*cancel != 0 || answer.solved > most_solved) return stopped(MixedStatus::kLimit);
        const double bound = relax(prices, basis);
        if (bound < input_.num_micro - 1e-7) break;
        bool changed = false;
        for (const std::size_t c : basis) {
            changed = sharpen(columns_[c], target, needed(columns_[c], prices, bound), answer) || changed;
        }
        if (changed) continue;
        bool too_large = false;
        const int most = pack(prices, bound, chosen, answer, too_large);
        if (*cancel != 0) return stopped(MixedStatus::kLimit);
        if (too_large) return stopped(MixedStatus::kTooLarge);
        if (most < input_.num_micro) break;
        for (const std::size_t c : chosen) {
            changed = sharpen(columns_[c], target, needed(columns_[c], prices, bound), answer) || changed;
        }
        if (changed) continue;
        // Feasible. Give back micro-batches where they take longest by the cuts found, then cut anew.
        std::vector<const MixedShape*> shape;
        std::vector<MixedReplica> found;
        int total = 0;
        for (const std::size_t c : chosen) {
            shape.push_back(&shapes_[columns_[c].shapes.front()]);
            found.emplace_back();
            solve(*shape.back(), columns_[c].micro, target, &found.back());
            total += columns_[c].micro;
        }
        while (static_cast<int>(found.size()) > input_.num_micro) {  // more than there are micro-batches for
            total -= found.back().num_micro;
            found.pop_back();
            shape.pop_back();
        }
        for (; total > input_.num_micro; --total) {
            MixedReplica* worst = nullptr;
            for (MixedReplica& r : found) {
                if (r.num_micro > 1 && (worst == nullptr || r.value > worst->value)) worst = &r;
            }
            --worst->num_micro;  // there is one: no more replicas than micro-batches
            worst->value -= worst->beta;
        }
        answer.status = MixedStatus::kFound;
        answer.replicas.clear();
        answer.value = 0.0;
        for (std::size_t k = 0; k < found.size(); ++k) {
            MixedReplica replica = found[k];
            solve(*shape[k], replica.num_micro, found[k].value * (1.0 + 1e-12), &replica);
            answer.value = std::max(answer.value, replica.value);
            answer.replicas.push_back(std::move(replica));
        }
        if (step >= 1.0) return answer;
        target = answer.value - step * answer.value;
        for (MixedShape& s : shapes_) s.exact = false;
        for (Column& column : columns_) refresh(column);
    }
    return answer;
}

}  // namespace optalloc::training

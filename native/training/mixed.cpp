// Which mixed pipelines to use: a packing of shapes into the devices, decided by bounds that are made exact only
// where they matter.
#include "training/mixed.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <map>
#include <utility>

namespace optalloc::training {

namespace {

constexpr std::int64_t kAll = std::numeric_limits<std::int64_t>::max();

}  // namespace

bool MixedSearch::has_family(const MixedShape& shape) const {
    return std::any_of(shape.kind, shape.kind + shape.blocks, [&](int k) { return stages_.family(k) != nullptr; });
}

// Whether a shape takes so many micro-batches: if so its number is exact from then on. Of a shape with families it
// says no, and adds those of their kinds behind the others.
bool MixedSearch::takes(std::size_t index, double target, int needed, MixedAnswer& answer) {
    if (shapes_[index].most_micro < needed) return false;
    if (shapes_[index].exact) return true;
    if (!can_take(shapes_[index], target, needed)) {
        shapes_[index].most_micro = needed - 1;
        return false;
    }
    if (has_family(shapes_[index])) {
        expand(index, target, answer);
        return false;
    }
    refine(shapes_[index], target, needed, answer);
    return shapes_[index].most_micro >= needed;
}

// The price of the devices that a replica takes, and of the replica.
double MixedSearch::worth(const std::array<int, kMostGroups>& usage) const {
    double total = prices_.back();
    for (std::size_t g = 0; g + 1 < prices_.size(); ++g) total += prices_[g] * usage[g];
    return total;
}

double MixedSearch::worth(const MixedShape& shape) const {
    double total = prices_.back();
    for (int b = 0; b < shape.blocks; ++b) total += prices_[static_cast<std::size_t>(shape.group[b])] * shape.devices[b];
    return total;
}

// Devices by group.
std::array<int, kMostGroups> MixedSearch::usage_of(const MixedShape& shape) {
    std::array<int, kMostGroups> usage{};
    for (int b = 0; b < shape.blocks; ++b) usage[static_cast<std::size_t>(shape.group[b])] = shape.devices[b];
    return usage;
}

// Prices that a plan within the target cannot pay: at most just below the number of micro-batches for the cluster.
void MixedSearch::scale_prices() {
    double bound = prices_.back() * input_.most_replicas;
    for (std::size_t g = 0; g < input_.available.size(); ++g) bound += prices_[g] * input_.available[g];
    for (double& p : prices_) p *= goal() / bound;
}

// Column generation: the linear relaxation over shapes with their true numbers of micro-batches grows by every shape
// worth more than its price. While its value is below the goal prices are scaled up to that: when no shape is worth
// more, there is no plan within the target. Once the goal is reached it ends, or, if `whole`, when the relaxation is
// solved.
MixedStatus MixedSearch::price(double target, std::int64_t most_solved, bool whole, MixedAnswer& answer) {
    if (prices_.empty()) {  // at first every device is worth its best rate; one replica must take all
        prices_ = device_rate_;
        prices_.push_back(0.0);
        if (input_.most_replicas == 1) {
            std::fill(prices_.begin(), prices_.end(), 0.0);
            prices_.back() = 1.0;
        }
    }
    if (!whole) {
        true_.clear();
        scale_prices();
    }
    bool reached = whole;
    for (bool changed = true; changed;) {  // the last round checks every shape at the same prices
        changed = false;
        for (std::size_t s = 0; s < shapes_.size(); ++s) {
            if (shapes_[s].most_micro < 1) continue;
            if (!takes(s, target, static_cast<int>(std::floor(worth(shapes_[s]) + 1e-9)) + 1, answer)) continue;
            if (*cancel_ != 0) return MixedStatus::kLimit;
            if (answer.solved > most_solved) return MixedStatus::kSplit;
            true_.push_back({usage_of(shapes_[s]), s, shapes_[s].most_micro});
            relax();
            reached = bound_ >= goal();
            if (reached && !whole) return MixedStatus::kSplit;
            if (!reached) scale_prices();
            changed = true;
        }
    }
    if (*cancel_ != 0) return MixedStatus::kLimit;  // shapes may be missing
    return reached ? MixedStatus::kSplit : MixedStatus::kNone;
}

// What a packing can take, with true numbers: the best shape for each number of devices that wastes no more, by the
// prices, than a share of what the relaxation has to spare. With a share of 1 no other can be in a packing.
std::vector<MixedSearch::Column> MixedSearch::candidates(double target, double share, MixedAnswer& answer) {
    std::map<std::array<int, kMostGroups>, Column> best;
    const double spare = share * (bound_ - input_.num_micro) + 1e-6;
    for (std::size_t s = 0; s < shapes_.size() && *cancel_ == 0; ++s) {
        if (shapes_[s].most_micro < 1) continue;
        const auto devices = usage_of(shapes_[s]);
        const auto known = best.find(devices);
        const int needed = std::max(known == best.end() ? 1 : known->second.micro + 1,
                                    static_cast<int>(std::ceil(worth(devices) - spare)));
        if (takes(s, target, needed, answer)) best[devices] = {devices, s, shapes_[s].most_micro};
    }
    std::vector<Column> columns;
    for (auto& [key, column] : best) columns.push_back(std::move(column));
    return columns;
}

// The most micro-batches that replicas take, where that is all of them or more, once the relaxation takes them: of its
// own shapes, then of all that waste little, then of all that can be in a packing. `columns` are those looked at last.
int MixedSearch::packing(double target, std::int64_t most_solved, std::vector<Column>& columns,
                         std::vector<std::size_t>& chosen, MixedAnswer& answer, bool& too_large) {
    columns = true_;
    int most = *cancel_ != 0 ? 0 : pack(columns, chosen, answer, too_large);
    if (most >= input_.num_micro || *cancel_ != 0) return most;
    price(target, most_solved, true, answer);
    for (const double share : {1.0 / 16.0, 1.0 / 4.0, 1.0}) {
        if (most >= input_.num_micro || *cancel_ != 0) break;
        too_large = answer.solved > most_solved;
        if (too_large) break;
        columns = candidates(target, share, answer);
        most = *cancel_ != 0 ? 0 : pack(columns, chosen, answer, too_large);
    }
    return most;
}

MixedAnswer MixedSearch::refute(double target, std::int64_t most_solved, const int* cancel) {
    cancel_ = cancel;
    MixedAnswer answer;
    if (input_.kinds.empty() || input_.least_replicas > input_.num_micro) return answer;
    open(target, answer);
    answer.status = price(target, most_solved, false, answer);
    if (answer.status != MixedStatus::kSplit || answer.solved > most_solved) return answer;
    bool too_large = false;
    std::vector<Column> columns;
    std::vector<std::size_t> chosen;
    const int most = packing(target, most_solved, columns, chosen, answer, too_large);
    if (*cancel != 0) {
        answer.status = MixedStatus::kLimit;
    } else if (most < input_.num_micro && !too_large) {
        answer.status = MixedStatus::kNone;
    }
    return answer;
}

// A plan of the chosen columns, which take all micro-batches or more: gives them back where they take longest by the
// cuts found, then cuts anew.
void MixedSearch::assemble(const std::vector<Column>& columns, const std::vector<std::size_t>& chosen, double target,
                           MixedAnswer& answer) {
    std::vector<const MixedShape*> shape;
    std::vector<MixedReplica> found;
    int total = 0;
    for (const std::size_t c : chosen) {
        shape.push_back(&shapes_[columns[c].shape]);
        found.emplace_back();
        solve(*shape.back(), columns[c].micro, target, &found.back(), nullptr);
        total += columns[c].micro;
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
        solve(*shape[k], replica.num_micro, found[k].value * (1.0 + 1e-12), &replica, nullptr);
        answer.value = std::max(answer.value, replica.value);
        answer.replicas.push_back(std::move(replica));
    }
}

// A plan of the shapes of the relaxation alone, or the proof that there is none at all.
MixedAnswer MixedSearch::look(double target, const int* cancel) {
    cancel_ = cancel;
    MixedAnswer answer;
    if (input_.kinds.empty() || input_.least_replicas > input_.num_micro) return answer;
    open(target, answer);
    answer.status = price(target, kAll, false, answer);
    if (answer.status != MixedStatus::kSplit) return answer;
    price(target, kAll, true, answer);
    bool too_large = false;
    std::vector<std::size_t> chosen;
    const std::vector<Column> columns = true_;
    if (*cancel == 0 && pack(columns, chosen, answer, too_large) >= input_.num_micro) {
        assemble(columns, chosen, target, answer);
    }
    if (*cancel != 0) answer.status = MixedStatus::kLimit;
    return answer;
}

MixedAnswer MixedSearch::improve(double target, double step, const int* cancel) {
    cancel_ = cancel;
    MixedAnswer answer;
    if (input_.kinds.empty() || input_.least_replicas > input_.num_micro) return answer;
    open(target, answer);
    while (true) {
        const auto stopped = [&](MixedStatus status) {
            answer.status = status;
            return answer;
        };
        const MixedStatus status = price(target, kAll, false, answer);
        if (status == MixedStatus::kNone) return answer;
        if (status == MixedStatus::kLimit) return stopped(status);
        bool too_large = false;
        std::vector<Column> columns;
        std::vector<std::size_t> chosen;
        const int most = packing(target, kAll, columns, chosen, answer, too_large);
        if (*cancel != 0) return stopped(MixedStatus::kLimit);
        if (too_large) return stopped(MixedStatus::kTooLarge);
        if (most < input_.num_micro) return answer;
        assemble(columns, chosen, target, answer);
        target = answer.value - step * answer.value;
        open(target, answer);
    }
}

}  // namespace optalloc::training

// Plunging unit by unit: all tasks of one unit at once, so that what is left is a few units with many choices each.
#include <algorithm>
#include <cmath>

#include "assignment/lots.hpp"
#include "assignment/search.hpp"

namespace optalloc::assignment {

namespace {

constexpr double kFiner = 4096.0;    // parts of a scaled profit at most, to tell equal knapsacks apart
constexpr double kMostProfit = 0x1p60;  // of all items together
constexpr double kTieBreak = 0.4;    // of a scaled profit, for all items of a unit together
constexpr double kManyUnits = 3.0;   // other units that make a task as easy to place as any

}  // namespace

// The next unit is the one whose tasks have the fewest other units. It takes a knapsack that is as good as the best one, or
// nearly: of tasks with few other units, so that freedom is left to the end, and of many small loads where those left
// would overload the other units, as far as one can tell from their means.
void Search::choose_filling(const PlungeRule& rule, std::uint64_t& state, std::vector<std::size_t>& batch) {
    const auto n = static_cast<std::size_t>(instance_->num_tasks);
    const std::vector<std::size_t>&first = lagrangian_.first(), &pairs = lagrangian_.pairs();
    const auto others = [&](std::size_t k) { return domain_.count(static_cast<int>(k % n)) - 1; };
    const auto load = [&](std::size_t k) { return static_cast<double>(instance_->load[k]); };
    const auto worth_of = [&](std::size_t k) { return best_rounded_[k % n] - scale_ * instance_->cost[k]; };
    batch.clear();
    std::size_t unit = 0;
    double fewest = -1.0, units_left = 0.0, room = 0.0, expected = 0.0;
    for (std::size_t i = 0; i + 1 < first.size(); ++i) {
        if (first[i] == first[i + 1]) continue;
        double shared = 0.0;
        for (std::size_t t = first[i]; t < first[i + 1]; ++t) {
            shared += others(pairs[t]);
            expected += load(pairs[t]) / (others(pairs[t]) + 1);
        }
        shared *= 1.0 + rule.noise * draw(state);
        units_left += 1.0;
        room += static_cast<double>(domain_.residual(static_cast<int>(i)));
        if (fewest >= 0.0 && shared >= fewest) continue;
        fewest = shared;
        unit = i;
    }
    if (units_left < 1.0) return;

    const auto size = static_cast<double>(first[unit + 1] - first[unit]);
    const auto easy = [&](std::size_t k) { return std::min(1.0, others(k) / kManyUnits); };
    double usual = rule.balance * (expected / std::max(room, 1.0) - 1.0);
    for (std::size_t t = first[unit]; t < first[unit + 1]; ++t) usual += easy(pairs[t]) / size;
    const auto gap = static_cast<double>(std::max<Int>(0, scale_ * target_ - best_bound_));
    const double weight = std::max(kTieBreak, rule.give * gap / units_left) / size;
    std::vector<double> bonus;
    double total = 1.0;
    for (std::size_t t = first[unit]; t < first[unit + 1]; ++t) {
        bonus.push_back(weight * (usual - easy(pairs[t]) + rule.noise * draw(state)));
        total += static_cast<double>(std::max<Int>(0, worth_of(pairs[t]))) + std::abs(bonus.back());
    }
    const double finer = std::floor(std::min(kFiner, kMostProfit / total));
    if (finer < 1.0) return;
    std::vector<Int> profit, loads;
    std::vector<std::size_t> items;
    for (std::size_t t = first[unit]; t < first[unit + 1]; ++t) {
        const std::size_t k = pairs[t];
        const Int parts = static_cast<Int>(finer) * worth_of(k) + static_cast<Int>(finer * bonus[t - first[unit]]);
        if (parts <= 0) continue;
        profit.push_back(parts);
        loads.push_back(instance_->load[k]);
        items.push_back(k);
    }
    std::vector<std::uint8_t> taken;
    filler_.solve(profit, loads, domain_.residual(static_cast<int>(unit)), taken);
    for (std::size_t q = 0; q < items.size(); ++q) {
        if (taken[q]) batch.push_back(items[q]);
    }
}

}  // namespace optalloc::assignment

#include "assignment/sparse.hpp"

#include <algorithm>

#include "assignment/sparse_chains.hpp"
#include "assignment/sparse_plan.hpp"

namespace optalloc::assignment {

namespace {

constexpr double kFirstForce = 0.003, kForceGrowth = 1.5;
constexpr int kSweeps = 3;         // at each force
constexpr int kFinalSweeps = 40;   // at force 1, the last overloads dearer each time they stay
constexpr int kHurriedSweeps = 16; // where a stop came before the first plan
// With thousands of tasks a unit, trying all swaps costs the square of the tasks: one sweep tries so many, or
// kFewPartners with each unit where that is more.
constexpr std::size_t kSwaps = 100'000'000, kFewPartners = 8;
constexpr std::int64_t kFirstBudget = 200;

}  // namespace

std::vector<int> solve_sparse(const Candidates& candidates, std::span<const double> price, int rounds,
                              std::uint64_t seed, const SparseWatch& watch) {
    SparsePlan plan(candidates, price);
    bool stopped = false;
    const std::size_t partners = std::max(kFewPartners, kSwaps / std::max<std::size_t>(1, candidates.unit.size()));
    const int few = candidates.num_tasks / 1000;  // moves, after which a sweep is not worth another
    const auto poll = [&] { return stopped || (stopped = watch(0, nullptr)); };
    std::vector<int> best;
    Int value = 0;
    const auto keep = [&] {
        if (!best.empty() && plan.value() >= value) return;
        value = plan.value();
        best = plan.units();
        stopped = watch(value, &best) || stopped;
    };
    plan.begin(seed);
    for (double force = kFirstForce; force < 1.0 && !stopped; force *= kForceGrowth) {
        for (int turn = 0; turn < kSweeps && plan.sweep(force, 1.0, partners, poll) > few; ++turn) {}
    }
    double weight = 1.0;
    const auto ignore = [] { return false; };
    for (int turn = 0, hurried = 0; turn < kFinalSweeps; ++turn) {
        // Who stops early still wants a plan: overloads grow dearer with every sweep.
        const bool hurries = stopped;
        if (hurries && (!best.empty() || hurried++ == kHurriedSweeps)) break;
        const int moves = hurries ? plan.sweep(1.0, weight, kFewPartners, ignore)
                                  : plan.sweep(1.0, weight, partners, poll);
        if (plan.feasible()) keep();
        if (moves == 0 && !best.empty()) break;
        if (!plan.feasible() && (hurries || moves <= few)) weight *= 2.0;
    }
    if (!plan.feasible()) return best;
    SparseChains chains(plan, price);
    for (int turn = 0; turn < rounds && !stopped; ++turn) {
        const SparseChains::Round round = chains.round(2 + 2 * turn, kFirstBudget << turn, poll);
        if (round.improved > 0) keep();
        else if (!round.cut) break;
    }
    return best;
}

}  // namespace optalloc::assignment

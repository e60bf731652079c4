// The exact assignment solver: bound, heuristics and a sequence of decisions up to the proof.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "assignment/instance.hpp"
#include "assignment/record.hpp"

namespace optalloc::assignment {

enum class Status : int { kOptimal = 0, kInfeasible = 1, kStopped = 2, kTooLarge = 3 };

struct Snapshot {
    std::int64_t nodes = 0;
    bool has_value = false;
    Int value = 0;               // of the best assignment, in the caller's costs
    const int* unit = nullptr;   // its unit of each task
    Int bound = 0;               // proven
};

// Called about once a node and at every new assignment or bound; true stops the solve.
using Watch = std::function<bool(const Snapshot&)>;

struct Answer {
    Status status = Status::kStopped;
    bool has_value = false;
    Int value = 0;
    Int bound = 0;
    std::int64_t nodes = 0;
    std::vector<int> unit;
    // Multipliers (times scale) whose knapsacks over all allowed pairs prove witness_bound / scale, in the
    // caller's costs: the part of the proof that needs no search tree.
    std::vector<Int> multiplier;
    Int scale = 1;
    Int witness_bound = 0;
    Proof proof;
};

struct Options {
    std::uint64_t seed = 0;
    std::vector<int> start;  // the unit of each task of a feasible assignment to begin with; empty: none
    std::optional<Int> floor;  // a bound that is proven elsewhere, in the caller's costs
    int threads = 1;         // results are equal for an equal number of them
    bool prove = false;      // keep the search tree of the bound
};

// Task-major tables of shape N x M. Costs any sign; the sums of absolute costs and of loads must stay within
// 62 bits. kTooLarge: costs too large for exact multipliers.
Answer solve(std::span<const Int> costs, std::span<const Int> loads, std::span<const Int> capacities,
             std::span<const std::uint8_t> allowed, const Options& options, const Watch& watch);

}  // namespace optalloc::assignment

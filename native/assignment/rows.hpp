// Rows: assignment with several resources a unit and groups of tasks that stay apart.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "assignment/record.hpp"

namespace optalloc::assignment::rows {

using Int = std::int64_t;

// N tasks, M units, R resources. Every unit takes at most one task of each group; only the unit `open`
// (-1: none), where tasks go that are left out, keeps nobody apart.
struct Instance {
    int num_tasks = 0;
    int num_units = 0;
    int num_resources = 1;
    int open = -1;
    std::vector<Int> cost;               // at(i, j)
    std::vector<Int> load;               // load_at(r, i, j), >= 0
    std::vector<Int> capacity;           // r * M + i, >= 0
    std::vector<std::uint8_t> allowed;   // at(i, j)
    std::vector<std::vector<int>> apart;
    Int cells = 2048;                    // of a knapsack table: larger capacities are counted in so many

    std::size_t at(int unit, int task) const {
        return static_cast<std::size_t>(unit) * static_cast<std::size_t>(num_tasks) + static_cast<std::size_t>(task);
    }
    std::size_t load_at(int resource, int unit, int task) const {
        return static_cast<std::size_t>(resource) * cost.size() + at(unit, task);
    }
    std::size_t room_at(int resource, int unit) const {
        return static_cast<std::size_t>(resource) * static_cast<std::size_t>(num_units) +
               static_cast<std::size_t>(unit);
    }
};

struct Assignment {
    Int cost = 0;
    std::vector<int> unit;
};

// What a node of the search knows: the pairs still allowed and what placed tasks leave of every row.
class Domain {
  public:
    Domain(const Instance& instance, const std::vector<std::vector<int>>& groups_of);

    void remove(int unit, int task) { allowed_[instance_->at(unit, task)] = 0; }
    void place(int unit, int task);
    // Counts again and removes pairs that no longer fit until nothing changes; false: nothing is left.
    bool propagate();

    bool allowed(int unit, int task) const { return allowed_[instance_->at(unit, task)] != 0; }
    int count(int task) const { return count_[static_cast<std::size_t>(task)]; }
    int unit_of(int task) const { return unit_of_[static_cast<std::size_t>(task)]; }  // -1: free
    Int residual(int resource, int unit) const { return residual_[instance_->room_at(resource, unit)]; }
    bool taken(int group, int unit) const {
        return taken_[static_cast<std::size_t>(group) * static_cast<std::size_t>(instance_->num_units) +
                      static_cast<std::size_t>(unit)] != 0;
    }
    int num_free() const { return num_free_; }
    Int placed_cost() const { return placed_cost_; }
    const Instance& instance() const { return *instance_; }

  private:
    bool count_again();
    bool blocked(int unit, int task) const;

    const Instance* instance_;
    const std::vector<std::vector<int>>* groups_of_;
    std::vector<std::uint8_t> allowed_, taken_;
    std::vector<int> count_, unit_of_;
    std::vector<Int> residual_;
    int num_free_ = 0;
    Int placed_cost_ = 0;
};

// By unit: the first one of the same costs, allowed pairs, loads and capacities; often itself. The unit `open` is its own.
std::vector<int> find_twins(const Instance& instance);

enum class Status : int { kOptimal = 0, kInfeasible = 1, kStopped = 2, kEnough = 3 };

struct Snapshot {
    std::int64_t nodes = 0;
    const Assignment* best = nullptr;
    Int bound = 0;
};

// Called about once a node; true stops the solve.
using Watch = std::function<bool(const Snapshot&)>;

struct Answer {
    Status status = Status::kStopped;
    bool has_best = false;
    Assignment best;
    Int bound = 0;  // no assignment costs less
    std::int64_t nodes = 0;
    // Of the bound, where it was asked for. Its further multipliers are in the order of Bound: prices of (resource,
    // unit), then of (group, unit).
    Proof proof;
    std::vector<int> kept;                  // the resource in the knapsack of each unit
    std::vector<std::vector<int>> classes;  // tasks of which a knapsack takes at most one
};

struct Options {
    std::optional<Int> enough;  // stop once an assignment of at most this cost is known or the bound exceeds it
    std::optional<Int> floor;   // a bound proven elsewhere; the tree kept is of a higher one
    std::vector<int> start;     // the unit of each task of a feasible assignment, or empty
    std::uint64_t seed = 0;
    int threads = 1;            // results are equal for an equal number of them
    bool prove = false;         // keep the search tree of the bound
};

// Minimises the cost; what is enough ends it as kEnough. Sums of absolute costs and of loads must stay within 62 bits.
Answer solve(const Instance& instance, const Options& options, const Watch& watch);

}  // namespace optalloc::assignment::rows

// The heuristic side of rows: annealing, and groups of units and tasks solved again.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include "assignment/rows_search.hpp"

namespace optalloc::assignment::rows {

class Explorer {
  public:
    // search: holds the best assignment and is offered better ones; there must be one.
    Explorer(const Instance& instance, Search& search, Control& control, std::uint64_t seed)
        : instance_(&instance), search_(&search), control_(&control), random_(seed) {}

    // Where the multipliers of groups start: those of the root.
    void set_multiplier(const std::vector<double>& multiplier) { multiplier_ = multiplier; }
    // Re-solves by turns the tasks of some units and some tasks of all units, drawn by lot, towards `floor`, a proven bound.
    void improve(int rounds, std::int64_t nodes, Int floor);
    // Anneals, then re-solves groups, each for about so many nodes.
    void explore(std::int64_t nodes, Int floor);

  private:
    bool improve_part(const std::vector<int>& tasks, const std::vector<int>& units);

    const Instance* instance_;
    Search* search_;
    Control* control_;
    std::mt19937_64 random_;
    std::vector<double> multiplier_;
    double units_drawn_ = 3.0, tasks_drawn_ = 12.0;
};

// What one thread of a Team works with.
struct Member {
    static constexpr double kExploreShare = 0.25;  // of all work
    Member(const Instance& instance, const std::vector<double>& multiplier, std::uint64_t seed)
        : search(instance, control), explorer(instance, search, control, seed) {
        explorer.set_multiplier(multiplier);
    }
    // Heuristics for about `budget` steps from the best known, where there is one, towards `floor`.
    void explore(Int floor, std::int64_t budget);

    Control control;
    Search search;
    Explorer explorer;
};

}  // namespace optalloc::assignment::rows

// Local search over assignments that may break rows: repair, and annealing.
#pragma once

#include <cstdint>
#include <functional>
#include <random>
#include <vector>

#include "assignment/rows.hpp"

namespace optalloc::assignment::rows {

// Repair moves tasks off overloaded units and away from tasks they must avoid by the shift or swap that lowers the
// weighted violation most. Where none does, the weights of the rows still broken grow, which changes what is
// best (breakout, Morris 1993). A task does not return at once to a unit it has left.
class Repairer {
  public:
    Repairer(const Instance& instance, const std::vector<std::vector<int>>& groups_of);

    // Tasks with unit -1 are placed first. True: the plan is feasible and its cost is set.
    bool run(Assignment& plan, int moves);
    // Shifts and swaps drawn by lot, accepted by the Metropolis rule on cost plus weighted violation; the
    // weights follow how often the state is feasible. Starts from `best` and improves it.
    void anneal(Assignment& best, std::int64_t moves, std::mt19937_64& random, const std::function<bool()>& halt);

  private:
    void start(const std::vector<int>& unit);
    void set_weights(double size);
    double unit_change(int unit, int out, int in) const;  // of the violation; -1: nobody
    double group_change(int unit, int out, int in) const;
    bool is_broken(int unit) const;
    void shift(int task, int to);
    void place_rest(const std::vector<int>& unit);
    bool step(int move);

    const Instance* instance_;
    const std::vector<std::vector<int>>* groups_of_;
    std::vector<Int> residual_;
    std::vector<int> members_, conflicts_;  // of each group on each unit; pairs too many on each unit
    std::vector<double> weight_, group_weight_;
    std::vector<int> unit_, left_until_;
};

}  // namespace optalloc::assignment::rows

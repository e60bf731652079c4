// The Lagrangian dive: places tasks a few at a time where the knapsacks agree on them.
#pragma once

#include <cstdint>
#include <vector>

#include "assignment/knapsack.hpp"
#include "assignment/search.hpp"

namespace optalloc::assignment {

struct DiveRule {
    double fraction = 0.1;  // of the free tasks, placed after each round of steps
    int steps = 30;         // subgradient steps a round
    double stride = 0.01;   // of a multiplier a step, per unit of direction, as part of the mean regret
    double noise = 0.0;     // standard deviation of the first multipliers, as part of the mean regret
};

// One task on one unit, as the dives see it.
struct DivePair {
    int task;
    Int load, scaled_cost;
    double share = 0.0;
};

// A workspace: places tasks on the pairs it is given, which may be few of all. Its bounds prove nothing; the
// multipliers only guide.
class Diver {
  public:
    Diver(std::vector<std::vector<DivePair>> rows, std::vector<Int> capacity, int num_tasks, Int ceiling, Int scale,
          Control& control);
    // Over all allowed pairs.
    Diver(const Instance& instance, Int scale, Control& control);

    // One dive from the multipliers: the unit of each task, -1 where none had room. False: stopped.
    bool dive(const std::vector<double>& multiplier, const DiveRule& rule, std::uint64_t seed, std::vector<int>& unit);

    // Mean over tasks of how much dearer the second best unit is, at the prices behind the multipliers.
    void set_regret(double regret) { regret_ = regret; }

  private:
    void steps(std::vector<double>& lambda, const DiveRule& rule, std::vector<double>& direction);
    void place(const DiveRule& rule);

    std::vector<std::vector<DivePair>> rows_;   // of each unit, all its pairs
    std::vector<std::vector<DivePair>> pairs_;  // of each unit, the free tasks that fit
    std::vector<Int> capacity_;
    int num_tasks_;
    Int ceiling_, scale_;
    Control* control_;
    double regret_ = 1.0;
    Knapsack knapsack_;
    std::vector<int> unit_;
    std::vector<Int> room_, rounded_, profit_, load_;
    std::vector<int> cover_;
    std::vector<std::size_t> slot_;
    std::vector<std::uint8_t> taken_;
    int num_open_ = 0;  // free tasks that fit somewhere
};

}  // namespace optalloc::assignment

// The Lagrangian dive: places tasks a few at a time where the knapsacks agree on them.
#pragma once

#include <cstdint>
#include <vector>

#include "assignment/improve.hpp"
#include "assignment/knapsack.hpp"
#include "assignment/search.hpp"

namespace optalloc::assignment {

struct DiveRule {
    double fraction = 0.1;  // of the free tasks, placed after each round of steps
    int steps = 30;         // subgradient steps a round
    double stride = 0.01;   // of a multiplier a step, per unit of direction, as part of the mean regret
    double noise = 0.0;     // standard deviation of the first multipliers, as part of the mean regret
};

// A workspace for one instance. Its bounds prove nothing; the multipliers only guide.
class Diver {
  public:
    Diver(const Instance& instance, Int scale, Control& control);

    // One dive from the multipliers; false: stopped, or the tasks left over could not be repaired.
    bool dive(const std::vector<double>& multiplier, const DiveRule& rule, std::uint64_t seed, Assignment& out);

    // Mean over tasks of how much dearer the second best unit is, at the prices behind the multipliers.
    void set_regret(double regret) { regret_ = regret; }

  private:
    struct Pair {
        int task;
        Int load, cost;
        double share;
    };
    void steps(std::vector<double>& lambda, const DiveRule& rule, std::vector<double>& direction);
    void place(const DiveRule& rule);

    const Instance* instance_;
    Int scale_, ceiling_;
    Control* control_;
    double regret_ = 1.0;
    Knapsack knapsack_;
    Improver improver_;
    std::vector<std::vector<Pair>> pairs_;  // of each unit, the free tasks that fit
    std::vector<int> unit_;
    std::vector<Int> room_, rounded_, profit_, load_;
    std::vector<int> cover_;
    std::vector<std::size_t> slot_;
    std::vector<std::uint8_t> taken_;
    int num_open_ = 0;  // free tasks that fit somewhere
};

}  // namespace optalloc::assignment

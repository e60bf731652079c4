// The heuristic side of the solver: dives under varied rules and the group search, by turns.
#pragma once

#include <cstdint>
#include <vector>

#include "assignment/dive.hpp"
#include "assignment/groups.hpp"
#include "assignment/prices.hpp"

namespace optalloc::assignment {

class Explorer {
  public:
    Explorer(const Instance& instance, Int scale, Control& control, std::uint64_t seed);

    // Where the dives start and how long their steps are.
    void set_root(const Prices& prices);
    void set_multiplier(const std::vector<double>& multiplier) { multiplier_ = multiplier; }

    // Works for about `budget` steps of Control::work from the assignment (nullptr: none yet) towards `floor`,
    // a proven bound. True: `best` is a better one.
    bool improve(const Assignment* now, Int floor, std::int64_t budget, Assignment& best);
    // One dive more; true when it ended in an assignment.
    bool dive(Assignment& out);

    // All units are re-solved together by the group search: nothing is left to it.
    bool exhausted() const { return exhausted_; }

  private:
    struct Trial {
        DiveRule rule;
        Int cost;
    };
    DiveRule next_rule();
    double draw();  // in [0, 1)

    const Instance* instance_;
    Control* control_;
    Diver diver_;
    Improver improver_;
    GroupSearch groups_;
    std::vector<double> multiplier_;
    std::vector<Trial> trials_;  // the best rules so far, best first
    std::uint64_t state_;
    int num_dives_ = 0;
    std::int64_t dive_work_ = 0, group_work_ = 0;
    double dive_share_ = 0.5;  // of the work
    bool exhausted_ = false;
};

}  // namespace optalloc::assignment

// The heuristic side of the solver: dives, plunges and the group search, by turns; more of what helps.
#pragma once

#include <array>
#include <cstdint>
#include <limits>
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
    void set_multiplier(const std::vector<double>& multiplier);

    // Works for about `budget` steps of Control::work from the assignment (nullptr: none yet) towards `floor`,
    // a proven bound. True: `best` is a better one.
    bool improve(const Assignment* now, Int floor, std::int64_t budget, Assignment& best);
    // A first plan, quickly: every task on the unit of its least priced cost while it fits there, the others inserted.
    // True when that ended in an assignment.
    bool round(const Prices& prices, Assignment& out);
    // One dive more; true when it ended in an assignment.
    bool dive(Assignment& out);

    // All units are re-solved together by the group search: nothing is left to it.
    bool exhausted() const { return exhausted_; }

  private:
    // The two least priced costs of a task, and the unit of the first (-1: none).
    struct Cheapest {
        double low = std::numeric_limits<double>::infinity();
        double second = std::numeric_limits<double>::infinity();
        int unit = -1;
    };
    Cheapest cheapest(const Prices& prices, int task) const;
    struct Trial {
        DiveRule rule;
        Int cost;
    };
    // The ways to a better assignment, each with the work spent on it and its part of the work to come.
    enum Way { kDive = 0, kGroups = 1, kPlunge = 2, kFill = 3, kWays = 4 };
    struct Effort {
        std::int64_t work = 0;
        double weight = 1.0;
    };
    Way next_way(bool known) const;
    // True: an assignment better than the known one.
    bool plunge(const Assignment& known, Int floor, bool by_unit, Assignment& out);
    bool regroup(const Assignment& known, Int floor, Assignment& out);
    bool fix_below(const Assignment& known, Assignment& out);
    // True: the groups have an assignment to descend from.
    bool set_out(const Assignment& known);
    // True: an assignment of cost at most the target.
    bool plunge_to(Int target, bool by_unit, Assignment& out);
    DiveRule next_rule();

    const Instance* instance_;
    Control* control_;
    Diver diver_;
    Improver improver_;
    GroupSearch groups_;
    std::vector<double> multiplier_;
    std::vector<Trial> trials_;  // the best rules so far, best first
    std::uint64_t state_;
    int num_dives_ = 0;
    std::array<Effort, kWays> efforts_;
    Way champion_ = kDive;     // the way that helped last
    Search plunger_;           // its pairs are fixed for the plunge target
    std::size_t plunge_base_;  // where its domain begins
    std::vector<double> plunge_multiplier_;
    Int plunge_target_;
    bool refused_;             // nothing is at or below the plunge target
    Assignment walker_;        // from where the groups descend
    Int walker_known_;         // the best cost when it last moved
    Int detour_ = 0;           // how much dearer than the best known it may set out
    bool exhausted_ = false;   // all units were solved together
};

// What one thread of a Team works with.
struct Member {
    static constexpr double kExploreShare = 0.4;  // of all work
    Member(const Instance& instance, Int scale, std::uint64_t seed)
        : search(instance, scale, control), explorer(instance, scale, control, seed) {}
    // Heuristics for about `budget` steps from the best known towards `floor`.
    void explore(Int floor, std::int64_t budget);

    Control control;
    Search search;
    Explorer explorer;
};

}  // namespace optalloc::assignment

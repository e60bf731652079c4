// Lagrangian branch and bound for one decision: is there an assignment of cost at most the target?
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <vector>

#include "assignment/control.hpp"
#include "assignment/domain.hpp"
#include "assignment/improve.hpp"
#include "assignment/lagrangian.hpp"
#include "assignment/patterns.hpp"
#include "assignment/record.hpp"

namespace optalloc::assignment {

struct Ascent {
    int steps = 24;
    int fix_every = 8;
    int repair_every = 0;  // 0: never
    double theta = 0.5;
    int patience = 25;     // steps without a better bound before theta shrinks
    int most_patience = 0;  // of the longer ascents that follow, each while the one before it has won
};

// How a plunge places tasks, see Search::plunge().
struct PlungeRule {
    bool by_unit = false;    // all tasks of one unit at once, see Search::choose_filling()
    double balance = 2.0;    // by unit: how strongly to the loads that the units left can hold
    double give = 0.0;       // by unit: part of the room that the choice may cost
    double fraction = 0.1;   // of the free tasks, placed at once
    double noise = 0.0;      // added to shares at most
    int steps = 24;          // of the ascent between two placings
    double patience = 1.0;   // work on dead ends after the first one, as part of the work before it
    PatternCover::Limits cell;  // when what is left is covered by patterns
};

// A node left for later: the pairs removed and the units opened on the way to it, where its multipliers start and how they rise.
struct Subtree {
    std::vector<std::size_t> removed;
    std::vector<int> opened;
    std::vector<double> multiplier;
    Ascent how;
};

constexpr double kFewer = 0.9;  // part of the tasks whose patterns were too many at which they are tried again

class Search {
  public:
    Search(const Instance& instance, Int scale, Control& control);

    // Looks below the present target and, wherever it finds an assignment, below that one.
    Outcome decide(Int target, std::vector<double> multiplier, const Ascent& root, std::int64_t node_limit);

    // Places tasks a few at a time where the averaged knapsacks agree, as a dive, but gives up what the bound
    // refuses and places less: a search for an assignment of cost at most the target, not a proof. The present
    // domain is left as it was.
    void plunge(std::vector<double> multiplier, const PlungeRule& rule, std::uint64_t& state);

    // Closes what decide() has split off, from the root domain; below the target.
    Outcome close_subtree(const Subtree& subtree, Int target);

    // Subgradient ascent at the present domain; the multiplier becomes the best one seen, or the one that
    // closed it.
    Outcome ascend(std::vector<double>& multiplier, const Ascent& how);

    // Offers a feasible assignment; true when it is the best so far.
    bool offer(const Assignment& candidate);

    bool propagate() { return domain_.propagate(); }
    // The exact scaled bound of the present domain at the rounded multipliers.
    Int bound_at(const std::vector<double>& multiplier, std::vector<Int>& rounded);

    const Domain& domain() const { return domain_; }
    bool has_best() const { return has_best_; }
    const Assignment& best() const { return best_; }
    Int ceiling() const { return ceiling_; }
    Int target() const { return target_; }
    Int best_bound() const { return best_bound_; }  // scaled, of the last ascent
    void undo(std::size_t mark);  // what ascend() removed; the bound looks everywhere again
    void set_target(Int target) { target_ = target; }
    void set_length(double length) { length_ = length; }
    void forget_best() { has_best_ = false; }
    Record* record = nullptr;                       // of decide(): whole when it closes
    std::function<void(const std::vector<double>&)> when_refined;  // told where a root of longer ascents has ended
    std::function<void()> between_nodes;            // may offer better assignments
    int split_depth = 0;                            // from which decide() leaves subtrees for later; 0: never
    bool hand_over = false;                         // the second child of every node is left for later
    std::vector<Subtree> subtrees;                  // those left; the others are closed

  private:
    Outcome climb(std::vector<double>& multiplier, const Ascent& how);
    Outcome refine(std::vector<double>& multiplier, Ascent how);
    Outcome close(const std::vector<double>& parent, const Ascent& how);
    void begin(Int target, std::int64_t node_limit);
    Outcome closed_by(const std::vector<Int>& multiplier);
    PatternCover::Outcome cover_by_patterns(const PatternCover::Limits& limits);
    bool close_by_patterns();
    void choose_batch(const PlungeRule& rule, std::uint64_t& state, std::vector<std::size_t>& batch) const;
    void choose_filling(const PlungeRule& rule, std::uint64_t& state, std::vector<std::size_t>& batch);
    Outcome propagate_and_close(const std::vector<double>& multiplier, const Ascent& how, bool second = false);
    struct Branching {
        std::size_t pair = 0;
        double share = 0.0;
    };
    Outcome branch(const Branching& choice, bool in, bool second, Int bound, const std::vector<double>& multiplier);
    Branching choose_pair(Int bound) const;
    void learn(Int bound);
    void forbid(int unit, int task);
    void round(const std::vector<double>& multiplier, std::vector<Int>& rounded) const;
    void offer_cover();
    void repair();

    const Instance* instance_;
    Int scale_;
    Control* control_;
    Domain domain_;
    Lagrangian lagrangian_;
    Knapsack filler_;          // of choose_filling()
    Improver improver_;
    PatternCover patterns_;
    std::vector<int> twin_;    // see find_twins()
    std::vector<int> opened_;  // of each unit: the branches above that place a task there
    Assignment best_, scratch_;
    bool has_best_ = false;
    Int ceiling_;
    Int target_;
    Int best_bound_ = 0;
    double last_theta_ = 0.0;  // where the last ascent left it
    Ascent below_;             // of the nodes below the root
    double length_ = 1.0;      // times the usual steps there
    int depth_ = 0;
    std::int64_t repair_gap_ = 0, next_repair_ = 0;
    std::int64_t nodes_ = 0, node_limit_ = 0;
    double few_ = PatternCover::kMostTasks;  // free tasks up to which patterns are tried
    // What placing (1) or removing (0) a pair added to the bound, for each part of it that this changed.
    struct Rise {
        std::array<double, 2> total{}, count{};
    };
    struct Step {  // from the parent to the present node
        Branching choice;
        bool in = false, taken = false;
        Int bound = 0;
    };
    std::vector<Rise> rise_;
    Rise all_rises_;
    Step step_;
    std::vector<double> share_;  // of each pair in the recent knapsack solutions
    double weight_ = 1.0;
    std::vector<Int> rounded_, best_rounded_;
    std::vector<double> direction_;
};

}  // namespace optalloc::assignment

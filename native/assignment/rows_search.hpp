// Branch and bound over rows: is there an assignment of cost at most the target?
#pragma once

#include <functional>
#include <vector>

#include "assignment/control.hpp"
#include "assignment/rows.hpp"
#include "assignment/rows_bound.hpp"
#include "assignment/rows_repair.hpp"

namespace optalloc::assignment::rows {

struct Ascent {
    int steps = 24;
    int fix_every = 8;     // 0: never
    int repair_every = 0;  // 0: never
    double theta = 0.25;
};

// A node left for later: what is known there, the units opened on the way to it, and where its multipliers start.
struct Subtree {
    Domain domain;
    std::vector<int> opened;
    std::vector<double> multiplier;
};

class Search {
  public:
    Search(const Instance& instance, Control& control);

    // Looks below the target and, wherever it finds an assignment, below that one. Open: the node limit came first.
    Outcome decide(Int target, std::vector<double> multiplier, const Ascent& root, std::int64_t node_limit);
    // Closes what decide() has split off; below the target.
    Outcome close_subtree(const Subtree& subtree, Int target);
    // Subgradient ascent; the multiplier becomes the best one seen.
    Outcome ascend(Domain& domain, std::vector<double>& multiplier, const Ascent& how);
    // Places the tasks that the averaged knapsacks agree on, a few at a time; offers what comes out.
    void dive(Domain domain, std::vector<double> multiplier, double fraction);

    bool offer(const Assignment& candidate);
    void polish(Assignment& assignment) const;
    // Anneals from the best assignment.
    void anneal(std::int64_t moves, std::mt19937_64& random);
    Domain root() const { return Domain(*instance_, bound_.groups_of()); }
    std::vector<double> first_multiplier() const;

    bool has_best() const { return has_best_; }
    const Assignment& best() const { return best_; }
    Int target() const { return target_; }
    void set_target(Int target) { target_ = target; }
    Int ceiling() const { return ceiling_; }
    Int best_bound() const { return best_bound_; }  // of the last ascent, in costs
    const Bound& bound() const { return bound_; }
    // Makes the record say that the bound at these multipliers closes the root.
    void record_leaf(const Domain& domain, const std::vector<double>& multiplier);

    const Instance& instance() const { return *instance_; }

    Record* record = nullptr;             // of decide() and ascend(): whole when they close
    std::function<void()> between_nodes;  // may offer better assignments
    int split_depth = 0;                  // from which decide() leaves subtrees for later; 0: never
    bool hand_over = false;               // the second child of every node is left for later
    std::vector<Subtree> subtrees;        // those left; the others are closed

  private:
    void begin(Int target, std::int64_t node_limit);
    Int evaluate(const Domain& domain, const std::vector<double>& multiplier, bool losses);
    Outcome close(Domain domain, const std::vector<double>& parent, const Ascent& how);
    bool fix(Domain& domain, Int value);
    void repair(const Domain& domain);
    void force(Assignment plan);
    bool choose_pair(const Domain& domain, int& unit, int& task, bool& in) const;
    void forbid(Domain& domain, int unit, int task) const;

    const Instance* instance_;
    Control* control_;
    Bound bound_;
    Repairer repairer_;
    std::vector<int> twin_;    // see find_twins()
    std::vector<int> opened_;  // of each unit: the branches above that place a task there
    Assignment best_;
    bool has_best_ = false;
    Int ceiling_ = 0, target_ = 0, best_bound_ = 0;
    int depth_ = 0;
    std::int64_t nodes_ = 0, node_limit_ = 0, failures_ = 0;
    std::vector<double> share_;  // of each pair in the recent knapsack solutions
};

// What an assignment leaves of every row, with moves.
class Slack {
  public:
    Slack(const Instance& instance, const std::vector<std::vector<int>>& groups_of);
    bool fits(int unit, int task) const;
    void add(int unit, int task, int sign);

  private:
    const Instance* instance_;
    const std::vector<std::vector<int>>* groups_of_;
    std::vector<Int> residual_;
    std::vector<int> members_;  // of each group on each unit
};

}  // namespace optalloc::assignment::rows

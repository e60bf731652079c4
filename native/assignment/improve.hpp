// From Lagrangian choices to a feasible assignment: repair, then shifts and swaps to a local optimum.
#pragma once

#include <vector>

#include "assignment/domain.hpp"

namespace optalloc::assignment {

struct Assignment {
    std::vector<int> unit;  // of each task
    Int cost = 0;
};

// A workspace for one instance; deterministic.
class Improver {
  public:
    explicit Improver(const Instance& instance);

    // Starts from the pairs picked (a task may be picked by none or by several units) and the tasks the
    // domain has placed. Uses allowed pairs of the instance alone, not of the domain, so that it may leave
    // a node that excludes what it finds. False: no feasible assignment was reached.
    bool repair(const Domain& domain, const std::vector<std::size_t>& picks, Assignment& out);

    // Places the tasks without a unit (-1) of a partial assignment. False: no feasible assignment was reached.
    bool complete(const std::vector<int>& unit, Assignment& out);

    // Shifts and swaps that lower the cost of a feasible assignment, until none does.
    void polish(Assignment& assignment);

  private:
    Int cost(int unit, int task) const { return instance_->cost[instance_->at(unit, task)]; }
    Int load(int unit, int task) const { return instance_->load[instance_->at(unit, task)]; }
    bool allowed(int unit, int task) const { return instance_->allowed[instance_->at(unit, task)] != 0; }
    bool finish(std::vector<int>& open, Assignment& out);
    void insert_by_regret(std::vector<int>& open);
    bool eject_for(int task);
    bool relieve();
    void move(int task, int to);

    const Instance* instance_;
    std::vector<int> unit_;
    std::vector<Int> room_;
};

}  // namespace optalloc::assignment

// The pairs still allowed at a node of the search, with undo.
#pragma once

#include <vector>

#include "assignment/instance.hpp"

namespace optalloc::assignment {

// Keeps, under removals and undo: the allowed pairs, how many units each task has left, the unit of every
// placed task (one unit left), and what the placed tasks leave of each capacity.
class Domain {
  public:
    explicit Domain(const Instance& instance);

    // Forbids the pair and draws the consequences later, in propagate(). Removing a removed pair does nothing.
    void remove(int unit, int task);
    // Forbids every other unit of the task.
    void place(int unit, int task);
    // Removes pairs that no longer fit until nothing changes; false: no assignment is left.
    bool propagate();

    const std::vector<std::size_t>& removed() const { return trail_; }  // pairs, in order
    std::size_t mark() const { return trail_.size(); }
    void undo(std::size_t mark);

    bool allowed(int unit, int task) const { return allowed_[instance_->at(unit, task)] != 0; }
    bool allowed(std::size_t pair) const { return allowed_[pair] != 0; }
    int count(int task) const { return count_[static_cast<std::size_t>(task)]; }
    int unit_of(int task) const { return unit_of_[static_cast<std::size_t>(task)]; }  // -1: free
    Int residual(int unit) const { return residual_[static_cast<std::size_t>(unit)]; }
    Int placed_cost() const { return placed_cost_; }
    int num_free() const { return num_free_; }
    bool failed() const { return empty_tasks_ > 0 || overloaded_ > 0; }
    const Instance& instance() const { return *instance_; }

  private:
    void settle(int task);
    void unsettle(int task);
    void change_residual(int unit, Int delta);

    const Instance* instance_;
    std::vector<std::uint8_t> allowed_;
    std::vector<int> count_;
    std::vector<int> unit_of_;
    std::vector<Int> residual_;
    std::vector<std::size_t> trail_;
    std::vector<int> pending_;  // units whose residual fell since the last propagation
    Int placed_cost_ = 0;
    int num_free_ = 0;
    int empty_tasks_ = 0;
    int overloaded_ = 0;
};

}  // namespace optalloc::assignment

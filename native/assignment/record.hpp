// The log of one closed search tree, from which anybody can prove its claim again.
#pragma once

#include <vector>

#include "assignment/domain.hpp"

namespace optalloc::assignment {

// Events in depth-first order, each a row of integers: a kind, then
//     kDead                                nothing is left, or every task is placed
//     kLeaf  n, n times (task, multiplier) the bound at these multipliers exceeds the target
//     kFix   n, n times (task, multiplier) pairs are removed by the price of forcing them in
//     kBranch unit, task, in               the child with x = in follows, then the other one
//     kSubtree number                      stands for the rows of a subtree until insert() puts them there
// Multipliers are scaled integers of the free tasks.
class Record {
  public:
    enum Kind : Int { kDead = 0, kLeaf = 1, kFix = 2, kBranch = 3, kSubtree = 4 };

    void clear() { rows_.clear(); }
    void dead() { rows_.push_back(kDead); }
    void leaf(const Domain& domain, const std::vector<Int>& multiplier) { add(kLeaf, domain, multiplier); }
    void branch(int unit, int task, bool in);

    void subtree(Int number) { rows_.insert(rows_.end(), {kSubtree, number}); }
    void insert(const std::vector<std::vector<Int>>& subtrees);

    // Before the pairs are removed; taken back by forget() if there were none.
    void fix(const Domain& domain, const std::vector<Int>& multiplier);
    void forget() { rows_.resize(before_); }

    std::vector<Int>& rows() { return rows_; }

  private:
    void add(Kind kind, const Domain& domain, const std::vector<Int>& multiplier);

    std::vector<Int> rows_;
    std::size_t before_ = 0;
};

}  // namespace optalloc::assignment

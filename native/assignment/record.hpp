// The log of one closed search tree, from which anybody can prove its claim again.
#pragma once

#include <cstdint>
#include <vector>

namespace optalloc::assignment {

// A closed tree (rows as in Record) in normal costs: no assignment costs at most target; by multipliers times
// scale. without_costs: the tree is of the same instance with all costs 0.
struct Proof {
    std::vector<std::int64_t> rows;
    std::int64_t scale = 1;
    int shift = 0;  // scaled costs are floor(cost * scale / 2^shift)
    std::int64_t target = -1;
    bool without_costs = false;
};

// Events in depth-first order, each a row of integers: a kind, then
//     kDead                             nothing is left, or every task is placed
//     kLeaf  n, n times (k, multiplier) the bound at these multipliers exceeds the target
//     kCover n, n times (k, multiplier) no sets of tasks, one a unit, reach the target at these multipliers
//     kFix   n, n times (k, multiplier) pairs are removed by the price of forcing them in
//     kBranch unit, task, in            the child with x = in follows, then the other one; see Search::forbid()
//     kSubtree number                   stands for the rows of a part until insert() puts them there
// Multipliers are scaled integers: those of the free tasks, k = 0 .. N - 1, and further ones where they differ from
// what stands before them (0 at first).
class Record {
  public:
    using Int = std::int64_t;
    enum Kind : Int { kDead = 0, kLeaf = 1, kFix = 2, kBranch = 3, kSubtree = 4, kCover = 5 };

    void clear();
    // As clear(), of a record that insert() will put somewhere: its first multipliers are written out.
    void begin_subtree();
    void dead() { rows_.push_back(kDead); }
    template <typename Domain>
    void leaf(const Domain& domain, const std::vector<Int>& multiplier) {
        add(kLeaf, domain, multiplier);
    }
    template <typename Domain>
    void cover(const Domain& domain, const std::vector<Int>& multiplier) {
        add(kCover, domain, multiplier);
    }
    void branch(int unit, int task, bool in);

    void subtree(Int number) {
        rows_.insert(rows_.end(), {kSubtree, number});
        follows_ = false;
    }
    // The rows of a subtree and, by the numbers in them, the parts that it has left.
    struct Part {
        std::vector<Int> rows;
        std::vector<const Part*> parts;
    };
    void insert(const std::vector<const Part*>& parts);

    // Before the pairs are removed; taken back by forget() if there were none.
    template <typename Domain>
    void fix(const Domain& domain, const std::vector<Int>& multiplier) {
        before_ = rows_.size();
        add(kFix, domain, multiplier);
    }
    void forget() { rows_.resize(before_); }

    std::vector<Int>& rows() { return rows_; }

  private:
    template <typename Domain>
    void add(Kind kind, const Domain& domain, const std::vector<Int>& multiplier) {
        const auto tasks = static_cast<std::size_t>(domain.instance().num_tasks);
        further_.resize(multiplier.size() - tasks, 0);
        rows_.insert(rows_.end(), {kind, 0});
        const std::size_t count = rows_.size() - 1;
        for (std::size_t k = 0; k < multiplier.size(); ++k) {
            const bool is_known = k < tasks ? domain.unit_of(static_cast<int>(k)) >= 0 : follows_ && multiplier[k] == further_[k - tasks];
            if (is_known) continue;
            rows_.insert(rows_.end(), {static_cast<Int>(k), multiplier[k]});
            ++rows_[count];
            if (k >= tasks) further_[k - tasks] = multiplier[k];
        }
        follows_ = true;
    }

    std::vector<Int> rows_;
    std::vector<Int> further_;  // the last written of each multiplier that is not of a task
    bool follows_ = true;       // whether that is what a reader knows when it comes to the next event
    std::size_t before_ = 0;
};

}  // namespace optalloc::assignment

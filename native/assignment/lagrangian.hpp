// The Lagrangian bound of the "each task once" rows, in exact integers, and variable fixing from it.
#pragma once

#include <cstdint>
#include <vector>

#include "assignment/domain.hpp"
#include "assignment/knapsack.hpp"

namespace optalloc::assignment {

// With integer multipliers h_j (cost times scale K) and profits h_j - K c_ij, every assignment in the domain
// costs at least bound / K where
//     bound = K placed_cost + sum_{j free} h_j - sum_i (best knapsack of unit i over its free tasks).
// True for every integer h, however found; an over-estimated knapsack only lowers the bound.
class Lagrangian {
  public:
    Lagrangian(const Instance& instance, Int scale);

    // Takes over the allowed pairs of the free tasks; call after every change of the domain.
    void refresh(const Domain& domain);
    // Where refresh() looks from now on: pairs by unit, among them all that the domain allows; or all pairs there are.
    void look_among(std::vector<std::size_t> pairs);
    void look_everywhere() { everywhere_ = true; }

    // The bound at the multipliers; afterwards the knapsacks' choices are in cover and picks.
    Int evaluate(const std::vector<Int>& multiplier);

    // Removes from the domain every pair no assignment of scaled cost <= limit uses, and propagates.
    // False: no such assignment is left. `removed` counts the pairs; the caller refreshes when positive.
    bool fix(Domain& domain, const std::vector<Int>& multiplier, Int limit, int& removed);

    const std::vector<Int>& best() const { return best_; }             // by unit: its knapsack
    const std::vector<std::size_t>& first() const { return first_; }   // by unit: where its pairs begin
    const std::vector<int>& free() const { return free_; }             // tasks that are not placed
    const std::vector<int>& cover() const { return cover_; }           // by free task: units that picked it
    const std::vector<std::size_t>& picks() const { return picks_; }   // pair indices
    const std::vector<std::size_t>& pairs() const { return pair_; }    // of the free tasks, by unit
    std::int64_t work() const { return knapsack_.work() + work_; }

  private:
    const Instance* instance_;
    const Domain* domain_ = nullptr;
    Int scale_;
    Knapsack knapsack_;
    std::int64_t work_ = 0;
    bool everywhere_ = true;
    std::vector<std::size_t> scope_;  // if not everywhere
    std::vector<std::size_t> first_;  // of each unit's pairs
    std::vector<int> free_;
    std::vector<std::size_t> pair_;
    std::vector<int> task_;
    std::vector<Int> load_, scaled_cost_;
    std::vector<int> cover_;
    std::vector<Int> best_;
    std::vector<std::size_t> picks_;
    std::vector<Int> profit_, weight_, with_, without_, price_in_, price_out_, sum_out_;
    std::vector<std::size_t> slot_;
    std::vector<std::uint8_t> taken_;
};

}  // namespace optalloc::assignment

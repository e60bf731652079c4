// The Lagrangian bound of rows: one knapsack a unit, everything else priced.
#pragma once

#include <vector>

#include "assignment/rows.hpp"

namespace optalloc::assignment::rows {

// Relaxed: each task once (a reward a task), every resource of a unit but its tightest (a price for the
// whole capacity), and groups that the knapsack of the unit does not keep itself (a price a group and unit).
//
//     sum_j lambda_j - sum_i ( K_i + sum_r floor(v_ir) + sum_g s_gi )
//     K_i = max sum_j (lambda_j - c_ij - sum_r floor(v_ir w_ijr / L_ir) - sum_{g of j} s_gi) y_j
//           over y binary within the tightest resource, at most one task of each kept group
//
// With everything in integers (costs times a scale, rounded down) this is a bound for all multipliers: the
// floors of the left side of a row add up to at most the floor of its right side. The knapsack's own loads are rounded
// down to cells in the same way where a capacity exceeds the table.
class Bound {
  public:
    explicit Bound(const Instance& instance);

    // Multipliers in scaled costs: tasks, then (resource, unit), then (group, unit).
    std::size_t size() const { return size_; }
    std::size_t resource(int r, int unit) const { return tasks_ + instance_->room_at(r, unit); }
    std::size_t group(int g, int unit) const {
        return tasks_ + instance_->capacity.size() +
               static_cast<std::size_t>(g) * static_cast<std::size_t>(instance_->num_units) +
               static_cast<std::size_t>(unit);
    }
    bool is_reward(std::size_t k) const { return k < tasks_; }

    // The scaled bound of a propagated domain. Fills picks() and slope(); with `losses` also in_loss and
    // out_loss of every allowed pair of a free task.
    Int evaluate(const Domain& domain, const std::vector<double>& multiplier, bool losses);

    // What evaluate() made of the multipliers.
    const std::vector<Int>& rounded() const { return rounded_; }
    const std::vector<std::uint8_t>& picks() const { return pick_; }   // at(i, j)
    const std::vector<double>& slope() const { return slope_; }        // of each multiplier, relative
    const std::vector<Int>& in_loss() const { return in_loss_; }       // what forcing the pair in costs
    const std::vector<Int>& out_loss() const { return out_loss_; }
    // A cost is above z where a scaled bound on it is above scaled(z); every cost is at least unscaled(bound).
    Int scaled(Int cost) const;
    Int unscaled(Int bound) const;
    double scale() const { return scale_; }
    Int factor() const { return factor_; }
    int shift() const { return shift_; }
    const std::vector<int>& tightest() const { return tightest_; }
    std::vector<std::vector<int>> classes() const;
    // The least that the task's knapsack loads take of a whole unit.
    double least_share(int task) const;
    const std::vector<std::vector<int>>& groups_of() const { return groups_of_; }
    std::int64_t work() const { return work_; }  // cells of tables and pairs looked at so far

  private:
    struct Item {
        int task;
        int cells;
        Int profit;
    };

    void choose_kept_groups();
    void gather(const Domain& domain, int unit);
    Int knapsack(int unit, bool losses);

    const Instance* instance_;
    Int factor_ = 1;  // scaled costs are floor(cost * factor / 2^shift)
    int shift_ = 0;
    double scale_ = 1.0;
    std::size_t tasks_, size_ = 0;
    std::vector<Int> cost_;                                // scaled, at(i, j)
    std::vector<std::vector<int>> groups_of_, priced_of_;  // all groups of a task; those it pays a price for
    std::vector<int> kept_of_;                             // the group its knapsacks keep, -1: none
    std::vector<int> order_;                               // tasks, those of one kept group side by side
    std::vector<int> tightest_;                            // resource of each unit's knapsack
    std::vector<int> table_;                               // cells of its whole capacity
    std::vector<int> cells_;                               // of a pair's load, at(i, j)
    std::vector<Int> share_;                               // load / capacity times 2^20, load_at(r, i, j)
    std::vector<Int> rounded_, in_loss_, out_loss_, profit_;
    std::vector<double> slope_;
    std::vector<std::uint8_t> pick_;
    std::vector<Item> items_;
    std::vector<int> ends_;     // of each class of items
    std::vector<Int> forward_, backward_;
    std::vector<int> idle_;     // allowed free tasks of a unit without a class
    int room_ = 0;              // cells left
    std::int64_t work_ = 0;
};

}  // namespace optalloc::assignment::rows

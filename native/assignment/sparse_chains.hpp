// Exchanges: chains of tasks that push each other from unit to unit and end where they began, or where there is room.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <utility>
#include <vector>

#include "assignment/sparse_plan.hpp"

namespace optalloc::assignment {

// With r(e) >= 0, the cost plus priced load of an entry less the least of its task,
//
//     cost = D(price) + sum_j r(place of j) + sum_i price_i * slack_i          for every assignment,
//
// so what a chain may still save is what its first task and unit lose now, less what the chain has added. That bounds
// the search: best first over the states (unit reached, load that arrives there).
class SparseChains {
  public:
    // A feasible plan, changed in place; it stays feasible.
    SparseChains(SparsePlan& plan, std::span<const double> price);

    struct Round {
        int improved = 0;
        bool cut = false;  // a search ended at its length or budget
    };
    // One search from each task that costs more than it might, of at most so many tasks and steps.
    Round round(int length, std::int64_t budget, const std::function<bool()>& poll);

  private:
    struct Option {  // a task of the unit and where else it may go
        double added;
        Int load;  // on the unit it leaves
        std::size_t entry, next;  // next: place of the first option of a larger load
    };
    struct State {
        double left;  // what may still be saved
        std::size_t entry;
        int parent, length;
    };
    struct Ending {
        double gain;
        int state = -1;
        std::size_t entry;  // that returns to the first unit, or kAbsent
    };
    const std::vector<Option>& options(int unit);
    Ending search(int task, double most, int length, std::int64_t budget, bool& cut);
    void finish(const State& state, int index, int task, Ending& best);
    void extend(const State& state, int index, int from, double best);
    void push(const State& state);
    void apply(const Ending& ending);
    bool is_new(int unit, Int load);
    bool visits(int state, int unit) const;

    SparsePlan* plan_;
    std::span<const double> price_;
    std::vector<double> reduced_;  // r, of each entry
    std::vector<std::vector<Option>> options_;
    std::vector<double> least_added_;
    std::vector<std::uint8_t> stale_;
    std::vector<State> states_;
    std::vector<std::pair<double, int>> heap_;
    std::vector<std::pair<int, Int>> seen_;
    std::vector<std::uint32_t> seen_in_;
    std::uint32_t search_ = 0;
    std::int64_t steps_ = 0;
};

}  // namespace optalloc::assignment

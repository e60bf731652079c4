// The exact 0/1 knapsack of one unit, and what forcing one item in or out would cost.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "assignment/instance.hpp"

namespace optalloc::assignment {

// A workspace: owns every buffer, so that one object serves millions of calls on one thread.
//
// Items have a nonnegative profit; those that exceed the capacity are left out. Linear bounds reduce the
// problem to a few undecided items; those are enumerated depth first and, where that takes too long, by
// dynamic programming over the capacity. Where both would be too large the answer is the linear bound: never
// below the optimum.
class Knapsack {
  public:
    // The best profit, or an upper bound of it; taken[q] tells whether item q is in the best set found.
    Int solve(std::span<const Int> profit, std::span<const Int> load, Int capacity,
              std::vector<std::uint8_t>& taken);

    // The items of the last solve() by falling profit per load, but for those left out; all of them where none was.
    const std::vector<int>& order() const { return order_; }

    // Upper bounds of the best profit with one item forced, exact unless an enumeration is cut short:
    // without[q] with item q left out, with[q] with it in. Candidates beyond num_items (profit <= 0) get
    // with[q] alone. Every load is at most the capacity. Returns the best profit, or an upper bound of it.
    Int condition(std::span<const Int> profit, std::span<const Int> load, std::size_t num_items, Int capacity,
                  std::vector<Int>& with, std::vector<Int>& without);

    // Elementary steps done so far, about a nanosecond each: a clock that equal runs agree on.
    std::int64_t work() const { return work_; }

  private:
    __extension__ using Wide = __int128;

    // Products of a profit and a load are kept in 64 bits where they fit.
    template <typename Product>
    struct Linear {  // the linear relaxation, priced at the break item's profit per load
        bool all_fit = false;
        Int price_profit = 0, price_load = 1;
        Product base = 0;  // bound * price_load
        Int bound = 0;
    };
    template <typename Product>
    void sort(std::span<const Int> profit, std::span<const Int> load, Int capacity);
    template <typename Product>
    Linear<Product> relax(std::span<const Int> profit, std::span<const Int> load, Int capacity);
    template <typename Product>
    Int solve_by(std::span<const Int> profit, std::span<const Int> load, Int capacity, std::vector<std::uint8_t>& taken);
    template <typename Product>
    bool enumerate(Int capacity, Int floor, std::int64_t budget);
    template <typename Value>
    Int tabulate(Int capacity);
    template <typename Value>
    Int condition_by_table(std::span<const Int> profit, std::span<const Int> load, std::size_t num_items,
                           Int capacity, std::vector<Int>& with, std::vector<Int>& without);

    std::vector<int> order_;
    std::vector<std::pair<double, int>> keys_;
    std::vector<int> core_;
    std::vector<Int> core_profit_, core_load_, tail_profit_, tail_load_;
    std::vector<std::uint8_t> chosen_, best_chosen_, in_best_;
    Int best_ = 0;
    std::int64_t work_ = 0;
    std::vector<std::int32_t> narrow_forward_, narrow_backward_;
    std::vector<Int> wide_forward_, wide_backward_;
};

}  // namespace optalloc::assignment

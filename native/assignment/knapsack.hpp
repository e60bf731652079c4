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

    // Upper bounds of the best profit with one item forced, exact unless an enumeration is cut short or floor - 1 in place
    // of what is below the floor: without[q] with item q left out, with[q] with it in. Candidates beyond num_items
    // (profit <= 0) get with[q] alone. Every load is at most the capacity. Returns the best profit, or an upper bound of it.
    Int condition(std::span<const Int> profit, std::span<const Int> load, std::size_t num_items, Int capacity, Int floor,
                  std::vector<Int>& with, std::vector<Int>& without);

    // Elementary steps done so far, about a nanosecond each: a clock that equal runs agree on.
    std::int64_t work() const { return work_; }

  private:
    __extension__ using Wide = __int128;

    using Key = std::uint64_t;
    static Key key_of(Int profit, Int load, std::size_t item);
    static std::size_t item_of(Key key);

    // Products of a profit and a load are kept in 64 bits where they fit.
    template <typename Product>
    struct Linear {  // the linear relaxation, priced at one item's profit per load
        Int price_profit = 0, price_load = 1;
        Product base = 0;  // bound * price_load
        Int bound = 0;

        // Times price_load: what an item is worth beyond the price of its load.
        Product gain(Int profit, Int load) const {
            return static_cast<Product>(profit) * price_load - static_cast<Product>(load) * price_profit;
        }
    };
    std::size_t split(std::span<const Int> profit, std::span<const Int> load, Int capacity);
    template <typename Product>
    Linear<Product> relax(std::span<const Int> profit, std::span<const Int> load, Int capacity, std::size_t pivot) const;
    template <typename Product>
    void sort_core(std::span<const Int> profit, std::span<const Int> load);
    template <typename Product>
    Int solve_by(std::span<const Int> profit, std::span<const Int> load, Int capacity, std::vector<std::uint8_t>& taken);
    template <typename Product>
    bool enumerate(Int capacity, Int floor, std::int64_t budget);
    template <typename Value>
    Int tabulate(Int capacity);
    template <typename Product>
    Int condition_by(std::span<const Int> profit, std::span<const Int> load, std::size_t num_items, Int capacity, Int floor,
                     std::vector<Int>& with, std::vector<Int>& without);
    Int condition_by_solving(std::span<const Int> profit, std::span<const Int> load, std::size_t num_items, Int capacity,
                             Int best, std::vector<Int>& with, std::vector<Int>& without);
    template <typename Value>
    Int condition_by_table(std::size_t num_items, Int capacity);  // of the core: to core_with_ and core_without_

    static constexpr Int kProducts = Int{1} << 61;  // below which 64 bits hold products
    static constexpr std::int64_t kItemWork = 10;   // nanoseconds, about
    std::vector<Key> keys_, core_;
    std::vector<std::size_t> fitting_, undecided_;
    std::vector<Int> core_profit_, core_load_, core_with_, core_without_, tail_profit_, tail_load_;
    std::vector<std::uint8_t> chosen_, best_chosen_, in_best_;
    Int best_ = 0;
    std::int64_t work_ = 0;
    std::vector<std::int32_t> narrow_forward_, narrow_backward_;
    std::vector<Int> wide_forward_, wide_backward_;
};

}  // namespace optalloc::assignment

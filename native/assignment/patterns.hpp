// Exact cover by patterns: what is left of an instance when few tasks are free, solved as one set of tasks a unit.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "assignment/instance.hpp"

namespace optalloc::assignment {

// Every unit takes one pattern, a set of tasks that fits; each task is in one pattern taken. A pattern's gap is what it
// falls short of the unit's best knapsack; the sum of gaps may not exceed the room. A workspace.
class PatternCover {
  public:
    enum class Outcome { kFound, kNone, kTooLarge, kGaveUp };
    static constexpr int kMostTasks = 256;

    struct Item {
        int task;  // 0 .. num_tasks - 1
        Int load, profit;
        bool operator==(const Item&) const = default;
    };
    struct Limits {
        std::size_t patterns = 3000;
        std::int64_t nodes = 1000;
    };

    // items: by unit, from first[i] to first[i + 1]. best: of each unit's knapsack, or more. found: the unit of each task.
    Outcome solve(std::span<const Item> items, std::span<const std::size_t> first, std::span<const Int> capacity,
                  std::span<const Int> best, int num_tasks, Int room, const Limits& limits, std::vector<int>& found);

    std::int64_t work() const { return work_; }  // as Knapsack::work()

  private:
    using Mask = std::array<std::uint64_t, kMostTasks / 64>;
    struct Level {
        std::vector<int> list;                 // the patterns still possible, by unit, of increasing gap
        std::vector<std::size_t> begin, end;   // of each unit in the list
        std::vector<Mask> any, every;          // tasks in some, in all patterns of a unit
        std::vector<Int> reward;               // of each task: what tighten() found
        int unit = -1;                         // branched on
        std::size_t next = 0;
    };
    bool enumerate(std::span<const Item> items, Int capacity, Int least, Int best, std::size_t most);
    void sort_from(std::size_t begin);
    // Keeps those of the patterns from..end of unit i that `keep` admits, at `to`, and gathers what they share.
    template <std::size_t W, typename Keep>
    bool retain(const int* from, const int* end, Level& level, std::size_t unit, const Keep& keep);
    template <std::size_t W>
    bool filter(Level& level);
    template <std::size_t W>
    Int reduced(int pattern, const std::vector<Int>& reward) const;
    template <std::size_t W>
    bool tighten(Level& level, int steps);
    template <std::size_t W>
    bool descend(const Level& parent, std::size_t unit, int pick, Level& child);
    void find_twins(std::span<const Item> items, std::span<const std::size_t> first, std::span<const Int> capacity,
                    std::span<const Int> best);
    template <std::size_t W>
    Outcome search(std::int64_t most_nodes);

    std::size_t width_ = 1;               // words of 64 tasks
    std::vector<std::uint64_t> tasks_;    // of pattern p, from p * width_
    std::vector<Int> gap_;                // of each pattern
    std::vector<std::pair<Int, int>> order_;
    std::vector<std::uint64_t> sorted_tasks_;
    std::vector<Item> sorted_;
    std::vector<Int> tail_;
    std::vector<Level> levels_;
    Mask all_{};
    Int room_ = 0;
    std::vector<Int> low_, slope_, best_reward_;
    std::vector<int> chosen_;
    std::vector<std::size_t> twin_;     // of each unit: the first one with the same items and capacity
    std::vector<std::size_t> start_;    // of each unit's patterns
    std::vector<std::uint8_t> picked_;  // units branched on above
    std::size_t num_units_ = 0;
    std::size_t depth_ = 0;
    std::int64_t work_ = 0;
};

}  // namespace optalloc::assignment

// Tasks on candidate units, every task on one, units perhaps overloaded; shifts and swaps that balance them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "assignment/sparse.hpp"

namespace optalloc::assignment {

// Scores an assignment by its cost plus, for each unit with slack s (negative where overloaded),
//
//     -price * s + force * price * |s|                                        0 < force <= 1
//
// At optimal prices the first two terms favour no unit over another, so a small force lets loads settle where they
// cost least; at force 1 slack is free and an overload is paid twice, or more: weight multiplies it.
class SparsePlan {
  public:
    // Every task has a candidate.
    SparsePlan(const Candidates& candidates, std::span<const double> price);

    // Places every task where it is cheapest at the prices; ties go to the unit that is behind the others.
    void begin(std::uint64_t seed);
    // One pass of the best shift or swap of each task, with at most `partners` tasks of each other unit; how
    // many were made. poll() == true ends it early.
    int sweep(double force, double weight, std::size_t partners, const std::function<bool()>& poll);

    bool feasible() const;
    Int value() const { return value_; }
    std::vector<int> units() const;

    // What the exchanges need: entries are places in the candidate tables.
    const Candidates& candidates() const { return *c_; }
    int unit_of(std::size_t entry) const { return c_->unit[entry]; }
    int task_of(std::size_t entry) const { return static_cast<int>(entry / width_); }
    std::size_t first(int task) const { return static_cast<std::size_t>(task) * width_; }
    std::size_t width() const { return width_; }
    std::size_t place(int task) const { return place_[static_cast<std::size_t>(task)]; }
    Int slack(int unit) const { return slack_[static_cast<std::size_t>(unit)]; }
    const std::vector<int>& held(int unit) const { return held_[static_cast<std::size_t>(unit)]; }
    void move(int task, std::size_t entry) {
        take(task);
        put(task, entry);
    }
    // Sorts the candidates on a unit by the unit their tasks are on now; shared() reads them until the next call.
    // Tasks that move afterwards stay where they were: compare with place().
    void gather(int unit);
    std::span<const std::size_t> shared(int unit) const {
        const auto i = static_cast<std::size_t>(unit);
        return {bucket_.data() + begin_[i], begin_[i + 1] - begin_[i]};
    }

  private:
    void put(int task, std::size_t entry);
    void take(int task);
    double score(int unit, Int slack) const {
        const auto s = static_cast<double>(slack);
        const double rate = rate_[static_cast<std::size_t>(unit)];
        return s < 0 ? -s * rate * (1.0 + force_) * weight_ : -s * rate * (1.0 - force_);
    }

    const Candidates* c_;
    std::span<const double> price_;
    std::size_t width_;
    std::vector<double> rate_;  // price with a floor, so that no overload is free
    std::vector<std::size_t> place_;
    std::vector<Int> slack_;
    std::vector<std::vector<int>> held_;
    std::vector<std::size_t> inverse_, inverse_begin_;  // entries of each unit
    std::vector<std::size_t> bucket_, begin_, filled_;
    Int value_ = 0;
    double force_ = 1.0, weight_ = 1.0;
};

// splitmix64.
std::uint64_t mixed(std::uint64_t z);

}  // namespace optalloc::assignment

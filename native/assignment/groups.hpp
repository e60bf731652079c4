// Large-neighbourhood search: re-solve the tasks of a few units exactly, the others untouched.
#pragma once

#include <cstdint>
#include <vector>

#include "assignment/search.hpp"

namespace optalloc::assignment {

class GroupSearch {
  public:
    GroupSearch(const Instance& instance, Int scale, Control& control, std::uint64_t seed);

    // Rounds of re-optimisation from a feasible assignment; returns true when its cost fell.
    // multiplier: of all tasks, from the root. domain: the pairs a better assignment may use. floor: stop at this cost, a
    // proven bound. budget: search nodes.
    bool improve(Assignment& assignment, const std::vector<double>& multiplier, const Domain& domain, Int floor,
                 std::int64_t budget);

    // Whether the last call ended by solving all units together.
    bool exhausted() const { return exhausted_; }
    // Whether groups were closed without a gain, since the last, until every two units have likely met.
    bool stalled() const;
    void begin_anew() { vain_ = 0; }

  private:
    std::vector<int> draw_units(const Assignment& assignment);
    std::uint64_t next();
    int below(int count) { return static_cast<int>(next() % static_cast<std::uint64_t>(count)); }

    const Instance* instance_;
    Int scale_;
    Control* control_;
    double size_ = 3.0;
    bool exhausted_ = false;
    int vain_ = 0;  // groups closed since the last gain
    std::uint64_t state_;
};

}  // namespace optalloc::assignment

// What a search shares with the smaller ones that it starts, and what it may answer.
#pragma once

#include <cstdint>
#include <functional>

namespace optalloc::assignment {

struct Control {
    std::function<bool()> should_stop;  // asked about once a node; true ends everything
    static constexpr std::int64_t kPollWork = 50'000'000;  // between two polls, where steps take long
    bool stopped = false;
    std::int64_t nodes = 0;
    std::int64_t work = 0;  // elementary steps: about one cell of a knapsack table each

    bool poll() { return stopped || (stopped = should_stop && should_stop()); }
};

// Closed: no assignment of cost <= target is left besides the incumbent, which has lowered the target if it
// was found below it. Otherwise nothing is claimed. Open: the end of an ascent, or its own limit. Stopped: a limit.
enum class Outcome { kClosed, kOpen, kStopped };

}  // namespace optalloc::assignment

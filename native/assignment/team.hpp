// Several threads at one search, in rounds, so that equal inputs give equal results however fast each runs.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "assignment/explore.hpp"
#include "assignment/search.hpp"

namespace optalloc::assignment {

// Each worker searches subtrees and draws its own dives and groups. A round ends for a worker after so many steps of
// its own work; between rounds the workers rest while the caller shares the best assignment and hands out subtrees.
// The caller's thread only coordinates.
class Team {
  public:
    // control: the caller's; its nodes count those of all workers.
    Team(const Instance& instance, Int scale, Control& control, std::uint64_t seed, int num_threads);
    ~Team();

    int size() const { return static_cast<int>(workers_.size()); }
    void set_root(const Prices& prices);
    void set_multiplier(const std::vector<double>& multiplier);

    // Every worker works on its own for about `budget` steps from the best of `search`, towards `floor`.
    void explore(Search& search, Int floor, std::int64_t budget);
    // Closes the subtrees that `search` has split off; offers it what is found. The record of search, if it has one,
    // becomes whole.
    Outcome close(Search& search, Int floor);

  private:
    struct Worker {
        Worker(const Instance& instance, Int scale, std::uint64_t seed);
        void explore(Int floor, std::int64_t budget);

        Control control;
        Search search;
        Explorer explorer;
        Record record;
        std::int64_t explored = 0, round_end = 0, counted = 0;
        const Subtree* subtree = nullptr;  // what to close; nullptr: explore alone
        std::size_t index = 0;             // of the subtree
        Outcome outcome = Outcome::kOpen;
        bool resting = true;
        std::thread thread;
    };
    void work(Worker& worker);
    bool rest(Worker& worker);  // until the next round; false: the team ends
    void round(Search& search, std::int64_t budget);

    Control* control_;
    std::vector<std::unique_ptr<Worker>> workers_;
    std::mutex mutex_;
    std::condition_variable started_, ended_;
    int num_working_ = 0;
    bool quit_ = false;
    Int floor_ = 0, target_ = 0;
};

}  // namespace optalloc::assignment

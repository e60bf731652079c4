// Bounds of whole families of configurations, O(1) work each: what training/bounds.py proves, for many at once.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace optalloc::training {

// One micro-batch over all stages without recomputation and the least of one layer, in seconds; `link` is at most one
// crossing of any boundary.
struct Work {
    double forward, backward, weight;
    double least_forward, least_backward, least_weight;
    double link;
    double total() const { return forward + backward + weight; }
    double least() const { return least_forward + least_backward + least_weight; }
};
inline constexpr int kWorkFields = 7;

// A lower bound of the pipeline's time, seconds (proof: path_bounds in training/bounds.py).
double path_bound(const Work& work, int schedule, int chunks, std::int64_t stages, std::int64_t micro, int layers);

// A lower bound of path_bound over the schedules that a shape can have: a bit of `kinds` for each (by its number), and at
// most `chunks` of an interleaved one (proof: StemFacts in training/bounds.py).
double least_path_bound(const Work& work, std::uint8_t kinds, std::int64_t chunks, std::int64_t stages,
                        std::int64_t micro, int layers);

// Stems: everything of a shape but its number of stages. Arrays of one length.
struct Stems {
    std::span<const std::int64_t> ranks;      // devices of one stage
    std::span<const std::int64_t> most;       // stages at most
    std::span<const std::int64_t> micro;      // micro-batches of one replica
    std::span<const std::int64_t> shardings;  // choices of ZeRO stage and shard group
    std::span<const std::int64_t> key;        // row of `work`, which stems share
    std::span<const double> work;             // kWorkFields each
    std::span<const double> again;            // recomputing all layers, by key
    // Over all stages together: states at their least with the least activations of one micro-batch; states with
    // the optimizer's sharded; activations of one micro-batch, stored and recomputed.
    std::span<const double> least_bytes, state_bytes, held_bytes, short_bytes;
};

// What is common to all stems; `weight`, `devices` by number of devices, the rest by number of stages.
struct Stages {
    std::span<const double> weight;            // of one second
    std::span<const std::uint8_t> devices;     // allowed
    std::span<const std::uint8_t> allowed;     // number of stages
    std::span<const std::uint8_t> tried;       // for the seeds
    // 2 each, micro-batches not divided by the stages, and divided: how many choices, which schedules, most chunks.
    std::span<const std::int64_t> schedules;
    std::span<const std::uint8_t> kinds;
    std::span<const std::int64_t> chunks;
    std::span<const double> fullest;           // layers of the largest stage at least, by number of stages
    double room_bytes;                         // of one device
    double fixed_s;
    int layers;
};

struct Survey {
    std::int64_t configurations = 0;
    double floor;                      // least bound
    std::vector<double> floors;        // of each stem
    std::vector<std::int64_t> counts;  // configurations of each stem
    std::vector<std::int64_t> seed_stem, seed_stages;  // most promising first
};

// Counts every configuration, bounds every stem, and guesses which shapes are good.
Survey survey(const Stems& stems, const Stages& stages, std::size_t num_seeds);

struct Promising {
    std::vector<std::int64_t> stem, stages, counts;
    std::vector<double> bounds;
    std::int64_t pruned_by_work = 0, pruned_by_memory = 0, pruned_by_path = 0;  // configurations
};

// The shapes whose bounds lie below both `goal` and their weight times `ceiling`, and whose states fit.
Promising promising(const Stems& stems, const Stages& stages, std::span<const double> floors,
                    std::span<const std::int64_t> counts, double goal, double ceiling);

}  // namespace optalloc::training

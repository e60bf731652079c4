// Pipeline schedules: the order of operations on each stage, the event time, and what is held in memory.
//
// A stage runs its operations in a fixed order. An operation starts when the previous one of its stage and
// the one it depends on (same micro-batch, neighbouring chunk, plus the link between them) have ended.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace optalloc::training {

enum class Schedule : int { kGpipe = 0, k1f1b = 1, kInterleaved = 2, kZbH1 = 3 };

enum class Pass : std::uint8_t { kForward = 0, kBackward = 1, kWeight = 2 };

// kBackward is the whole backward where the schedule does not divide it, else the input gradient alone.
struct Op {
    Pass pass;
    std::int32_t chunk;  // 0..v-1 on its stage
    std::int32_t micro;
};

struct Shape {
    Schedule schedule;
    int num_stages;
    int chunks_per_stage;
    int num_micro;
    bool splits_backward() const { return schedule == Schedule::kZbH1; }
    int num_chunks() const { return num_stages * chunks_per_stage; }
};

// The operations of one stage in the order they run.
std::vector<Op> stage_order(const Shape& shape, int stage);

// Micro-batches whose forward a stage runs before its first backward.
int warmup_forwards(const Shape& shape, int stage);

// Weight gradients a stage runs after its last input gradient (0 unless the backward is divided).
int trailing_weights(const Shape& shape, int stage);

// How many micro-batches of each chunk a stage holds at once: the undominated vectors over time, flattened.
// Each has 2 * chunks_per_stage entries: per chunk, those that wait for their backward, then those between
// input gradient and weight gradient.
std::vector<int> held_vectors(const Shape& shape, int stage);

// Times of one micro-batch on every chunk in model order, and of the link behind every chunk.
struct ChunkTimes {
    std::span<const double> forward, backward, weight;  // num_chunks
    std::span<const double> link;                       // num_chunks - 1
};

// Starts and ends of all operations, one after another. run() returns false on a deadlock (a broken order).
class EventClock {
  public:
    explicit EventClock(const Shape& shape);
    bool run(const ChunkTimes& times, std::span<double> stage_end);
    // Start of every operation in stage order, and the orders, filled by run().
    const std::vector<std::vector<double>>& starts() const { return starts_; }
    const std::vector<std::vector<Op>>& orders() const { return orders_; }

  private:
    Shape shape_;
    std::vector<std::vector<Op>> orders_;
    std::vector<std::vector<double>> starts_;
    std::vector<double> forward_end_, backward_end_;
    std::vector<std::size_t> next_;
};

}  // namespace optalloc::training

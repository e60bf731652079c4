// The exact inner problem of one mesh: where to cut the chain of layers and what each stage recomputes, so
// that the event time of the schedule plus every stage's tail is smallest and every stage fits in memory.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <tuple>
#include <vector>

#include "training/waves.hpp"

namespace optalloc::training {

// Costs of one layer type on one device of the mesh, for one micro-batch (times in seconds, sizes in bytes).
struct LayerCost {
    double forward, backward, weight;          // input gradient and weight gradient apart
    double extra_selective, extra_full;        // added to the backward by recomputation
    double held, held_selective, held_full;    // stored until the backward
    double scratch_selective, scratch_full;    // working set while recomputing
    double state;                              // weights, gradients, optimizer
    double reduce, gather, update;             // per step: gradients, weights, optimizer
};
inline constexpr int kLayerFields = 14;

struct MeshCost {
    Shape shape;
    std::vector<LayerCost> layer;  // by type: embedding, layer types..., head
    double capacity;               // left for states, activations and logits
    double logits;                 // on the last stage
    double overlap;                // share of compute that hides reductions
    double link_latency_near, link_latency_far;
    double link_transfer_near, link_transfer_far;  // one micro-batch's activations over a boundary
    int stage_devices, domain_devices;             // a boundary is near when both sides share a domain
    double tied;                                   // added to first and last tail when pp > 1
    int recompute_rule;  // 0: each stage its own; 1: none; 2: all selective; 3: all full; 4: equal counts
};

struct StageOption {
    double forward = 0, backward = 0, weight = 0, tail = 0;
    int full = 0, selective = 0;
    bool feasible = false;
    double work() const { return forward + backward + weight; }
};

enum class Outcome : int { kSolved = 0, kMemory = 1, kStageBound = 2, kSearch = 3, kLimit = 4, kMeshBound = 5 };

struct Answer {
    Outcome outcome = Outcome::kMemory;
    double value = 0.0;  // event time with tails, when solved
    double bound = 0.0;  // proven lower bound, when stopped by the limit
    std::int64_t leaves = 0;
    std::vector<int> layers_per_chunk, full, selective;
};

// What depends on the schedule's shape alone, kept while one call lasts.
struct ShapeFacts {
    explicit ShapeFacts(const Shape& shape);
    // The same of a shape that has more micro-batches than `steady`, which already holds as many at once.
    ShapeFacts(const Shape& shape, const ShapeFacts& steady);
    WaveClock clock;
    std::vector<std::vector<int>> held;      // per stage, flattened vectors
    std::vector<int> in_flight;              // per stage, micro-batches that each of its layers holds at least
    std::vector<int> most_held;              // per stage, micro-batches of one chunk that wait at once
    std::vector<int> warmup, trailing;       // per stage
};

class ShapeCache {
  public:
    ShapeCache() = default;
    ShapeCache(const ShapeCache&) = delete;
    ShapeCache& operator=(const ShapeCache&) = delete;
    ShapeFacts& get(const Shape& shape);

  private:
    std::map<std::tuple<int, int, int, int>, std::unique_ptr<ShapeFacts>> facts_;
};

// Value and memory of one written configuration. Returns the step time (with tails); infinity when it does
// not fit. `stage_bytes` gets the peak of every stage.
double evaluate(const MeshCost& mesh, std::span<const int> sequence, std::span<const double> boundary,
                ShapeFacts& facts, std::span<const int> layers_per_chunk, std::span<const int> full,
                std::span<const int> selective, std::span<double> stage_bytes,
                std::span<double> stage_end);

// The step time of many configurations of one mesh, one after another: the cuts of all chunks, the recomputation of all
// stages; infinite where a stage does not fit.
std::vector<double> evaluate_cuts(const MeshCost& mesh, std::span<const int> sequence,
                                  std::span<const double> boundary, ShapeFacts& facts, std::span<const int> cuts,
                                  std::span<const int> full, std::span<const int> selective);

// The best values so far, one for each class of plans (equal degrees), smallest first.
struct Leader {
    std::int64_t group;
    double value;
};

// Solves meshes in the given order. Leaders are the best `num_leaders` groups and all within a factor 1 + margin of the
// first. A mesh of a group among them must beat that group's value, any other must become a leader. `bounds` are proven lower bounds of the values; value = weight * (time + fixed).
struct BlockInput {
    std::span<const MeshCost> meshes;
    std::span<const double> bounds, weights, fixed;
    std::span<const std::int64_t> groups;
    double ceiling;  // on the step time, seconds
    double margin;
    std::int64_t work_limit;
};
std::vector<Answer> solve_block(const BlockInput& input, std::span<const int> sequence,
                                std::span<const double> boundary, ShapeCache& cache,
                                std::vector<Leader>& leaders, std::size_t num_leaders,
                                const int* cancel);

}  // namespace optalloc::training

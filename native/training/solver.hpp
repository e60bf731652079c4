// Solver: one mesh's inner problem, in four parts: what a stage costs (stage.cpp), cuts with one chunk a stage
// (cuts.cpp), layouts with several (layouts.cpp), and the calls from outside (partition.cpp).
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "training/partition.hpp"

namespace optalloc::training {

inline constexpr double kInf = std::numeric_limits<double>::infinity();
// Values this close are ties: an improvement must be larger, so the search ends on equal plans.
inline constexpr double kTie = 1e-9;
// Work is counted in operations of the event clock; these cost about as much as so many.
inline constexpr std::int64_t kWorkOfNode = 10, kWorkOfOption = 5;
// Interleaved cuts are all tried where there are at most this many.
inline constexpr double kAllLayouts = 1000.0;
// Stage options remembered at once; beyond, they are computed anew.
inline constexpr std::size_t kMemoCells = 400'000;

// Prefix sums over the chain: at[e] sums the first e layers.
struct Chain {
    std::vector<LayerCost> at;
    std::vector<double> scratch_full, scratch_selective;  // of each layer
    std::vector<std::size_t> run_end;                     // first layer of another type behind each layer
    bool equal_cores = true;                              // one working set of the core for all layers
    bool whole_is_least = true;  // a layer keeps least when recomputed whole, most when stored

    // The same storage for another mesh.
    Chain& set(const MeshCost& mesh, std::span<const int> sequence) {
        equal_cores = whole_is_least = true;
        at.resize(sequence.size() + 1);
        at[0] = LayerCost{};
        scratch_full.resize(sequence.size());
        scratch_selective.resize(sequence.size());
        run_end.assign(sequence.size(), 0);
        for (std::size_t e = 0; e < sequence.size(); ++e) {
            const LayerCost& cost = mesh.layer[static_cast<std::size_t>(sequence[e])];
            LayerCost sum = at[e];
            sum.forward += cost.forward;
            sum.backward += cost.backward;
            sum.weight += cost.weight;
            sum.extra_selective += cost.extra_selective;
            sum.extra_full += cost.extra_full;
            sum.held += cost.held;
            sum.held_selective += cost.held_selective;
            sum.held_full += cost.held_full;
            sum.state += cost.state;
            sum.reduce += cost.reduce;
            sum.gather += cost.gather;
            sum.update += cost.update;
            at[e + 1] = sum;
            if (e > 0 && sequence[e] != sequence[e - 1]) {
                for (std::size_t k = e; k-- > 0 && run_end[k] == 0;) run_end[k] = e;
            }
            scratch_full[e] = cost.scratch_full;
            scratch_selective[e] = cost.scratch_selective;
            equal_cores = equal_cores && cost.scratch_selective == scratch_selective[0];
            whole_is_least =
                whole_is_least && cost.held_full <= cost.held_selective && cost.held_selective <= cost.held;
        }
        for (std::size_t& end : run_end) end = end == 0 ? sequence.size() : end;
        return *this;
    }

    // Largest value among layers begin..end-1.
    double largest(const std::vector<double>& values, std::size_t begin, std::size_t end) const {
        double most = 0.0;
        for (std::size_t k = begin; k < end; k = run_end[k]) most = std::max(most, values[k]);
        return most;
    }
};

struct Range {
    int begin, end;
    int size() const { return end - begin; }
};

// Storage that outlives a mesh: its chain, and options of stages with one chunk, each valid where its stamp is the
// present one.
struct Memo {
    Chain chain;
    std::vector<StageOption> options;
    std::vector<std::uint32_t> stamps;
    std::uint32_t now = 0;

    void start(std::size_t cells) {
        if (options.size() < cells) {
            options.resize(cells);
            stamps.resize(cells, 0);
        }
        if (++now == 0) {
            std::fill(stamps.begin(), stamps.end(), 0);
            now = 1;
        }
    }
};

class Solver {
  public:
    Solver(const MeshCost& mesh, std::span<const int> sequence, std::span<const double> boundary,
           ShapeFacts& facts, Memo& memo)
        : mesh_(mesh),
          boundary_(boundary),
          facts_(facts),
          memo_(memo),
          chain_(memo.chain.set(mesh, sequence)),
          num_layers_(static_cast<int>(sequence.size())),
          pp_(mesh.shape.num_stages),
          v_(mesh.shape.chunks_per_stage) {
        // One micro-batch down and back over all stages, without recomputation.
        const LayerCost &all = chain_.at.back(), &head = mesh.layer.back(), &tail = mesh.layer.front();
        round_ = all.forward + all.backward + head.forward + head.backward + tail.forward + tail.backward;
        if (!mesh.shape.splits_backward()) round_ += all.weight + head.weight + tail.weight;
        nearest_ = static_cast<int>(std::min_element(boundary.begin(), boundary.end()) - boundary.begin());
        for (std::size_t t = 1; t + 1 < mesh.layer.size(); ++t) {
            const LayerCost& c = mesh.layer[t];
            if (c.held > c.held_full) price_ = std::min(price_, c.extra_full / (c.held - c.held_full));
            if (c.held > c.held_selective) {
                price_ = std::min(price_, c.extra_selective / (c.held - c.held_selective));
            }
        }
        for (int i = 0; v_ == 1 && i + 1 < pp_; ++i) round_ += 2.0 * link(i, nearest_);
    }

    double link(int chunk, int layers_done) const;
    StageOption option(int stage, std::span<const Range> chunks) const;
    StageOption fixed_option(int stage, std::span<const Range> chunks, int full, int selective,
                             double* bytes) const;
    double event_value(std::span<const Range> chunks, std::span<const StageOption> options,
                       std::span<double> stage_end);
    Answer solve(double floor, double threshold, std::int64_t work_limit, const int* cancel);

  private:
    struct Pick {
        std::vector<Range> chunks;
        std::vector<StageOption> options;
    };

    // Operations of the event clock that take as long as one event time: about eight at once, of the micro-batches
    // until the schedule repeats.
    std::int64_t clock_work(int chunks) const {
        if (mesh_.shape.schedule == Schedule::kGpipe) return chunks;
        return static_cast<std::int64_t>(std::min(mesh_.shape.num_micro, 3 * pp_)) * chunks / 4 + chunks;
    }
    bool cancelled() const { return cancel_ != nullptr && *static_cast<const volatile int*>(cancel_) != 0; }
    // Peak of a stage: states and held activations, and what comes on top, the larger of the two.
    struct Bytes {
        double base = 0.0, working = 0.0, logits = 0.0;
        double total() const { return base + std::max(working, logits); }
    };
    Bytes bytes(int stage, std::span<const Range> chunks, int full, int selective, bool working = true) const;
    double memory(int stage, std::span<const Range> chunks, int full, int selective, bool working = true) const;
    int least_selective(int stage, std::span<const Range> chunks, int full, int largest, int hint) const;
    template <typename Visit>
    void each_choice(int stage, std::span<const Range> chunks, const Visit& visit) const;
    bool any_choice(int stage, std::span<const Range> chunks) const;
    double least_extra(int stage, std::span<const Range> chunks) const;
    void options(int stage, std::span<const Range> chunks, std::vector<StageOption>& out) const;
    StageOption timed(std::span<const Range> chunks, int stage, int full, int selective) const;
    void chunk_times(const Range& r, bool first, bool last, int full, int selective, double out[3]) const;

    // One chunk a stage.
    int slack() const { return pp_ * largest_ - num_layers_; }
    struct Sizes {
        int low, high;
    };
    void set_window(double limit);
    Sizes begins(int stage) const;
    Sizes sizes(int stage, int begin) const;
    const StageOption& single(int stage, int begin, int size);
    int least(int stage) const { return stage == 0 || stage == pp_ - 1 ? 0 : 1; }
    int largest_fit(int stage, int begin, int hint) const;
    bool fits() const;
    bool reaches(double limit) const;
    bool suffix_tables(double limit);
    double own_path(int stage, const StageOption& o) const;
    double advance(int stage, int layers_done, const StageOption& o) const;
    double turn_path(int stage, const StageOption& o) const;
    bool follow_tables(double limit, Pick& pick);
    void descend(int stage, int done, double prefix, double turn, double turn_f, double turn_b);
    bool prefix_excludes(int stage, int done, double rest);
    void offer(const Pick& pick);
    void solve_single();
    // Several chunks a stage.
    void solve_interleaved();
    void all_layouts(std::vector<int>& sizes, std::size_t chunk, int left);
    void try_layout(std::span<const int> sizes);
    bool layout_excludes(double first_tail);
    bool path_excludes(std::size_t stage) const;
    void combine(std::size_t stage);

    const MeshCost& mesh_;
    std::span<const double> boundary_;
    ShapeFacts& facts_;
    Memo& memo_;
    const Chain& chain_;
    int num_layers_, pp_, v_;
    double round_ = 0.0;
    int nearest_ = 0;  // layers before the boundary that is cheapest to cross
    double price_ = kInf;  // least time of recomputation for each byte that it saves of one micro-batch

    double limit_ = kInf;      // only values below are wanted
    double tightest_ = 0.0;    // largest value proven impossible to beat
    Answer answer_;
    std::int64_t work_limit_ = 0, work_ = 0;
    const int* cancel_ = nullptr;
    bool stopped_ = false, any_fits_ = false;
    int largest_ = -1;  // layers of the largest stage worth looking at
    bool remembers_ = false;
    StageOption loose_;
    std::vector<double> entry_, least_, peak_;  // [stage][layers done]
    std::vector<double> stage_end_, f_, b_, w_, l_;
    Pick current_;
    // A stage of the last layout that looked at it, by the chunks it had then.
    struct Known {
        std::vector<Range> chunks;
        double least_extra = 0.0;
        bool listed = false;
        std::vector<StageOption> choices;
    };
    bool same_stage(std::span<const Range> a, std::span<const Range> b) const;
    std::vector<Known> known_;
    std::vector<double> before_, own_;               // of a layout: least path to each stage, its own work
};

}  // namespace optalloc::training

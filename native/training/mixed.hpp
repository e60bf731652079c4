// The exact search over mixed clusters: which pipelines of unequal stages, how many micro-batches each. One
// search is one micro-batch size, one set of allowed device groups and one range of the number of replicas;
// src/optalloc/training/mixed/problem.py states the problem, solve.py the proof.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "training/partition.hpp"

namespace optalloc::training {

inline constexpr int kMostGroups = 8;  // of a cluster
inline constexpr int kMostBlocks = 4;  // of a replica

// One way to run a stage: devices of one group and their degrees, with the costs of every layer type
// (LayerCost::backward is the whole backward; state, reduce, gather and update are those of the search's
// number of replicas).
struct MixedKind {
    int group, devices;
    double capacity, logits;          // bytes
    double sent;                      // bytes of one micro-batch that a device hands on
    double tied;                      // seconds, added to the tails of the first and the last of several stages
    double reduce0, gather0;          // seconds of latency, once a stage
    std::vector<LayerCost> layer;     // embedding, layer types..., head
    LayerCost head_alone;             // the head where one stage holds both ends
};

struct MixedLink {
    double latency, seconds_per_byte;
};

struct MixedInput {
    std::vector<MixedKind> kinds;
    std::vector<int> available, domain;                  // by group
    std::vector<MixedLink> near, far;                    // by group, inside a block
    std::vector<std::vector<MixedLink>> across;          // by two groups
    std::vector<int> sequence;                           // type of every layer
    std::vector<double> boundary;                        // what crosses a cut, relative
    double overlap;
    int num_micro, most_stages, most_blocks, least_replicas, most_replicas;
};

struct MixedReplica {
    int num_micro = 0;
    double value = 0.0, beta = 0.0;                   // of num_micro micro-batches; the slowest stage
    std::vector<int> kinds, layers, full, selective;  // by stage
};

enum class MixedStatus : int { kNone = 0, kFound = 1, kLimit = 2, kTooLarge = 3, kSplit = 4 };

struct MixedAnswer {
    MixedStatus status = MixedStatus::kNone;
    double value = 0.0;
    std::vector<MixedReplica> replicas;
    std::int64_t shapes = 0, refined = 0, solved = 0, packings = 0;
};

// A stage on one range of layers.
struct MixedOption {
    double tau, tail;  // tau is infinite where it does not fit
};

// What stages cost, computed when asked for and kept.
class MixedStages {
  public:
    explicit MixedStages(const MixedInput& input);
    enum Role : int { kFirst = 0, kMiddle = 1, kLast = 2, kSingle = 3 };
    const MixedOption& at(int kind, int in_flight, Role role, int begin, int end);
    MixedOption compute(int kind, int in_flight, Role role, int begin, int end, int* full, int* selective);

    // The least time of any n = 0, 1, ... layers, as if each were the cheapest in every respect.
    const std::vector<double>& row(int kind, int in_flight, Role role);
    // The least tail of any n = 0, 1, ... layers, in the same way; it may fall with n.
    const std::vector<double>& tails(int kind, Role role);
    // A family of kinds, numbered on behind them; its rows are the least of theirs.
    void add_family(std::vector<int> members);
    const std::vector<int>* family(int kind) const;

  private:
    struct Sums {
        std::vector<LayerCost> at;            // prefix sums over the chain
        std::vector<double> least_held;       // prefix sums of the least each layer can keep
        std::vector<const LayerCost*> layers;
    };
    const MixedInput& input_;
    std::size_t size_, flights_;
    bool uniform_ = false;  // all layers are of one type
    static Sums summed(std::vector<const LayerCost*> layers);
    const Sums& sums(std::size_t kind);
    const Sums& cheapest(std::size_t kind);
    std::size_t key(int kind, int in_flight, Role role) const;
    MixedOption best(const MixedKind& kind, const Sums& sums, int in_flight, Role role, std::size_t begin,
                     std::size_t end, int* full, int* selective) const;
    std::vector<Sums> sums_, cheapest_;
    std::vector<LayerCost> least_layer_, most_layer_;  // by kind
    std::vector<std::vector<MixedOption>> options_;
    std::vector<std::vector<double>> rows_, tails_;
    std::vector<std::vector<int>> families_;
};

// Blocks of equal stages in pipeline order; a group at most once. A block may still be of a family: of any of the
// kinds of a group that take as many devices.
struct MixedShape {
    std::int8_t blocks = 0;
    std::int8_t group[kMostBlocks] = {};
    std::int16_t kind[kMostBlocks] = {};
    std::int16_t count[kMostBlocks] = {};
    std::int32_t devices[kMostBlocks] = {};
    bool measured = false;       // least_beta is known
    bool exact = false;          // most_micro is the true number at the current target
    std::int32_t most_micro = 0; // no more micro-batches than this reach the target
    double least_beta = 0.0, links = 0.0, least_tail = 0.0;
    int stages() const {
        int total = 0;
        for (const int c : count) total += c;
        return total;
    }
};

class MixedSearch {
  public:
    explicit MixedSearch(MixedInput input);
    // The best plan of value at most `target`, or the proof that there is none. Another plan must be better by the
    // share `step`.
    MixedAnswer improve(double target, double step, const int* cancel);
    // The proof that there is no plan of value at most `target`, by prices or by packing, or kSplit: at the cheapest
    // number of replicas there is one, or it takes more than so many programmes to find out.
    MixedAnswer refute(double target, std::int64_t most_solved, const int* cancel);
    // A plan of value at most `target`, if the shapes of the relaxation alone make one (kFound), the proof that there
    // is none (kNone), or neither (kSplit). Targets may only fall from call to call.
    MixedAnswer look(double target, const int* cancel);
    // Searches only what a search of a larger range of replicas has left: the shapes that a plan within its last
    // target can have. No target may be greater than that one.
    void inherit(const MixedSearch& other);
    // Micro-batches that a device of each group and a replica cost: with them the last target was refuted.
    const std::vector<double>& prices() const { return prices_; }
    // Micro-batches that the last relaxation takes.
    double bound() const { return bound_; }

  private:
    struct Label {
        double s, beta, theta;
        std::int32_t from_end, from_index;
    };
    struct Column {
        std::array<int, kMostGroups> usage{};  // devices by group
        std::size_t shape = 0;
        int micro = 0;
    };
    void add_families();
    void open(double target, MixedAnswer& answer);
    void expand(std::size_t index, double target, MixedAnswer& answer);
    bool has_family(const MixedShape& shape) const;
    static std::array<int, kMostGroups> usage_of(const MixedShape& shape);
    double worth(const std::array<int, kMostGroups>& usage) const;
    double worth(const MixedShape& shape) const;
    double goal() const { return input_.num_micro - 1e-6; }
    bool takes(std::size_t index, double target, int needed, MixedAnswer& answer);
    void scale_prices();
    MixedStatus price(double target, std::int64_t most_solved, bool whole, MixedAnswer& answer);
    int packing(double target, std::int64_t most_solved, std::vector<Column>& columns, std::vector<std::size_t>& chosen,
                MixedAnswer& answer, bool& too_large);
    std::vector<Column> candidates(double target, double share, MixedAnswer& answer);
    void extend(MixedShape& shape, unsigned used, int stages, double wasted, double target, MixedAnswer& answer);
    bool admit(MixedShape& shape, double target, MixedAnswer& answer);
    double shape_links(const MixedShape& shape) const;
    MixedLink link_behind(const MixedShape& shape, int stage) const;
    int kind_of(const MixedShape& shape, int stage) const;
    void measure(MixedShape& shape);
    void open_grid(double target);
    std::int16_t* capacities(int step, int kind);
    int capacity(std::int16_t* own, int step, int kind, int in_flight, MixedStages::Role role);
    const std::int16_t* tail_capacity(int step, int kind, MixedStages::Role role);
    double pass_within(const MixedShape& shape, int step, int tail_step);
    bool can_take(const MixedShape& shape, double target, int num_micro);
    int most_within(const MixedShape& shape, double target, double beta) const;
    double least_pass(const MixedShape& shape, double cap) const;
    bool covers(const MixedShape& shape, double beta);
    double solve(const MixedShape& shape, int num_micro, double cutoff, MixedReplica* out, int* most);
    void refine(MixedShape& shape, double target, int needed, MixedAnswer& answer);
    int pack(const std::vector<Column>& columns, std::vector<std::size_t>& chosen, MixedAnswer& answer,
             bool& too_large);
    void relax();
    void assemble(const std::vector<Column>& columns, const std::vector<std::size_t>& chosen, double target,
                  MixedAnswer& answer);
    MixedStages::Role role(int stage, int stages) const;

    MixedInput input_;
    MixedStages stages_;
    int layers_;
    std::vector<double> work_prefix_;     // share of the model's work before each layer
    double work_first_ = 0.0, work_last_ = 0.0;
    std::size_t num_kinds_;               // families follow
    std::vector<double> rate_;            // by kind: work per second at best
    std::vector<double> tail_, update_;   // by kind: seconds of tail and of update for a unit of work, at least
    std::vector<double> hides_;           // by kind: seconds of tail that the embedding's passes hide beyond its own
    std::vector<double> layer_, first_, last_;  // by kind: seconds of a layer, the embedding and the head, at least
    std::vector<double> device_rate_;     // by group: the best rate of one device
    double least_state_ = 0.0;
    double least_boundary_ = 0.0;
    // By kind, where asked for: by step of a geometric grid of beta, the most layers of a middle stage by its place
    // from the end, of a first stage, of a last and of a single one.
    std::vector<std::vector<std::int16_t>> capacity_;
    std::vector<double> beta_;            // by step
    // By kind, where asked for: by step of a grid of theta, role and number of layers, the most layers up to that
    // number whose tail is within theta.
    std::vector<std::vector<std::int16_t>> tail_capacity_;
    std::vector<double> theta_;           // by step
    int first_step_ = 0, last_step_ = -1;
    double slack_ = 0.0;                  // micro-batches that can be wasted within the target
    std::vector<MixedShape> shapes_;
    bool opened_ = false, inherits_ = false;
    std::vector<Column> true_;            // of the relaxation
    std::vector<double> prices_;          // of the last relaxation, and its bound
    double bound_ = 0.0;
    const int* cancel_ = nullptr;
};

}  // namespace optalloc::training

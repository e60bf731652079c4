#include "training/partition.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "training/solver.hpp"

namespace optalloc::training {

Answer Solver::solve(double floor, double threshold, std::int64_t work_limit, const int* cancel) {
    tightest_ = floor;
    limit_ = threshold;
    work_limit_ = work_limit;
    cancel_ = cancel;
    if (v_ > 1) solve_interleaved(); else solve_single();
    answer_.bound = tightest_;
    if (stopped_) answer_.outcome = Outcome::kLimit;
    return answer_;
}

ShapeFacts::ShapeFacts(const Shape& shape) : clock(shape) {
    for (int i = 0; i < shape.num_stages; ++i) {
        held.push_back(held_vectors(shape, i));
        const auto v = static_cast<std::size_t>(shape.chunks_per_stage);
        int most = 0, waiting = 1;
        for (std::size_t k = 0; k < held.back().size(); k += 2 * v) {
            int least = std::numeric_limits<int>::max();
            for (std::size_t c = k; c < k + v; ++c) {
                least = std::min(least, held.back()[c] + held.back()[c + v]);
                waiting = std::max(waiting, held.back()[c]);
            }
            most = std::max(most, least);
        }
        in_flight.push_back(most);
        most_held.push_back(waiting);
        warmup.push_back(warmup_forwards(shape, i));
        trailing.push_back(trailing_weights(shape, i));
    }
}

ShapeFacts::ShapeFacts(const Shape& shape, const ShapeFacts& steady) : ShapeFacts(steady) {
    clock = WaveClock(shape);
}

// Behind four micro-batches a stage nothing repeats that was not there before.
ShapeFacts& ShapeCache::get(const Shape& s) {
    auto& slot = facts_[{static_cast<int>(s.schedule), s.num_stages, s.chunks_per_stage, s.num_micro}];
    if (!slot) {
        Shape shorter = s;
        if (s.schedule != Schedule::kGpipe) shorter.num_micro = std::min(s.num_micro, 4 * s.num_stages);
        slot = shorter.num_micro == s.num_micro ? std::make_unique<ShapeFacts>(s)
                                                : std::make_unique<ShapeFacts>(s, get(shorter));
    }
    return *slot;
}

namespace {

// One configuration: its value, with the peak of every stage; chunks and options are room to work in.
struct Written {
    std::vector<Range> chunks, mine;
    std::vector<StageOption> options;

    double value(Solver& solver, std::size_t pp, std::span<const int> sizes, std::span<const int> full,
                 std::span<const int> selective, std::span<double> bytes, std::span<double> ends) {
        chunks.clear();
        options.resize(pp);
        int done = 0;
        for (const int size : sizes) {
            chunks.push_back({done, done + size});
            done += size;
        }
        for (std::size_t i = 0; i < pp; ++i) {
            mine.clear();
            for (std::size_t c = i; c < chunks.size(); c += pp) mine.push_back(chunks[c]);
            options[i] = solver.fixed_option(static_cast<int>(i), mine, full[i], selective[i], &bytes[i]);
        }
        return solver.event_value(chunks, options, ends);
    }
};

}  // namespace

double evaluate(const MeshCost& mesh, std::span<const int> sequence, std::span<const double> boundary,
                ShapeFacts& facts, std::span<const int> layers_per_chunk, std::span<const int> full,
                std::span<const int> selective, std::span<double> stage_bytes,
                std::span<double> stage_end) {
    Memo memo;
    Solver solver(mesh, sequence, boundary, facts, memo);
    Written written;
    return written.value(solver, static_cast<std::size_t>(mesh.shape.num_stages), layers_per_chunk, full, selective,
                         stage_bytes, stage_end);
}

std::vector<double> evaluate_cuts(const MeshCost& mesh, std::span<const int> sequence,
                                  std::span<const double> boundary, ShapeFacts& facts, std::span<const int> cuts,
                                  std::span<const int> full, std::span<const int> selective) {
    Memo memo;
    Solver solver(mesh, sequence, boundary, facts, memo);
    Written written;
    const auto pp = static_cast<std::size_t>(mesh.shape.num_stages);
    const auto chunks = static_cast<std::size_t>(mesh.shape.num_chunks());
    std::vector<double> values(cuts.size() / chunks), bytes(pp);
    for (std::size_t k = 0; k < values.size(); ++k) {
        values[k] = written.value(solver, pp, cuts.subspan(k * chunks, chunks), full.subspan(k * pp, pp),
                                  selective.subspan(k * pp, pp), bytes, {});
        for (const StageOption& o : written.options) {
            if (!o.feasible) values[k] = kInf;
        }
    }
    return values;
}

namespace {

// True if the layers of one type alone are too many for all stages together: a stage that recomputes one of them
// whole holds its working set and each layer's least, one that recomputes only cores the same of those. The first
// stage holds the embedding as well, the last one the head, and the logits or the working set.
bool crowded(const MeshCost& mesh, const ShapeFacts& facts, std::span<const int> counts) {
    for (std::size_t t = 1; t < counts.size(); ++t) {
        const LayerCost& cost = mesh.layer[t];
        const double core = std::min(cost.held, cost.held_selective);
        double most = 0.0;
        for (std::size_t i = 0; i < facts.in_flight.size(); ++i) {
            const int in_flight = facts.in_flight[i];
            double room = mesh.capacity, logits = 0.0;
            if (i == 0) room -= mesh.layer.front().state + in_flight * mesh.layer.front().held;
            if (i + 1 == facts.in_flight.size()) {
                room -= mesh.layer.back().state + in_flight * mesh.layer.back().held;
                logits = mesh.logits;
            }
            const auto layers = [&](double working, double held) {
                const double each = std::max(cost.state + in_flight * held, 1e-300);
                return std::floor(std::max(0.0, room - std::max(working, logits)) / each * (1.0 + 1e-9));
            };
            most += std::max({layers(cost.scratch_full, std::min(core, cost.held_full)),
                              layers(cost.scratch_selective, core), layers(0.0, cost.held)});
        }
        if (most < counts[t]) return true;
    }
    return false;
}

// Values at or above this make no leader.
double goal_of(const std::vector<Leader>& leaders, std::size_t num_leaders, double margin) {
    if (leaders.size() < num_leaders) return kInf;
    return std::max(leaders[num_leaders - 1].value, leaders.front().value * (1.0 + margin));
}

}  // namespace

std::vector<Answer> solve_block(const BlockInput& input, std::span<const int> sequence,
                                std::span<const double> boundary, ShapeCache& cache,
                                std::vector<Leader>& leaders, std::size_t num_leaders,
                                const int* cancel) {
    std::vector<Answer> answers(input.meshes.size());
    Memo memo;
    std::vector<int> counts;  // layers of each type
    for (const int type : sequence) {
        counts.resize(std::max(counts.size(), static_cast<std::size_t>(type) + 1));
        ++counts[static_cast<std::size_t>(type)];
    }
    for (std::size_t k = 0; k < input.meshes.size(); ++k) {
        const std::int64_t group = input.groups[k];
        const auto mine = std::find_if(leaders.begin(), leaders.end(),
                                       [&](const Leader& l) { return l.group == group; });
        double goal = goal_of(leaders, num_leaders, input.margin);
        if (mine != leaders.end()) goal = mine->value;
        goal = std::min(goal, input.weights[k] * input.ceiling);
        Answer& answer = answers[k];
        if (input.bounds[k] >= goal) {
            answer.outcome = Outcome::kMeshBound;
            continue;
        }
        const double threshold = goal == kInf ? kInf : goal / input.weights[k] - input.fixed[k];
        const double floor = input.bounds[k] / input.weights[k] - input.fixed[k];
        ShapeFacts& facts = cache.get(input.meshes[k].shape);
        if (crowded(input.meshes[k], facts, counts)) continue;  // memory, as answers begin
        Solver solver(input.meshes[k], sequence, boundary, facts, memo);
        answer = solver.solve(floor, threshold, input.work_limit, cancel);
        answer.bound = input.weights[k] * (answer.bound + input.fixed[k]);
        if (answer.layers_per_chunk.empty()) continue;
        answer.value = input.weights[k] * (answer.value + input.fixed[k]);
        if (answer.value >= goal) continue;
        if (mine != leaders.end()) leaders.erase(mine);
        const Leader leader{group, answer.value};
        leaders.insert(std::upper_bound(leaders.begin(), leaders.end(), leader,
                                        [](const Leader& a, const Leader& b) { return a.value < b.value; }),
                       leader);
        const double worst = goal_of(leaders, num_leaders, input.margin);
        while (leaders.size() > num_leaders && leaders.back().value > worst) leaders.pop_back();
    }
    return answers;
}

}  // namespace optalloc::training

#include "training/bounds.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>

#include "training/pipeline.hpp"

namespace optalloc::training {

namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();

// Where the search tries all interleaved cuts; errs on the side of true.
bool few_cuts(int layers, std::int64_t stages, int chunks) {
    const double most = 1001.0;
    return layers - stages * chunks + 2 <= 2 || std::pow(layers - 1.0, 3) / 6.0 <= most;
}

double single_chunk(const Work& w, Schedule schedule, double stages, double m, double bound, double fullest) {
    const bool split = schedule == Schedule::kZbH1;
    const double back = w.forward + w.backward + (split ? 0.0 : w.weight);
    const double around = back + 2.0 * (stages - 1.0) * w.link;
    const double warm = schedule == Schedule::kGpipe ? 1.0 : std::min(m, stages);
    const double late = split ? std::min(m, stages) : 1.0;
    const auto turn = [&](double forward, double backward, double weight) {
        return (m - warm) * forward + (m - 1.0) * backward + (m - late) * weight;
    };
    const double mean = turn(w.forward / stages, w.backward / stages, w.weight / stages);
    const double most = turn(fullest * w.least_forward, fullest * w.least_backward, fullest * w.least_weight);
    bound = std::max(bound, around + std::max(mean, most));
    if (split) return bound;
    return std::max(bound, w.total() / (1.0 - std::pow(1.0 - 1.0 / m, stages)));
}

// Layers of a middle chunk at least.
double least_chunk(int layers, std::int64_t pp, int chunks) {
    if (few_cuts(layers, pp, chunks)) return 1.0;
    return std::ceil(layers / (static_cast<double>(pp) * chunks));
}

// Where every middle chunk has q layers and every middle stage `middle`, at least.
double interleaved(const Work& w, double q, double middle, std::int64_t pp, double m, double bound) {
    const double stages = static_cast<double>(pp);
    const double step = q * w.least() + 2.0 * w.link;
    const double sums = (stages - 1.0) * (stages - 2.0) / 2.0 * step;
    bound = std::max(bound, (m * w.total() + sums) / stages);
    if (pp < 3) return bound;
    return std::max(bound, m * middle * w.least() + std::max(0.0, stages - 3.0) * step);
}

Work work_of(const Stems& stems, std::size_t k) {
    const double* w = stems.work.data() + stems.key[k] * kWorkFields;
    return {w[0], w[1], w[2], w[3], w[4], w[5], w[6]};
}

// Calls visit(stages, row of the tables of Stages, count, bound) for each number of stages that a stem can have; the
// bound is weighted.
template <typename Visit>
void each_shape(const Stems& stems, const Stages& s, std::size_t k, const Visit& visit) {
    const std::int64_t ranks = stems.ranks[k], micro = stems.micro[k];
    const double m = static_cast<double>(micro);
    const Work work = work_of(stems, k);
    const double all = m * work.total(), one = m * work.least();
    for (std::int64_t pp = 1; pp <= stems.most[k]; ++pp) {
        const auto p = static_cast<std::size_t>(pp), used = static_cast<std::size_t>(ranks * pp);
        if (!s.allowed[p] || !s.devices[used]) continue;
        const bool divides = static_cast<std::int32_t>(micro) % static_cast<std::int32_t>(pp) == 0;
        const std::size_t row = 2 * p + (divides ? 1 : 0);
        const std::int64_t count = s.schedules[row] * stems.shardings[k];
        const double time = std::max(all / static_cast<double>(pp), one * s.fullest[p]);
        visit(pp, row, count, s.weight[used] * (time + s.fixed_s));
    }
}

bool too_large(const Stems& stems, const Stages& s, std::size_t k, std::int64_t pp) {
    return stems.least_bytes[k] > s.room_bytes * static_cast<double>(pp);
}

// Step time with equal stages under 1F1B, everything stored or everything recomputed; infinite where that does not fit.
double guess(const Stems& stems, const Stages& s, std::size_t k, std::int64_t pp) {
    const double stages = static_cast<double>(pp), m = static_cast<double>(stems.micro[k]);
    const double room = s.room_bytes * stages, flying = std::min(m, stages);
    const double steps = (m + stages - 1.0) / stages, work = work_of(stems, k).total();
    if (stems.state_bytes[k] + flying * stems.held_bytes[k] <= room) return steps * work;
    if (stems.state_bytes[k] + flying * stems.short_bytes[k] <= room) {
        return steps * (work + stems.again[static_cast<std::size_t>(stems.key[k])]);
    }
    return kInf;
}

}  // namespace

double path_bound(const Work& work, int schedule, int chunks, std::int64_t stages, std::int64_t micro, int layers) {
    const double m = static_cast<double>(micro), p = static_cast<double>(stages);
    const double fullest = std::ceil(layers / p);
    const double bound = m * std::max(work.total() / p, fullest * work.least());
    const auto kind = static_cast<Schedule>(schedule);
    if (kind == Schedule::kInterleaved) {
        const double q = least_chunk(layers, stages, chunks);
        return interleaved(work, q, chunks * q, stages, m, bound);
    }
    return single_chunk(work, kind, p, m, bound, fullest);
}

double least_path_bound(const Work& work, std::uint8_t kinds, std::int64_t chunks, std::int64_t stages,
                        std::int64_t micro, int layers) {
    const double m = static_cast<double>(micro), p = static_cast<double>(stages);
    const double fullest = std::ceil(layers / p);
    const double bound = m * std::max(work.total() / p, fullest * work.least());
    double least = kInf;
    for (const Schedule kind : {Schedule::kGpipe, Schedule::k1f1b, Schedule::kZbH1}) {
        if (kinds >> static_cast<int>(kind) & 1) least = std::min(least, single_chunk(work, kind, p, m, bound, fullest));
    }
    if (kinds >> static_cast<int>(Schedule::kInterleaved) & 1) {
        const int most = static_cast<int>(chunks);
        const double q = least_chunk(layers, stages, most);
        const double middle = few_cuts(layers, stages, most) ? std::min(2.0, fullest) : fullest;
        least = std::min(least, interleaved(work, q, middle, stages, m, bound));
    }
    return least;
}

Survey survey(const Stems& stems, const Stages& stages, std::size_t num_seeds) {
    Survey out;
    out.floor = kInf;
    out.floors.assign(stems.ranks.size(), kInf);
    out.counts.assign(stems.ranks.size(), 0);
    using Seed = std::tuple<double, std::size_t, std::int64_t>;
    std::vector<Seed> heap;  // the largest guess on top
    for (std::size_t k = 0; k < stems.ranks.size(); ++k) {
        each_shape(stems, stages, k, [&](std::int64_t pp, std::size_t, std::int64_t count, double bound) {
            out.counts[k] += count;
            out.floors[k] = std::min(out.floors[k], bound);
            if (!stages.tried[static_cast<std::size_t>(pp)] || too_large(stems, stages, k, pp)) return;
            if (heap.size() == num_seeds && bound >= std::get<0>(heap.front())) return;
            const double time = guess(stems, stages, k, pp);
            if (time == kInf) return;
            const Seed seed{stages.weight[static_cast<std::size_t>(stems.ranks[k] * pp)] * time, k, pp};
            if (heap.size() == num_seeds) {
                if (seed >= heap.front()) return;
                std::pop_heap(heap.begin(), heap.end());
                heap.pop_back();
            }
            heap.push_back(seed);
            std::push_heap(heap.begin(), heap.end());
        });
        out.configurations += out.counts[k];
        out.floor = std::min(out.floor, out.floors[k]);
    }
    std::sort(heap.begin(), heap.end());
    for (const auto& [time, stem, pp] : heap) {
        out.seed_stem.push_back(static_cast<std::int64_t>(stem));
        out.seed_stages.push_back(pp);
    }
    return out;
}

Promising promising(const Stems& stems, const Stages& stages, std::span<const double> floors,
                    std::span<const std::int64_t> counts, double goal, double ceiling) {
    Promising out;
    for (std::size_t k = 0; k < stems.ranks.size(); ++k) {
        if (floors[k] >= goal) {
            out.pruned_by_work += counts[k];
            continue;
        }
        const Work work = work_of(stems, k);
        each_shape(stems, stages, k, [&](std::int64_t pp, std::size_t row, std::int64_t count, double bound) {
            const double weight = stages.weight[static_cast<std::size_t>(stems.ranks[k] * pp)];
            const double most = std::min(goal, weight * ceiling);
            if (bound >= most) {
                out.pruned_by_work += count;
                return;
            }
            if (too_large(stems, stages, k, pp)) {
                out.pruned_by_memory += count;
                return;
            }
            const double path =
                least_path_bound(work, stages.kinds[row], stages.chunks[row], pp, stems.micro[k], stages.layers);
            bound = std::max(bound, weight * (path + stages.fixed_s));
            if (bound >= most) {
                out.pruned_by_path += count;
                return;
            }
            out.stem.push_back(static_cast<std::int64_t>(k));
            out.stages.push_back(pp);
            out.counts.push_back(count);
            out.bounds.push_back(bound);
        });
    }
    return out;
}

}  // namespace optalloc::training

// Layouts with several chunks a stage.
#include "training/solver.hpp"

#include <algorithm>
#include <cmath>

namespace optalloc::training {

void Solver::try_layout(std::span<const int> sizes) {
    const std::size_t count = sizes.size();
    const auto pp = static_cast<std::size_t>(pp_);
    work_ += kWorkOfOption * pp_ * v_;
    if (stopped_ || work_ >= work_limit_ || cancelled()) {
        stopped_ = true;
        return;
    }
    Pick& pick = current_;
    int done = 0;
    for (std::size_t c = 0; c < count; ++c) {
        pick.chunks[c] = {done, done + sizes[c]};
        done += sizes[c];
    }
    std::vector<Range> mine(static_cast<std::size_t>(v_));
    const auto take = [&](std::size_t i) {
        for (std::size_t k = 0; k < mine.size(); ++k) mine[k] = pick.chunks[k * pp + i];
    };
    take(0);
    if (layout_excludes(timed(mine, 0, 0, 0).tail)) {
        any_fits_ = true;  // it was not looked at
        return;
    }
    // What memory surely costs a stage, before the choices are listed.
    for (std::size_t i = 0; i < pp; ++i) {
        take(i);
        Known& known = known_[i];
        if (!same_stage(known.chunks, mine)) {
            known.chunks = mine;
            known.least_extra = least_extra(static_cast<int>(i), mine);
            known.listed = false;
        }
        if (before_[i] + mesh_.shape.num_micro * (own_[i] + known.least_extra) >= limit_) {
            any_fits_ = true;
            return;
        }
    }
    for (std::size_t i = 0; i < pp; ++i) {
        take(i);
        Known& known = known_[i];
        if (!known.listed) options(static_cast<int>(i), mine, known.choices);
        known.listed = true;
        if (known.choices.empty()) return;
        // The least recomputation of this stage behind earlier ones without any.
        if (before_[i] + mesh_.shape.num_micro * known.choices.front().work() >= limit_) {
            any_fits_ = true;
            return;
        }
    }
    any_fits_ = true;
    combine(0);
}

// Whether a stage with these chunks costs what it did with those: the same layers, or as many where all are alike.
bool Solver::same_stage(std::span<const Range> a, std::span<const Range> b) const {
    const bool alike = chain_.run_end.front() == static_cast<std::size_t>(num_layers_);
    return std::equal(a.begin(), a.end(), b.begin(), b.end(), [&](const Range& x, const Range& y) {
        return x.size() == y.size() && (alike || x.begin == y.begin);
    });
}

// The bound of `path_excludes` for every stage without recomputation, from sums over the chain alone; leaves the path
// before each stage in `before_`.
bool Solver::layout_excludes(double first_tail) {
    const auto pp = static_cast<std::size_t>(pp_);
    const auto work_of = [&](std::size_t begin, std::size_t end) {
        const LayerCost &hi = chain_.at[end], &lo = chain_.at[begin];
        return (hi.forward - lo.forward) + (hi.backward - lo.backward) + (hi.weight - lo.weight);
    };
    const auto work_at = [](const LayerCost& end) { return end.forward + end.backward + end.weight; };
    const auto& chunks = current_.chunks;
    double links = first_tail;
    for (std::size_t i = 0; i < pp; ++i) {
        double own = 0.0;
        for (std::size_t c = i; c < chunks.size(); c += pp) {
            own += work_of(static_cast<std::size_t>(chunks[c].begin), static_cast<std::size_t>(chunks[c].end));
        }
        double before = links;
        if (i == 0) own += work_at(mesh_.layer.front());
        else before += work_of(0, static_cast<std::size_t>(chunks[i].begin)) + work_at(mesh_.layer.front());
        if (i + 1 == pp) own += work_at(mesh_.layer.back());
        before_[i] = before;
        own_[i] = own;
        if (before + mesh_.shape.num_micro * own >= limit_) return true;
        links += 2.0 * link(static_cast<int>(i), chunks[i].end);
    }
    return false;
}

// A stage's work, after the first chunks of the earlier stages on the way down and back, is a path.
bool Solver::path_excludes(std::size_t stage) const {
    double prefix = current_.options[0].tail;
    for (std::size_t i = 0; i < stage; ++i) {
        const StageOption& o = current_.options[i];
        const Range& r = current_.chunks[i];
        double t[3];
        chunk_times(r, i == 0, false, o.full, o.selective, t);
        prefix += t[0] + t[1] + t[2] + 2.0 * link(static_cast<int>(i), r.end);
    }
    return prefix + mesh_.shape.num_micro * current_.options[stage].work() >= limit_;
}

// Every combination of the stages' choices.
void Solver::combine(std::size_t stage) {
    if (stage == current_.options.size()) return offer(current_);
    for (const StageOption& o : known_[stage].choices) {
        work_ += kWorkOfOption;
        if (stopped_ || work_ >= work_limit_ || cancelled()) {
            stopped_ = true;
            return;
        }
        current_.options[stage] = o;
        if (!path_excludes(stage)) combine(stage + 1);
    }
}

// Every cut where there are few of them (middle chunks hold a layer); else the first chunk has x <= q layers,
// the last y <= q, and all others q.
void Solver::solve_interleaved() {
    const int count = pp_ * v_, middle = count - 2;
    current_.chunks.resize(static_cast<std::size_t>(count));
    current_.options.resize(static_cast<std::size_t>(pp_));
    known_.resize(static_cast<std::size_t>(pp_));
    before_.resize(static_cast<std::size_t>(pp_));
    own_.resize(static_cast<std::size_t>(pp_));
    std::vector<int> sizes(static_cast<std::size_t>(count));
    double cuts = 1.0;  // binomial(layers - middle + count - 1, count - 1)
    for (int k = 1; k < count; ++k) cuts = cuts * (num_layers_ - middle + k) / k;
    if (cuts <= kAllLayouts) {
        all_layouts(sizes, 0, num_layers_);
    } else {
        for (int q = 1; q * middle <= num_layers_; ++q) {
            const int rest = num_layers_ - q * middle;
            if (rest > 2 * q) continue;
            std::fill(sizes.begin(), sizes.end(), q);
            for (int x = std::max(0, rest - q); x <= std::min(q, rest); ++x) {
                sizes.front() = x;
                sizes.back() = rest - x;
                try_layout(sizes);
            }
        }
    }
    if (answer_.outcome != Outcome::kSolved) {
        answer_.outcome = any_fits_ ? Outcome::kSearch : Outcome::kMemory;
    }
}

void Solver::all_layouts(std::vector<int>& sizes, std::size_t chunk, int left) {
    if (chunk + 1 == sizes.size()) {
        sizes[chunk] = left;
        return try_layout(sizes);
    }
    const int least = chunk == 0 ? 0 : 1;
    const int later = static_cast<int>(sizes.size() - chunk) - 2;  // middle chunks still to come
    for (int size = least; size <= left - later; ++size) {
        sizes[chunk] = size;
        all_layouts(sizes, chunk + 1, left - size);
    }
}

}  // namespace optalloc::training

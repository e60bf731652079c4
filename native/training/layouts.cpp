// Layouts with several chunks a stage.
#include "training/solver.hpp"

#include <algorithm>
#include <cmath>

namespace optalloc::training {

void Solver::try_layout(std::span<const int> sizes) {
    const std::size_t count = sizes.size();
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
    const double m = mesh_.shape.num_micro;
    // Path bound without recomputation first: it is cheap.
    for (const bool final_times : {false, true}) {
        double prefix = 0.0;
        for (int i = 0; i < pp_; ++i) {
            for (std::size_t k = 0; k < mine.size(); ++k) {
                mine[k] = pick.chunks[k * static_cast<std::size_t>(pp_) + static_cast<std::size_t>(i)];
            }
            StageOption& o = pick.options[static_cast<std::size_t>(i)];
            o = final_times ? option(i, mine) : timed(mine, i, 0, 0);
            if (!o.feasible) return;
            if (final_times) any_fits_ = true;
            if (i == 0) prefix = o.tail;
            if (prefix + m * o.work() >= limit_) {
                if (!final_times) any_fits_ = true;
                return;
            }
            if (i == 0) prefix = pick.options[0].tail;
            double t[3];
            chunk_times(mine[0], i == 0, false, o.full, o.selective, t);
            prefix += t[0] + t[1] + t[2] + 2.0 * link(i, mine[0].end);
        }
    }
    offer(pick);
}

// Every cut where there are few of them (middle chunks hold a layer); else the first chunk has x <= q layers,
// the last y <= q, and all others q.
void Solver::solve_interleaved() {
    const int count = pp_ * v_, middle = count - 2;
    current_.chunks.resize(static_cast<std::size_t>(count));
    current_.options.resize(static_cast<std::size_t>(pp_));
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

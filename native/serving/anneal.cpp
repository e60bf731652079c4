#include "serving/anneal.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "serving/cooling.hpp"
#include "serving/random.hpp"

namespace optalloc::serving {

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kFlowWeight = 4.0;  // of the share of the flow that lacks, in layers

std::size_t at(int index) { return static_cast<std::size_t>(index); }

class Annealer {
  public:
    Annealer(const FlowInstance& instance, const AnnealOptions& options)
        : in_(instance), options_(options), flow_(instance), random_{options.seed} {
        most_.resize(at(in_.num_nodes));
        for (int i = 0; i < in_.num_nodes; ++i) {
            int k = 0;
            while (k < in_.max_layers && in_.rate(i, k + 1) >= 0.0) ++k;
            most_[at(i)] = k;
        }
        held_.resize(at(in_.num_layers));
        passing_.resize(held_.size());
        given_.resize(held_.size());
        taken_.resize(held_.size());
        starting_.resize(held_.size());
        fed_.resize(at(in_.num_nodes));
        equals_.resize(at(in_.num_nodes));
        for (int i = 0; i < in_.num_nodes; ++i) {
            for (int j = 0; j < in_.num_nodes; ++j) {
                if (i != j && equal(i, j)) equals_[at(i)].push_back(j);
            }
        }
    }

    double run(std::vector<Range>& ranges, const int* cancel, std::int64_t& steps) {
        const Cooling cooling(options_, cancel);
        std::vector<Range> here = ranges, next;
        double flow = 0.0;
        double energy = measure(here, kInfinity, flow);
        double best = flow;
        for (std::int64_t step = 0; cooling.goes_on(step, best); ++step) {
            ++steps;
            next = here;
            if (!move(next)) continue;
            const double temperature = cooling.temperature(step);
            const double most = energy - temperature * std::log(std::max(1e-300, random_.unit()));
            const double next_energy = measure(next, most, flow);
            if (flow > best) {
                best = flow;
                ranges = next;
            }
            if (next_energy <= most) {
                here.swap(next);
                energy = next_energy;
            }
        }
        return best;
    }

  private:
    // Layers missing at the target flow: by what nodes hold, by what links carry where ranges meet, and by the
    // network as a whole. The first two lead the search where the flow alone does not change. The flow is only routed
    // where the result can be at most `most`; else it is 0 and the result is a bound.
    double measure(const std::vector<Range>& ranges, double most, double& flow) {
        const double target = options_.target;
        std::fill(held_.begin(), held_.end(), 0.0);
        std::fill(passing_.begin(), passing_.end(), 0.0);
        std::fill(given_.begin(), given_.end(), 0.0);
        std::fill(taken_.begin(), taken_.end(), 0.0);
        for (auto& list : starting_) list.clear();
        for (int i = 0; i < in_.num_nodes; ++i) {
            const Range r = ranges[at(i)];
            if (r.begin >= r.end) continue;
            const double rate = std::min(target, in_.rate(i, r.end - r.begin));
            for (int l = r.begin; l < r.end; ++l) held_[at(l)] += rate;
            for (int p = r.begin + 1; p < r.end; ++p) passing_[at(p)] += rate;
            starting_[at(r.begin)].push_back(i);
            fed_[at(i)] = 0.0;
        }
        for (int i = 0; i < in_.num_nodes; ++i) {
            const Range r = ranges[at(i)];
            if (r.begin >= r.end || r.end == in_.num_layers) continue;
            const double rate = in_.rate(i, r.end - r.begin);
            double reach = 0.0;
            for (const int j : starting_[at(r.end)]) {
                const double link = std::min(rate, in_.link(i, j));
                reach += std::min(link, in_.rate(j, ranges[at(j)].end - ranges[at(j)].begin));
                fed_[at(j)] += link;
            }
            given_[at(r.end)] += std::min(rate, reach);
        }
        for (int j = 0; j < in_.num_nodes; ++j) {
            const Range r = ranges[at(j)];
            if (r.begin >= r.end || r.begin == 0) continue;
            taken_[at(r.begin)] += std::min(in_.rate(j, r.end - r.begin), fed_[at(j)]);
        }
        double missing = 0.0, least = 1.0;
        for (const double held : held_) {
            missing += std::max(0.0, 1.0 - held / target);
            least = std::min(least, held / target);
        }
        for (int p = 1; p < in_.num_layers; ++p) {
            if (given_[at(p)] == 0.0 && taken_[at(p)] == 0.0) continue;
            const double through = std::min(given_[at(p)], taken_[at(p)]) + passing_[at(p)];
            missing += std::max(0.0, 1.0 - through / target);
            if (!in_.partial) least = std::min(least, through / target);
        }
        flow = 0.0;
        const double bound = missing + kFlowWeight * (1.0 - least);
        if (bound > most || least <= 0.0) return bound;
        flow = flow_.value(ranges);
        return missing + kFlowWeight * std::max(0.0, 1.0 - flow / target);
    }

    bool fits(int node, const Range& r) const {
        return r.begin >= 0 && r.begin < r.end && r.end <= in_.num_layers && r.end - r.begin <= most_[at(node)];
    }

    int used(const std::vector<Range>& ranges) {
        for (int tries = 0; tries < 8; ++tries) {
            const int i = random_.below(in_.num_nodes);
            if (ranges[at(i)].begin < ranges[at(i)].end) return i;
        }
        return -1;
    }

    bool move(std::vector<Range>& r) {
        const int kind = options_.moves == Moves::kSwaps ? 0 : random_.below(100);
        if (kind < 20) return swap_equals(r);
        if (kind < 32) return shift_boundary(r);
        if (kind < 50) return resize(r);
        if (kind < 68) return relocate(r);
        if (kind < 84) return swap_ranges(r);
        return pass_layer(r);
    }

    // All ends and starts at one place move together.
    bool shift_boundary(std::vector<Range>& r) {
        const int i = used(r);
        if (i < 0) return false;
        const int old = r[at(i)].end, now = old + (random_.below(2) == 0 ? 1 : -1);
        if (old == in_.num_layers || now <= 0 || now >= in_.num_layers) return false;
        for (int j = 0; j < in_.num_nodes; ++j) {
            Range& range = r[at(j)];
            if (range.begin >= range.end) continue;
            if (range.end == old) range.end = now;
            else if (range.begin == old) range.begin = now;
            else continue;
            if (!fits(j, range)) return false;
        }
        return true;
    }

    bool resize(std::vector<Range>& r) {
        const int i = used(r);
        if (i < 0) return false;
        Range range = r[at(i)];
        int& side = random_.below(2) == 0 ? range.begin : range.end;
        side += (random_.below(2) == 0 ? 1 : -1) * (1 + random_.below(2));
        if (!fits(i, range)) return false;
        r[at(i)] = range;
        return true;
    }

    // A node goes where another one ends or begins.
    bool relocate(std::vector<Range>& r) {
        const int i = random_.below(in_.num_nodes), other = used(r);
        if (other < 0 || most_[at(i)] == 0) return false;
        const Range model = r[at(other)];
        const int k = 1 + random_.below(most_[at(i)]);
        Range range{};
        switch (random_.below(4)) {
            case 0: range = {model.begin, model.begin + k}; break;
            case 1: range = {model.end - k, model.end}; break;
            case 2: range = {model.end, model.end + k}; break;
            default: range = {model.begin - k, model.begin}; break;
        }
        if (!fits(i, range)) return false;
        r[at(i)] = range;
        return true;
    }

    bool equal(int i, int j) const {
        for (int k = 1; k <= in_.max_layers; ++k) {
            if (in_.rate(i, k) != in_.rate(j, k)) return false;
        }
        return true;
    }

    // Nodes of one table change places: only the links differ.
    bool swap_equals(std::vector<Range>& r) {
        const int i = used(r);
        if (i < 0 || equals_[at(i)].empty()) return false;
        const auto& others = equals_[at(i)];
        const int j = others[at(random_.below(static_cast<int>(others.size())))];
        if (r[at(i)].begin == r[at(j)].begin && r[at(i)].end == r[at(j)].end) return false;
        std::swap(r[at(i)], r[at(j)]);
        return true;
    }

    bool swap_ranges(std::vector<Range>& r) {
        const int i = used(r), j = random_.below(in_.num_nodes);
        if (i < 0 || i == j) return false;
        std::swap(r[at(i)], r[at(j)]);
        const Range& other = r[at(i)];
        return fits(j, r[at(j)]) && (other.begin >= other.end || fits(i, other));
    }

    // One node (or all with its range) gets a layer that another gives up; everything between moves.
    bool pass_layer(std::vector<Range>& r) {
        const int a = used(r), b = used(r);
        if (a < 0 || b < 0 || a == b) return false;
        const Range one = r[at(a)], two = r[at(b)];
        if (one.end > two.begin) return false;
        const int by = random_.below(2) == 0 ? 1 : -1;
        const int low = one.end, high = two.begin;
        for (int i = 0; i < in_.num_nodes; ++i) {
            Range& range = r[at(i)];
            if (range.begin >= range.end) continue;
            if (range.begin >= low && range.begin <= high) range.begin += by;
            if (range.end >= low && range.end <= high) range.end += by;
            if (!fits(i, range)) return false;
        }
        return true;
    }

    const FlowInstance& in_;
    const AnnealOptions& options_;
    PlacementFlow flow_;
    Random random_;
    std::vector<int> most_;
    std::vector<std::vector<int>> equals_;
    std::vector<double> held_, passing_, given_, taken_, fed_;
    std::vector<std::vector<int>> starting_;
};

}  // namespace

double anneal(const FlowInstance& instance, std::vector<Range>& ranges, const AnnealOptions& options,
              const int* cancel, std::int64_t& steps) {
    if (options.moves == Moves::kRow) return anneal_row(instance, ranges, options, cancel, steps);
    Annealer annealer(instance, options);
    return annealer.run(ranges, cancel, steps);
}

}  // namespace optalloc::serving

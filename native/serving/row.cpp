#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "serving/anneal.hpp"
#include "serving/cooling.hpp"
#include "serving/random.hpp"

namespace optalloc::serving {

namespace {

std::size_t at(int index) { return static_cast<std::size_t>(index); }

constexpr double kFlowWeight = 4.0;  // of the share of the flow that lacks, in layers

// Stages side by side with the layers each holds; every node holds all layers of one stage, or none.
struct Row {
    std::vector<int> layers;
    std::vector<int> stage;  // of each node; -1: none

    int size() const { return static_cast<int>(layers.size()); }

    // Stage `from` goes to place `to`; those between move up.
    void carry(int from, int to) {
        const int held = layers[at(from)];
        layers.erase(layers.begin() + from);
        layers.insert(layers.begin() + to, held);
        for (int& s : stage) {
            if (s == from) s = to;
            else if (from < to && s > from && s <= to) --s;
            else if (to < from && s >= to && s < from) ++s;
        }
    }
};

class RowAnnealer {
  public:
    RowAnnealer(const FlowInstance& instance, const AnnealOptions& options)
        : in_(instance), options_(options), flow_(instance), random_{options.seed}, most_(at(in_.num_nodes)),
          rate_(most_.size()), taken_(most_.size()), ranges_(most_.size()) {
        for (int i = 0; i < in_.num_nodes; ++i) {
            int k = 0;
            while (k < in_.max_layers && in_.rate(i, k + 1) >= 0.0) ++k;
            most_[at(i)] = k;
        }
    }

    double run(std::vector<Range>& ranges, const int* cancel, std::int64_t& steps) {
        const Cooling cooling(options_, cancel);
        double best = flow_.value(ranges), flow = 0.0;
        Row here = row_of(ranges), next;
        double energy = measure(here, std::numeric_limits<double>::infinity(), flow);
        for (std::int64_t step = 0; cooling.goes_on(step, best); ++step) {
            ++steps;
            next = here;
            if (!move(next)) continue;
            const double temperature = cooling.temperature(step);
            const double most = energy - temperature * std::log(std::max(1e-300, random_.unit()));
            const double found = measure(next, most, flow);
            if (flow > best) {
                best = flow;
                ranges = ranges_;
            }
            if (found <= most) {
                std::swap(here, next);
                energy = found;
            }
        }
        return best;
    }

  private:
    // Stages lie between all places where a range begins or ends; a node keeps the longest it holds.
    Row row_of(const std::vector<Range>& ranges) const {
        std::vector<int> cuts{0, in_.num_layers};
        for (const Range& r : ranges) {
            if (r.begin < r.end) cuts.insert(cuts.end(), {r.begin, r.end});
        }
        std::sort(cuts.begin(), cuts.end());
        cuts.erase(std::unique(cuts.begin(), cuts.end()), cuts.end());
        Row row;
        for (std::size_t s = 0; s + 1 < cuts.size(); ++s) row.layers.push_back(cuts[s + 1] - cuts[s]);
        for (const Range& r : ranges) {
            int longest = -1;
            for (int s = 0; s < row.size(); ++s) {
                const bool inside = cuts[at(s)] >= r.begin && cuts[at(s + 1)] <= r.end;
                if (inside && (longest < 0 || row.layers[at(s)] > row.layers[at(longest)])) longest = s;
            }
            row.stage.push_back(longest);
        }
        return row;
    }

    bool fits(int node, int layers) const { return layers <= most_[at(node)]; }

    // Layers missing at the target flow, by what stages hold and by what links carry between them, and the flow that
    // lacks. The flow is only routed where the result can be at most `most`; else it is 0 and the result is a bound.
    double measure(const Row& row, double most, double& flow) {
        const double target = options_.target;
        members_.resize(std::max(members_.size(), row.layers.size()));
        for (auto& list : members_) list.clear();
        for (int i = 0; i < in_.num_nodes; ++i) {
            const int s = row.stage[at(i)];
            if (s < 0 || !fits(i, row.layers[at(s)])) continue;
            rate_[at(i)] = std::min(target, in_.rate(i, row.layers[at(s)]));
            members_[at(s)].push_back(i);
        }
        double missing = 0.0, least = 1.0;
        for (int s = 0; s < row.size(); ++s) {
            double held = 0.0;
            for (const int i : members_[at(s)]) held += rate_[at(i)];
            missing += row.layers[at(s)] * std::max(0.0, 1.0 - held / target);
            least = std::min(least, held / target);
            if (s + 1 == row.size()) continue;
            const double through = between(members_[at(s)], members_[at(s + 1)]) / target;
            missing += std::max(0.0, 1.0 - through);
            least = std::min(least, through);
        }
        flow = 0.0;
        const double bound = missing + kFlowWeight * (1.0 - least);
        if (bound > most || least <= 0.0) return bound;
        lay(row);
        flow = flow_.value(ranges_);
        return missing + kFlowWeight * std::max(0.0, 1.0 - flow / target);
    }

    // What links let pass from one stage to the next, tokens/s.
    double between(const std::vector<int>& before, const std::vector<int>& after) {
        double given = 0.0, taken = 0.0;
        for (const int j : after) taken_[at(j)] = 0.0;
        for (const int i : before) {
            double reach = 0.0;
            for (const int j : after) {
                const double link = std::min(rate_[at(i)], in_.link(i, j));
                reach += std::min(link, rate_[at(j)]);
                taken_[at(j)] += link;
            }
            given += std::min(rate_[at(i)], reach);
        }
        for (const int j : after) taken += std::min(rate_[at(j)], taken_[at(j)]);
        return std::min(given, taken);
    }

    void lay(const Row& row) {
        std::vector<int>& begin = begin_;
        begin.assign(1, 0);
        for (const int layers : row.layers) begin.push_back(begin.back() + layers);
        for (int i = 0; i < in_.num_nodes; ++i) {
            const int s = row.stage[at(i)];
            const bool held = s >= 0 && fits(i, row.layers[at(s)]);
            ranges_[at(i)] = held ? Range{begin[at(s)], begin[at(s + 1)]} : Range{0, 0};
        }
    }

    bool move(Row& row) {
        const int kind = random_.below(100), stages = row.size();
        const int a = random_.below(stages), b = random_.below(stages);
        if (kind < 30) return exchange(row.stage[at(random_.below(in_.num_nodes))], a);
        if (kind < 55) return swap_nodes(row);
        if (kind < 88) {
            if (a == b) return false;
            if (kind < 72) return pass_layer(row, a, b);
            if (kind < 82) swap_stages(row, a, b);
            else row.carry(a, b);
            return true;
        }
        if (kind < 94) return split(row, a);
        if (kind < 97) return a + 1 < stages && join(row, a, a + 1, false);
        return a != b && join(row, b, a, true);
    }

    static bool exchange(int& value, int now) { return std::exchange(value, now) != now; }

    bool swap_nodes(Row& row) {
        int& one = row.stage[at(random_.below(in_.num_nodes))];
        int& two = row.stage[at(random_.below(in_.num_nodes))];
        if (one == two) return false;
        std::swap(one, two);
        return true;
    }

    static bool pass_layer(Row& row, int from, int to) {
        if (row.layers[at(from)] == 1) return false;
        --row.layers[at(from)];
        ++row.layers[at(to)];
        return true;
    }

    static void swap_stages(Row& row, int a, int b) {
        std::swap(row.layers[at(a)], row.layers[at(b)]);
        for (int& s : row.stage) {
            if (s == a) s = b;
            else if (s == b) s = a;
        }
    }

    // A stage becomes two, and each of its nodes goes to either.
    bool split(Row& row, int a) {
        if (row.layers[at(a)] == 1) return false;
        const int first = 1 + random_.below(row.layers[at(a)] - 1);
        row.layers.insert(row.layers.begin() + a + 1, row.layers[at(a)] - first);
        row.layers[at(a)] = first;
        for (int& s : row.stage) {
            if (s > a || (s == a && random_.below(2) == 0)) ++s;
        }
        return true;
    }

    // The layers of stage `gone` go to stage `kept`, its nodes too or anywhere.
    bool join(Row& row, int kept, int gone, bool scatter) {
        row.layers[at(kept)] += row.layers[at(gone)];
        row.layers.erase(row.layers.begin() + gone);
        for (int& s : row.stage) {
            if (s == gone) s = scatter ? random_.below(row.size()) : kept - (kept > gone ? 1 : 0);
            else if (s > gone) --s;
        }
        return true;
    }

    const FlowInstance& in_;
    const AnnealOptions& options_;
    PlacementFlow flow_;
    Random random_;
    std::vector<int> most_;
    std::vector<double> rate_, taken_;
    std::vector<Range> ranges_;
    std::vector<int> begin_;
    std::vector<std::vector<int>> members_;
};

}  // namespace

double anneal_row(const FlowInstance& instance, std::vector<Range>& ranges, const AnnealOptions& options,
                  const int* cancel, std::int64_t& steps) {
    return RowAnnealer(instance, options).run(ranges, cancel, steps);
}

}  // namespace optalloc::serving

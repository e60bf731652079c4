#include "serving/placement.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>

#include "serving/random.hpp"

namespace optalloc::serving {

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

std::size_t at(int index) { return static_cast<std::size_t>(index); }

}  // namespace

PlacementFlow::PlacementFlow(const FlowInstance& instance)
    : in_(instance), starting_(at(instance.num_layers + 1)) {
    first_.resize(at(2 * in_.num_nodes + 2));
    first_arc_.resize(at(in_.num_nodes));
    level_.resize(first_.size());
    place_.resize(first_.size());
}

void PlacementFlow::add(int tail, int head, double capacity) {
    head_.push_back(head);
    rest_.push_back(capacity);
    next_.push_back(first_[at(tail)]);
    first_[at(tail)] = static_cast<int>(head_.size()) - 1;
    head_.push_back(tail);
    rest_.push_back(0.0);
    next_.push_back(first_[at(head)]);
    first_[at(head)] = static_cast<int>(head_.size()) - 1;
}

// Vertices: node i is 2i -> 2i + 1; the source is 2n, the sink 2n + 1.
double PlacementFlow::value(const std::vector<Range>& ranges) {
    const int n = in_.num_nodes, source = 2 * n, sink = 2 * n + 1;
    std::fill(first_.begin(), first_.end(), -1);
    head_.clear();
    rest_.clear();
    next_.clear();
    for (auto& list : starting_) list.clear();
    for (int i = 0; i < n; ++i) {
        if (ranges[at(i)].begin < ranges[at(i)].end) starting_[at(ranges[at(i)].begin)].push_back(i);
    }
    for (int i = 0; i < n; ++i) {
        const Range r = ranges[at(i)];
        if (r.begin >= r.end) continue;
        first_arc_[at(i)] = static_cast<int>(head_.size());
        add(2 * i, 2 * i + 1, in_.rate(i, r.end - r.begin));
        if (r.begin == 0 && in_.source[at(i)] > 0.0) add(source, 2 * i, in_.source[at(i)]);
        if (r.end == in_.num_layers) {
            if (in_.sink[at(i)] > 0.0) add(2 * i + 1, sink, in_.sink[at(i)]);
            continue;
        }
        const int earliest = in_.partial ? std::max(0, r.end - in_.max_layers + 1) : r.end;
        for (int s = earliest; s <= r.end; ++s) {
            for (const int j : starting_[at(s)]) {
                if (ranges[at(j)].end > r.end && in_.link(i, j) > 0.0) add(2 * i + 1, 2 * j, in_.link(i, j));
            }
        }
    }
    double total = 0.0;
    if (in_.limit < kInfinity) {
        order_.clear();
        for (int i = 0; i < n; ++i) {
            if (ranges[at(i)].begin < ranges[at(i)].end) order_.push_back(i);
        }
        std::sort(order_.begin(), order_.end(), [&](int i, int j) {
            return ranges[at(i)].end != ranges[at(j)].end ? ranges[at(i)].end < ranges[at(j)].end : i < j;
        });
        while (augment(ranges, total)) continue;
        return total;
    }
    while (levels()) {
        place_.assign(first_.begin(), first_.end());
        double pushed = 0.0;
        while ((pushed = push(source, kInfinity)) > 0.0) total += pushed;
    }
    return total;
}

// Fills the fastest route that has room, without taking back what others were given: a flow within the limit,
// though not always the largest. Ends grow along every route, so nodes are met in their order.
bool PlacementFlow::augment(const std::vector<Range>& ranges, double& total) {
    const int n = in_.num_nodes, source = 2 * n, sink = source + 1;
    reached_.assign(at(n + 2), kInfinity);  // node: when its step begins; n + 1: the sink
    came_.assign(at(n + 2), -1);            // the arc it came by
    double leave = 0.0;
    const auto spread = [&](int tail, int from) {
        for (int arc = first_[at(tail)]; arc >= 0; arc = next_[at(arc)]) {
            if ((arc & 1) != 0 || rest_[at(arc)] <= 1e-9) continue;
            const int head = head_[at(arc)], to = head == sink ? n + 1 : head / 2;
            const double delay = from < 0 ? in_.delay_s(n, to) : in_.delay_s(to == n + 1 ? n + 1 : from, to == n + 1 ? from : to);
            double time = leave + delay;
            if (to <= n && from >= 0 && ranges[at(to)].begin < ranges[at(from)].end) {
                // joins in the middle: counted as the step it saves, so that all may pay the whole step
                const Range r = ranges[at(to)];
                const double unused = static_cast<double>(ranges[at(from)].end - r.begin) / (r.end - r.begin);
                time -= unused * in_.step_s(to, r.end - r.begin);
            }
            if (time < reached_[at(to)]) {
                reached_[at(to)] = time;
                came_[at(to)] = arc;
            }
        }
    };
    spread(source, -1);
    for (const int i : order_) {
        const int own = first_arc_[at(i)];
        if (reached_[at(i)] == kInfinity || rest_[at(own)] <= 1e-9) continue;
        leave = reached_[at(i)] + in_.step_s(i, ranges[at(i)].end - ranges[at(i)].begin);
        if (leave <= in_.limit) spread(2 * i + 1, i);
    }
    if (reached_[at(n + 1)] > in_.limit) return false;
    double amount = kInfinity;
    for (int arc = came_[at(n + 1)]; arc >= 0;) {
        const int tail = head_[at(arc ^ 1)];
        amount = std::min(amount, rest_[at(arc)]);
        if (tail == source) break;
        amount = std::min(amount, rest_[at(first_arc_[at(tail / 2)])]);
        arc = came_[at(tail / 2)];
    }
    for (int arc = came_[at(n + 1)]; arc >= 0;) {
        const int tail = head_[at(arc ^ 1)];
        rest_[at(arc)] -= amount;
        if (tail == source) break;
        rest_[at(first_arc_[at(tail / 2)])] -= amount;
        arc = came_[at(tail / 2)];
    }
    total += amount;
    return true;
}

bool PlacementFlow::levels() {
    const int source = 2 * in_.num_nodes, sink = source + 1;
    std::fill(level_.begin(), level_.end(), -1);
    queue_.clear();
    queue_.push_back(source);
    level_[at(source)] = 0;
    for (std::size_t front = 0; front < queue_.size(); ++front) {
        const int vertex = queue_[front];
        for (int arc = first_[at(vertex)]; arc >= 0; arc = next_[at(arc)]) {
            if (rest_[at(arc)] > 1e-9 && level_[at(head_[at(arc)])] < 0) {
                level_[at(head_[at(arc)])] = level_[at(vertex)] + 1;
                queue_.push_back(head_[at(arc)]);
            }
        }
    }
    return level_[at(sink)] >= 0;
}

double PlacementFlow::push(int vertex, double amount) {
    if (vertex == 2 * in_.num_nodes + 1) return amount;
    for (int& arc = place_[at(vertex)]; arc >= 0; arc = next_[at(arc)]) {
        const int head = head_[at(arc)];
        if (rest_[at(arc)] <= 1e-9 || level_[at(head)] != level_[at(vertex)] + 1) continue;
        const double pushed = push(head, std::min(amount, rest_[at(arc)]));
        if (pushed > 0.0) {
            rest_[at(arc)] -= pushed;
            rest_[at(arc ^ 1)] += pushed;
            return pushed;
        }
    }
    return 0.0;
}

namespace {

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
        const auto start = std::chrono::steady_clock::now();
        std::vector<Range> here = ranges, next;
        double flow = 0.0;
        double energy = measure(here, flow);
        double best = flow;
        const double ratio = options_.cold / options_.hot;
        for (std::int64_t step = 0; step < options_.steps && best < options_.target; ++step) {
            if (step % 256 == 0) {
                if (cancel != nullptr && *cancel != 0) break;
                const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - start;
                if (options_.seconds > 0.0 && spent.count() > options_.seconds) break;
            }
            ++steps;
            next = here;
            if (!move(next)) continue;
            const double temperature =
                options_.hot * std::pow(ratio, static_cast<double>(step) / static_cast<double>(options_.steps));
            double next_flow = 0.0;
            const double next_energy = measure(next, next_flow);
            if (next_flow > best) {
                best = next_flow;
                ranges = next;
            }
            if (next_energy <= energy || random_.unit() < std::exp((energy - next_energy) / temperature)) {
                here.swap(next);
                energy = next_energy;
            }
        }
        return best;
    }

  private:
    // Layers missing at the target flow: by what nodes hold, by what links carry where ranges meet, and by the
    // network as a whole. The first two lead the search where the flow alone does not change.
    double measure(const std::vector<Range>& ranges, double& flow) {
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
        double missing = 0.0, least = kInfinity;
        for (const double held : held_) {
            missing += std::max(0.0, 1.0 - held / target);
            least = std::min(least, held);
        }
        for (int p = 1; p < in_.num_layers; ++p) {
            if (given_[at(p)] == 0.0 && taken_[at(p)] == 0.0) continue;
            const double through = std::min(given_[at(p)], taken_[at(p)]) + passing_[at(p)];
            missing += std::max(0.0, 1.0 - through / target);
        }
        flow = least > 0.0 ? flow_.value(ranges) : 0.0;
        return missing + 4.0 * std::max(0.0, 1.0 - flow / target);
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

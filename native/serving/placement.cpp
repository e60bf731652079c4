#include "serving/placement.hpp"

#include <algorithm>
#include <limits>

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

}  // namespace optalloc::serving

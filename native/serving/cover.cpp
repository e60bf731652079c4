#include "serving/cover.hpp"

#include <algorithm>
#include <limits>
#include <vector>

namespace optalloc::serving {

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
// A sum this close to 1 covers: admitting more covers only lowers the bound.
constexpr double kFull = 1.0 - 1e-12;

struct State {
    double weight, cost;
    int trail;  // index into the arena of choices
};

struct Choice {
    int before, item;
};

std::size_t at(int index) { return static_cast<std::size_t>(index); }

class Search {
  public:
    Search(std::span<const double> weights, std::span<const double> costs, std::span<const std::int32_t> limits,
           std::span<std::int32_t> counts)
        : weight_(weights), cost_(costs), limit_(limits), count_(counts) {
        for (int i = 0; i < static_cast<int>(weights.size()); ++i) {
            if (weights[at(i)] > 0.0 && limits[at(i)] > 0) order_.push_back(i);
        }
        std::sort(order_.begin(), order_.end(), [&](int a, int b) {
            const double left = cost_[at(a)] * weight_[at(b)], right = cost_[at(b)] * weight_[at(a)];
            if (left != right) return left < right;
            if (weight_[at(a)] != weight_[at(b)]) return weight_[at(a)] > weight_[at(b)];
            return a < b;
        });
    }

    Cover run(std::size_t most_states) {
        std::fill(count_.begin(), count_.end(), 0);
        greedy();
        if (best_ == kInfinity) return {kInfinity, kInfinity};
        std::vector<State> states{{0.0, 0.0, -1}};
        for (const int item : order_) {
            const double ratio = cost_[at(item)] / weight_[at(item)];
            drop_hopeless(states, ratio);
            if (states.empty()) break;
            if (states.size() > most_states) return cut_short(states, ratio);
            for (std::int32_t copy = 0; copy < limit_[at(item)]; ++copy) {
                if (!take(states, item, ratio)) break;
                if (states.size() > most_states) return cut_short(states, ratio);
            }
        }
        return {best_, best_};
    }

  private:
    // By value for money; then each item that finishes alone.
    void greedy() {
        double weight = 0.0, cost = 0.0;
        std::vector<std::int32_t> taken(count_.size(), 0);
        for (const int item : order_) {
            for (std::int32_t copy = 0; copy < limit_[at(item)]; ++copy) {
                if (weight + weight_[at(item)] >= kFull && cost + cost_[at(item)] < best_) {
                    best_ = cost + cost_[at(item)];
                    std::copy(taken.begin(), taken.end(), count_.begin());
                    ++count_[at(item)];
                }
                if (weight + weight_[at(item)] >= kFull) break;  // a cheaper finish may follow
                weight += weight_[at(item)];
                cost += cost_[at(item)];
                ++taken[at(item)];
            }
        }
    }

    double hope(const State& state, double ratio) const {
        return state.cost + std::max(0.0, kFull - state.weight) * ratio;
    }

    void drop_hopeless(std::vector<State>& states, double ratio) const {
        std::erase_if(states, [&](const State& state) { return !(hope(state, ratio) < best_); });
    }

    // One more copy of an item on top of every state, merged; false where nothing came of it.
    bool take(std::vector<State>& states, int item, double ratio) {
        fresh_.clear();
        for (const State& state : states) {
            const State next{state.weight + weight_[at(item)], state.cost + cost_[at(item)], -1};
            if (next.weight >= kFull) {
                if (next.cost < best_) {
                    best_ = next.cost;
                    write(state.trail, item);
                }
                continue;
            }
            if (!(hope(next, ratio) < best_)) continue;
            arena_.push_back({state.trail, item});
            fresh_.push_back({next.weight, next.cost, static_cast<int>(arena_.size()) - 1});
        }
        if (fresh_.empty()) return false;
        merged_.clear();
        std::merge(states.begin(), states.end(), fresh_.begin(), fresh_.end(), std::back_inserter(merged_),
                   [](const State& a, const State& b) {
                       return a.weight != b.weight ? a.weight > b.weight : a.cost < b.cost;
                   });
        states.clear();
        double cheapest = kInfinity;  // among the heavier ones
        bool changed = false;
        for (const State& state : merged_) {
            if (state.cost >= cheapest) continue;
            cheapest = state.cost;
            states.push_back(state);
            changed = changed || state.trail >= static_cast<int>(arena_.size() - fresh_.size());
        }
        return changed;
    }

    void write(int trail, int last) {
        std::fill(count_.begin(), count_.end(), 0);
        ++count_[at(last)];
        for (; trail >= 0; trail = arena_[at(trail)].before) ++count_[at(arena_[at(trail)].item)];
    }

    Cover cut_short(const std::vector<State>& states, double ratio) const {
        double bound = best_;
        for (const State& state : states) bound = std::min(bound, hope(state, ratio));
        return {bound, best_};
    }

    std::span<const double> weight_, cost_;
    std::span<const std::int32_t> limit_;
    std::span<std::int32_t> count_;
    std::vector<int> order_;
    std::vector<Choice> arena_;
    std::vector<State> fresh_, merged_;
    double best_ = kInfinity;
};

}  // namespace

Cover cheapest_cover(std::span<const double> weights, std::span<const double> costs,
                     std::span<const std::int32_t> limits, std::span<std::int32_t> counts, std::size_t most_states) {
    return Search(weights, costs, limits, counts).run(most_states);
}

}  // namespace optalloc::serving

#include "assignment/sparse.hpp"

#include <algorithm>
#include <limits>
#include <utility>

#include "assignment/dive.hpp"

namespace optalloc::assignment {

namespace {

constexpr Int kNone = std::numeric_limits<Int>::max();
constexpr Int kScale = 100;
constexpr int kChain = 400'000;  // ejections in all before repair gives up
constexpr int kPollTasks = 4096;

class Local {
  public:
    Local(const Candidates& candidates, std::vector<int> unit)
        : c_(candidates),
          place_(std::move(unit)),
          room_(candidates.capacity.begin(), candidates.capacity.end()),
          held_(static_cast<std::size_t>(candidates.num_units)) {
        for (int j = 0; j < c_.num_tasks; ++j) {
            const std::size_t k = find(j, place_[at(j)]);
            place_[at(j)] = -1;
            if (k != kAbsent) put(j, k);
            else open_.push_back(j);
        }
    }

    // Places the tasks left over, ejecting others where nothing has room. False: given up.
    bool repair();
    // Shifts and swaps that lower the cost; true when one did.
    bool improve(const std::function<bool()>& stop);
    std::vector<int> units() const { return place_; }

  private:
    static constexpr std::size_t kAbsent = static_cast<std::size_t>(-1);
    static std::size_t at(int k) { return static_cast<std::size_t>(k); }
    std::size_t first(int task) const { return at(task) * at(c_.num_candidates); }
    // The entry of a task's unit; kAbsent if it is no candidate.
    std::size_t find(int task, int unit) const {
        if (unit < 0) return kAbsent;
        for (std::size_t k = first(task); k < first(task) + at(c_.num_candidates); ++k) {
            if (c_.unit[k] == unit) return k;
        }
        return kAbsent;
    }
    void put(int task, std::size_t k) {
        place_[at(task)] = c_.unit[k];
        room_[at(c_.unit[k])] -= c_.load[k];
        held_[at(c_.unit[k])].push_back(task);
    }
    void take(int task) {
        const int unit = place_[at(task)];
        room_[at(unit)] += c_.load[find(task, unit)];
        auto& mine = held_[at(unit)];
        *std::find(mine.begin(), mine.end(), task) = mine.back();
        mine.pop_back();
        place_[at(task)] = -1;
    }

    const Candidates& c_;
    std::vector<int> place_;
    std::vector<Int> room_;
    std::vector<std::vector<int>> held_;  // tasks of each unit
    std::vector<int> open_;
};

bool Local::repair() {
    std::vector<int> turns(at(c_.num_tasks), 0);
    for (int step = 0; !open_.empty(); ++step) {
        if (step > kChain) return false;
        const int task = open_.back();
        open_.pop_back();
        // The cheapest candidate with room; else push out the tasks whose loss is least, dearer each time it is tried.
        std::size_t best = kAbsent;
        for (std::size_t k = first(task); k < first(task) + at(c_.num_candidates); ++k) {
            if (c_.unit[k] < 0 || c_.load[k] > room_[at(c_.unit[k])]) continue;
            if (best == kAbsent || c_.cost[k] < c_.cost[best]) best = k;
        }
        if (best != kAbsent) {
            put(task, best);
            continue;
        }
        Int least = kNone;
        int out = -1;
        for (std::size_t k = first(task); k < first(task) + at(c_.num_candidates); ++k) {
            if (c_.unit[k] < 0) continue;
            for (const int other : held_[at(c_.unit[k])]) {
                const Int load = c_.load[find(other, c_.unit[k])];
                const Int over = c_.load[k] - room_[at(c_.unit[k])] - load;
                if (over > 0) continue;
                const Int loss = load + static_cast<Int>(turns[at(other)]) * c_.load[k];
                if (loss < least) {
                    least = loss;
                    best = k;
                    out = other;
                }
            }
        }
        if (out < 0) return false;
        ++turns[at(out)];
        take(out);
        put(task, best);
        open_.push_back(out);
    }
    return true;
}

bool Local::improve(const std::function<bool()>& stop) {
    bool improved = false;
    for (int j = 0; j < c_.num_tasks; ++j) {
        if (j % kPollTasks == 0 && stop && stop()) return false;
        const int a = place_[at(j)];
        const std::size_t now = find(j, a);
        Int gain = 0;
        std::size_t to = kAbsent, back = kAbsent;
        int with = -1;
        for (std::size_t k = first(j); k < first(j) + at(c_.num_candidates); ++k) {
            const int b = c_.unit[k];
            if (b < 0 || b == a) continue;
            const Int saved = c_.cost[now] - c_.cost[k];
            const Int room = room_[at(b)] - c_.load[k];
            if (room >= 0 && saved > gain) {
                gain = saved;
                to = k;
                with = -1;
            }
            for (const int other : held_[at(b)]) {
                const std::size_t there = find(other, a);
                if (there == kAbsent || c_.load[there] > room_[at(a)] + c_.load[now]) continue;
                const std::size_t own = find(other, b);
                if (room + c_.load[own] < 0) continue;
                const Int total = saved + c_.cost[own] - c_.cost[there];
                if (total <= gain) continue;
                gain = total;
                to = k;
                with = other;
                back = there;
            }
        }
        if (to == kAbsent) continue;
        take(j);
        if (with >= 0) {
            take(with);
            put(with, back);
        }
        put(j, to);
        improved = true;
    }
    return improved;
}

}  // namespace

std::vector<int> solve_sparse(const Candidates& candidates, std::span<const double> multiplier, double regret,
                              double fraction, double stride, int rounds, std::uint64_t seed,
                              const std::function<bool()>& stop) {
    std::vector<std::vector<DivePair>> rows(static_cast<std::size_t>(candidates.num_units));
    Int ceiling = 1;
    for (int j = 0; j < candidates.num_tasks; ++j) {
        Int dearest = 0;
        for (int q = 0; q < candidates.num_candidates; ++q) {
            const auto k = static_cast<std::size_t>(j) * static_cast<std::size_t>(candidates.num_candidates) +
                           static_cast<std::size_t>(q);
            const int unit = candidates.unit[k];
            if (unit < 0 || candidates.load[k] > candidates.capacity[static_cast<std::size_t>(unit)]) continue;
            rows[static_cast<std::size_t>(unit)].push_back({j, candidates.load[k], kScale * candidates.cost[k]});
            dearest = std::max(dearest, candidates.cost[k]);
        }
        ceiling += dearest;
    }
    Control control{stop};
    Diver diver(std::move(rows), {candidates.capacity.begin(), candidates.capacity.end()}, candidates.num_tasks,
                ceiling, kScale, control);
    diver.set_regret(regret);
    std::vector<int> unit;
    const DiveRule rule{.fraction = fraction, .steps = 20, .stride = stride};
    if (!diver.dive({multiplier.begin(), multiplier.end()}, rule, seed, unit)) return {};
    Local local(candidates, std::move(unit));
    if (!local.repair()) return {};
    for (int turn = 0; turn < rounds && local.improve(stop); ++turn) {}
    return local.units();
}

}  // namespace optalloc::assignment

#include "assignment/sparse_chains.hpp"

#include <algorithm>
#include <limits>
#include <tuple>

namespace optalloc::assignment {

namespace {

constexpr std::size_t kAbsent = std::numeric_limits<std::size_t>::max();
constexpr double kLeast = 0.5;         // gain of an exchange: costs are integers
constexpr std::size_t kSlots = 1 << 15;
constexpr int kProbes = 32;
constexpr std::int64_t kPollSteps = 2'000'000;

}  // namespace

SparseChains::SparseChains(SparsePlan& plan, std::span<const double> price)
    : plan_(&plan),
      price_(price),
      reduced_(plan.candidates().unit.size()),
      options_(price.size()),
      least_added_(price.size(), 0.0),
      stale_(price.size(), 1),
      seen_(kSlots),
      seen_in_(kSlots, 0) {
    const Candidates& c = plan.candidates();
    for (int j = 0; j < c.num_tasks; ++j) {
        double least = std::numeric_limits<double>::infinity();
        for (std::size_t e = plan.first(j); e < plan.first(j) + plan.width(); ++e) {
            if (c.unit[e] < 0) continue;
            reduced_[e] = static_cast<double>(c.cost[e]) +
                          price[static_cast<std::size_t>(c.unit[e])] * static_cast<double>(c.load[e]);
            least = std::min(least, reduced_[e]);
        }
        for (std::size_t e = plan.first(j); e < plan.first(j) + plan.width(); ++e) reduced_[e] -= least;
    }
}

const std::vector<SparseChains::Option>& SparseChains::options(int unit) {
    const auto i = static_cast<std::size_t>(unit);
    std::vector<Option>& all = options_[i];
    if (!stale_[i]) return all;
    const Candidates& c = plan_->candidates();
    all.clear();
    least_added_[i] = 0.0;
    for (const int task : plan_->held(unit)) {
        const std::size_t now = plan_->place(task);
        for (std::size_t e = plan_->first(task); e < plan_->first(task) + plan_->width(); ++e) {
            if (c.unit[e] < 0 || c.unit[e] == unit) continue;  // a unit may be listed twice
            all.push_back({reduced_[e] - reduced_[now], c.load[now], e, 0});
            least_added_[i] = std::min(least_added_[i], all.back().added);
        }
    }
    std::sort(all.begin(), all.end(), [](const Option& x, const Option& y) {
        return std::tie(x.load, x.added, x.entry) < std::tie(y.load, y.added, y.entry);
    });
    for (std::size_t q = all.size(); q-- > 0;) {
        all[q].next = q + 1 < all.size() && all[q + 1].load == all[q].load ? all[q + 1].next : q + 1;
    }
    stale_[i] = 0;
    return all;
}

bool SparseChains::is_new(int unit, Int load) {
    const std::pair<int, Int> key{unit, load};
    std::size_t slot = mixed(static_cast<std::uint64_t>(load) * 0x100000001b3ULL + static_cast<std::uint64_t>(unit));
    for (int probe = 0; probe < kProbes; ++probe, ++slot) {
        slot %= kSlots;
        if (seen_in_[slot] != search_) {
            seen_in_[slot] = search_;
            seen_[slot] = key;
            return true;
        }
        if (seen_[slot] == key) return false;
    }
    return false;
}

bool SparseChains::visits(int state, int unit) const {
    for (; state >= 0; state = states_[static_cast<std::size_t>(state)].parent) {
        if (plan_->unit_of(states_[static_cast<std::size_t>(state)].entry) == unit) return true;
    }
    return false;
}

void SparseChains::push(const State& state) {
    heap_.emplace_back(state.left, -static_cast<int>(states_.size()));
    std::push_heap(heap_.begin(), heap_.end());
    states_.push_back(state);
}

// Ends at the unit reached: where there is room, or by one of its tasks that returns to the first unit.
void SparseChains::finish(const State& state, int index, int task, Ending& best) {
    const Candidates& c = plan_->candidates();
    const std::size_t now = plan_->place(task);
    const int a = plan_->unit_of(now), b = plan_->unit_of(state.entry);
    const double ua = price_[static_cast<std::size_t>(a)], ub = price_[static_cast<std::size_t>(b)];
    const Int arrives = c.load[state.entry], slack = plan_->slack(b), room = plan_->slack(a) + c.load[now];
    if (slack >= arrives) {
        const double gain = state.left + ub * static_cast<double>(arrives) - ua * static_cast<double>(room);
        if (gain > best.gain) best = {gain, index, kAbsent};
    }
    for (const std::size_t e : plan_->shared(b)) {
        ++steps_;
        const std::size_t was = plan_->place(plan_->task_of(e));
        if (plan_->unit_of(was) != b || slack - arrives + c.load[was] < 0 || c.load[e] > room) continue;
        const double gain = state.left + reduced_[was] - reduced_[e] - ub * static_cast<double>(c.load[was] - arrives) -
                            ua * static_cast<double>(room - c.load[e]);
        if (gain > best.gain) best = {gain, index, e};
    }
}

// The next tasks: those whose load makes room for what arrives.
void SparseChains::extend(const State& state, int index, int from, double best) {
    const int b = plan_->unit_of(state.entry);
    const double price = price_[static_cast<std::size_t>(b)];
    const Int arrives = plan_->candidates().load[state.entry], least = arrives - plan_->slack(b);
    const auto& all = options(b);
    auto q = static_cast<std::size_t>(
        std::lower_bound(all.begin(), all.end(), least, [](const Option& x, Int load) { return x.load < load; }) -
        all.begin());
    while (q < all.size()) {
        const Option& option = all[q];
        ++steps_;
        const double left = state.left - price * static_cast<double>(option.load - arrives);
        if (left - least_added_[static_cast<std::size_t>(b)] <= best) break;
        if (left - option.added <= best) {
            q = option.next;
            continue;
        }
        const int to = plan_->unit_of(option.entry);
        if (to != from && !visits(index, to)) push({left - option.added, option.entry, index, state.length + 1});
        ++q;
    }
}

SparseChains::Ending SparseChains::search(int task, double most, int length, std::int64_t budget, bool& cut) {
    const std::size_t now = plan_->place(task);
    ++search_;
    states_.clear();
    heap_.clear();
    Ending best{kLeast, -1, kAbsent};
    for (std::size_t e = plan_->first(task); e < plan_->first(task) + plan_->width(); ++e) {
        const int unit = plan_->unit_of(e);
        if (unit < 0 || unit == plan_->unit_of(now) || most - reduced_[e] <= kLeast) continue;
        push({most - reduced_[e], e, -1, 1});
    }
    const std::int64_t last = steps_ + budget;
    while (!heap_.empty()) {
        std::pop_heap(heap_.begin(), heap_.end());
        const int index = -heap_.back().second;
        heap_.pop_back();
        const State state = states_[static_cast<std::size_t>(index)];
        if (state.left <= best.gain) break;
        if (steps_ > last) {
            cut = true;
            break;
        }
        if (!is_new(plan_->unit_of(state.entry), plan_->candidates().load[state.entry])) continue;
        finish(state, index, task, best);
        if (state.length < length) extend(state, index, plan_->unit_of(now), best.gain);
        else cut = true;
    }
    return best;
}

void SparseChains::apply(const Ending& ending) {
    std::vector<std::size_t> path;
    if (ending.entry != kAbsent) path.push_back(ending.entry);
    for (int s = ending.state; s >= 0; s = states_[static_cast<std::size_t>(s)].parent) {
        path.push_back(states_[static_cast<std::size_t>(s)].entry);
    }
    for (const std::size_t entry : path) {
        const int task = plan_->task_of(entry);
        stale_[static_cast<std::size_t>(plan_->unit_of(plan_->place(task)))] = 1;
        stale_[static_cast<std::size_t>(plan_->unit_of(entry))] = 1;
        plan_->move(task, entry);
    }
}

SparseChains::Round SparseChains::round(int length, std::int64_t budget, const std::function<bool()>& poll) {
    Round result;
    std::vector<int> mine;
    std::int64_t polled = steps_;
    for (int a = 0; a < plan_->candidates().num_units; ++a) {
        bool gathered = false;
        mine = plan_->held(a);
        for (const int task : mine) {
            const std::size_t now = plan_->place(task);
            if (plan_->unit_of(now) != a) continue;
            const double most = reduced_[now] + price_[static_cast<std::size_t>(a)] * static_cast<double>(plan_->slack(a));
            if (most <= kLeast) continue;
            if (steps_ - polled > kPollSteps) {
                polled = steps_;
                if (poll()) return result;
            }
            if (!gathered) plan_->gather(a);
            gathered = true;
            const Ending best = search(task, most, length, budget, result.cut);
            if (best.state < 0) continue;
            apply(best);
            ++result.improved;
            gathered = false;
        }
    }
    return result;
}

}  // namespace optalloc::assignment

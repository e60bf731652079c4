#include "assignment/patterns.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

namespace optalloc::assignment {

namespace {

constexpr std::int64_t kPatternWork = 3;  // nanoseconds to look at one, about
constexpr std::int64_t kReducedWork = 8;
constexpr std::size_t kTightened = 60;    // patterns left from which a child is tightened
constexpr int kSteps = 4, kFirstSteps = 20;
constexpr double kFirstTheta = 0.7, kThetaShrink = 0.7;
constexpr Int kMostRoom = Int{1} << 36;   // keeps the rewards far within 64 bits
constexpr Int kMostCells = Int{1} << 18;

}  // namespace

// Every set of the items within the capacity worth at least `least`, found depth first; the best completion of a
// partial set comes from a table, so that every branch followed ends in a pattern. False: too many, or the table is.
bool PatternCover::enumerate(std::span<const Item> items, Int capacity, Int least, Int best, std::size_t most) {
    sorted_.assign(items.begin(), items.end());
    std::erase_if(sorted_, [&](const Item& item) { return item.load > capacity; });
    Int total = 0;
    for (const Item& item : sorted_) total += item.load;
    capacity = std::min(capacity, total);
    const std::size_t n = sorted_.size();
    const auto width = static_cast<std::size_t>(capacity) + 1;
    if (capacity >= kMostCells || static_cast<Int>(n + 1) * (capacity + 1) > kMostCells) return false;
    if (tail_.size() < (n + 1) * width) tail_.resize((n + 1) * width);
    work_ += static_cast<std::int64_t>((n + 1) * width);
    std::fill_n(tail_.begin() + static_cast<std::ptrdiff_t>(n * width), width, Int{0});
    for (std::size_t q = n; q-- > 0;) {
        const Item& item = sorted_[q];
        const auto load = static_cast<std::size_t>(item.load);
        const Int* from = tail_.data() + (q + 1) * width;
        Int* to = tail_.data() + q * width;
        std::copy_n(from, load, to);
        for (std::size_t y = load; y < width; ++y) to[y] = std::max(from[y], from[y - load] + item.profit);
    }
    Mask tasks{};
    std::vector<std::uint8_t> in(n, 0);
    Int value = 0, room = capacity;
    std::size_t k = 0;
    std::int64_t steps = 0;
    bool descend = tail_[width - 1] >= least;
    while (descend || k > 0) {
        if (descend && k < n) {
            ++steps;
            const Item& item = sorted_[k];
            const auto t = static_cast<std::size_t>(item.task);
            const Int* rest = tail_.data() + (k + 1) * width;
            in[k] = item.load <= room && value + item.profit + rest[room - item.load] >= least;
            if (in[k]) {
                tasks[t / 64] |= std::uint64_t{1} << (t % 64);
                room -= item.load;
                value += item.profit;
            }
            ++k;
            continue;
        }
        if (descend) {
            if (gap_.size() >= most) break;
            tasks_.insert(tasks_.end(), tasks.begin(), tasks.begin() + static_cast<std::ptrdiff_t>(width_));
            gap_.push_back(best - value);
        }
        // Back to the last item taken that may as well be left out.
        descend = false;
        while (k > 0 && !descend) {
            --k;
            if (!in[k]) continue;
            const Item& item = sorted_[k];
            const auto t = static_cast<std::size_t>(item.task);
            tasks[t / 64] &= ~(std::uint64_t{1} << (t % 64));
            room += item.load;
            value -= item.profit;
            in[k] = 0;
            descend = value + tail_[(k + 1) * width + static_cast<std::size_t>(room)] >= least;
        }
        if (descend) ++k;
    }
    work_ += kPatternWork * steps;
    return !descend;
}

// By increasing gap.
void PatternCover::sort_from(std::size_t begin) {
    order_.clear();
    for (std::size_t p = begin; p < gap_.size(); ++p) order_.emplace_back(gap_[p], static_cast<int>(p));
    std::sort(order_.begin(), order_.end());
    sorted_tasks_.clear();
    for (const auto& [gap, p] : order_) {
        const auto from = tasks_.begin() + static_cast<std::ptrdiff_t>(static_cast<std::size_t>(p) * width_);
        sorted_tasks_.insert(sorted_tasks_.end(), from, from + static_cast<std::ptrdiff_t>(width_));
    }
    for (std::size_t k = 0; k < order_.size(); ++k) gap_[begin + k] = order_[k].first;
    std::copy(sorted_tasks_.begin(), sorted_tasks_.end(), tasks_.begin() + static_cast<std::ptrdiff_t>(begin * width_));
}

template <std::size_t W, typename Keep>
bool PatternCover::retain(const int* from, const int* end, Level& level, std::size_t unit, const Keep& keep) {
    work_ += kPatternWork * (end - from);
    std::array<std::uint64_t, W> any{}, every;
    every.fill(~std::uint64_t{0});
    int* to = level.list.data() + level.begin[unit];
    for (; from < end; ++from) {
        const std::uint64_t* tasks = tasks_.data() + static_cast<std::size_t>(*from) * W;
        const bool kept = keep(tasks);  // without a branch: it would be mispredicted often
        const std::uint64_t mask = kept ? ~std::uint64_t{0} : 0;
        *to = *from;
        to += kept;
        for (std::size_t w = 0; w < W; ++w) {
            any[w] |= tasks[w] & mask;
            every[w] &= tasks[w] | ~mask;
        }
    }
    std::copy(any.begin(), any.end(), level.any[unit].begin());
    std::copy(every.begin(), every.end(), level.every[unit].begin());
    level.end[unit] = static_cast<std::size_t>(to - level.list.data());
    return level.begin[unit] < level.end[unit];
}

// Drops patterns that fit no more: with a task that another unit needs, without one that no other unit has, or with
// too large a gap, until nothing changes. False: some unit or task has nothing left.
template <std::size_t W>
bool PatternCover::filter(Level& level) {
    const auto gap = [&](std::size_t k) { return gap_[static_cast<std::size_t>(level.list[k])]; };
    while (true) {
        Mask once{}, twice{}, needed{};
        Int least = 0;
        bool clash = false;
        for (std::size_t i = 0; i < num_units_; ++i) {
            least += gap(level.begin[i]);
            for (std::size_t w = 0; w < W; ++w) {
                twice[w] |= once[w] & level.any[i][w];
                once[w] |= level.any[i][w];
                clash = clash || (needed[w] & level.every[i][w]) != 0;
                needed[w] |= level.every[i][w];
            }
        }
        for (std::size_t w = 0; w < W; ++w) clash = clash || once[w] != all_[w];
        if (clash || least > room_) return false;
        bool changed = false;
        for (std::size_t i = 0; i < num_units_; ++i) {
            if (level.end[i] - level.begin[i] == 1) continue;
            const Int most = room_ - least + gap(level.begin[i]);
            bool drop = gap(level.end[i] - 1) > most;
            while (gap(level.end[i] - 1) > most) --level.end[i];
            Mask own{}, foreign{};
            for (std::size_t w = 0; w < W; ++w) {
                own[w] = level.any[i][w] & ~twice[w];
                foreign[w] = needed[w] & ~level.every[i][w];
                drop = drop || (own[w] & ~level.every[i][w]) != 0 || (foreign[w] & level.any[i][w]) != 0;
            }
            if (!drop) continue;
            changed = true;
            const int* first = level.list.data() + level.begin[i];
            const auto fits = [&](const std::uint64_t* tasks) {
                std::uint64_t wrong = 0;
                for (std::size_t w = 0; w < W; ++w) wrong |= (tasks[w] & foreign[w]) | (own[w] & ~tasks[w]);
                return wrong == 0;
            };
            if (!retain<W>(first, level.list.data() + level.end[i], level, i, fits)) return false;
        }
        if (!changed) return true;
    }
}

// The gap less the rewards of the tasks.
template <std::size_t W>
Int PatternCover::reduced(int pattern, const std::vector<Int>& reward) const {
    const auto p = static_cast<std::size_t>(pattern);
    Int value = gap_[p];
    for (std::size_t w = 0; w < W; ++w) {
        for (std::uint64_t rest = tasks_[p * W + w]; rest != 0; rest &= rest - 1) {
            value -= reward[w * 64 + static_cast<std::size_t>(std::countr_zero(rest))];
        }
    }
    return value;
}

// Every cover has the sum of its gaps at least sum_t reward_t + sum_i min_p (gap_p - rewards of p), whatever the rewards:
// subgradient steps raise this bound; patterns that would exceed the room go. False: there is no cover.
template <std::size_t W>
bool PatternCover::tighten(Level& level, int steps) {
    const std::size_t n = level.reward.size();
    low_.resize(num_units_);
    chosen_.resize(num_units_);
    Int best = std::numeric_limits<Int>::min();
    best_reward_ = level.reward;
    double theta = kFirstTheta;
    for (int step = 0; step < steps; ++step) {
        Int bound = 0;
        for (const Int r : level.reward) bound += r;
        slope_.assign(n, 1);
        for (std::size_t i = 0; i < num_units_; ++i) {
            low_[i] = std::numeric_limits<Int>::max();
            work_ += kReducedWork * static_cast<std::int64_t>(level.end[i] - level.begin[i]);
            for (std::size_t k = level.begin[i]; k < level.end[i]; ++k) {
                const Int value = reduced<W>(level.list[k], level.reward);
                if (value >= low_[i]) continue;
                low_[i] = value;
                chosen_[i] = level.list[k];
            }
            bound += low_[i];
            const std::uint64_t* tasks = tasks_.data() + static_cast<std::size_t>(chosen_[i]) * W;
            for (std::size_t w = 0; w < W; ++w) {
                for (std::uint64_t rest = tasks[w]; rest != 0; rest &= rest - 1) {
                    --slope_[w * 64 + static_cast<std::size_t>(std::countr_zero(rest))];
                }
            }
        }
        if (bound > room_) return false;
        if (bound > best) {
            best = bound;
            best_reward_ = level.reward;
        } else {
            theta *= kThetaShrink;
        }
        Int norm = 0;
        for (const Int s : slope_) norm += s * s;
        if (norm == 0) break;  // the patterns of least reduced gap are a cover
        const double stride = theta * static_cast<double>(room_ + 1 - best) / static_cast<double>(norm);
        for (std::size_t t = 0; t < n; ++t) {
            level.reward[t] += static_cast<Int>(std::lround(stride * static_cast<double>(slope_[t])));
        }
    }
    level.reward = best_reward_;
    for (std::size_t i = 0; i < num_units_; ++i) {
        const std::size_t count = level.end[i] - level.begin[i];
        if (count == 1) continue;
        work_ += kReducedWork * static_cast<std::int64_t>(2 * count);
        Int low = std::numeric_limits<Int>::max();
        for (std::size_t k = level.begin[i]; k < level.end[i]; ++k) low = std::min(low, reduced<W>(level.list[k], level.reward));
        int* to = level.list.data() + level.begin[i];
        for (std::size_t k = level.begin[i]; k < level.end[i]; ++k) {
            if (best - low + reduced<W>(level.list[k], level.reward) <= room_) *to++ = level.list[k];
        }
        const auto end = static_cast<std::size_t>(to - level.list.data());
        if (end == level.end[i]) continue;
        level.end[i] = end;
        const int* list = level.list.data();
        if (!retain<W>(list + level.begin[i], list + end, level, i, [](const std::uint64_t*) { return true; })) return false;
    }
    return filter<W>(level);
}

void PatternCover::find_twins(std::span<const Item> items, std::span<const std::size_t> first,
                              std::span<const Int> capacity, std::span<const Int> best) {
    const auto own = [&](std::size_t i) { return items.subspan(first[i], first[i + 1] - first[i]); };
    twin_.clear();
    for (std::size_t i = 0; i < num_units_; ++i) {
        std::size_t k = 0;
        while (k < i && !(twin_[k] == k && capacity[k] == capacity[i] && best[k] == best[i] && std::ranges::equal(own(k), own(i)))) {
            ++k;
        }
        twin_.push_back(k);
    }
}

// The child where the unit takes the pattern. Its twins that are not branched on yet have the same list, and need not take
// what was tried before: swapped, that cover would have been found.
template <std::size_t W>
bool PatternCover::descend(const Level& parent, std::size_t unit, int pick, Level& child) {
    const std::uint64_t* taken = tasks_.data() + static_cast<std::size_t>(pick) * W;
    child.list.resize(parent.list.size());
    child.begin.resize(num_units_);
    child.end.resize(num_units_);
    child.any.resize(num_units_);
    child.every.resize(num_units_);
    child.unit = -1;
    std::size_t at = 0;
    for (std::size_t i = 0; i < num_units_; ++i) {
        child.begin[i] = at;
        bool some = false;
        const bool is_twin = twin_[i] == twin_[unit] && !picked_[i];
        const int least = is_twin ? pick - static_cast<int>(start_[unit]) + static_cast<int>(start_[i]) : 0;
        if (i == unit) {
            some = retain<W>(&pick, &pick + 1, child, i, [](const std::uint64_t*) { return true; });
        } else {
            const int* end = parent.list.data() + parent.end[i];
            const int* list = std::lower_bound(parent.list.data() + parent.begin[i], end, least);
            some = retain<W>(list, end, child, i, [&](const std::uint64_t* tasks) {
                std::uint64_t both = 0;
                for (std::size_t w = 0; w < W; ++w) both |= tasks[w] & taken[w];
                return both == 0;
            });
        }
        if (!some) return false;
        at = child.end[i];
    }
    child.reward = parent.reward;
    if (!filter<W>(child)) return false;
    std::size_t left = 0;
    for (std::size_t i = 0; i < num_units_; ++i) left += child.end[i] - child.begin[i];
    return left < num_units_ + kTightened || tighten<W>(child, kSteps);
}

// Depth first, on the unit with the fewest patterns, the least gap first.
template <std::size_t W>
PatternCover::Outcome PatternCover::search(std::int64_t most_nodes) {
    for (std::size_t i = 0; i < num_units_; ++i) {
        Level& root = levels_[0];
        const int* list = root.list.data();
        const auto all = [](const std::uint64_t*) { return true; };
        if (!retain<W>(list + root.begin[i], list + root.end[i], root, i, all)) return Outcome::kNone;
    }
    if (!filter<W>(levels_[0]) || !tighten<W>(levels_[0], kFirstSteps)) return Outcome::kNone;
    std::int64_t nodes = 0;
    depth_ = 0;
    picked_.assign(num_units_, 0);
    while (true) {
        if (levels_.size() <= depth_ + 1) levels_.resize(depth_ + 2);
        Level& level = levels_[depth_];
        if (level.unit < 0) {
            std::size_t low = std::numeric_limits<std::size_t>::max();
            for (std::size_t i = 0; i < num_units_; ++i) {
                const std::size_t count = level.end[i] - level.begin[i];
                if (count == 1 || count >= low) continue;
                low = count;
                level.unit = static_cast<int>(i);
            }
            if (level.unit < 0) return Outcome::kFound;
            picked_[static_cast<std::size_t>(level.unit)] = 1;
            level.next = level.begin[static_cast<std::size_t>(level.unit)];
        }
        const auto unit = static_cast<std::size_t>(level.unit);
        if (level.next == level.end[unit]) {
            picked_[unit] = 0;
            if (depth_ == 0) return Outcome::kNone;
            --depth_;
            continue;
        }
        if (++nodes > most_nodes) return Outcome::kGaveUp;
        const int pick = level.list[level.next++];
        if (descend<W>(level, unit, pick, levels_[depth_ + 1])) ++depth_;
    }
}

PatternCover::Outcome PatternCover::solve(std::span<const Item> items, std::span<const std::size_t> first,
                                          std::span<const Int> capacity, std::span<const Int> best, int num_tasks,
                                          Int room, const Limits& limits, std::vector<int>& found) {
    if (num_tasks > kMostTasks || room > kMostRoom) return Outcome::kTooLarge;
    num_units_ = capacity.size();
    room_ = room;
    all_.fill(0);
    for (int t = 0; t < num_tasks; ++t) all_[static_cast<std::size_t>(t) / 64] |= std::uint64_t{1} << (t % 64);
    width_ = num_tasks <= 64 ? 1 : num_tasks <= 128 ? 2 : 4;
    tasks_.clear();
    gap_.clear();
    if (levels_.empty()) levels_.resize(1);
    Level& root = levels_[0];
    root.unit = -1;
    root.reward.assign(static_cast<std::size_t>(num_tasks), 0);
    root.list.clear();
    root.begin.resize(num_units_);
    root.end.resize(num_units_);
    root.any.resize(num_units_);
    root.every.resize(num_units_);
    for (std::size_t i = 0; i < num_units_; ++i) {
        root.begin[i] = gap_.size();
        const auto own = items.subspan(first[i], first[i + 1] - first[i]);
        if (!enumerate(own, capacity[i], best[i] - room, best[i], limits.patterns)) return Outcome::kTooLarge;
        sort_from(root.begin[i]);
        root.end[i] = gap_.size();
    }
    start_ = root.begin;
    find_twins(items, first, capacity, best);
    for (std::size_t p = 0; p < gap_.size(); ++p) root.list.push_back(static_cast<int>(p));
    const Outcome outcome = width_ == 1   ? search<1>(limits.nodes)
                            : width_ == 2 ? search<2>(limits.nodes)
                                          : search<4>(limits.nodes);
    if (outcome != Outcome::kFound) return outcome;
    found.assign(static_cast<std::size_t>(num_tasks), -1);
    const Level& last = levels_[depth_];
    for (std::size_t i = 0; i < num_units_; ++i) {
        const std::uint64_t* tasks = tasks_.data() + static_cast<std::size_t>(last.list[last.begin[i]]) * width_;
        for (int t = 0; t < num_tasks; ++t) {
            if (tasks[static_cast<std::size_t>(t) / 64] >> (t % 64) & 1) found[static_cast<std::size_t>(t)] = static_cast<int>(i);
        }
    }
    return outcome;
}

}  // namespace optalloc::assignment

#include "assignment/patterns.hpp"

#include <algorithm>
#include <limits>

namespace optalloc::assignment {

namespace {

constexpr std::int64_t kPatternWork = 3;  // nanoseconds to look at one, about
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
            if (patterns_.size() >= most) break;
            patterns_.push_back({tasks, best - value});
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

// What the patterns of a unit have in common; false when there are none.
template <std::size_t W>
bool PatternCover::gather(Level& level, std::size_t unit) const {
    Mask any{}, every{};
    for (std::size_t w = 0; w < W; ++w) every[w] = ~std::uint64_t{0};
    for (std::size_t k = level.begin[unit]; k < level.end[unit]; ++k) {
        const Mask& tasks = patterns_[static_cast<std::size_t>(level.list[k])].tasks;
        for (std::size_t w = 0; w < W; ++w) {
            any[w] |= tasks[w];
            every[w] &= tasks[w];
        }
    }
    level.any[unit] = any;
    level.every[unit] = every;
    return level.begin[unit] < level.end[unit];
}

// Drops patterns that fit no more: with a task that another unit needs, without one that no other unit has, or with
// too large a gap, until nothing changes. False: some unit or task has nothing left.
template <std::size_t W>
bool PatternCover::filter(Level& level) {
    const auto gap = [&](std::size_t k) { return patterns_[static_cast<std::size_t>(level.list[k])].gap; };
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
            std::size_t kept = level.begin[i];
            work_ += kPatternWork * static_cast<std::int64_t>(level.end[i] - kept);
            for (std::size_t k = kept; k < level.end[i]; ++k) {
                const Mask& tasks = patterns_[static_cast<std::size_t>(level.list[k])].tasks;
                std::uint64_t wrong = 0;
                for (std::size_t w = 0; w < W; ++w) wrong |= (tasks[w] & foreign[w]) | (own[w] & ~tasks[w]);
                level.list[kept] = level.list[k];
                kept += wrong == 0;
            }
            level.end[i] = kept;
            if (!gather<W>(level, i)) return false;
        }
        if (!changed) return true;
    }
}

// The child where the unit takes the pattern.
template <std::size_t W>
bool PatternCover::descend(const Level& parent, std::size_t unit, int pick, Level& child) {
    const Mask& taken = patterns_[static_cast<std::size_t>(pick)].tasks;
    child.list.resize(parent.list.size());
    child.begin.resize(num_units_);
    child.end.resize(num_units_);
    child.any.resize(num_units_);
    child.every.resize(num_units_);
    child.unit = -1;
    std::size_t at = 0;
    for (std::size_t i = 0; i < num_units_; ++i) {
        child.begin[i] = at;
        if (i == unit) {
            child.list[at++] = pick;
        } else {
            work_ += kPatternWork * static_cast<std::int64_t>(parent.end[i] - parent.begin[i]);
            for (std::size_t k = parent.begin[i]; k < parent.end[i]; ++k) {
                const Mask& tasks = patterns_[static_cast<std::size_t>(parent.list[k])].tasks;
                std::uint64_t both = 0;
                for (std::size_t w = 0; w < W; ++w) both |= tasks[w] & taken[w];
                child.list[at] = parent.list[k];
                at += both == 0;
            }
        }
        child.end[i] = at;
        if (!gather<W>(child, i)) return false;
    }
    return filter<W>(child);
}

// Depth first, on the unit with the fewest patterns, the least gap first.
template <std::size_t W>
PatternCover::Outcome PatternCover::search(std::int64_t most_nodes) {
    for (std::size_t i = 0; i < num_units_; ++i) {
        if (!gather<W>(levels_[0], i)) return Outcome::kNone;
    }
    if (!filter<W>(levels_[0])) return Outcome::kNone;
    std::int64_t nodes = 0;
    depth_ = 0;
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
            level.next = level.begin[static_cast<std::size_t>(level.unit)];
        }
        const auto unit = static_cast<std::size_t>(level.unit);
        if (level.next == level.end[unit]) {
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
    if (num_tasks > kMostTasks) return Outcome::kTooLarge;
    num_units_ = capacity.size();
    room_ = room;
    all_.fill(0);
    for (int t = 0; t < num_tasks; ++t) all_[static_cast<std::size_t>(t) / 64] |= std::uint64_t{1} << (t % 64);
    patterns_.clear();
    if (levels_.empty()) levels_.resize(1);
    Level& root = levels_[0];
    root.unit = -1;
    root.list.clear();
    root.begin.resize(num_units_);
    root.end.resize(num_units_);
    root.any.resize(num_units_);
    root.every.resize(num_units_);
    for (std::size_t i = 0; i < num_units_; ++i) {
        root.begin[i] = patterns_.size();
        const auto own = items.subspan(first[i], first[i + 1] - first[i]);
        if (!enumerate(own, capacity[i], best[i] - room, best[i], limits.patterns)) return Outcome::kTooLarge;
        std::stable_sort(patterns_.begin() + static_cast<std::ptrdiff_t>(root.begin[i]), patterns_.end(),
                         [](const Pattern& a, const Pattern& b) { return a.gap < b.gap; });
        root.end[i] = patterns_.size();
    }
    for (std::size_t p = 0; p < patterns_.size(); ++p) root.list.push_back(static_cast<int>(p));
    const Outcome outcome = num_tasks <= 64    ? search<1>(limits.nodes)
                            : num_tasks <= 128 ? search<2>(limits.nodes)
                                               : search<4>(limits.nodes);
    if (outcome != Outcome::kFound) return outcome;
    found.assign(static_cast<std::size_t>(num_tasks), -1);
    const Level& last = levels_[depth_];
    for (std::size_t i = 0; i < num_units_; ++i) {
        const Mask& tasks = patterns_[static_cast<std::size_t>(last.list[last.begin[i]])].tasks;
        for (int t = 0; t < num_tasks; ++t) {
            if (tasks[static_cast<std::size_t>(t) / 64] >> (t % 64) & 1) found[static_cast<std::size_t>(t)] = static_cast<int>(i);
        }
    }
    return outcome;
}

}  // namespace optalloc::assignment

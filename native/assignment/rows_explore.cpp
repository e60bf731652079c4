#include "assignment/rows_explore.hpp"

#include <algorithm>
#include <numeric>
#include <utility>

namespace optalloc::assignment::rows {

namespace {

constexpr std::int64_t kGroupNodes = 300;
constexpr std::int64_t kMovesPerNode = 1000;  // of annealing for each node of groups
constexpr std::int64_t kTurn = 20;            // nodes of a turn of a member

}  // namespace

// Some tasks on some units, all others where they are: a smaller problem of the same kind.
bool Explorer::improve_part(const std::vector<int>& tasks, const std::vector<int>& units) {
    const Instance& in = *instance_;
    const Assignment& best = search_->best();
    std::vector<int> number(static_cast<std::size_t>(in.num_tasks), -1);
    Int present = 0;
    for (std::size_t q = 0; q < tasks.size(); ++q) {
        number[static_cast<std::size_t>(tasks[q])] = static_cast<int>(q);
        present += in.cost[in.at(best.unit[static_cast<std::size_t>(tasks[q])], tasks[q])];
    }
    // What the others leave of every row.
    Slack slack(in, search_->bound().groups_of());
    std::vector<Int> residual = in.capacity;
    for (int j = 0; j < in.num_tasks; ++j) {
        if (number[static_cast<std::size_t>(j)] >= 0) continue;
        const int i = best.unit[static_cast<std::size_t>(j)];
        slack.add(i, j, 1);
        for (int r = 0; r < in.num_resources; ++r) residual[in.room_at(r, i)] -= in.load[in.load_at(r, i, j)];
    }
    Instance small;
    small.num_tasks = static_cast<int>(tasks.size());
    small.num_units = static_cast<int>(units.size());
    small.num_resources = in.num_resources;
    small.cells = in.cells;
    for (std::size_t p = 0; p < units.size(); ++p) {
        if (units[p] == in.open) small.open = static_cast<int>(p);
        for (const int j : tasks) {
            const bool fits = slack.fits(units[p], j);
            small.cost.push_back(fits ? in.cost[in.at(units[p], j)] : 0);
            small.allowed.push_back(fits);
        }
    }
    for (int r = 0; r < in.num_resources; ++r) {
        for (const int i : units) {
            small.capacity.push_back(residual[in.room_at(r, i)]);
            for (const int j : tasks) small.load.push_back(in.load[in.load_at(r, i, j)]);
        }
    }
    std::vector<int> kept;  // the group of each small group
    for (std::size_t g = 0; g < in.apart.size(); ++g) {
        std::vector<int> members;
        for (const int j : in.apart[g]) {
            if (number[static_cast<std::size_t>(j)] >= 0) members.push_back(number[static_cast<std::size_t>(j)]);
        }
        if (members.size() < 2) continue;
        kept.push_back(static_cast<int>(g));
        small.apart.push_back(std::move(members));
    }
    Search search(small, *control_);
    std::vector<double> multiplier = search.first_multiplier();
    const Bound &from = search_->bound(), &to = search.bound();
    const double ratio = to.scale() / from.scale();
    for (std::size_t q = 0; q < tasks.size(); ++q) {
        multiplier[q] = ratio * multiplier_[static_cast<std::size_t>(tasks[q])];
    }
    for (std::size_t p = 0; p < units.size(); ++p) {
        const int unit = static_cast<int>(p);
        for (int r = 0; r < in.num_resources; ++r) {
            const Int whole = in.capacity[in.room_at(r, units[p])], left = small.capacity[small.room_at(r, unit)];
            const double share = whole > 0 ? static_cast<double>(left) / static_cast<double>(whole) : 0.0;
            multiplier[to.resource(r, unit)] = ratio * share * multiplier_[from.resource(r, units[p])];
        }
        for (std::size_t g = 0; g < kept.size(); ++g) {
            multiplier[to.group(static_cast<int>(g), unit)] = ratio * multiplier_[from.group(kept[g], units[p])];
        }
    }
    const Ascent root{.steps = 60, .fix_every = 15, .repair_every = 15, .theta = 0.3};
    const Outcome outcome = search.decide(present - 1, std::move(multiplier), root, kGroupNodes);
    if (search.has_best() && search.best().cost < present) {
        Assignment better = best;
        better.cost += search.best().cost - present;
        for (std::size_t q = 0; q < tasks.size(); ++q) {
            better.unit[static_cast<std::size_t>(tasks[q])] =
                units[static_cast<std::size_t>(search.best().unit[q])];
        }
        search_->polish(better);
        search_->offer(better);
        control_->poll();
    }
    return outcome == Outcome::kClosed;
}

void Explorer::improve(int rounds, std::int64_t nodes, Int floor) {
    const std::int64_t until = control_->nodes + nodes;
    const auto draw = [this](std::vector<int>& all, std::size_t count) {
        for (std::size_t p = 0; p < count; ++p) std::swap(all[p], all[p + random_() % (all.size() - p)]);
        return std::vector<int>(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(count));
    };
    std::vector<int> units(static_cast<std::size_t>(instance_->num_units));
    std::vector<int> tasks(static_cast<std::size_t>(instance_->num_tasks));
    std::iota(units.begin(), units.end(), 0);
    std::iota(tasks.begin(), tasks.end(), 0);
    for (int round = 0; round < rounds && control_->nodes < until && !control_->stopped; ++round) {
        if (search_->best().cost <= floor) return;
        double& size = round % 2 == 0 ? units_drawn_ : tasks_drawn_;
        const std::vector<int>& all = round % 2 == 0 ? units : tasks;
        size = std::clamp(size, 2.0, static_cast<double>(std::max<std::size_t>(all.size(), 2)));
        const auto count = static_cast<std::size_t>(size);
        if (count >= all.size()) continue;  // that is the whole problem
        bool closed = false;
        if (round % 2 == 0) {
            const std::vector<int> some = draw(units, count);
            std::vector<int> theirs;
            for (int j = 0; j < instance_->num_tasks; ++j) {
                const int i = search_->best().unit[static_cast<std::size_t>(j)];
                if (std::find(some.begin(), some.end(), i) != some.end()) theirs.push_back(j);
            }
            closed = improve_part(theirs, some);
            size += closed ? 0.1 : -0.2;
        } else {
            std::vector<int> every(units);
            std::sort(every.begin(), every.end());
            closed = improve_part(draw(tasks, count), every);
            size *= closed ? 1.02 : 0.96;
        }
    }
}

void Explorer::explore(std::int64_t nodes, Int floor) {
    search_->anneal(kMovesPerNode * nodes, random_);
    improve(static_cast<int>(nodes), nodes, floor);
}

void Member::explore(Int floor, std::int64_t budget) {
    const std::int64_t end = control.work + budget;
    while (search.has_best() && search.best().cost > floor && control.work < end && !control.stopped) {
        explorer.explore(kTurn, floor);
    }
}

}  // namespace optalloc::assignment::rows

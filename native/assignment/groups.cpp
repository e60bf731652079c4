#include "assignment/groups.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace optalloc::assignment {

namespace {

constexpr double kGrow = 0.1;
constexpr double kShrink = 0.2;
constexpr std::int64_t kNodes = 60;
constexpr double kMeetings = 3.0;  // of two units, on average, until the search counts as stalled

}  // namespace

GroupSearch::GroupSearch(const Instance& instance, Int scale, Control& control, std::uint64_t seed)
    : instance_(&instance), scale_(scale), control_(&control), state_(0x9e3779b97f4a7c15ULL * (2 * seed + 1)) {}

std::uint64_t GroupSearch::next() {  // xorshift64*
    state_ ^= state_ >> 12;
    state_ ^= state_ << 25;
    state_ ^= state_ >> 27;
    return state_ * 0x2545f4914f6cdd1dULL;
}

// A random unit, then units drawn uniformly or by how cheaply they would take the tasks of the chosen ones.
std::vector<int> GroupSearch::draw_units(const Assignment& assignment) {
    const int m = instance_->num_units;
    const int count = std::clamp(static_cast<int>(size_), 2, m);
    std::vector<int> units{below(m)};
    std::vector<char> in(static_cast<std::size_t>(m), 0);
    in[static_cast<std::size_t>(units[0])] = 1;
    std::vector<double> kinship(static_cast<std::size_t>(m), 0.0);
    while (static_cast<int>(units.size()) < count) {
        int chosen = -1;
        if (next() & 1) {
            const int latest = units.back();
            for (int j = 0; j < instance_->num_tasks; ++j) {
                if (assignment.unit[static_cast<std::size_t>(j)] != latest) continue;
                const Int own = instance_->cost[instance_->at(latest, j)];
                for (int i = 0; i < m; ++i) {
                    if (in[static_cast<std::size_t>(i)] || !instance_->allowed[instance_->at(i, j)]) continue;
                    const auto rise = static_cast<double>(instance_->cost[instance_->at(i, j)] - own);
                    kinship[static_cast<std::size_t>(i)] += rise <= 0.0 ? 1.0 : 1.0 / (1.0 + 0.1 * rise * rise);
                }
            }
            double total = 0.0;
            for (int i = 0; i < m; ++i) {
                if (!in[static_cast<std::size_t>(i)]) total += kinship[static_cast<std::size_t>(i)];
            }
            double ticket = static_cast<double>(next() >> 11) * 0x1.0p-53 * total;
            for (int i = 0; i < m && total > 0.0; ++i) {
                if (in[static_cast<std::size_t>(i)]) continue;
                ticket -= kinship[static_cast<std::size_t>(i)];
                if (ticket <= 0.0) {
                    chosen = i;
                    break;
                }
            }
        }
        while (chosen < 0 || in[static_cast<std::size_t>(chosen)]) chosen = below(m);
        in[static_cast<std::size_t>(chosen)] = 1;
        units.push_back(chosen);
    }
    std::sort(units.begin(), units.end());
    return units;
}

bool GroupSearch::stalled() const {
    const double parts = instance_->num_units / size_;
    return vain_ > kMeetings * parts * parts;
}

bool GroupSearch::improve(Assignment& assignment, const std::vector<double>& multiplier, const Domain& domain, Int floor,
                          std::int64_t budget) {
    const Int before = assignment.cost;
    exhausted_ = false;
    if (instance_->num_units < 2) return false;
    const std::int64_t last = control_->nodes + budget;
    while (control_->nodes < last && assignment.cost > floor && !control_->poll()) {
        ++control_->nodes;
        const std::vector<int> units = draw_units(assignment);
        std::vector<int> place(static_cast<std::size_t>(instance_->num_units), -1);
        for (std::size_t q = 0; q < units.size(); ++q) place[static_cast<std::size_t>(units[q])] = static_cast<int>(q);
        std::vector<int> tasks;
        for (int j = 0; j < instance_->num_tasks; ++j) {
            if (place[static_cast<std::size_t>(assignment.unit[static_cast<std::size_t>(j)])] >= 0) tasks.push_back(j);
        }
        if (tasks.empty()) continue;

        Instance part;
        part.num_units = static_cast<int>(units.size());
        part.num_tasks = static_cast<int>(tasks.size());
        Assignment now;
        std::vector<double> reward;
        for (const int j : tasks) {
            const int unit = assignment.unit[static_cast<std::size_t>(j)];
            now.unit.push_back(place[static_cast<std::size_t>(unit)]);
            now.cost += instance_->cost[instance_->at(unit, j)];
            reward.push_back(multiplier[static_cast<std::size_t>(j)]);
        }
        for (const int i : units) {
            part.capacity.push_back(instance_->capacity[static_cast<std::size_t>(i)]);
            for (const int j : tasks) {
                part.cost.push_back(instance_->cost[instance_->at(i, j)]);
                part.load.push_back(instance_->load[instance_->at(i, j)]);
                part.allowed.push_back(domain.allowed(i, j));
            }
        }
        Search search(part, scale_, *control_);
        search.offer(now);
        const Outcome outcome = search.decide(now.cost - 1, reward, Ascent{.steps = 60, .fix_every = 10}, kNodes);
        if (outcome == Outcome::kClosed) ++vain_;
        if (search.best().cost < now.cost) {
            vain_ = 0;
            assignment.cost += search.best().cost - now.cost;
            for (std::size_t q = 0; q < tasks.size(); ++q) {
                assignment.unit[static_cast<std::size_t>(tasks[q])] =
                    units[static_cast<std::size_t>(search.best().unit[q])];
            }
        }
        size_ += outcome == Outcome::kClosed ? kGrow : -kShrink;
        size_ = std::clamp(size_, 2.0, static_cast<double>(instance_->num_units));
        exhausted_ = outcome == Outcome::kClosed && static_cast<int>(units.size()) == instance_->num_units;
        if (exhausted_) break;
    }
    return assignment.cost < before;
}

}  // namespace optalloc::assignment

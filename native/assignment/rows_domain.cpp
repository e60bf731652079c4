#include <algorithm>

#include "assignment/rows.hpp"
#include "assignment/twins.hpp"

namespace optalloc::assignment::rows {

Domain::Domain(const Instance& instance, const std::vector<std::vector<int>>& groups_of)
    : instance_(&instance),
      groups_of_(&groups_of),
      allowed_(instance.allowed),
      taken_(instance.apart.size() * static_cast<std::size_t>(instance.num_units)),
      count_(static_cast<std::size_t>(instance.num_tasks)),
      unit_of_(static_cast<std::size_t>(instance.num_tasks), -1),
      residual_(instance.capacity) {}

void Domain::place(int unit, int task) {
    for (int i = 0; i < instance_->num_units; ++i) {
        if (i != unit) remove(i, task);
    }
}

// Units left, placed tasks, and what they leave; false: a task without a unit or a broken row.
bool Domain::count_again() {
    const Instance& in = *instance_;
    residual_ = in.capacity;
    std::fill(taken_.begin(), taken_.end(), std::uint8_t{0});
    num_free_ = 0;
    placed_cost_ = 0;
    for (int j = 0; j < in.num_tasks; ++j) {
        int count = 0, unit = -1;
        for (int i = 0; i < in.num_units; ++i) {
            if (allowed(i, j)) ++count, unit = i;
        }
        count_[static_cast<std::size_t>(j)] = count;
        unit_of_[static_cast<std::size_t>(j)] = count == 1 ? unit : -1;
        if (count == 0) return false;
        if (count > 1) {
            ++num_free_;
            continue;
        }
        placed_cost_ += in.cost[in.at(unit, j)];
        for (int r = 0; r < in.num_resources; ++r) {
            if ((residual_[in.room_at(r, unit)] -= in.load[in.load_at(r, unit, j)]) < 0) return false;
        }
        if (unit == in.open) continue;
        for (const int g : (*groups_of_)[static_cast<std::size_t>(j)]) {
            std::uint8_t& taken = taken_[static_cast<std::size_t>(g) * static_cast<std::size_t>(in.num_units) +
                                         static_cast<std::size_t>(unit)];
            if (taken) return false;
            taken = 1;
        }
    }
    return true;
}

bool Domain::blocked(int unit, int task) const {
    const Instance& in = *instance_;
    for (int r = 0; r < in.num_resources; ++r) {
        if (in.load[in.load_at(r, unit, task)] > residual_[in.room_at(r, unit)]) return true;
    }
    if (unit == in.open) return false;
    for (const int g : (*groups_of_)[static_cast<std::size_t>(task)]) {
        if (taken(g, unit)) return true;
    }
    return false;
}

bool Domain::propagate() {
    bool changed = true;
    while (changed) {
        if (!count_again()) return false;
        changed = false;
        for (int j = 0; j < instance_->num_tasks; ++j) {
            if (unit_of(j) >= 0) continue;
            for (int i = 0; i < instance_->num_units; ++i) {
                if (!allowed(i, j) || !blocked(i, j)) continue;
                remove(i, j);
                changed = true;
            }
        }
    }
    return true;
}

std::vector<int> find_twins(const Instance& instance) {
    const auto same = [&](const auto& table, std::size_t one, std::size_t other) {
        const auto a = table.begin() + static_cast<std::ptrdiff_t>(one), b = table.begin() + static_cast<std::ptrdiff_t>(other);
        return std::equal(a, a + instance.num_tasks, b);
    };
    return first_alike(instance.num_units, [&](int one, int other) {
        if (one == instance.open || other == instance.open) return false;
        for (int r = 0; r < instance.num_resources; ++r) {
            if (instance.capacity[instance.room_at(r, one)] != instance.capacity[instance.room_at(r, other)] ||
                !same(instance.load, instance.load_at(r, one, 0), instance.load_at(r, other, 0))) {
                return false;
            }
        }
        return same(instance.allowed, instance.at(one, 0), instance.at(other, 0)) &&
               same(instance.cost, instance.at(one, 0), instance.at(other, 0));
    });
}

}  // namespace optalloc::assignment::rows

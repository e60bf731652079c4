#include "assignment/domain.hpp"

namespace optalloc::assignment {

Domain::Domain(const Instance& instance)
    : instance_(&instance),
      allowed_(instance.allowed),
      count_(static_cast<std::size_t>(instance.num_tasks), 0),
      unit_of_(static_cast<std::size_t>(instance.num_tasks), -1),
      residual_(instance.capacity),
      num_free_(instance.num_tasks) {
    for (int j = 0; j < instance.num_tasks; ++j) {
        for (int i = 0; i < instance.num_units; ++i) count_[static_cast<std::size_t>(j)] += allowed(i, j);
        if (count(j) == 0) ++empty_tasks_;
        if (count(j) == 1) settle(j);
    }
    for (int i = 0; i < instance.num_units; ++i) pending_.push_back(i);
}

void Domain::change_residual(int unit, Int delta) {
    Int& residual = residual_[static_cast<std::size_t>(unit)];
    overloaded_ -= residual < 0;
    residual += delta;
    overloaded_ += residual < 0;
}

void Domain::settle(int task) {
    int unit = 0;
    while (!allowed(unit, task)) ++unit;
    unit_of_[static_cast<std::size_t>(task)] = unit;
    --num_free_;
    placed_cost_ += instance_->cost[instance_->at(unit, task)];
    const Int load = instance_->load[instance_->at(unit, task)];
    change_residual(unit, -load);
    if (load > 0) pending_.push_back(unit);
}

void Domain::unsettle(int task) {
    const int unit = unit_of(task);
    unit_of_[static_cast<std::size_t>(task)] = -1;
    ++num_free_;
    placed_cost_ -= instance_->cost[instance_->at(unit, task)];
    change_residual(unit, instance_->load[instance_->at(unit, task)]);
}

void Domain::remove(int unit, int task) {
    const std::size_t pair = instance_->at(unit, task);
    if (!allowed_[pair]) return;
    if (count(task) == 1) unsettle(task);
    allowed_[pair] = 0;
    trail_.push_back(pair);
    const int left = --count_[static_cast<std::size_t>(task)];
    if (left == 0) ++empty_tasks_;
    if (left == 1) settle(task);
}

void Domain::place(int unit, int task) {
    for (int i = 0; i < instance_->num_units; ++i) {
        if (i != unit) remove(i, task);
    }
}

bool Domain::propagate() {
    while (!pending_.empty() && !failed()) {
        const int unit = pending_.back();
        pending_.pop_back();
        const Int room = residual(unit);
        for (int j = 0; j < instance_->num_tasks; ++j) {
            const std::size_t pair = instance_->at(unit, j);
            if (allowed_[pair] && unit_of(j) < 0 && instance_->load[pair] > room) remove(unit, j);
        }
    }
    if (failed()) pending_.clear();
    return !failed();
}

void Domain::undo(std::size_t mark) {
    pending_.clear();
    while (trail_.size() > mark) {
        const std::size_t pair = trail_.back();
        trail_.pop_back();
        const int task = static_cast<int>(pair % static_cast<std::size_t>(instance_->num_tasks));
        const int before = count(task);
        if (before == 0) --empty_tasks_;
        if (before == 1) unsettle(task);
        allowed_[pair] = 1;
        if (++count_[static_cast<std::size_t>(task)] == 1) settle(task);
    }
    pending_.clear();
}

}  // namespace optalloc::assignment

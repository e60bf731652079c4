#include <algorithm>
#include <cmath>

#include "assignment/lots.hpp"
#include "assignment/search.hpp"

namespace optalloc::assignment {

namespace {

constexpr double kSure = 0.99;

}  // namespace

void Search::choose_batch(const PlungeRule& rule, std::uint64_t& state, std::vector<std::size_t>& batch) const {
    struct Choice {
        double share;
        std::size_t pair;
    };
    const auto n = static_cast<std::size_t>(instance_->num_tasks);
    std::vector<Choice> best(n, Choice{-1.0, 0});
    for (const std::size_t k : lagrangian_.pairs()) {
        double share = weight_ > 0.0 ? share_[k] / weight_ : 0.0;
        share += rule.noise * draw(state);
        if (share > best[k % n].share) best[k % n] = {share, k};
    }
    std::erase_if(best, [](const Choice& choice) { return choice.share < 0.0; });
    std::sort(best.begin(), best.end(), [](const Choice& a, const Choice& b) {
        return a.share > b.share || (a.share == b.share && a.pair < b.pair);
    });
    const auto open = static_cast<double>(best.size());
    const auto least = static_cast<std::size_t>(std::max(1.0, std::ceil(rule.fraction * open)));
    std::vector<Int> room(static_cast<std::size_t>(instance_->num_units));
    for (int i = 0; i < instance_->num_units; ++i) room[static_cast<std::size_t>(i)] = domain_.residual(i);
    batch.clear();
    for (const Choice& choice : best) {
        if (batch.size() >= least && (choice.share < kSure || 2.0 * static_cast<double>(batch.size()) >= open)) break;
        Int& left = room[choice.pair / n];
        if (instance_->load[choice.pair] > left) continue;
        left -= instance_->load[choice.pair];
        batch.push_back(choice.pair);
    }
}

// What is left at the present domain, by its patterns at the best multipliers of the last ascent.
PatternCover::Outcome Search::cover_by_patterns(const PatternCover::Limits& limits) {
    if (domain_.num_free() > PatternCover::kMostTasks) return PatternCover::Outcome::kTooLarge;
    const Int room = scale_ * target_ - lagrangian_.evaluate(best_rounded_);
    if (room < 0) return PatternCover::Outcome::kNone;
    const auto n = static_cast<std::size_t>(instance_->num_tasks);
    std::vector<int> local(n, -1), tasks, found;
    std::vector<PatternCover::Item> items;
    std::vector<Int> capacity;
    for (const std::size_t k : lagrangian_.pairs()) {
        int& t = local[k % n];
        if (t < 0) {
            t = static_cast<int>(tasks.size());
            tasks.push_back(static_cast<int>(k % n));
        }
        items.push_back({t, instance_->load[k], best_rounded_[k % n] - scale_ * instance_->cost[k]});
    }
    for (int i = 0; i < instance_->num_units; ++i) capacity.push_back(domain_.residual(i));
    const std::int64_t before = patterns_.work();
    const auto outcome = patterns_.solve(items, lagrangian_.first(), capacity, lagrangian_.best(),
                                         static_cast<int>(tasks.size()), room, limits, found);
    control_->work += patterns_.work() - before;
    if (outcome != PatternCover::Outcome::kFound) return outcome;
    scratch_.unit.resize(n);
    for (std::size_t j = 0; j < n; ++j) {
        scratch_.unit[j] = local[j] < 0 ? domain_.unit_of(static_cast<int>(j)) : found[static_cast<std::size_t>(local[j])];
    }
    scratch_.cost = 0;
    for (std::size_t j = 0; j < n; ++j) {
        scratch_.cost += instance_->cost[instance_->at(scratch_.unit[j], static_cast<int>(j))];
    }
    offer(scratch_);
    return outcome;
}

// Exhausts what is left at the present domain; better assignments found on the way are noted.
bool Search::close_by_patterns() {
    auto outcome = PatternCover::Outcome::kFound;
    while (outcome == PatternCover::Outcome::kFound) outcome = cover_by_patterns({});
    if (outcome != PatternCover::Outcome::kNone) return false;
    if (record) record->cover(domain_, best_rounded_);
    return true;
}

void Search::plunge(std::vector<double> multiplier, const PlungeRule& rule, std::uint64_t& state) {
    struct Level {
        std::size_t mark;
        std::vector<double> multiplier;
        std::vector<std::size_t> batch, pairs;
    };
    const auto n = static_cast<std::size_t>(instance_->num_tasks);
    const std::size_t base = domain_.mark();
    std::vector<Level> levels;
    const std::int64_t begin = control_->work;
    std::int64_t last = -1;          // work to stop at, known from the first dead end
    double few = PatternCover::kMostTasks;  // free tasks from which patterns are tried
    const Ascent how{.steps = rule.steps};
    while (true) {
        if (control_->poll()) break;
        bool dead = !domain_.propagate();
        if (!dead) dead = ascend(multiplier, how) == Outcome::kClosed;
        if (control_->stopped) continue;
        if (!dead && domain_.num_free() <= few) {
            const auto o = cover_by_patterns(rule.cell);
            if (o == PatternCover::Outcome::kFound) break;
            if (o == PatternCover::Outcome::kGaveUp) few = kFewer * domain_.num_free();
            dead = o == PatternCover::Outcome::kNone;
        }
        if (!dead) {
            Level level{domain_.mark(), multiplier, {}, lagrangian_.pairs()};
            if (rule.by_unit) choose_filling(rule, state, level.batch);
            else choose_batch(rule, state, level.batch);
            if (!level.batch.empty()) {
                for (const std::size_t k : level.batch) domain_.place(static_cast<int>(k / n), static_cast<int>(k % n));
                lagrangian_.look_among(level.pairs);
                levels.push_back(std::move(level));
                continue;
            }
            dead = true;
        }
        // Refused: half as many tasks at the last placing, or, of a single one, the opposite.
        if (levels.empty()) break;
        if (last < 0) last = control_->work + static_cast<std::int64_t>(rule.patience * static_cast<double>(control_->work - begin));
        else if (control_->work > last) break;
        Level& level = levels.back();
        domain_.undo(level.mark);
        lagrangian_.look_among(level.pairs);
        multiplier = level.multiplier;
        if (level.batch.size() == 1) {
            const std::size_t k = level.batch.front();
            levels.pop_back();
            domain_.remove(static_cast<int>(k / n), static_cast<int>(k % n));
            continue;
        }
        level.batch.resize((level.batch.size() + 1) / 2);
        for (const std::size_t k : level.batch) domain_.place(static_cast<int>(k / n), static_cast<int>(k % n));
    }
    undo(base);
}

}  // namespace optalloc::assignment

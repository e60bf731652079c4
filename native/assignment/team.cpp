#include "assignment/team.hpp"

#include <utility>

namespace optalloc::assignment {

namespace {

constexpr std::int64_t kRound = 50'000'000;  // steps of a worker between two rests
constexpr double kExploreShare = 0.4;        // of all work
constexpr std::int64_t kLeast = 1'000'000;   // budget below which exploring is put off

}  // namespace

Team::Worker::Worker(const Instance& instance, Int scale, std::uint64_t seed)
    : search(instance, scale, control), explorer(instance, scale, control, seed) {}

void Team::Worker::explore(Int floor, std::int64_t budget) {
    const std::int64_t before = control.work;
    Assignment found;
    if (explorer.improve(search.has_best() ? &search.best() : nullptr, floor, budget, found)) search.offer(found);
    explored += control.work - before;
}

Team::Team(const Instance& instance, Int scale, Control& control, std::uint64_t seed, int num_threads)
    : control_(&control) {
    for (int t = 0; t < num_threads; ++t) {
        const std::uint64_t own = seed + 0x9e3779b97f4a7c15ULL * static_cast<std::uint64_t>(t);
        workers_.push_back(std::make_unique<Worker>(instance, scale, own));
        Worker& worker = *workers_.back();
        worker.search.between_nodes = [this, &worker] {
            if (worker.control.work < worker.round_end) return;
            const auto share = kExploreShare * static_cast<double>(worker.control.work);
            if (static_cast<double>(worker.explored) < share) worker.explore(floor_, kRound);
            if (!rest(worker)) worker.control.stopped = true;
        };
    }
    for (auto& worker : workers_) worker->thread = std::thread([this, &worker = *worker] { work(worker); });
}

Team::~Team() {
    {
        const std::lock_guard lock(mutex_);
        quit_ = true;
    }
    started_.notify_all();
    for (auto& worker : workers_) worker->thread.join();
}

void Team::set_root(const Prices& prices) {
    for (auto& worker : workers_) worker->explorer.set_root(prices);
}

void Team::set_multiplier(const std::vector<double>& multiplier) {
    for (auto& worker : workers_) worker->explorer.set_multiplier(multiplier);
}

bool Team::rest(Worker& worker) {
    std::unique_lock lock(mutex_);
    worker.resting = true;
    if (--num_working_ == 0) ended_.notify_one();
    started_.wait(lock, [&] { return quit_ || !worker.resting; });
    return !quit_;
}

void Team::work(Worker& worker) {
    {
        std::unique_lock lock(mutex_);
        started_.wait(lock, [&] { return quit_ || !worker.resting; });
        if (quit_) return;
    }
    while (true) {
        if (worker.subtree) {
            worker.outcome = worker.search.close_subtree(*worker.subtree, target_);
            worker.subtree = nullptr;
        }
        const std::int64_t left = worker.round_end - worker.control.work;
        if (left >= kLeast && !worker.control.stopped) worker.explore(floor_, left);
        if (!rest(worker)) return;
    }
}

// All workers work until they rest; then the best assignment is everybody's.
void Team::round(Search& search, std::int64_t budget) {
    {
        const std::lock_guard lock(mutex_);
        num_working_ = size();
        for (auto& worker : workers_) {
            worker->round_end = worker->control.work + budget;
            worker->resting = false;
        }
    }
    started_.notify_all();
    {
        std::unique_lock lock(mutex_);
        ended_.wait(lock, [this] { return num_working_ == 0; });
    }
    for (auto& worker : workers_) {
        control_->nodes += worker->control.nodes - worker->counted;
        worker->counted = worker->control.nodes;
        if (worker->search.has_best()) search.offer(worker->search.best());
    }
    if (!search.has_best()) return;
    for (auto& worker : workers_) worker->search.offer(search.best());
}

void Team::explore(Search& search, Int floor, std::int64_t budget) {
    floor_ = floor;
    if (search.has_best()) {
        for (auto& worker : workers_) worker->search.offer(search.best());
    }
    round(search, budget);
    control_->work += budget;
}

Outcome Team::close(Search& search, Int floor) {
    const std::vector<Subtree> subtrees = std::exchange(search.subtrees, {});
    std::vector<std::vector<Int>> rows(subtrees.size());
    floor_ = floor;
    target_ = search.target();
    if (search.has_best()) {
        for (auto& worker : workers_) worker->search.offer(search.best());
    }
    for (auto& worker : workers_) {
        worker->outcome = Outcome::kOpen;
        worker->search.record = search.record ? &worker->record : nullptr;
    }
    std::size_t next = 0, closed = 0;
    while (closed < subtrees.size()) {
        for (auto& worker : workers_) {
            if (worker->subtree || next == subtrees.size()) continue;
            worker->index = next;
            worker->subtree = &subtrees[next++];
            worker->outcome = Outcome::kOpen;
        }
        round(search, kRound);
        control_->work += kRound;
        for (auto& worker : workers_) {
            if (worker->outcome != Outcome::kClosed) continue;
            rows[worker->index] = std::move(worker->record.rows());
            worker->record.clear();
            worker->outcome = Outcome::kOpen;
            ++closed;
        }
        if (control_->poll()) {  // everybody leaves their subtree
            for (auto& worker : workers_) worker->control.stopped = true;
            round(search, 0);
            return Outcome::kStopped;
        }
    }
    if (search.record) search.record->insert(rows);
    return Outcome::kClosed;
}

}  // namespace optalloc::assignment

// Several threads at one search, in rounds, so that equal inputs give equal results however fast each runs.
#pragma once

#include <algorithm>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <limits>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "assignment/control.hpp"
#include "assignment/record.hpp"

namespace optalloc::assignment {

// Each worker closes subtrees and explores on its own. A round ends for a worker after so many steps of its own work;
// between rounds the workers rest while the caller shares the best assignment and deals out subtrees. Where few are
// left, those at work hand over what they have not begun. The caller's thread only coordinates. A Member has a control,
// a search that leaves subtrees and closes them, and explore().
template <typename Member>
class Team {
  public:
    using Int = std::int64_t;
    using Search = decltype(Member::search);
    using Subtrees = decltype(Search::subtrees);
    using Subtree = typename Subtrees::value_type;

    // control: the caller's; its nodes count those of all workers. The rest makes a Member, with a seed of its own.
    template <typename... Parts>
    Team(Control& control, std::uint64_t seed, int num_threads, const Parts&... parts) : control_(&control) {
        for (int t = 0; t < num_threads; ++t) {
            const std::uint64_t own = seed + 0x9e3779b97f4a7c15ULL * static_cast<std::uint64_t>(t);
            workers_.push_back(std::make_unique<Worker>(own, parts...));
            Worker& worker = *workers_.back();
            worker.member.search.between_nodes = [this, &worker] { between_nodes(worker); };
        }
        for (auto& worker : workers_) worker->thread = std::thread([this, &worker = *worker] { work(worker); });
    }

    ~Team() {
        {
            const std::lock_guard lock(mutex_);
            quit_ = true;
        }
        started_.notify_all();
        for (auto& worker : workers_) worker->thread.join();
    }

    // The depth at which a tree is split, into some subtrees for each thread.
    int split_depth() const {
        int depth = 1;
        while ((1 << depth) < kSubtrees * static_cast<int>(workers_.size())) ++depth;
        return depth;
    }

    // While the workers rest.
    template <typename Order>
    void tell(const Order& order) {
        for (auto& worker : workers_) order(worker->member);
    }

    // Every worker works on its own for about `budget` steps from the best of `search`, towards `floor`.
    void explore(Search& search, Int floor, std::int64_t budget) {
        floor_ = floor;
        share(search);
        round(search, budget);
        control_->work += budget;
    }

    // Closes the subtrees that `search` has split off; offers it what is found. The record of search, if it has one,
    // becomes whole. Open: the node limit came first.
    Outcome close(Search& search, Int floor, std::int64_t node_limit = std::numeric_limits<std::int64_t>::max()) {
        const std::int64_t before = control_->nodes;
        floor_ = floor;
        target_ = search.target();
        share(search);
        for (auto& worker : workers_) worker->member.search.record = search.record ? &worker->record : nullptr;
        std::deque<Part> parts;
        std::deque<Part*> waiting;
        Record::Part whole;
        const auto take = [&](Record::Part& from, Subtrees& left) {  // those that are new
            for (std::size_t n = from.parts.size(); n < left.size(); ++n) {
                parts.push_back({.subtree = std::move(left[n]), .left = {}, .record = {}});
                waiting.push_back(&parts.back());
                from.parts.push_back(&parts.back().record);
            }
        };
        take(whole, search.subtrees);
        std::size_t closed = 0;
        std::int64_t budget = kShortRound;
        while (closed < parts.size()) {
            const bool scarce = waiting.size() < workers_.size();
            budget = scarce ? kShortRound : std::min(2 * budget, kRound);
            deal(waiting, scarce);
            round(search, budget);
            control_->work += budget;
            for (auto& worker : workers_) {
                for (Part* part : worker->closed) take(part->record, part->left);
                closed += worker->closed.size();
                worker->closed.clear();
                if (worker->now) take(worker->now->record, worker->member.search.subtrees);
                waiting.insert(waiting.begin(), worker->dealt.begin(), worker->dealt.end());
                worker->dealt.clear();
            }
            if (closed < parts.size() && (control_->poll() || control_->nodes - before > node_limit)) {
                leave(search);
                return control_->stopped ? Outcome::kStopped : Outcome::kOpen;
            }
        }
        if (search.record) search.record->insert(whole.parts);
        search.subtrees.clear();
        return Outcome::kClosed;
    }

  private:
    static constexpr std::int64_t kRound = 50'000'000;      // steps of a worker between two rests
    static constexpr std::int64_t kShortRound = 2'000'000;  // where subtrees are scarce
    static constexpr std::int64_t kLeast = 5'000'000;       // of exploring, or it is put off
    static constexpr int kSubtrees = 16;                    // for each thread

    struct Part {
        std::optional<Subtree> subtree;  // until it is closed
        Subtrees left;  // what was handed over when it was closed
        Record::Part record;
    };
    struct Worker {
        template <typename... Parts>
        explicit Worker(std::uint64_t seed, const Parts&... parts) : member(parts..., seed) {}
        void explore(Int floor, std::int64_t budget) {
            const std::int64_t before = member.control.work;
            member.explore(floor, budget);
            explored += member.control.work - before;
        }

        Member member;
        Record record;
        std::int64_t explored = 0, round_end = 0, counted = 0;
        std::deque<Part*> dealt;    // to be closed in this order
        Part* now = nullptr;        // being closed
        std::vector<Part*> closed;  // in this round
        bool resting = true;
        std::thread thread;
    };

    // In turn, to those without a subtree first.
    void deal(std::deque<Part*>& waiting, bool scarce) {
        for (auto& worker : workers_) {
            worker->member.search.hand_over = scarce;
            if (worker->now || waiting.empty()) continue;
            worker->dealt.push_back(waiting.front());
            waiting.pop_front();
        }
        for (std::size_t t = 0; !waiting.empty(); t = (t + 1) % workers_.size()) {
            workers_[t]->dealt.push_back(waiting.front());
            waiting.pop_front();
        }
    }

    void between_nodes(Worker& worker) {
        Control& control = worker.member.control;
        if (control.work < worker.round_end) return;
        if (!rest(worker)) control.stopped = true;
        const double share = Member::kExploreShare * static_cast<double>(control.work);
        const std::int64_t half = (worker.round_end - control.work) / 2;
        if (half >= kLeast && static_cast<double>(worker.explored) < share) worker.explore(floor_, half);
    }

    bool rest(Worker& worker) {  // until the next round; false: the team ends
        std::unique_lock lock(mutex_);
        worker.resting = true;
        if (--num_working_ == 0) ended_.notify_one();
        started_.wait(lock, [&] { return quit_ || !worker.resting; });
        return !quit_;
    }

    void work(Worker& worker) {
        {
            std::unique_lock lock(mutex_);
            started_.wait(lock, [&] { return quit_ || !worker.resting; });
            if (quit_) return;
        }
        Control& control = worker.member.control;
        Search& search = worker.member.search;
        while (true) {
            while (!worker.dealt.empty() && control.work < worker.round_end && !control.stopped) {
                worker.now = worker.dealt.front();
                worker.dealt.pop_front();
                const Outcome outcome = search.close_subtree(*worker.now->subtree, target_);
                if (outcome == Outcome::kClosed) {
                    worker.now->subtree.reset();
                    worker.now->left = std::move(search.subtrees);
                    worker.now->record.rows = std::move(worker.record.rows());
                    worker.closed.push_back(worker.now);
                }
                worker.now = nullptr;
            }
            const std::int64_t left = worker.round_end - control.work;
            if (left >= kLeast && !control.stopped) worker.explore(floor_, left);
            if (!rest(worker)) return;
        }
    }

    // What the search has found becomes everybody's.
    void share(const Search& search) {
        if (!search.has_best()) return;
        for (auto& worker : workers_) worker->member.search.offer(search.best());
    }

    // All workers work until they rest; then the best assignment is everybody's.
    void round(Search& search, std::int64_t budget) {
        {
            const std::lock_guard lock(mutex_);
            num_working_ = static_cast<int>(workers_.size());
            for (auto& worker : workers_) {
                worker->round_end = worker->member.control.work + budget;
                worker->resting = false;
            }
        }
        started_.notify_all();
        {
            std::unique_lock lock(mutex_);
            ended_.wait(lock, [this] { return num_working_ == 0; });
        }
        for (auto& worker : workers_) {
            control_->nodes += worker->member.control.nodes - worker->counted;
            worker->counted = worker->member.control.nodes;
            if (worker->member.search.has_best()) search.offer(worker->member.search.best());
        }
        share(search);
    }

    // Everybody leaves their subtree, begun or not.
    void leave(Search& search) {
        for (auto& worker : workers_) worker->member.control.stopped = true;
        round(search, 0);
        for (auto& worker : workers_) worker->member.control.stopped = false;
    }

    Control* control_;
    std::vector<std::unique_ptr<Worker>> workers_;
    std::mutex mutex_;
    std::condition_variable started_, ended_;
    int num_working_ = 0;
    bool quit_ = false;
    Int floor_ = 0, target_ = 0;
};

}  // namespace optalloc::assignment

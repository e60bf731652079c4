#include "simulate/requests.hpp"

#include <algorithm>
#include <cmath>
#include <queue>
#include <tuple>

#include "simulate/rank.hpp"

namespace optalloc::simulate {

namespace {

constexpr double kMostTicks = 4e18;
constexpr int kPollEvery = 1024;

std::size_t at(std::int64_t index) { return static_cast<std::size_t>(index); }

// The place of x between two nodes: the lower node and how far x is on the way to the next.
std::pair<std::size_t, double> between(std::span<const std::int32_t> nodes, int x) {
    const auto above = std::upper_bound(nodes.begin() + 1, nodes.end() - 1, x);
    const auto low = static_cast<std::size_t>(above - nodes.begin()) - 1;
    const double from = nodes[low], to = nodes[low + 1];
    return {low, (x - from) / (to - from)};
}

// The time of `count` iterations of which the first takes `first` and each one `growth` more than the one before.
struct Line {
    Tick first = 0, growth = 0;

    Tick sum(std::int64_t count) const {
        const auto n = static_cast<__int128>(count);
        return static_cast<Tick>(n * first + n * (n - 1) / 2 * growth);
    }
    double rough(std::int64_t count) const {
        const auto n = static_cast<double>(count);
        return n * static_cast<double>(first) + n * (n - 1.0) / 2.0 * static_cast<double>(growth);
    }
    // The least count, at least 1 and at most `most`, that takes `time`.
    std::int64_t reach(Tick time, std::int64_t most) const {
        std::int64_t low = 1, high = most;
        while (low < high) {
            const std::int64_t middle = low + (high - low) / 2;
            if (sum(middle) >= time) high = middle;
            else low = middle + 1;
        }
        return low;
    }
};

struct Engine {
    const KindInput* kind;
    std::int64_t first_rank;
    bool asleep = true;
    Tick start = 0;
    std::int64_t count = 0;    // iterations under way
    std::int64_t version = 0;  // of the end that is announced
    Line line{};
    Stretch stretch{};
};

// Ranks among which requests are shared, in the order in which they are tried.
struct Pool {
    struct Place {
        std::int64_t rank, engine, weight, credit = 0;
    };
    std::vector<Place> places;
    std::int64_t weight = 0;         // of all
    std::vector<std::int32_t> home;  // by node: the place that it was last sent to; -1 before
};

// Routing by prefix: three tenths of a prompt are worth going to a rank that has up to 16 requests more, or up to one
// and a half times as many for its weight.
struct Ratio {
    std::int64_t part, of;
};
constexpr Ratio kLeastMatch{3, 10}, kBusyTimes{3, 2};
constexpr std::int64_t kBusyBy = 16;

// At one time iterations end before requests arrive, and requests arrive before iterations begin.
enum Phase { kEnd, kArrive, kBegin };

struct Event {
    Tick time;
    int phase;
    std::int64_t key;  // the engine, or pool x requests + request
    std::int64_t version;

    bool operator>(const Event& o) const {
        return std::tie(time, phase, key, version) > std::tie(o.time, o.phase, o.key, o.version);
    }
};

class Fleet {
  public:
    Fleet(std::span<const KindInput> kinds, const RequestInput& in, RequestOutput& out)
        : in_(in), out_(out), book_{in, std::vector<State>(in.input.size()), out}, pools_(2) {
        const int last = kinds.back().pool;
        for (const KindInput& kind : kinds) {
            for (int e = 0; e < kind.engines; ++e) {
                engines_.push_back({.kind = &kind, .first_rank = static_cast<std::int64_t>(ranks_.size())});
                for (int r = 0; r < kind.ranks; ++r) {
                    engine_of_.push_back(static_cast<std::int64_t>(engines_.size()) - 1);
                    ranks_.emplace_back(kind, in, kind.pool < last);
                }
            }
        }
        // The first rank of every engine, then the second of each: neighbours in turn are of different engines.
        for (int r = 0, widest = 1; r < widest; ++r) {
            for (std::size_t e = 0; e < engines_.size(); ++e) {
                const KindInput& kind = *engines_[e].kind;
                widest = std::max(widest, kind.ranks);
                if (r >= kind.ranks) continue;
                Pool& pool = pools_[at(kind.pool)];
                pool.places.push_back({engines_[e].first_rank + r, static_cast<std::int64_t>(e), kind.weight});
                pool.weight += kind.weight;
            }
        }
        if (in.routing == Routing::kPrefix) {
            for (Pool& pool : pools_) pool.home.assign(in.node_blocks.size(), -1);
        }
        out.busy.assign(engines_.size(), 0);
        out.iterations.assign(engines_.size(), 0);
    }

    Status run(const volatile std::int32_t* cancel) {
        const auto n = static_cast<std::int64_t>(in_.input.size());
        next_ = in_.clients > 0 ? std::min<std::int64_t>(in_.clients, n) : n;
        for (std::int64_t id = 0; id < next_; ++id) out_.arrival[at(id)] = in_.arrival[at(id)];
        const std::int64_t listed = next_;  // arrivals known from the beginning, in order
        std::int64_t coming = 0;
        for (std::int64_t steps = 0; coming < listed || !events_.empty(); ++steps) {
            if (steps % kPollEvery == 0 && *cancel != 0) return Status::kCancelled;
            if (coming < listed) {
                const Event arrival{out_.arrival[at(coming)], kArrive, coming, 0};
                if (events_.empty() || events_.top() > arrival) {
                    ++coming;
                    arrive(arrival.time, static_cast<int>(arrival.key), 0);
                    continue;
                }
            }
            const Event event = events_.top();
            events_.pop();
            if (event.phase == kEnd) {
                if (event.version == engines_[at(event.key)].version) end(event.key, event.time);
            } else if (event.phase == kArrive) {
                const auto id = static_cast<int>(event.key % n);
                if (event.key >= n) hand_over(id, event.time);
                else arrive(event.time, id, 0);
            } else if (!begin(event.key, event.time)) {
                return Status::kTooLong;
            }
        }
        for (const Rank& rank : ranks_) out_.peak.push_back(rank.blocks().peak());
        return Status::kDone;
    }

  private:
    std::span<Rank> ranks_of(std::int64_t engine) {
        const Engine& e = engines_[at(engine)];
        return {ranks_.data() + e.first_rank, at(e.kind->ranks)};
    }

    const Pool::Place& route(Pool& pool, int id) {
        Pool::Place* best = nullptr;
        const bool in_turn = in_.routing == Routing::kInTurn;
        for (Pool::Place& place : pool.places) {
            place.credit += in_turn ? place.weight : 0;
            if (best == nullptr) best = &place;
            else if (in_turn ? place.credit > best->credit
                             : load(place) * best->weight < load(*best) * place.weight) {
                best = &place;
            }
        }
        if (in_turn) best->credit -= pool.weight;
        return in_.routing == Routing::kPrefix ? by_prefix(pool, id, *best) : *best;
    }

    // Where the longest part of the prompt was sent last, if that is enough of it and not much busier than `least`.
    const Pool::Place& by_prefix(Pool& pool, int id, const Pool::Place& least) {
        const Blocks::Path path = in_.path_of(id);
        const Pool::Place* chosen = &least;
        std::int64_t matched = in_.shared[at(id)];
        for (auto node = path.rbegin(); node != path.rend(); ++node) {
            const std::int32_t home = pool.home[at(*node)];
            if (home >= 0) {
                const Pool::Place& place = pool.places[at(home)];
                const bool enough = kLeastMatch.part * in_.input[at(id)] <=
                                    kLeastMatch.of * matched * in_.block_tokens;
                const bool busy = load(place) - load(least) > kBusyBy &&
                                  kBusyTimes.of * load(place) * least.weight >
                                      kBusyTimes.part * load(least) * place.weight;
                if (enough && !busy) chosen = &place;
                break;
            }
            matched -= in_.node_blocks[at(*node)];
        }
        const auto index = static_cast<std::int32_t>(chosen - pool.places.data());
        for (const std::int32_t node : path) pool.home[at(node)] = index;
        return *chosen;
    }

    // Of a rank once it gets one more request.
    std::int64_t load(const Pool::Place& place) const { return ranks_[at(place.rank)].outstanding() + 1; }

    void arrive(Tick now, int id, int pool) {
        const Pool::Place& place = route(pools_[at(pool)], id);
        (pool == 0 ? out_.rank : out_.second_rank)[at(id)] = static_cast<std::int32_t>(place.rank);
        Rank& rank = ranks_[at(place.rank)];
        const bool is_first = rank.queue_is_empty();
        rank.arrive(id, book_);
        if (is_first) interrupt(place.engine, now);  // where others wait, none can be admitted before something ends
    }

    void hand_over(int id, Tick now) {
        const std::int64_t from = out_.rank[at(id)];
        ranks_[at(from)].release(id, book_);
        interrupt(engine_of_[at(from)], now);
        out_.handed[at(id)] = now;
        book_.state[at(id)].handed = true;
        arrive(now, id, 1);
    }

    // An engine at rest begins; one at work stops after the iteration that is under way.
    void interrupt(std::int64_t engine, Tick now) {
        Engine& e = engines_[at(engine)];
        if (e.asleep) {
            e.asleep = false;
            events_.push({now, kBegin, engine, 0});
        } else if (e.count > 1) {
            const std::int64_t count = e.line.reach(now - e.start, e.count);
            if (count < e.count) announce(engine, count);
        }
    }

    void announce(std::int64_t engine, std::int64_t count) {
        Engine& e = engines_[at(engine)];
        e.count = count;
        events_.push({e.start + e.line.sum(count), kEnd, engine, ++e.version});
    }

    bool begin(std::int64_t engine, Tick now) {
        Engine& e = engines_[at(engine)];
        const std::span<Rank> ranks = ranks_of(engine);
        const StepTable& times = e.kind->times;
        bool settled = true, any = false;
        std::int64_t count = INT64_MAX;
        lines_.clear();
        Line slowest{};
        Stretch& s = e.stretch;
        s = {engine, now, 0, 0, 0, 0, 0, 0};
        for (Rank& rank : ranks) {
            const Work work = rank.plan(now, book_);
            settled = settled && work.settled;
            s.prompt += work.prompt;
            s.decoding += work.decoding;
            if (work.prompt == 0 && work.decoding == 0) continue;
            any = true;
            const Line line{times.base(work.prompt, work.decoding) + times.kv * work.context +
                                times.pair * work.pairs + times.each * work.prompts,
                            times.kv * work.decoding};
            if (line.first > slowest.first || (line.first == slowest.first && line.growth > slowest.growth)) {
                slowest = line;
            }
            lines_.push_back(line);
        }
        if (!any) {
            e.asleep = true;
            return true;
        }
        if (settled) {
            for (Rank& rank : ranks) count = std::min(count, rank.most_iterations(book_));
            for (const Line& line : lines_) {  // until another rank becomes the slowest
                if (line.growth <= slowest.growth) continue;
                count = std::min(count, 1 + (slowest.first - line.first) / (line.growth - slowest.growth));
            }
        } else {
            count = 1;
        }
        if (!e.kind->shared.decode.empty()) {
            slowest.first += e.kind->shared.base(static_cast<int>(s.prompt), static_cast<int>(s.decoding));
        }
        if (static_cast<double>(now) + slowest.rough(count) > kMostTicks) return false;
        if (in_.record) {
            for (const Rank& rank : ranks) {
                s.waiting += rank.waiting();
                s.blocks += rank.blocks().used();
            }
        }
        e.start = now;
        e.line = slowest;
        announce(engine, count);
        return true;
    }

    void end(std::int64_t engine, Tick now) {
        Engine& e = engines_[at(engine)];
        ++e.version;
        out_.busy[at(engine)] += now - e.start;
        out_.iterations[at(engine)] += e.count;
        if (in_.record) {
            e.stretch.end = now;
            e.stretch.iterations = e.count;
            out_.stretches.push_back(e.stretch);
        }
        left_.clear();
        for (Rank& rank : ranks_of(engine)) rank.finish(e.count, now, book_, left_);
        e.count = 0;
        for (const int id : left_) gone(id, now);
        events_.push({now, kBegin, engine, 0});
    }

    void gone(int id, Tick now) {
        const State& s = book_.state[at(id)];
        const auto n = static_cast<std::int64_t>(in_.input.size());
        if (s.generated < in_.output[at(id)]) {
            const Tick arrives = now + in_.transfer + in_.transfer_token * in_.input[at(id)];
            events_.push({arrives, kArrive, n + id, 0});
            return;
        }
        out_.finish[at(id)] = now;
        if (in_.clients > 0 && next_ < n) {
            out_.arrival[at(next_)] = now + in_.arrival[at(next_)];
            events_.push({out_.arrival[at(next_)], kArrive, next_, 0});
            ++next_;
        }
    }

    const RequestInput& in_;
    RequestOutput& out_;
    Book book_;
    std::vector<Engine> engines_;
    std::vector<Rank> ranks_;
    std::vector<std::int64_t> engine_of_;  // by rank
    std::vector<Pool> pools_;
    std::priority_queue<Event, std::vector<Event>, std::greater<>> events_;
    std::vector<Line> lines_;
    std::vector<int> left_;
    std::int64_t next_ = 0;
};

}  // namespace

Tick StepTable::base(int prompt_tokens, int sequences) const {
    if (prompt_tokens == 0) return decode[at(sequences)];
    const auto [p, x] = between(prompt, prompt_tokens);
    const auto [s, y] = between(count, sequences);
    const std::size_t width = count.size();
    const double* low = grid.data() + p * width + s;
    const double* high = low + width;
    const double below = low[0] + (high[0] - low[0]) * x, above = low[1] + (high[1] - low[1]) * x;
    return static_cast<Tick>(std::floor(below + (above - below) * y + 0.5));
}

RequestOutput run_requests(std::span<const KindInput> kinds, const RequestInput& requests,
                           const volatile std::int32_t* cancel) {
    RequestOutput out;
    const std::size_t n = requests.input.size();
    for (auto* ticks : {&out.arrival, &out.start, &out.first, &out.handed, &out.finish}) ticks->assign(n, -1);
    for (auto* counts : {&out.preemptions, &out.hits}) counts->assign(n, 0);
    for (auto* ranks : {&out.rank, &out.second_rank}) ranks->assign(n, -1);
    out.status = Fleet(kinds, requests, out).run(cancel);
    return out;
}

}  // namespace optalloc::simulate

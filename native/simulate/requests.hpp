// Requests over replicas of an engine, iteration by iteration, with stretches of equal iterations taken at once.
//
// Time is an integer number of ticks, so that the sum over a stretch in closed form equals the sum one by one.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace optalloc::simulate {

using Tick = std::int64_t;

// The time of one iteration: base(prompt tokens, sequences) + kv * context + pair * pairs + each * prompts read.
struct StepTable {
    std::span<const Tick> decode;                 // base without prompt tokens, by decoding sequences
    std::span<const std::int32_t> prompt, count;  // nodes of the grid, ascending; the first of each is 1 and 0
    std::span<const double> grid;                 // base at (prompt node, sequences node), ticks
    Tick kv = 0, pair = 0, each = 0;

    Tick base(int prompt_tokens, int sequences) const;
};

// Equal engines; those of one pool share its requests by weight. An engine's ranks step together, in the time of the
// slowest and in what all their tokens take together, if that is apart: `shared` is by the sums over the ranks.
struct KindInput {
    int pool = 0, engines = 1, ranks = 1;
    std::int64_t weight = 1;  // of a rank
    int chunk_tokens = 0, max_batch = 0;
    std::int64_t blocks = 0;  // of a rank
    std::int64_t extra = 0;   // blocks that a sequence holds beside those of its tokens
    StepTable times;
    StepTable shared;  // without times: nothing
};

// To which rank a request goes: that with fewest requests for its weight, each in turn as often as its weight, or the
// one that was last given the longest part of the prompt.
enum class Routing { kLeastLoaded, kInTurn, kPrefix };

// By request. With `clients` > 0 the first `clients` requests arrive at `arrival`, and each later one `arrival` after a
// request has left. What others may find of a prompt are the nodes of its path, `shared` blocks in all.
struct RequestInput {
    std::span<const Tick> arrival;
    std::span<const std::int32_t> input, output, cached, shared;
    std::span<const std::int64_t> path_start;  // one more than there are requests
    std::span<const std::int32_t> path;        // nodes, those of one request after another
    std::span<const std::int32_t> node_blocks;
    bool leaves_own = false;  // a request's own blocks stay cached behind it, too
    int clients = 0;
    int block_tokens = 16;
    Tick transfer = 0, transfer_token = 0;  // from the first pool to the second: constant, and by token of the prompt
    Routing routing = Routing::kLeastLoaded;
    bool record = false;

    std::span<const std::int32_t> path_of(int id) const {
        const std::int64_t begin = path_start[static_cast<std::size_t>(id)];
        const std::int64_t end = path_start[static_cast<std::size_t>(id) + 1];
        return path.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin));
    }
};

enum class Status { kDone, kCancelled, kTooLong };

// A stretch of iterations of one engine, as it was when the stretch began; sums over the ranks.
struct Stretch {
    std::int64_t engine, start, end, iterations, prompt, decoding, waiting, blocks;
};
constexpr std::size_t kStretchFields = 8;

struct RequestOutput {
    Status status = Status::kDone;
    // By request: arrival, first scheduled, first token, arrival in the second pool, last token.
    std::vector<Tick> arrival, start, first, handed, finish;
    std::vector<std::int32_t> preemptions, hits, rank, second_rank;  // hits: prompt tokens found in the cache
    std::vector<Tick> busy;                // by engine
    std::vector<std::int64_t> iterations;  // by engine
    std::vector<std::int64_t> peak;        // most blocks in use, by rank
    std::vector<Stretch> stretches;
};

// Kinds in order of their pool, of which there is one, or two: the first reads prompts and hands them over to the
// second.
RequestOutput run_requests(std::span<const KindInput> kinds, const RequestInput& requests,
                           const volatile std::int32_t* cancel);

}  // namespace optalloc::simulate

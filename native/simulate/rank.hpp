// One rank of an engine: its queue, its batch and its blocks, and what its next iteration holds.
#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <vector>

#include "simulate/blocks.hpp"
#include "simulate/requests.hpp"

namespace optalloc::simulate {

// Where a request stands. Only one rank at a time knows it.
struct State {
    std::int32_t generated = 0;  // tokens that left the engine
    std::int32_t prompt = 0;     // tokens that are computed before the next one is generated
    std::int32_t computed = 0;   // tokens in the cache; not kept up while it decodes
    bool decoding = false;
    bool handed = false;          // comes with its prompt computed
    std::int64_t offset = 0;      // tokens in the cache, less the decode iterations of the rank
    std::int64_t last = 0;        // decode iterations of the rank when its last token leaves
    std::int64_t order = 0;       // of arrival at the rank
    int before = -1, after = -1;  // in the batch
};

// What all ranks of a pool know of the requests, and what they write down.
struct Book {
    const RequestInput& in;
    std::vector<State> state;
    RequestOutput& out;
};

// The iteration of one rank.
struct Work {
    int prompt = 0;  // tokens
    int prompts = 0;  // that are read to their end
    int decoding = 0;
    std::int64_t context = 0;  // tokens that the decoding sequences read
    std::int64_t pairs = 0;    // of a prompt token and a token it reads
    bool settled = false;      // the next ones are equal but for the context
};

class Rank {
  public:
    Rank(const KindInput& kind, const RequestInput& in, bool hands_over);

    void arrive(int id, Book& book);
    // Gives back the blocks of a prompt that has arrived in the other pool.
    void release(int id, const Book& book);
    Work plan(Tick now, Book& book);
    // Iterations that may follow one another before anything but the context changes; at least 1.
    std::int64_t most_iterations(const Book& book);
    // The end of `count` iterations as planned; requests that leave are appended, in the order of the batch.
    void finish(std::int64_t count, Tick now, Book& book, std::vector<int>& left);

    bool queue_is_empty() const { return waiting_.empty(); }
    int outstanding() const { return static_cast<int>(waiting_.size()) + running_; }
    int waiting() const { return static_cast<int>(waiting_.size()); }
    const Blocks& blocks() const { return blocks_; }

  private:
    struct Chunk {
        int id, tokens;
    };
    struct Ending {
        std::int64_t last, order;
        int id;
        bool operator<(const Ending& o) const { return last != o.last ? last > o.last : order > o.order; }
    };

    std::int64_t blocks_for(std::int64_t tokens) const { return (tokens + block_tokens_ - 1) / block_tokens_; }
    std::int64_t held(std::int64_t tokens) const { return extra_ + blocks_for(tokens); }
    std::int64_t& crossing(std::int64_t offset);
    void preempt(Book& book);
    bool admit(Tick now, Book& book, Work& work, int& budget);
    void chunk(int id, int tokens, Book& book, Work& work);
    void join(int id, Book& book);
    void stop_decoding(int id, Book& book);
    void leave(int id, Book& book);
    void let_go(int id, std::int64_t computed, std::int64_t own, const Book& book);
    void append(int id, Book& book);
    void remove(int id, Book& book);
    void drop_stale(const Book& book);

    int chunk_tokens_, max_batch_, block_tokens_;
    std::int64_t extra_;
    bool hands_over_;
    Blocks blocks_;
    std::deque<int> waiting_;
    int first_ = -1, tail_ = -1, running_ = 0;  // the batch, in order of arrival
    int partial_ = -1;                          // whose prompt is not computed whole: the tail of the batch
    int decoding_ = 0;
    std::int64_t context_ = 0, turns_ = 0, arrivals_ = 0;  // turns: decode iterations so far
    std::vector<std::int64_t> crossings_;  // decoding sequences that need a block, by turn modulo the block
    std::vector<Ending> endings_;          // a heap; some entries are stale
    std::vector<Chunk> chunks_;            // of the planned iteration
};

}  // namespace optalloc::simulate

// The KV blocks of one rank: free, held by requests, and held by prefixes that requests share.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>

namespace optalloc::simulate {

// A prefix stays cached behind its last user until its blocks are needed: those of the prefix that was let go
// first are taken first, from its end.
class Blocks {
  public:
    Blocks(std::int64_t capacity, int block_tokens, std::span<const std::int32_t> prefix)
        : capacity_(capacity), free_(capacity), block_tokens_(block_tokens), prefix_(prefix) {}

    // Whole blocks of a group's prefix; 0 without a group.
    std::int64_t shared(int group) const;
    std::int64_t available() const { return free_ + idle_; }
    // Whether a request's own blocks can be taken once its prefix is pinned.
    bool fits(std::int64_t own, int group) const;
    void take(std::int64_t count);
    // Gives up every prefix that nobody uses.
    void drop_idle();
    void give(std::int64_t count) { free_ += count; }
    // Keeps a group's prefix in place and takes the blocks it lacks; returns the cached tokens it had.
    std::int64_t pin(int group);
    void unpin(int group);
    std::int64_t used() const { return capacity_ - free_ - idle_; }
    std::int64_t peak() const { return peak_; }

  private:
    struct Prefix {
        std::int64_t cached = 0;  // blocks
        std::int64_t users = 0;
        int before = -1, after = -1;  // among the idle ones
    };

    void link(int group);
    void unlink(int group);

    std::int64_t capacity_, free_, idle_ = 0, peak_ = 0;
    int block_tokens_;
    std::span<const std::int32_t> prefix_;
    std::unordered_map<int, Prefix> cached_;
    int first_ = -1, last_ = -1;  // idle prefixes, that let go first at the front
};

}  // namespace optalloc::simulate

// The KV blocks of one rank: free, held by requests, and cached: those of prefixes that requests share.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>

namespace optalloc::simulate {

// What requests may share are the nodes of a tree, some blocks each; a request has the nodes of a path from a root.
// Blocks stay cached behind their last user until they are needed: those let go first are taken first, and those of
// one request from its end, so that no node outlives the ones before it.
class Blocks {
  public:
    using Path = std::span<const std::int32_t>;

    Blocks(std::int64_t capacity, std::span<const std::int32_t> node_blocks)
        : capacity_(capacity), free_(capacity), node_blocks_(node_blocks) {}

    std::int64_t available() const { return free_ + idle_; }
    // Whether a request's own blocks can be taken once its path is pinned.
    bool fits(std::int64_t own, Path path) const;
    void take(std::int64_t count);
    // Gives up everything cached that nobody uses.
    void drop_idle();
    void give(std::int64_t count) { free_ += count; }
    // Keeps a path in place and takes the blocks it lacks; returns how many of its first ones were cached.
    std::int64_t pin(Path path);
    // Lets a path of `shared` blocks go, of which the first `computed` have been.
    void unpin(Path path, std::int64_t shared, std::int64_t computed);
    // Leaves a request's own blocks in the cache, where nobody asks for them.
    void leave(std::int64_t count);
    std::int64_t used() const { return capacity_ - free_ - idle_; }
    std::int64_t peak() const { return peak_; }

  private:
    struct Entry {
        std::int64_t key;         // the node; below 0: a request's own blocks
        std::int64_t cached = 0;  // blocks; all of them while there are users
        std::int64_t users = 0;
        Entry *before = nullptr, *after = nullptr;  // among the idle ones
    };

    std::int64_t size(std::int32_t node) const { return node_blocks_[static_cast<std::size_t>(node)]; }
    void link(Entry& entry);
    void unlink(const Entry& entry);

    std::int64_t capacity_, free_, idle_ = 0, peak_ = 0, left_ = 0;
    std::span<const std::int32_t> node_blocks_;
    std::unordered_map<std::int64_t, Entry> entries_;
    Entry *first_ = nullptr, *last_ = nullptr;  // idle, those let go first at the front
};

}  // namespace optalloc::simulate

#include "simulate/blocks.hpp"

#include <algorithm>

namespace optalloc::simulate {

std::int64_t Blocks::shared(int group) const {
    return group < 0 ? 0 : prefix_[static_cast<std::size_t>(group)] / block_tokens_;
}

bool Blocks::fits(std::int64_t own, int group) const {
    const auto found = cached_.find(group);
    const bool pinned = found != cached_.end() && found->second.users > 0;
    return own + (pinned ? 0 : shared(group)) <= available();
}

void Blocks::take(std::int64_t count) {
    while (free_ < count) {
        Prefix& oldest = cached_.find(first_)->second;
        const std::int64_t taken = std::min(count - free_, oldest.cached);
        oldest.cached -= taken;
        idle_ -= taken;
        free_ += taken;
        if (oldest.cached == 0) {
            const int group = first_;
            unlink(group);
            cached_.erase(group);
        }
    }
    free_ -= count;
    peak_ = std::max(peak_, used());
}

void Blocks::drop_idle() {
    const std::int64_t all = available();
    take(all);
    give(all);
}

std::int64_t Blocks::pin(int group) {
    const std::int64_t all = shared(group);
    if (all == 0) return 0;
    Prefix& prefix = cached_[group];
    const std::int64_t had = prefix.cached;
    if (prefix.users++ == 0) {
        if (had > 0) {
            unlink(group);
            idle_ -= had;
        }
        prefix.cached = all;
        take(all - had);
    }
    return had * block_tokens_;
}

void Blocks::unpin(int group) {
    if (shared(group) == 0) return;
    Prefix& prefix = cached_.find(group)->second;
    if (--prefix.users == 0) {
        idle_ += prefix.cached;
        link(group);
    }
}

void Blocks::link(int group) {
    Prefix& prefix = cached_.find(group)->second;
    prefix.before = last_;
    prefix.after = -1;
    if (last_ >= 0) cached_.find(last_)->second.after = group;
    else first_ = group;
    last_ = group;
}

void Blocks::unlink(int group) {
    const Prefix& prefix = cached_.find(group)->second;
    if (prefix.before >= 0) cached_.find(prefix.before)->second.after = prefix.after;
    else first_ = prefix.after;
    if (prefix.after >= 0) cached_.find(prefix.after)->second.before = prefix.before;
    else last_ = prefix.before;
}

}  // namespace optalloc::simulate

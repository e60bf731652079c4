#include "simulate/blocks.hpp"

#include <algorithm>

namespace optalloc::simulate {

bool Blocks::fits(std::int64_t own, Path path) const {
    std::int64_t need = own;
    for (const std::int32_t node : path) {
        const auto found = entries_.find(node);
        if (found == entries_.end() || found->second.users == 0) need += size(node);
    }
    return need <= available();
}

void Blocks::take(std::int64_t count) {
    while (free_ < count) {
        Entry& oldest = *first_;
        const std::int64_t taken = std::min(count - free_, oldest.cached);
        oldest.cached -= taken;
        idle_ -= taken;
        free_ += taken;
        if (oldest.cached == 0) {
            unlink(oldest);
            entries_.erase(entries_.find(oldest.key));
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

std::int64_t Blocks::pin(Path path) {
    std::int64_t found = 0, missing = 0;
    bool whole = true;
    for (const std::int32_t node : path) {
        Entry& entry = entries_.try_emplace(node, Entry{.key = node}).first->second;
        const std::int64_t all = size(node);
        if (entry.users++ == 0 && entry.cached > 0) {
            unlink(entry);
            idle_ -= entry.cached;
        }
        if (whole) found += entry.cached;
        whole = whole && entry.cached == all;
        missing += all - entry.cached;
        entry.cached = all;
    }
    take(missing);
    return found;
}

void Blocks::unpin(Path path, std::int64_t shared, std::int64_t computed) {
    for (auto node = path.rbegin(); node != path.rend(); ++node) {
        const std::int64_t all = size(*node);
        shared -= all;
        const auto place = entries_.find(*node);
        Entry& entry = place->second;
        if (--entry.users > 0) continue;
        entry.cached = std::clamp<std::int64_t>(computed - shared, 0, all);
        give(all - entry.cached);
        idle_ += entry.cached;
        if (entry.cached > 0) link(entry);
        else entries_.erase(place);
    }
}

void Blocks::leave(std::int64_t count) {
    if (count == 0) return;
    const std::int64_t key = --left_;
    Entry& entry = entries_.try_emplace(key, Entry{.key = key, .cached = count}).first->second;
    idle_ += count;
    link(entry);
}

void Blocks::link(Entry& entry) {
    entry.before = last_;
    entry.after = nullptr;
    (last_ != nullptr ? last_->after : first_) = &entry;
    last_ = &entry;
}

void Blocks::unlink(const Entry& entry) {
    (entry.before != nullptr ? entry.before->after : first_) = entry.after;
    (entry.after != nullptr ? entry.after->before : last_) = entry.before;
}

}  // namespace optalloc::simulate

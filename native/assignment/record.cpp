#include "assignment/record.hpp"

#include <utility>

namespace optalloc::assignment {

void Record::clear() {
    rows_.clear();
    further_.clear();
    follows_ = true;
}

void Record::begin_subtree() {
    clear();
    follows_ = false;
}

void Record::branch(int unit, int task, bool in) {
    rows_.insert(rows_.end(), {kBranch, unit, task, in ? Int{1} : Int{0}});
}

namespace {

void append(const std::vector<Record::Int>& rows, const std::vector<const Record::Part*>& parts,
            std::vector<Record::Int>& whole) {
    for (std::size_t at = 0; at < rows.size();) {
        const Record::Int kind = rows[at];
        if (kind == Record::kSubtree) {
            const Record::Part& part = *parts[static_cast<std::size_t>(rows[at + 1])];
            append(part.rows, part.parts, whole);
            at += 2;
            continue;
        }
        std::size_t size = 1;
        if (kind == Record::kBranch) size = 4;
        else if (kind != Record::kDead) size = 2 + 2 * static_cast<std::size_t>(rows[at + 1]);
        whole.insert(whole.end(), rows.begin() + static_cast<std::ptrdiff_t>(at),
                     rows.begin() + static_cast<std::ptrdiff_t>(at + size));
        at += size;
    }
}

}  // namespace

void Record::insert(const std::vector<const Part*>& parts) {
    std::vector<Int> whole;
    append(rows_, parts, whole);
    rows_ = std::move(whole);
}

}  // namespace optalloc::assignment

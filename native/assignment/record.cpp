#include "assignment/record.hpp"

#include <utility>

namespace optalloc::assignment {

void Record::clear() {
    rows_.clear();
    further_.clear();
}

void Record::branch(int unit, int task, bool in) {
    rows_.insert(rows_.end(), {kBranch, unit, task, in ? Int{1} : Int{0}});
}

void Record::insert(const std::vector<std::vector<Int>>& subtrees) {
    std::vector<Int> whole;
    for (std::size_t at = 0; at < rows_.size();) {
        const Int kind = rows_[at];
        if (kind == kSubtree) {
            const std::vector<Int>& rows = subtrees[static_cast<std::size_t>(rows_[at + 1])];
            whole.insert(whole.end(), rows.begin(), rows.end());
            at += 2;
            continue;
        }
        const std::size_t size = kind == kDead ? 1 : kind == kBranch ? 4 : 2 + 2 * static_cast<std::size_t>(rows_[at + 1]);
        whole.insert(whole.end(), rows_.begin() + static_cast<std::ptrdiff_t>(at),
                     rows_.begin() + static_cast<std::ptrdiff_t>(at + size));
        at += size;
    }
    rows_ = std::move(whole);
}

}  // namespace optalloc::assignment

#include "assignment/record.hpp"

namespace optalloc::assignment {

void Record::branch(int unit, int task, bool in) {
    rows_.insert(rows_.end(), {kBranch, unit, task, in ? Int{1} : Int{0}});
}

void Record::fix(const Domain& domain, const std::vector<Int>& multiplier) {
    before_ = rows_.size();
    add(kFix, domain, multiplier);
}

void Record::add(Kind kind, const Domain& domain, const std::vector<Int>& multiplier) {
    rows_.push_back(kind);
    rows_.push_back(domain.num_free());
    for (int j = 0; j < domain.instance().num_tasks; ++j) {
        if (domain.unit_of(j) >= 0) continue;
        rows_.push_back(j);
        rows_.push_back(multiplier[static_cast<std::size_t>(j)]);
    }
}

}  // namespace optalloc::assignment

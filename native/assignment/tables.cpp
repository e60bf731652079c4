#include "assignment/tables.hpp"

#include "clones.hpp"

namespace optalloc::assignment {

namespace {

OPTALLOC_CLONES void better_narrow(std::int32_t* out, const std::int32_t* skip, const std::int32_t* take,
                                   std::int32_t profit, std::size_t count) {
    for (std::size_t y = 0; y < count; ++y) {
        const std::int32_t with = take[y] + profit;
        out[y] = skip[y] > with ? skip[y] : with;
    }
}
OPTALLOC_CLONES std::int32_t best_sum_narrow(const std::int32_t* a, const std::int32_t* b, std::size_t count) {
    std::int32_t best = 0;
    for (std::size_t y = 0; y < count; ++y) {
        const std::int32_t sum = a[y] + b[y];
        best = best > sum ? best : sum;
    }
    return best;
}

}  // namespace

void better(std::int32_t* out, const std::int32_t* skip, const std::int32_t* take, std::int32_t profit,
            std::size_t count) {
    better_narrow(out, skip, take, profit, count);
}
void better(Int* out, const Int* skip, const Int* take, Int profit, std::size_t count) {
    for (std::size_t y = 0; y < count; ++y) out[y] = std::max(skip[y], take[y] + profit);
}
std::int32_t best_sum(const std::int32_t* a, const std::int32_t* b, std::size_t count) {
    return best_sum_narrow(a, b, count);
}
Int best_sum(const Int* a, const Int* b, std::size_t count) {
    Int best = 0;
    for (std::size_t y = 0; y < count; ++y) best = std::max(best, a[y] + b[y]);
    return best;
}

}  // namespace optalloc::assignment

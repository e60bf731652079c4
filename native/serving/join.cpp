#include "serving/join.hpp"

#include <algorithm>
#include <limits>
#include <vector>

#include "clones.hpp"

namespace optalloc::serving {

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr std::size_t kBlock = 64;

struct Add {
    double operator()(double a, double b) const { return a + b; }
};
struct Largest {
    double operator()(double a, double b) const { return a < b ? b : a; }
};

// Lowers the totals of one block: first part `one[q]`, the rest at rest[t - q], ties to the q before.
template <class Join>
inline void lower(const double* one, const double* rest, std::int64_t first_q, double* cost, std::int64_t* taken,
                  Join join) {
    for (std::size_t a = 0; a < kBlock; ++a) {
        const double part = one[a];
        if (part == kInfinity) continue;
        const double* other = rest - a;
        const std::int64_t q = first_q + static_cast<std::int64_t>(a);
        for (std::size_t t = 0; t < kBlock; ++t) {
            const double whole = join(part, other[t]);
            const bool less = whole < cost[t];
            cost[t] = less ? whole : cost[t];
            taken[t] = less ? q : taken[t];
        }
    }
}

OPTALLOC_CLONES void lower_sum(const double* one, const double* rest, std::int64_t first_q, double* cost,
                               std::int64_t* taken) {
    lower(one, rest, first_q, cost, taken, Add{});
}

OPTALLOC_CLONES void lower_largest(const double* one, const double* rest, std::int64_t first_q, double* cost,
                                   std::int64_t* taken) {
    lower(one, rest, first_q, cost, taken, Largest{});
}

std::vector<double> least_of_blocks(const std::vector<double>& costs, std::size_t skipped, std::size_t blocks) {
    std::vector<double> least(blocks);
    for (std::size_t b = 0; b < blocks; ++b) {
        const auto begin = costs.begin() + static_cast<std::ptrdiff_t>(skipped + b * kBlock);
        least[b] = *std::min_element(begin, begin + kBlock);
    }
    return least;
}

}  // namespace

void join_shares(std::span<const double> one, std::span<const double> other, bool largest, std::size_t first,
                 std::span<double> cost, std::span<std::int64_t> taken) {
    const std::size_t n = cost.size(), blocks = (n + kBlock - 1) / kBlock;
    std::vector<double> left(blocks * kBlock, kInfinity), right((blocks + 1) * kBlock, kInfinity);
    std::copy(one.begin(), one.end(), left.begin());
    std::copy(other.begin(), other.end(), right.begin() + kBlock);  // a block of nothing before it
    const std::vector<double> least_one = least_of_blocks(left, 0, blocks);
    const std::vector<double> least_other = least_of_blocks(right, 0, blocks + 1);
    const auto visit_block = largest ? lower_largest : lower_sum;
    std::vector<double> bound(blocks);
    for (std::size_t k = first / kBlock; k < blocks; ++k) {
        std::size_t best = 0;
        for (std::size_t i = 0; i <= k; ++i) {
            // Blocks k - i and the one before, which `least_other` holds one further on.
            const double rest = std::min(least_other[k - i + 1], least_other[k - i]);
            bound[i] = largest ? std::max(least_one[i], rest) : least_one[i] + rest;
            if (bound[i] < bound[best]) best = i;
        }
        double costs[kBlock];
        std::int64_t firsts[kBlock];
        const auto visit = [&](std::size_t i) {
            visit_block(left.data() + i * kBlock, right.data() + (k - i + 1) * kBlock,
                        static_cast<std::int64_t>(i * kBlock), costs, firsts);
            return *std::max_element(costs, costs + kBlock);
        };
        std::fill(costs, costs + kBlock, kInfinity);
        std::fill(firsts, firsts + kBlock, 0);
        const double reached = visit(best);  // no total costs more, whoever comes first
        std::fill(costs, costs + kBlock, kInfinity);
        double most = kInfinity;
        for (std::size_t i = 0; i <= k; ++i) {
            if (bound[i] < most && bound[i] <= reached) most = visit(i);
        }
        for (std::size_t t = 0; t < kBlock; ++t) {
            const std::size_t total = k * kBlock + t;
            if (total < first || total >= n) continue;
            cost[total] = costs[t];
            taken[total] = firsts[t];
        }
    }
}

}  // namespace optalloc::serving

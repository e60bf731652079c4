#include "serving/shares.hpp"

#include <algorithm>
#include <limits>

namespace optalloc::serving {

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

std::size_t at(int index) { return static_cast<std::size_t>(index); }

// Least cost of 0, 1, .. parts or more, and how each is reached.
struct Table {
    std::vector<double> cost;
    std::vector<int> choice, rest;  // what was taken last, and the parts before it

    explicit Table(int most) : cost(at(most + 1), kInfinity), choice(at(most + 1), -1), rest(at(most + 1), 0) {}

    void offer(int parts, double price, int taken, int before) {
        if (price >= cost[at(parts)]) return;
        cost[at(parts)] = price;
        choice[at(parts)] = taken;
        rest[at(parts)] = before;
    }
};

}  // namespace

std::vector<double> cheapest_shares(const SharedLanes& in, std::span<std::int32_t> counts) {
    const int regions = static_cast<int>(in.low.size()), lanes = static_cast<int>(in.cells.size());
    std::vector<double> found;
    std::fill(counts.begin(), counts.end(), 0);
    for (std::size_t length = 0; length < in.num_lengths; ++length) {
        std::vector<Table> own;                      // lanes of each region
        std::vector<Table> together(1, Table(in.parts));  // all regions before each
        together[0].cost[0] = 0.0;
        for (int r = 0; r < regions; ++r) {
            Table& table = own.emplace_back(in.high[at(r)]);
            table.cost[0] = 0.0;
            for (int w = 1; w <= in.high[at(r)]; ++w) {
                for (int i = 0; i < lanes; ++i) {
                    if (in.region[at(i)] != r) continue;
                    const int before = std::max(0, w - in.cells[at(i)]);
                    table.offer(w, table.cost[at(before)] + in.cost[at(i) * in.num_lengths + length], i, before);
                }
            }
            Table sums(in.parts);
            for (int s = 0; s <= in.parts; ++s) {
                const double before = together.back().cost[at(s)];
                if (before == kInfinity) continue;
                for (int w = in.low[at(r)]; w <= in.high[at(r)]; ++w) {
                    sums.offer(std::min(in.parts, s + w), before + table.cost[at(w)], w, s);
                }
            }
            together.push_back(std::move(sums));
        }
        found.push_back(together.back().cost[at(in.parts)]);
        if (found.back() == kInfinity) continue;
        int sum = in.parts;
        for (int r = regions; r-- > 0;) {
            const Table& table = own[at(r)];
            for (int w = together[at(r + 1)].choice[at(sum)]; w > 0; w = table.rest[at(w)]) {
                ++counts[length * at(lanes) + at(table.choice[at(w)])];
            }
            sum = together[at(r + 1)].rest[at(sum)];
        }
    }
    return found;
}

}  // namespace optalloc::serving

// The cheapest way through the layers when a part of the flow has to pass from one group of nodes to the other.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace optalloc::serving {

// Items are kinds of nodes with a number of layers, in one of two groups.
struct SplitItems {
    std::span<const std::int32_t> group;
    std::span<const double> weight;         // share of the flow a node passes, in (0, 1]
    std::span<const double> length;         // layers
    std::span<const double> price;          // of one layer on such a node
    std::span<const double> whole;          // price of the node; at least length * price
    std::span<const std::int32_t> size;     // shares of the flow told apart on a node, ascending, in parts
    std::span<const double> size_price;     // 2 x sizes: of one layer at a share of at most that size, by group
};

struct SplitLimits {
    int cells;                              // of the share of group 0
    int parts;                              // of a cell
    int nodes[2];                           // of each group
    double link[2];                         // best link from group 0 to 1 and back, as a share of the flow
    int low, high;                          // some layer has its share in a cell up to low, some in one from high on
    double cover;                           // no layer costs less
    bool begins_pay;                        // whether only nodes that begin take in flow
};

// What the cheapest way costs is excess + layers * cover, and at other prices no more than the sum of prices times
// what it uses, about. Nodes that lose at a crossing use `whole` and give back layers of their price.
struct Split {
    double excess;  // over `cover` a layer; infinite if there is no way
    double layers;
    std::vector<double> price, whole;  // items
    std::vector<double> size_price;    // 2 x sizes
};

Split cheapest_split(const SplitItems& items, const SplitLimits& limits);

}  // namespace optalloc::serving

// The cheapest way through the layers when every region has to carry most of the flow at some layer.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace optalloc::serving {

// Items are kinds of nodes with a number of layers, in one of the regions.
struct WalkItems {
    std::span<const std::int32_t> region;
    std::span<const double> weight;        // share of the flow a node passes, in (0, 1]
    std::span<const double> price;         // of one layer on such a node
    std::span<const double> out, in;       // of a layer on a node that ends there, or begins there
};

struct WalkLimits {
    int regions, levels, parts;            // levels of the share of a region; parts a level in covers
    std::span<const double> leaves, enters;  // regions: best link out of it, into it, as a share of the flow
    std::span<const std::int32_t> visit;   // regions: level it must reach at some layer; > levels: none
    double cover;                          // no layer costs less
};

// How much of each item the layers use, as plain nodes, as ones that end at a crossing and that begin at one.
struct Walk {
    double excess;  // over layers * cover; no walk has less
    double layers;  // that its use stands for
    std::vector<double> plain, out, in;
};

Walk cheapest_walk(const WalkItems& items, const WalkLimits& limits);

}  // namespace optalloc::serving

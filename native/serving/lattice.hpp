// The most layers that stages cover on free nodes, for every number of free nodes of each kind at once.
#pragma once

#include <cstdint>
#include <span>

namespace optalloc::serving {

struct Stages {
    std::span<const std::int64_t> layers;  // of each stage
    std::span<const std::int64_t> nodes;   // stages x kinds
};

// `most` and `last` have an entry for every 0 .. counts[t] of each kind, the last kind fastest: the most layers, and a
// stage by which they are reached (-1: none). A stage may be used again and again. O(entries * stages).
void cover_lattice(const Stages& stages, std::span<const std::int64_t> counts, std::span<std::int32_t> most,
                   std::span<std::int32_t> last);

}  // namespace optalloc::serving

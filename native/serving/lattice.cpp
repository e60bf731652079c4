#include "serving/lattice.hpp"

#include <algorithm>
#include <vector>

namespace optalloc::serving {

void cover_lattice(const Stages& stages, std::span<const std::int64_t> counts, std::span<std::int32_t> most,
                   std::span<std::int32_t> last) {
    std::fill(most.begin(), most.end(), 0);
    std::fill(last.begin(), last.end(), -1);
    const std::size_t kinds = counts.size();
    if (kinds == 0) return;
    std::vector<std::int64_t> stride(kinds, 1);
    for (std::size_t t = kinds - 1; t-- > 0;) stride[t] = stride[t + 1] * (counts[t + 1] + 1);
    for (std::size_t p = 0; p < stages.layers.size(); ++p) {
        const auto nodes = stages.nodes.subspan(p * kinds, kinds);
        const auto layers = static_cast<std::int32_t>(stages.layers[p]);
        std::int64_t below = 0;
        bool fits = true, any = false;
        for (std::size_t t = 0; t < kinds; ++t) {
            below += nodes[t] * stride[t];
            fits = fits && nodes[t] <= counts[t];
            any = any || nodes[t] > 0;
        }
        if (!fits || !any) continue;
        std::vector<std::int64_t> free(nodes.begin(), nodes.end());  // rows of the last kind, in ascending order
        for (bool more = true; more;) {
            std::int64_t row = 0;
            for (std::size_t t = 0; t + 1 < kinds; ++t) row += free[t] * stride[t];
            for (std::int64_t i = row + nodes[kinds - 1]; i <= row + counts[kinds - 1]; ++i) {
                const auto here = static_cast<std::size_t>(i);
                const std::int32_t through = most[static_cast<std::size_t>(i - below)] + layers;
                if (through <= most[here]) continue;
                most[here] = through;
                last[here] = static_cast<std::int32_t>(p);
            }
            more = false;
            for (std::size_t t = kinds - 1; t-- > 0 && !more;) {
                more = ++free[t] <= counts[t];
                if (!more) free[t] = nodes[t];
            }
        }
    }
}

}  // namespace optalloc::serving

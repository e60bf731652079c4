// Twins: units that nothing in the instance tells apart.
#pragma once

#include <vector>

namespace optalloc::assignment {

// By unit: the first one that is the same, often itself. same(one, other) is an equivalence.
template <typename Same>
std::vector<int> first_alike(int num_units, const Same& same) {
    std::vector<int> first;
    for (int i = 0; i < num_units; ++i) {
        int k = 0;
        while (k < i && !(first[static_cast<std::size_t>(k)] == k && same(k, i))) ++k;
        first.push_back(k);
    }
    return first;
}

}  // namespace optalloc::assignment

// Random numbers that equal seeds repeat.
#pragma once

#include <cstdint>

namespace optalloc::assignment {

// splitmix64: a double in [0, 1); moves the state on.
inline double draw(std::uint64_t& state) {
    std::uint64_t z = (state += 0x9e3779b97f4a7c15ULL);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return static_cast<double>((z ^ (z >> 31)) >> 11) * 0x1.0p-53;
}

}  // namespace optalloc::assignment

// The inverse of the basis of a small linear programme.
#pragma once

#include <cstddef>
#include <vector>

namespace optalloc::serving {

// The inverse of an n x n matrix in rows, by elimination with the largest pivot of each column; empty where it is
// singular.
std::vector<double> inverse_of(std::vector<double> matrix, std::size_t n);

}  // namespace optalloc::serving

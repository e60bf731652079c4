// The inverse of the basis of a small linear programme.
#pragma once

#include <cstddef>
#include <functional>
#include <vector>

namespace optalloc::serving {

// The inverse, in rows, of the n x n matrix whose column c is written by entries(c, column), by elimination with the
// largest pivot of each column; empty where it is singular.
std::vector<double> inverse_of(std::size_t n, const std::function<void(std::size_t, std::vector<double>&)>& entries);

}  // namespace optalloc::serving

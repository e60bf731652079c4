#include "serving/inverse.hpp"

#include <algorithm>
#include <cmath>

namespace optalloc::serving {

std::vector<double> inverse_of(std::size_t n, const std::function<void(std::size_t, std::vector<double>&)>& entries) {
    std::vector<double> matrix(n * n), inverse(n * n, 0.0), column(n);
    for (std::size_t c = 0; c < n; ++c) {
        entries(c, column);
        for (std::size_t r = 0; r < n; ++r) matrix[r * n + c] = column[r];
    }
    for (std::size_t r = 0; r < n; ++r) inverse[r * n + r] = 1.0;
    for (std::size_t c = 0; c < n; ++c) {
        std::size_t top = c;
        for (std::size_t r = c + 1; r < n; ++r) {
            if (std::abs(matrix[r * n + c]) > std::abs(matrix[top * n + c])) top = r;
        }
        if (std::abs(matrix[top * n + c]) < 1e-14) return {};
        if (top != c) {
            std::swap_ranges(&matrix[top * n], &matrix[top * n] + n, &matrix[c * n]);
            std::swap_ranges(&inverse[top * n], &inverse[top * n] + n, &inverse[c * n]);
        }
        const double pivot = matrix[c * n + c];
        for (std::size_t k = 0; k < n; ++k) {
            matrix[c * n + k] /= pivot;
            inverse[c * n + k] /= pivot;
        }
        for (std::size_t r = 0; r < n; ++r) {
            const double factor = matrix[r * n + c];
            if (r == c || factor == 0.0) continue;
            for (std::size_t k = c; k < n; ++k) matrix[r * n + k] -= factor * matrix[c * n + k];
            for (std::size_t k = 0; k < n; ++k) inverse[r * n + k] -= factor * inverse[c * n + k];
        }
    }
    return inverse;
}

}  // namespace optalloc::serving

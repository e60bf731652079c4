// The linear relaxation's dual in one price per unit of capacity: where the multipliers start.
#pragma once

#include <functional>
#include <vector>

#include "assignment/instance.hpp"

namespace optalloc::assignment {

struct Prices {
    std::vector<double> unit;        // u_i >= 0, cost per unit of load
    std::vector<double> multiplier;  // lambda_j = min_i (c_ij + u_i w_ij)
    double bound = 0.0;              // D(u), in floating point: a guide, not a proof
};

// Maximises D(u) = sum_j min_i (c_ij + u_i w_ij) - sum_i u_i L_i by projected Newton ascent on its
// soft-minimum smoothing at falling temperatures. stopped() is asked once a step.
Prices find_prices(const Instance& instance, const std::function<bool()>& stopped);

}  // namespace optalloc::assignment

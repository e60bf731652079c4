// Offers to carry a part of the requests in flight: equal engines in some number, each under the load of the fullest.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace optalloc::serving {

// Offer i is number[i] engines engine[i] on group[i]: with q requests, from number[i] on, each holds at most l =
// ceil(q / number[i]) of them, and a request takes T = request_s[engine[i] * flight + l - 1] seconds. Its cost is
// fixed[i] - gain q / T, or T itself with `latency`; none where T is infinite or above `most_s`.
struct Offers {
    std::span<const double> request_s;
    std::size_t flight;
    std::span<const std::int64_t> engine, number, group;
    std::span<const double> fixed;
    double gain;
    bool latency;
    double most_s;
};

// Lowers cost[group * (flight + 1) + q] to that of the cheapest offer, and `which` to its index; of equal ones the first.
// Time O(offers flight).
void cheapest_offers(const Offers& offers, std::span<double> cost, std::span<std::int64_t> which);

// Lowers found[engine * flight + l - 1] to the least cost of all `flight` requests with an offer of that engine under the
// load l, beside rest[group * (flight + 1) + q] for the q requests that are left: the sum of both, or the larger with
// `latency`. Time O(offers flight).
void least_beside(const Offers& offers, std::span<const double> rest, std::span<double> found);

}  // namespace optalloc::serving

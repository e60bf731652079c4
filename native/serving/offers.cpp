#include "serving/offers.hpp"

#include <algorithm>

namespace optalloc::serving {

namespace {

// Calls visit(q, cost, load) for every number of requests that offer i carries.
template <class Visit>
void for_each(const Offers& offers, std::size_t i, Visit visit) {
    const auto number = static_cast<std::size_t>(offers.number[i]);
    const double* request_s = offers.request_s.data() + static_cast<std::size_t>(offers.engine[i]) * offers.flight;
    for (std::size_t load = 1; (load - 1) * number < offers.flight; ++load) {
        const double seconds = request_s[load - 1];
        if (!(seconds <= offers.most_s) || seconds > 1e300) continue;
        const std::size_t last = std::min(load * number, offers.flight);
        for (std::size_t q = std::max(number, (load - 1) * number + 1); q <= last; ++q) {
            const double rate = static_cast<double>(q) / seconds;
            visit(q, offers.latency ? seconds : offers.fixed[i] - offers.gain * rate, load);
        }
    }
}

}  // namespace

void cheapest_offers(const Offers& offers, std::span<double> cost, std::span<std::int64_t> which) {
    for (std::size_t i = 0; i < offers.engine.size(); ++i) {
        const std::size_t row = static_cast<std::size_t>(offers.group[i]) * (offers.flight + 1);
        double* costs = cost.data() + row;
        std::int64_t* offer = which.data() + row;
        for_each(offers, i, [&](std::size_t q, double here, std::size_t) {
            if (here < costs[q]) {
                costs[q] = here;
                offer[q] = static_cast<std::int64_t>(i);
            }
        });
    }
}

void least_beside(const Offers& offers, std::span<const double> rest, std::span<double> found) {
    for (std::size_t i = 0; i < offers.engine.size(); ++i) {
        const double* left = rest.data() + static_cast<std::size_t>(offers.group[i]) * (offers.flight + 1) + offers.flight;
        double* least = found.data() + static_cast<std::size_t>(offers.engine[i]) * offers.flight;
        for_each(offers, i, [&](std::size_t q, double here, std::size_t load) {
            const double other = *(left - q);
            const double whole = offers.latency ? std::max(here, other) : here + other;
            least[load - 1] = std::min(least[load - 1], whole);
        });
    }
}

}  // namespace optalloc::serving

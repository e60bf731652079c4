// The schedule that all annealing shares: when it ends, and how warm it is until then.
#pragma once

#include <chrono>
#include <cmath>
#include <cstdint>

#include "serving/anneal.hpp"

namespace optalloc::serving {

class Cooling {
  public:
    Cooling(const AnnealOptions& options, const int* cancel)
        : options_(options), cancel_(cancel), start_(std::chrono::steady_clock::now()) {}

    bool goes_on(std::int64_t step, double best) const {
        if (step >= options_.steps || best >= options_.target) return false;
        if (step % kLook != 0) return true;
        if (cancel_ != nullptr && *cancel_ != 0) return false;
        const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - start_;
        return options_.seconds <= 0.0 || spent.count() <= options_.seconds;
    }

    double temperature(std::int64_t step) const {
        const double done = static_cast<double>(step) / static_cast<double>(options_.steps);
        return options_.hot * std::pow(options_.cold / options_.hot, done);
    }

  private:
    static constexpr std::int64_t kLook = 256;  // steps from one look at the clock to the next
    const AnnealOptions& options_;
    const int* cancel_;
    std::chrono::steady_clock::time_point start_;
};

}  // namespace optalloc::serving

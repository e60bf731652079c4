#include "assignment/prices.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace optalloc::assignment {

namespace {

constexpr int kStages = 14;
constexpr int kSteps = 12;
constexpr int kTrials = 12;
constexpr double kCooling = 0.45;
constexpr double kDropped = 25.0;       // exponents below -25 weigh nothing
constexpr int kMaxNewtonUnits = 300;    // beyond, the diagonal of the Hessian alone

struct Pair {
    int unit;
    double cost, load;
};

class Smoothed {
  public:
    explicit Smoothed(const Instance& instance)
        : m(static_cast<std::size_t>(instance.num_units)),
          pairs_(static_cast<std::size_t>(instance.num_tasks)),
          capacity_(instance.capacity.begin(), instance.capacity.end()) {
        for (int j = 0; j < instance.num_tasks; ++j) {
            for (int i = 0; i < instance.num_units; ++i) {
                const std::size_t k = instance.at(i, j);
                if (!instance.allowed[k]) continue;
                pairs_[static_cast<std::size_t>(j)].push_back(
                    {i, static_cast<double>(instance.cost[k]), static_cast<double>(instance.load[k])});
            }
        }
    }

    // D and D_t at u; with derivatives also the gradient and the negated Hessian.
    void evaluate(const std::vector<double>& u, double t, bool derivatives) {
        exact = smooth = 0.0;
        if (derivatives) {
            gradient.assign(m, 0.0);
            curvature.assign(m * m, 0.0);
        }
        for (std::size_t i = 0; i < m; ++i) {
            exact -= u[i] * capacity_[i];
            if (derivatives) gradient[i] = -capacity_[i];
        }
        smooth = exact;
        for (const auto& row : pairs_) {
            double low = std::numeric_limits<double>::infinity();
            for (const Pair& p : row) low = std::min(low, p.cost + u[static_cast<std::size_t>(p.unit)] * p.load);
            kept_.clear();
            double total = 0.0;
            for (const Pair& p : row) {
                const double e = (low - p.cost - u[static_cast<std::size_t>(p.unit)] * p.load) / t;
                if (e < -kDropped) continue;
                kept_.push_back({static_cast<std::size_t>(p.unit), std::exp(e), p.load});
                total += kept_.back().share;
            }
            exact += low;
            smooth += low - t * std::log(total);
            if (!derivatives) continue;
            for (Kept& a : kept_) a.share /= total;
            for (const Kept& a : kept_) {
                gradient[a.unit] += a.share * a.load;
                curvature[a.unit * m + a.unit] += a.share * a.load * a.load / t;
                if (m > static_cast<std::size_t>(kMaxNewtonUnits)) continue;
                for (const Kept& b : kept_) {
                    curvature[a.unit * m + b.unit] -= a.share * a.load * b.share * b.load / t;
                }
            }
        }
    }

    const std::size_t m;
    double exact = 0.0, smooth = 0.0;
    std::vector<double> gradient, curvature;

  private:
    struct Kept {
        std::size_t unit;
        double share, load;
    };
    std::vector<std::vector<Pair>> pairs_;
    std::vector<double> capacity_;
    std::vector<Kept> kept_;
};

// Solves (curvature + damping) d = gradient on the free units by Cholesky; false when not positive definite.
bool newton_step(const Smoothed& f, const std::vector<std::size_t>& free, double damping,
                 std::vector<double>& d) {
    const std::size_t k = free.size();
    std::vector<double> a(k * k);
    for (std::size_t r = 0; r < k; ++r) {
        for (std::size_t c = 0; c < k; ++c) a[r * k + c] = f.curvature[free[r] * f.m + free[c]];
        a[r * k + r] += damping;
    }
    d.resize(k);
    for (std::size_t r = 0; r < k; ++r) {
        for (std::size_t c = 0; c <= r; ++c) {
            double s = a[r * k + c];
            for (std::size_t q = 0; q < c; ++q) s -= a[r * k + q] * a[c * k + q];
            if (r == c) {
                if (s <= 0.0) return false;
                a[r * k + r] = std::sqrt(s);
            } else {
                a[r * k + c] = s / a[c * k + c];
            }
        }
    }
    for (std::size_t r = 0; r < k; ++r) {
        double s = f.gradient[free[r]];
        for (std::size_t q = 0; q < r; ++q) s -= a[r * k + q] * d[q];
        d[r] = s / a[r * k + r];
    }
    for (std::size_t r = k; r-- > 0;) {
        double s = d[r];
        for (std::size_t q = r + 1; q < k; ++q) s -= a[q * k + r] * d[q];
        d[r] = s / a[r * k + r];
    }
    return true;
}

}  // namespace

Prices find_prices(const Instance& instance, const std::function<bool()>& stopped) {
    const std::size_t m = static_cast<std::size_t>(instance.num_units);
    Smoothed f(instance);
    double mean = 0.0;
    for (const Int c : instance.cost) mean += std::abs(static_cast<double>(c));
    mean = std::max(mean / static_cast<double>(std::max<std::size_t>(instance.cost.size(), 1)), 1e-6);
    const auto ceiling = static_cast<double>(cost_ceiling(instance));

    std::vector<double> u(m, 0.0), best_u = u, trial(m), d;
    double best = -std::numeric_limits<double>::infinity();
    double t = 0.3 * mean, mu = 1e-3;
    bool done = false;
    for (int stage = 0; stage < kStages && !done; ++stage, t *= kCooling) {
        for (int step = 0; step < kSteps; ++step) {
            if (stopped()) {
                done = true;
                break;
            }
            f.evaluate(u, t, true);
            if (f.exact > best) {
                best = f.exact;
                best_u = u;
            }
            if (best > 2.0 * ceiling + 1.0) {  // no assignment costs so much: infeasible
                done = true;
                break;
            }
            std::vector<std::size_t> free;
            double slope = 0.0, stiffest = 0.0;
            for (std::size_t i = 0; i < m; ++i) {
                if (u[i] <= 0.0 && f.gradient[i] <= 0.0) continue;
                free.push_back(i);
                slope = std::max(slope, std::abs(f.gradient[i]) /
                                            (1.0 + static_cast<double>(instance.capacity[i])));
                stiffest = std::max(stiffest, f.curvature[i * m + i]);
            }
            if (slope < 1e-7) break;
            const double start = f.smooth;
            bool accepted = false;
            for (int k = 0; k < kTrials && !accepted; ++k) {
                const double damping = mu * std::max(stiffest, 1e-12);
                if (!newton_step(f, free, damping, d)) {
                    mu *= 8.0;
                    continue;
                }
                trial = u;
                double rise = 0.0;
                for (std::size_t r = 0; r < free.size(); ++r) {
                    trial[free[r]] = std::max(0.0, u[free[r]] + d[r]);
                    rise += f.gradient[free[r]] * (trial[free[r]] - u[free[r]]);
                }
                if (rise > 0.0) f.evaluate(trial, t, false);
                if (rise > 0.0 && f.smooth >= start + 1e-4 * rise) {
                    u = trial;
                    mu = std::max(mu / 4.0, 1e-9);
                    accepted = true;
                } else {
                    mu *= 8.0;
                }
            }
            if (!accepted) {
                mu = 1e-3;
                break;
            }
        }
    }
    f.evaluate(u, t, false);
    if (f.exact > best) {
        best = f.exact;
        best_u = u;
    }

    Prices prices{best_u, std::vector<double>(static_cast<std::size_t>(instance.num_tasks), 0.0), best};
    for (int j = 0; j < instance.num_tasks; ++j) {
        double low = std::numeric_limits<double>::infinity();
        for (int i = 0; i < instance.num_units; ++i) {
            const std::size_t k = instance.at(i, j);
            if (!instance.allowed[k]) continue;
            low = std::min(low, static_cast<double>(instance.cost[k]) +
                                    best_u[static_cast<std::size_t>(i)] * static_cast<double>(instance.load[k]));
        }
        prices.multiplier[static_cast<std::size_t>(j)] = std::isfinite(low) ? low : 0.0;
    }
    return prices;
}

}  // namespace optalloc::assignment

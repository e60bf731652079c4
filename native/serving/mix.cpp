#include "serving/mix.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "serving/programme.hpp"

namespace optalloc::serving {

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNoise = 1e-12;      // relative: a new split that pays no more than this is none
constexpr double kAbsent = 1e6;       // price of a kind of which there is none, in units of the largest price
constexpr double kDecided = 0.1;      // value and bound this close, in what is left to the cutoff, call for a branch
constexpr int kMostRounds = 2000;
constexpr std::size_t kMostSplits = 800;

std::size_t at(int index) { return static_cast<std::size_t>(index); }

}  // namespace

// Column generation for one box: the programme's prices ask for splits, and prove bounds.
class Rounds {
  public:
    Rounds(FleetBound& fleet, const Box& box)
        : fleet_(fleet),
          box_(box),
          programme_(fleet, box),
          offers_(fleet.offers()),
          kinds_(fleet.kinds_),
          scenarios_(programme_.scenarios()),
          absent_(at(kinds_), 1) {
        for (int g = 0; g < offers_; ++g) {
            if (box.high[at(g)] > 0.0) absent_[at(fleet.kind_[at(g)])] = 0;
        }
    }

    BoxBound run(const std::int32_t* cancel) {
        BoxBound best;
        best.bound = -kInfinity;
        std::vector<double> prices(at(scenarios_ * kinds_)), limits(at(fleet_.limits_));
        for (int round = 0; round < kMostRounds; ++round) {
            programme_.solve(cancel);
            for (int s = 0; s < scenarios_; ++s) {
                for (int k = 0; k < kinds_; ++k) {
                    const double price =
                        absent_[at(k)] != 0 ? kAbsent * programme_.scale() : programme_.kind_price(s, k);
                    prices[at(s * kinds_ + k)] = std::max(0.0, price);
                }
            }
            for (int p = 0; p < fleet_.limits_; ++p) limits[at(p)] = std::max(0.0, programme_.limit_price(p));
            // Prices swing from round to round: those between them and the best so far find better splits.
            bool added = round > 0 && ask(between(best.prices, prices), between(best.limit_prices, limits), prices, best);
            added = added || ask(prices, limits, prices, best);
            const double value = programme_.objective();
            if (best.bound >= box_.cutoff || value <= box_.enough || value - best.bound <= box_.closed ||
                (box_.cutoff < kInfinity && value - best.bound <= kDecided * (box_.cutoff - value)) || !added ||
                *cancel != 0 || programme_.stuck()) {
                best.value = value;
                break;
            }
        }
        best.counts = programme_.counts();
        best.short_of = programme_.short_of();
        return best;
    }

  private:
    // The more kinds there are, the more prices swing, and the more of the best ones is held.
    std::vector<double> between(const std::vector<double>& best, const std::vector<double>& last) const {
        const double held = std::min(0.6, 0.03 * kinds_);
        std::vector<double> mixed(last);
        for (std::size_t i = 0; i < mixed.size(); ++i) mixed[i] += held * (best[i] - mixed[i]);
        return mixed;
    }

    // Bound the box by `asked` prices, and add the splits they find that pay at the `paid` prices of the programme.
    bool ask(const std::vector<double>& asked, const std::vector<double>& limits, const std::vector<double>& paid,
             BoxBound& best) {
        std::vector<double> split(at(kinds_));
        double bound = rest(asked, limits);
        bool added = false;
        for (int s = 0; s < scenarios_; ++s) {
            bound += fleet_.cheapest(asked.data() + s * kinds_, split.data());
            const double offered = programme_.load_price(s);
            double cost = 0.0;
            for (int k = 0; k < kinds_; ++k) cost += paid[at(s * kinds_ + k)] * split[at(k)];
            if (cost < offered - kNoise * std::abs(offered)) {
                fleet_.splits_.insert(fleet_.splits_.end(), split.begin(), split.end());
                fleet_.used_.push_back(fleet_.calls_);
                added = true;
            }
        }
        if (bound > best.bound) {
            best.bound = bound;
            best.prices = asked;
            best.limit_prices = limits;
        }
        return added;
    }

    // What counts and rows add to the bound that prices prove.
    double rest(const std::vector<double>& prices, const std::vector<double>& limits) const {
        double sum = 0.0;
        for (int s = 0; s < scenarios_; ++s) {
            for (int k = 0; k < kinds_; ++k) sum += prices[at(s * kinds_ + k)] * box_.spare[at(s * kinds_ + k)];
        }
        for (int p = 0; p < fleet_.limits_; ++p) sum -= limits[at(p)] * box_.limit[at(p)];
        for (int g = 0; g < offers_; ++g) {
            double net = box_.price[at(g)];
            for (int s = 0; s < scenarios_; ++s) {
                net -= prices[at(s * kinds_ + fleet_.kind_[at(g)])] * box_.room[at(s * offers_ + g)];
            }
            for (int p = 0; p < fleet_.limits_; ++p) net += limits[at(p)] * fleet_.use_[at(p * offers_ + g)];
            sum += net > 0.0 ? net * box_.low[at(g)] : net * box_.high[at(g)];
        }
        return sum;
    }

    FleetBound& fleet_;
    const Box& box_;
    Programme programme_;
    int offers_, kinds_, scenarios_;
    std::vector<char> absent_;  // kinds that the box holds no replica of
};

FleetBound::FleetBound(std::vector<std::int32_t> first, std::vector<Serve> serves, std::vector<std::int32_t> kind,
                       int kinds, std::vector<double> use, int limits)
    : first_(std::move(first)),
      kind_(std::move(kind)),
      serves_(std::move(serves)),
      use_(std::move(use)),
      kinds_(kinds),
      limits_(limits) {}

double FleetBound::cheapest(const double* prices, double* split) const {
    std::fill(split, split + kinds_, 0.0);
    double sum = 0.0;
    for (std::size_t j = 0; j + 1 < first_.size(); ++j) {
        double least = kInfinity;
        const Serve* chosen = nullptr;
        for (std::int32_t i = first_[j]; i < first_[j + 1]; ++i) {
            const Serve& serve = serves_[at(i)];
            const double price = prices[serve.kind] * serve.load;
            if (price < least) {
                least = price;
                chosen = &serve;
            }
        }
        sum += least;
        split[chosen->kind] += chosen->load;
    }
    return sum;
}

BoxBound FleetBound::bound(const Box& box, const std::int32_t* cancel) {
    ++calls_;
    if (used_.size() > kMostSplits) forget();
    return Rounds(*this, box).run(cancel);
}

// Keep the half of the splits that served most recently.
void FleetBound::forget() {
    std::vector<std::int64_t> when(used_);
    std::nth_element(when.begin(), when.begin() + static_cast<std::ptrdiff_t>(when.size() / 2), when.end());
    const std::int64_t since = when[when.size() / 2];
    std::size_t kept = 0;
    for (std::size_t i = 0; i < used_.size() && kept < kMostSplits / 2; ++i) {
        if (used_[i] < since) continue;
        std::copy_n(splits_.begin() + static_cast<std::ptrdiff_t>(i * at(kinds_)), kinds_,
                    splits_.begin() + static_cast<std::ptrdiff_t>(kept * at(kinds_)));
        used_[kept++] = used_[i];
    }
    used_.resize(kept);
    splits_.resize(kept * at(kinds_));
}

}  // namespace optalloc::serving

#include "serving/whole.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "serving/dual.hpp"

namespace optalloc::serving {

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kBroken = 1e-6;   // a count this close to a whole number is one; a cut broken by less holds
constexpr double kGains = 0.03;    // a round of cuts that wins less of what is left to the cutoff is the last
constexpr int kPatience = 3;       // rounds that may do so

std::size_t at(int index) { return static_cast<std::size_t>(index); }

}  // namespace

WholeBound::WholeBound(Fleet fleet) : fleet_(std::move(fleet)), programme_(std::make_unique<DualSimplex>(fleet_)) {}

WholeBound::~WholeBound() = default;

WholeBoxBound WholeBound::bound(const WholeBox& box, const std::int32_t* cancel) {
    DualSimplex& programme = *programme_;
    programme.start(box);
    double cutoff = box.cutoff, before = -kInfinity;
    bool again = false;
    int slow = 0;
    for (int round = 0;; ++round) {
        Outcome outcome = programme.solve(cutoff, cancel);
        if (outcome == Outcome::kNone) {
            WholeBoxBound none = proven(box, programme.ray(), 0.0);
            if (none.bound > 0.0) {
                none.outcome = Outcome::kNone;
                none.bound = kInfinity;
                return none;
            }
            outcome = Outcome::kStopped;
            if (!again) {
                again = true;
                programme.restart();
                continue;
            }
        }
        if (outcome == Outcome::kStopped) {
            WholeBoxBound stopped = proven(box, programme.multipliers(), 1.0);
            stopped.outcome = Outcome::kStopped;
            if (stopped.bound >= box.cutoff || *cancel != 0) return stopped;
            if (cutoff < kInfinity) {  // by rounding alone
                cutoff = kInfinity;
                continue;
            }
            if (again) return stopped;
            again = true;
            programme.restart();
            continue;
        }
        const double value = programme.objective();
        slow = value - before < kGains * (box.cutoff - value) ? slow + 1 : 0;
        before = value;
        if (round < box.rounds && slow < kPatience && value < box.cutoff && cut(box)) continue;
        WholeBoxBound found = proven(box, programme.multipliers(), 1.0);
        found.outcome = Outcome::kServes;
        return found;
    }
}

// Cut off broken counts: n replicas serve of any set of buckets at most what whole replicas do. The set that is
// most broken holds the buckets of which more than the broken part is served (Magnanti, Mirchandani and Vachani).
bool WholeBound::cut(const WholeBox& box) {
    const std::vector<double> counts = programme_->counts(), shares = programme_->shares();
    const int kinds = fleet_.kinds;
    std::vector<double> replicas(at(kinds));
    for (int g = 0; g < fleet_.offers; ++g) {
        for (int k = 0; k < kinds; ++k) replicas[at(k)] += box.time[at(g * kinds + k)] * counts[at(g)];
    }
    std::vector<Cut> cuts(at(kinds));
    std::vector<double> low(at(kinds)), part(at(kinds)), whole(at(kinds)), served(at(kinds));
    for (int k = 0; k < kinds; ++k) {
        if (box.unit[at(k)] <= 0.0) continue;
        const double count = replicas[at(k)] / box.unit[at(k)];
        low[at(k)] = std::floor(count + kBroken);
        part[at(k)] = count - low[at(k)];
    }
    for (int j = 0; j < fleet_.buckets(); ++j) {
        for (int i = fleet_.first[at(j)]; i < fleet_.first[at(j + 1)]; ++i) {
            const auto k = at(fleet_.serves[at(i)].kind);
            if (part[k] < kBroken || shares[at(i)] <= part[k] + kBroken) continue;
            Cut& cut = cuts[k];
            if (cut.has.empty()) cut.has.assign(at(fleet_.buckets()), 0);
            const double load = fleet_.serves[at(i)].load / box.unit[k];
            cut.items.push_back(i);
            cut.has[at(j)] = 1;
            whole[k] += load;
            served[k] += load * shares[at(i)];
        }
    }
    std::vector<Cut> found;
    for (int k = 0; k < kinds; ++k) {
        Cut& cut = cuts[at(k)];
        const double rest = whole[at(k)] - low[at(k)];
        if (rest <= kBroken || rest >= 1.0 - kBroken) continue;
        if (served[at(k)] <= whole[at(k)] - rest * (1.0 - part[at(k)]) + kBroken) continue;
        cut.kind = k;
        cut.unit = box.unit[at(k)];
        cut.price = rest / cut.unit;
        cut.right = whole[at(k)] - rest * (low[at(k)] + 1.0);
        found.push_back(std::move(cut));
    }
    if (found.empty()) return false;
    programme_->add(std::move(found));
    return true;
}

// What multipliers of the rows prove, whether or not the programme was solved to its end.
WholeBoxBound WholeBound::proven(const WholeBox& box, std::vector<double> multipliers, double weight) const {
    const int kinds = fleet_.kinds, base = programme_->base();
    for (double& each : multipliers) each = std::max(0.0, each);
    WholeBoxBound found;
    found.counts = programme_->counts();
    found.prices.assign(multipliers.begin(), multipliers.begin() + kinds);
    found.limit_prices.assign(multipliers.begin() + kinds, multipliers.begin() + base);
    double sum = 0.0;
    for (std::size_t c = 0; c < programme_->cuts().size(); ++c) {
        const Cut& cut = programme_->cuts()[c];
        const double paid = multipliers[at(base) + c];
        found.prices[at(cut.kind)] += paid * cut.price;
        sum -= paid * cut.right;
    }
    std::vector<double> costs(fleet_.serves.size());
    programme_->costs(multipliers.data(), costs.data());
    for (int j = 0; j < fleet_.buckets(); ++j) {
        const auto begin = costs.begin();
        found.values.push_back(*std::min_element(begin + fleet_.first[at(j)], begin + fleet_.first[at(j + 1)]));
        sum += found.values.back();
    }
    for (int p = 0; p < fleet_.limits; ++p) sum -= found.limit_prices[at(p)] * box.limit[at(p)];
    for (int g = 0; g < fleet_.offers; ++g) {
        double net = weight * box.price[at(g)];
        for (int k = 0; k < kinds; ++k) net -= found.prices[at(k)] * box.time[at(g * kinds + k)];
        for (int p = 0; p < fleet_.limits; ++p) net += found.limit_prices[at(p)] * fleet_.use[at(p * fleet_.offers + g)];
        sum += net > 0.0 ? net * box.low[at(g)] : net * box.high[at(g)];
    }
    found.bound = sum;
    return found;
}

}  // namespace optalloc::serving

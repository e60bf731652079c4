#include "serving/mix.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "serving/programme.hpp"

namespace optalloc::serving {

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kBroken = 1e-6;   // a count this close to a whole number is one; a cut broken by less holds
constexpr double kGains = 0.03;    // a round of cuts that wins less of what is left to the cutoff is the last
constexpr int kPatience = 3;       // rounds that may do so

std::size_t at(int index) { return static_cast<std::size_t>(index); }

}  // namespace

FleetBound::FleetBound(Fleet fleet) : fleet_(std::move(fleet)), programme_(std::make_unique<Programme>(fleet_)) {}

FleetBound::~FleetBound() = default;

BoxBound FleetBound::bound(const Box& box, const std::int32_t* cancel) {
    Programme& programme = *programme_;
    programme.start(box);
    double cutoff = box.cutoff, before = -kInfinity;
    bool again = false;
    int slow = 0;
    for (int round = 0;; ++round) {
        Outcome outcome = programme.solve(cutoff, cancel);
        if (outcome == Outcome::kNone) {
            BoxBound none = proven(box, programme.ray(), 0.0);
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
            BoxBound stopped = proven(box, programme.multipliers(), 1.0);
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
        BoxBound found = proven(box, programme.multipliers(), 1.0);
        found.outcome = Outcome::kServes;
        return found;
    }
}

// Cut off broken counts: n replicas serve of any set of buckets at most what whole replicas do. The set that is
// most broken holds the buckets of which more than the broken part is served (Magnanti, Mirchandani and Vachani).
bool FleetBound::cut(const Box& box) {
    const std::vector<double> counts = programme_->counts();
    const int kinds = fleet_.kinds, rows = programme_->scenarios() * kinds;
    std::vector<Cut> cuts;
    std::vector<int> bucket(fleet_.serves.size());
    for (int j = 0; j < fleet_.buckets(); ++j) {
        for (int i = fleet_.first[at(j)]; i < fleet_.first[at(j + 1)]; ++i) bucket[at(i)] = j;
    }
    for (int s = 0; s < programme_->scenarios(); ++s) {
        std::vector<double> replicas(at(kinds));
        for (int k = 0; k < kinds; ++k) replicas[at(k)] = -box.spare[at(s * kinds + k)];
        for (int g = 0; g < fleet_.offers; ++g) {
            for (int k = 0; k < kinds; ++k) replicas[at(k)] += box.time[at(g * rows + s * kinds + k)] * counts[at(g)];
        }
        const std::vector<double> shares = programme_->shares(s);
        std::vector<std::vector<int>> used(at(kinds));
        for (std::size_t i = 0; i < shares.size(); ++i) {
            if (shares[i] > kBroken) used[at(fleet_.serves[i].kind)].push_back(static_cast<int>(i));
        }
        for (int k = 0; k < kinds; ++k) {
            const double unit = box.unit[at(s * kinds + k)];
            if (unit <= 0.0) continue;
            const double count = replicas[at(k)] / unit, low = std::floor(count + kBroken), part = count - low;
            if (part < kBroken) continue;
            Cut cut{s, k, {}, {}, 0.0, 0.0};
            double served = 0.0;
            for (const int i : used[at(k)]) {
                if (shares[at(i)] <= part + kBroken) continue;
                const double load = fleet_.serves[at(i)].load / unit;
                cut.items.push_back(i);
                cut.whole += load;
                served += load * shares[at(i)];
            }
            cut.part = cut.whole - low;
            if (cut.part <= kBroken || cut.part >= 1.0 - kBroken) continue;
            if (served <= cut.whole - cut.part * (low + 1.0 - count) + kBroken) continue;
            cut.has.assign(at(fleet_.buckets()), 0);
            for (const int i : cut.items) cut.has[at(bucket[at(i)])] = 1;
            cuts.push_back(std::move(cut));
        }
    }
    if (cuts.empty()) return false;
    programme_->add(std::move(cuts));
    return true;
}

// What multipliers of the rows prove, whether or not the programme was solved to its end.
BoxBound FleetBound::proven(const Box& box, std::vector<double> multipliers, double weight) const {
    const int kinds = fleet_.kinds, offers = fleet_.offers, scenarios = programme_->scenarios(), rows = scenarios * kinds;
    for (double& each : multipliers) each = std::max(0.0, each);
    BoxBound found;
    found.counts = programme_->counts();
    found.values.resize(at(scenarios * fleet_.buckets()));
    found.prices.assign(multipliers.begin(), multipliers.begin() + rows);
    found.limit_prices.assign(multipliers.begin() + rows, multipliers.begin() + programme_->base());
    double sum = 0.0;
    std::vector<double> costs(fleet_.serves.size());
    for (int s = 0; s < scenarios; ++s) {
        programme_->costs(multipliers.data(), s, costs.data());
        for (int j = 0; j < fleet_.buckets(); ++j) {
            const double least = *std::min_element(costs.begin() + fleet_.first[at(j)], costs.begin() + fleet_.first[at(j + 1)]);
            found.values[at(s * fleet_.buckets() + j)] = least;
            sum += least;
        }
    }
    for (std::size_t c = 0; c < programme_->cuts().size(); ++c) {
        const Cut& cut = programme_->cuts()[c];
        const double paid = multipliers[at(programme_->base()) + c];
        const int row = cut.scenario * kinds + cut.kind;
        found.prices[at(row)] += paid * cut.part / box.unit[at(row)];
        sum -= paid * (cut.whole - cut.part * std::ceil(cut.whole));
    }
    for (int row = 0; row < rows; ++row) sum += found.prices[at(row)] * box.spare[at(row)];
    for (int p = 0; p < fleet_.limits; ++p) sum -= found.limit_prices[at(p)] * box.limit[at(p)];
    for (int g = 0; g < offers; ++g) {
        double net = weight * box.price[at(g)];
        for (int row = 0; row < rows; ++row) net -= found.prices[at(row)] * box.time[at(g * rows + row)];
        for (int p = 0; p < fleet_.limits; ++p) net += found.limit_prices[at(p)] * fleet_.use[at(p * offers + g)];
        sum += net > 0.0 ? net * box.low[at(g)] : net * box.high[at(g)];
    }
    found.bound = sum;
    return found;
}

}  // namespace optalloc::serving

// The least price at which a box of replica counts could serve a load: a linear programme that knows that counts
// are whole, kind by kind.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace optalloc::serving {

class DualSimplex;

// What one bucket of requests takes of one kind of replica when all of it goes there, in replicas.
struct Serve {
    std::int32_t kind;
    double load;
};

// Buckets and offers, fixed for all boxes.
struct Fleet {
    std::vector<std::int32_t> first;  // first[j] .. first[j + 1] index what serves bucket j
    std::vector<Serve> serves;
    int kinds, offers, limits;
    std::vector<double> use;          // limits x offers

    int buckets() const { return static_cast<int>(first.size()) - 1; }
};

// One call: counts between `low` and `high`. The load of kind k is to fit into time[g][k] count_g summed over the
// offers g, which is a whole multiple of unit[k] where counts are whole.
struct WholeBox {
    std::span<const double> low, high;   // by offer
    std::span<const double> price;       // by offer
    std::span<const double> time, unit;  // offers x kinds, kinds
    std::span<const double> limit;       // by shared limit
    double cutoff;                       // a bound of at least this ends the work
    int rounds;                          // of cuts, at most
};

enum class Outcome { kServes, kNone, kStopped };

// Values and prices prove the bound, or with prices of 0 for the replicas themselves that the box holds no fleet.
struct WholeBoxBound {
    Outcome outcome;
    double bound;                       // no counts in the box cost less
    std::vector<double> counts;         // by offer
    std::vector<double> values;         // by bucket: of serving all of it
    std::vector<double> prices;         // by kind: of one replica's whole time
    std::vector<double> limit_prices;   // by shared limit
};

// Holds the last basis and the cuts: both stay useful from box to box.
class WholeBound {
  public:
    explicit WholeBound(Fleet fleet);
    ~WholeBound();

    WholeBoxBound bound(const WholeBox& box, const std::int32_t* cancel);

    const Fleet& fleet() const { return fleet_; }

  private:
    bool cut(const WholeBox& box);
    WholeBoxBound proven(const WholeBox& box, std::vector<double> multipliers, double weight) const;

    Fleet fleet_;
    std::unique_ptr<DualSimplex> programme_;
};

}  // namespace optalloc::serving

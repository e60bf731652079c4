// The least price at which a box of replica counts could serve a load: a linear programme that knows that counts
// are whole, kind by kind.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace optalloc::serving {

class Programme;

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

// One call: counts between `low` and `high`. A scenario s asks that the load of kind k fits into
// time[g][s][k] count_g summed over the offers g, less spare[s][k]. With whole counts that is at least a whole multiple
// of unit[s][k] into which it fits; a unit of 0 makes no use of this.
struct Box {
    std::span<const double> low, high;          // by offer
    std::span<const double> price;              // by offer
    std::span<const double> time, spare, unit;  // offers x scenarios x kinds, scenarios x kinds twice
    std::span<const double> limit;              // by shared limit
    double cutoff;                              // a bound of at least this ends the work
    int rounds;                                 // of cuts, at most
};

enum class Outcome { kServes, kNone, kStopped };

// Values and prices prove the bound, or with prices of 0 for the replicas themselves that the box holds no fleet.
struct BoxBound {
    Outcome outcome;
    double bound;                       // no counts in the box cost less
    std::vector<double> counts;         // by offer
    std::vector<double> values;         // scenarios x buckets: of serving all of a bucket
    std::vector<double> prices;         // scenarios x kinds: of one replica's whole time
    std::vector<double> limit_prices;   // by shared limit
};

// Holds the last basis and the cuts: both stay useful from box to box.
class FleetBound {
  public:
    explicit FleetBound(Fleet fleet);
    ~FleetBound();

    BoxBound bound(const Box& box, const std::int32_t* cancel);

    const Fleet& fleet() const { return fleet_; }

  private:
    bool cut(const Box& box);
    BoxBound proven(const Box& box, std::vector<double> multipliers, double weight) const;

    Fleet fleet_;
    std::unique_ptr<Programme> programme_;
};

}  // namespace optalloc::serving

// The least price at which a box of replica counts could serve a load: column generation over ways to split it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace optalloc::serving {

// What one bucket of requests takes of one kind of replica when all of it goes there, in replicas.
struct Serve {
    std::int32_t kind;
    double load;
};

// One call: counts between `low` and `high`. A scenario s asks that the load fits into
// room[s][g] count_g summed over the offers g of a kind, less spare[s][kind].
struct Box {
    std::span<const double> low, high;    // by offer
    std::span<const double> price;        // by offer; all 0 asks for feasibility alone
    std::span<const double> room, spare;  // scenarios x offers, scenarios x kinds
    std::span<const double> limit;        // by shared limit
    double shortage;                      // price of leaving the load of a scenario undone
    double cutoff;                        // a bound of at least this ends the work,
    double enough;                        // and so does a value of at most this,
    double closed;                        // and value and bound this close
};

struct BoxBound {
    double bound;                       // no counts in the box cost less
    double value, short_of;             // of the linear programme; share of the load that nothing serves
    std::vector<double> counts;         // by offer
    std::vector<double> prices;         // scenarios x kinds: of one replica's whole time; they prove the bound
    std::vector<double> limit_prices;   // by shared limit
};

// Holds the buckets and every split met so far: splits stay useful from box to box.
class FleetBound {
  public:
    // `first[j] .. first[j + 1]` index what serves bucket j; `kind` is that of each offer; `use` is limits x offers.
    FleetBound(std::vector<std::int32_t> first, std::vector<Serve> serves, std::vector<std::int32_t> kind, int kinds,
               std::vector<double> use, int limits);

    BoxBound bound(const Box& box, const std::int32_t* cancel);

    // Least sum of prices over the buckets, each served where it is cheapest; `split` gets the load of each kind.
    double cheapest(const double* prices, double* split) const;

    int kinds() const { return kinds_; }
    int offers() const { return static_cast<int>(kind_.size()); }
    int limits() const { return limits_; }

  private:
    friend class Programme;
    friend class Rounds;
    void forget();

    std::vector<std::int32_t> first_, kind_;
    std::vector<Serve> serves_;
    std::vector<double> use_;
    int kinds_, limits_;
    std::vector<double> splits_;  // split after split, kinds_ loads each
    std::vector<std::int64_t> used_;
    std::int64_t calls_ = 0;
};

}  // namespace optalloc::serving

// The linear programme over the splits of a load that are known so far, solved by the simplex method.
#pragma once

#include <cstdint>
#include <vector>

#include "serving/mix.hpp"

namespace optalloc::serving {

// The programme of one box: columns are counts (bounded), splits of the load per scenario, the shortage of each
// scenario, and a slack a row. Rows are kinds per scenario, one sum of shares a scenario, and shared limits.
class Programme {
  public:
    Programme(FleetBound& fleet, const Box& box);

    // Simplex over the columns known so far, from the last basis.
    void solve(const std::int32_t* cancel);

    int scenarios() const { return scenarios_; }
    double scale() const { return scale_; }  // the largest price
    bool stuck() const { return stuck_; }    // numerically: the last solve did not end
    double objective() const;
    double short_of() const;                 // share of the load that nothing serves
    std::vector<double> counts() const;      // by offer

    // What the rows pay: for a replica's whole time, for all of a scenario's load, for a unit of a shared limit.
    double kind_price(int scenario, int kind) const { return -dual(scenario * block_ + kind); }
    double load_price(int scenario) const { return dual(scenario * block_ + kinds_); }
    double limit_price(int limit) const { return -dual(scenarios_ * block_ + limit); }

  private:
    struct Column {
        enum What { kSlack, kShortage, kCount, kSplit } what;
        int which;     // row, scenario, offer, or scenario of the split
        int split;     // index of the split
    };

    double dual(int row) const { return dual_[static_cast<std::size_t>(row)]; }
    double cost(const Column& column) const;
    void entries(const Column& column, std::vector<double>& out) const;
    void reprice();
    double count_price(int g) const;
    void refactor();
    void recompute();

    FleetBound& fleet_;
    const Box& box_;
    int offers_, kinds_, scenarios_, block_, rows_;
    double scale_ = 0.0;
    bool stuck_ = false;
    int since_ = 0, next_ = 0;
    std::vector<double> right_, inverse_, values_, dual_;
    std::vector<Column> basis_;
    std::vector<char> at_high_, in_basis_;
};

}  // namespace optalloc::serving

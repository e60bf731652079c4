// The linear programme of one box of counts, solved by the dual simplex method from the last box's basis.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "serving/whole.hpp"

namespace optalloc::serving {

// sum over `items` of load / unit x  <=  right + price times the time of the kind's replicas.
struct Cut {
    int kind = 0;
    double unit = 1.0, price = 0.0, right = 0.0;
    std::vector<int> items;  // indices of serves
    std::vector<char> has;   // by bucket
    int idle = 0;            // boxes since it last held something
};

// Columns are counts and slacks (both with two bounds) and what share x of a bucket a kind serves. Rows are kinds, shared
// limits, and cuts; that the shares of a bucket add up to one is no row: one share
// of each bucket, its key, is one less the others. As every column is bounded on both sides, every basis can be
// started from.
class DualSimplex {
  public:
    explicit DualSimplex(const Fleet& fleet);

    void start(const WholeBox& box);
    // kStopped: the objective, a bound, reached `cutoff`, or the end was not found.
    Outcome solve(double cutoff, const std::int32_t* cancel);
    void add(std::vector<Cut> cuts);
    void restart();

    double objective() const;
    std::vector<double> counts() const;                    // by offer
    std::vector<double> shares() const;                    // by serve
    std::vector<double> multipliers() const;               // of the rows, at least 0 but for rounding
    const std::vector<double>& ray() const { return ray_; }  // multipliers that show that nothing fits
    const std::vector<Cut>& cuts() const { return cuts_; }
    int base() const { return base_; }                       // the first cut's row

    // What all of each bucket pays, by serve, when rows cost these multipliers.
    void costs(const double* multipliers, double* out) const;

  private:
    static constexpr double kInfinity = std::numeric_limits<double>::infinity();
    static constexpr double kReduced = 1e-10;  // a reduced price within this of 0 is 0, in units of the largest price
    static std::size_t at(int index) { return static_cast<std::size_t>(index); }

    enum What : char { kCount, kSlack, kShare };
    enum State : char { kLow, kKey, kBasic, kHigh };
    enum class Step { kDone, kNoColumn, kNoise };
    struct Column {
        What what;
        int which;  // offer, row, or serve
    };

    double low(const Column& column) const;
    double high(const Column& column) const;
    State& state(const Column& column);
    void entries(const Column& column, std::vector<double>& out) const;
    void share_entries(int share, double sign, std::vector<double>& out) const;
    void count_rates(const double* row, std::vector<double>& out) const;
    void reset();
    void forget();  // cuts that have long held nothing
    const double* time_of(int offer) const { return time_.data() + static_cast<std::size_t>(offer * kinds_); }
    void settle();

    // dual_pivots.cpp: one exchange of the basis after the other, and the inverse.
    void change_keys();
    void move_apart();
    int leaving(bool& below) const;
    Step pivot(int leave, bool below, double& length);
    void beyond_keys(const double* multipliers, std::vector<double>& out) const;
    void refactor();
    void recompute();
    void reprice();

    const Fleet& fleet_;
    const WholeBox* box_ = nullptr;
    int offers_, kinds_, buckets_, serves_, base_ = 0, rows_ = 0;
    double scale_ = 1.0;
    int since_ = 0;
    std::vector<int> bucket_;                 // of each serve
    std::vector<double> load_;                // of each serve
    std::vector<std::int32_t> kind_;          // of each serve
    std::vector<Cut> cuts_;
    std::vector<double> time_;                // of the box that the inverse belongs to
    std::vector<double> right_, slack_high_;  // by row
    std::vector<double> inverse_, values_;    // rows x rows; of the basis
    std::vector<double> net_count_, net_slack_, net_share_;           // reduced prices
    std::vector<double> rate_count_, rate_slack_, rate_share_;        // of the leaving row
    std::vector<Column> basis_;
    std::vector<State> count_state_, slack_state_, share_state_;
    std::vector<int> key_;                    // of each bucket: serve
    std::vector<int> highs_;                  // shares at their upper bound
    std::vector<double> left_;                // 1 by bucket but within one call
    std::vector<double> ray_;
};

}  // namespace optalloc::serving

#include "serving/mix.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace optalloc::serving {

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kPivot = 1e-9;       // smaller entries are not divided by
constexpr double kReduced = 1e-10;    // a reduced price within this of 0 is 0, in units of the largest price
constexpr double kApart = 1e-10;      // replicas added to a row so that no two meet their bounds at once
constexpr double kNoise = 1e-12;      // relative: a new split that pays no more than this is none
constexpr double kAbsent = 1e6;       // price of a kind of which there is none, in units of the largest price
constexpr double kDecided = 0.1;       // value and bound this close, in what is left to the cutoff, call for a branch
constexpr int kMostRounds = 2000;
constexpr int kRefactor = 64;         // pivots between two inversions
constexpr std::size_t kMostSplits = 800;

std::size_t at(int index) { return static_cast<std::size_t>(index); }

}  // namespace

// The linear programme of one box: columns are counts (bounded), splits of the load per scenario, the shortage of
// each scenario, and a slack a row. Rows are kinds per scenario, one sum of shares a scenario, and shared limits.
class Programme {
  public:
    Programme(FleetBound& fleet, const Box& box)
        : fleet_(fleet),
          box_(box),
          offers_(fleet.offers()),
          kinds_(fleet.kinds_),
          scenarios_(static_cast<int>(box.spare.size()) / std::max(1, fleet.kinds_)),
          block_(kinds_ + 1),
          rows_(scenarios_ * block_ + fleet.limits_) {
        scale_ = box.shortage;
        for (const double price : box.price) scale_ = std::max(scale_, price);
        right_.assign(at(rows_), 0.0);
        for (int s = 0; s < scenarios_; ++s) {
            for (int k = 0; k < kinds_; ++k) {
                const double apart = std::fmod(0.618033988749895 * (s * block_ + k + 1), 1.0);
                right_[at(s * block_ + k)] = kApart * (0.5 + apart) - box.spare[at(s * kinds_ + k)];
            }
            right_[at(s * block_ + kinds_)] = 1.0;
        }
        for (int p = 0; p < fleet.limits_; ++p) right_[at(scenarios_ * block_ + p)] = box.limit[at(p)];
        absent_.assign(at(kinds_), 1);
        for (int g = 0; g < offers_; ++g) {
            if (box.high[at(g)] > 0.0) absent_[at(fleet.kind_[at(g)])] = 0;
        }
        at_high_.assign(at(offers_), 0);
        // Start: counts at their least, everything left undone.
        basis_.resize(at(rows_));
        for (int r = 0; r < rows_; ++r) {
            const bool share = r < scenarios_ * block_ && r % block_ == kinds_;
            basis_[at(r)] = share ? Column{Column::kShortage, r / block_, 0} : Column{Column::kSlack, r, 0};
        }
        inBasis_.assign(at(offers_), 0);
        inverse_.assign(at(rows_) * at(rows_), 0.0);
        for (int r = 0; r < rows_; ++r) inverse_[at(r) * at(rows_) + at(r)] = 1.0;
        recompute();
    }

    BoxBound run(const std::int32_t* cancel) {
        BoxBound best;
        best.bound = -kInfinity;
        std::vector<double> prices(at(scenarios_ * kinds_)), limits(at(fleet_.limits_));
        for (int round = 0; round < kMostRounds; ++round) {
            solve(cancel);
            for (int s = 0; s < scenarios_; ++s) {
                for (int k = 0; k < kinds_; ++k) {
                    const double price = absent_[at(k)] != 0 ? kAbsent * scale_ : -dual_[at(s * block_ + k)];
                    prices[at(s * kinds_ + k)] = std::max(0.0, price);
                }
            }
            for (int p = 0; p < fleet_.limits_; ++p) {
                limits[at(p)] = std::max(0.0, -dual_[at(scenarios_ * block_ + p)]);
            }
            // Prices swing from round to round: those between them and the best so far find better splits.
            bool added = round > 0 && ask(between(best.prices, prices), between(best.limit_prices, limits), prices, best);
            added = added || ask(prices, limits, prices, best);
            const double value = objective();
            if (best.bound >= box_.cutoff || value <= box_.enough || value - best.bound <= box_.closed ||
                (box_.cutoff < kInfinity && value - best.bound <= kDecided * (box_.cutoff - value)) || !added ||
                *cancel != 0 || stuck_) {
                best.value = value;
                break;
            }
        }
        best.counts.resize(at(offers_));
        for (int g = 0; g < offers_; ++g) best.counts[at(g)] = at_high_[at(g)] != 0 ? box_.high[at(g)] : box_.low[at(g)];
        best.short_of = 0.0;
        for (int r = 0; r < rows_; ++r) {
            const Column& column = basis_[at(r)];
            if (column.what == Column::kCount) best.counts[at(column.which)] = values_[at(r)];
            if (column.what == Column::kShortage) best.short_of = std::max(best.short_of, values_[at(r)]);
        }
        return best;
    }

  private:
    struct Column {
        enum What { kSlack, kShortage, kCount, kSplit } what;
        int which;     // row, scenario, offer, or scenario of the split
        int split;     // index of the split
    };

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
            const double offered = dual_[at(s * block_ + kinds_)];
            double cost = 0.0;
            for (int k = 0; k < kinds_; ++k) cost += paid[at(s * kinds_ + k)] * split[at(k)];
            if (cost < offered - kNoise * std::abs(offered)) {
                add(split);
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

    double cost(const Column& column) const {
        if (column.what == Column::kCount) return box_.price[at(column.which)];
        return column.what == Column::kShortage ? box_.shortage : 0.0;
    }

    double objective() const {
        double sum = 0.0;
        for (int g = 0; g < offers_; ++g) {
            if (inBasis_[at(g)] == 0) sum += box_.price[at(g)] * (at_high_[at(g)] != 0 ? box_.high[at(g)] : box_.low[at(g)]);
        }
        for (int r = 0; r < rows_; ++r) sum += cost(basis_[at(r)]) * values_[at(r)];
        return sum;
    }

    // The entries of a column, dense.
    void entries(const Column& column, std::vector<double>& out) const {
        std::fill(out.begin(), out.end(), 0.0);
        switch (column.what) {
            case Column::kSlack: out[at(column.which)] = 1.0; break;
            case Column::kShortage: out[at(column.which * block_ + kinds_)] = 1.0; break;
            case Column::kCount:
                for (int s = 0; s < scenarios_; ++s) {
                    out[at(s * block_ + fleet_.kind_[at(column.which)])] = -box_.room[at(s * offers_ + column.which)];
                }
                for (int p = 0; p < fleet_.limits_; ++p) {
                    out[at(scenarios_ * block_ + p)] = fleet_.use_[at(p * offers_ + column.which)];
                }
                break;
            case Column::kSplit: {
                const double* load = fleet_.splits_.data() + at(column.split) * at(kinds_);
                for (int k = 0; k < kinds_; ++k) out[at(column.which * block_ + k)] = load[k];
                out[at(column.which * block_ + kinds_)] = 1.0;
                break;
            }
        }
    }

    void add(const std::vector<double>& split) {
        fleet_.splits_.insert(fleet_.splits_.end(), split.begin(), split.end());
        fleet_.used_.push_back(fleet_.calls_);
    }

    int splits() const { return static_cast<int>(fleet_.used_.size()); }

    // dual = basis prices times the inverse.
    void reprice() {
        dual_.assign(at(rows_), 0.0);
        for (int r = 0; r < rows_; ++r) {
            const double price = cost(basis_[at(r)]);
            if (price == 0.0) continue;
            const double* row = inverse_.data() + at(r) * at(rows_);
            for (int c = 0; c < rows_; ++c) dual_[at(c)] += price * row[c];
        }
    }

    double count_price(int g) const {
        double price = box_.price[at(g)];
        for (int s = 0; s < scenarios_; ++s) {
            price += dual_[at(s * block_ + fleet_.kind_[at(g)])] * box_.room[at(s * offers_ + g)];
        }
        for (int p = 0; p < fleet_.limits_; ++p) {
            price -= dual_[at(scenarios_ * block_ + p)] * fleet_.use_[at(p * offers_ + g)];
        }
        return price;
    }

    // Simplex over the columns known so far.
    void solve(const std::int32_t* cancel) {
        std::vector<double> column(at(rows_)), step(at(rows_));
        int idle = 0;
        for (int pivots = 0; pivots < 50000; ++pivots) {
            if (since_ >= kRefactor) refactor();
            reprice();
            const bool careful = idle > 3 * rows_ + 50;  // the first column that helps: no cycles
            Column enter{};
            double worst = -kReduced * scale_;
            bool down = false, found = false;
            const auto offer = [&](double reduced, Column candidate, bool falls) {
                if (reduced >= worst || (careful && found)) return;
                worst = reduced;
                enter = candidate;
                down = falls;
                found = true;
            };
            for (int g = 0; g < offers_; ++g) {
                if (inBasis_[at(g)] != 0 || box_.high[at(g)] <= box_.low[at(g)]) continue;
                const double reduced = count_price(g);
                if (at_high_[at(g)] != 0) offer(-reduced, {Column::kCount, g, 0}, true);
                else offer(reduced, {Column::kCount, g, 0}, false);
            }
            for (int r = 0; r < rows_; ++r) {
                const bool share = r < scenarios_ * block_ && r % block_ == kinds_;
                if (share) offer(box_.shortage - dual_[at(r)], {Column::kShortage, r / block_, 0}, false);
                else offer(-dual_[at(r)], {Column::kSlack, r, 0}, false);
            }
            for (int turn = 0; turn < scenarios_; ++turn) {
                const int s = careful ? turn : next_;
                const double* dual = dual_.data() + s * block_;
                const double* load = fleet_.splits_.data();
                for (int i = 0; i < splits(); ++i, load += kinds_) {
                    double reduced = -dual[kinds_];
                    for (int k = 0; k < kinds_; ++k) reduced -= dual[k] * load[k];
                    offer(reduced, {Column::kSplit, s, i}, false);
                }
                if (found) break;  // the other scenarios have their turn once this one has nothing to offer
                next_ = (next_ + 1) % scenarios_;
            }
            if (!found) return;
            if (pivots % 256 == 255 && *cancel != 0) return;
            entries(enter, column);
            for (int r = 0; r < rows_; ++r) {
                const double* row = inverse_.data() + at(r) * at(rows_);
                double sum = 0.0;
                for (int c = 0; c < rows_; ++c) sum += row[c] * column[at(c)];
                step[at(r)] = down ? -sum : sum;
            }
            // How far the entering column moves before a basic one meets a bound, or itself its other bound.
            double length = enter.what == Column::kCount ? box_.high[at(enter.which)] - box_.low[at(enter.which)] : kInfinity;
            int leave = -1;
            bool to_high = false;
            double size = 0.0;
            for (int r = 0; r < rows_; ++r) {
                const double rate = step[at(r)];
                if (std::abs(rate) < kPivot) continue;
                const Column& basic = basis_[at(r)];
                double room;
                bool high = false;
                if (rate > 0.0) {
                    room = values_[at(r)] - (basic.what == Column::kCount ? box_.low[at(basic.which)] : 0.0);
                } else {
                    if (basic.what != Column::kCount) continue;
                    room = box_.high[at(basic.which)] - values_[at(r)];
                    high = true;
                }
                const double ratio = std::max(0.0, room) / std::abs(rate);
                if (ratio < length - 1e-13 || (ratio <= length && std::abs(rate) > size && leave >= 0)) {
                    length = std::min(length, ratio);
                    leave = r;
                    to_high = high;
                    size = std::abs(rate);
                }
            }
            if (length == kInfinity) {
                stuck_ = true;
                return;
            }
            idle = length > 1e-12 ? 0 : idle + 1;
            for (int r = 0; r < rows_; ++r) values_[at(r)] -= length * step[at(r)];
            if (leave < 0) {  // from one bound to the other
                at_high_[at(enter.which)] = down ? 0 : 1;
                continue;
            }
            const Column out = basis_[at(leave)];
            if (out.what == Column::kCount) {
                inBasis_[at(out.which)] = 0;
                at_high_[at(out.which)] = to_high ? 1 : 0;
            }
            double begin = 0.0;
            if (enter.what == Column::kCount) {
                begin = at_high_[at(enter.which)] != 0 ? box_.high[at(enter.which)] : box_.low[at(enter.which)];
                inBasis_[at(enter.which)] = 1;
                at_high_[at(enter.which)] = 0;
            }
            if (enter.what == Column::kSplit) fleet_.used_[at(enter.split)] = fleet_.calls_;
            basis_[at(leave)] = enter;
            values_[at(leave)] = begin + (down ? -length : length);
            const double pivot = down ? -step[at(leave)] : step[at(leave)];
            double* pivot_row = inverse_.data() + at(leave) * at(rows_);
            for (int c = 0; c < rows_; ++c) pivot_row[c] /= pivot;
            for (int r = 0; r < rows_; ++r) {
                const double factor = down ? -step[at(r)] : step[at(r)];
                if (r == leave || factor == 0.0) continue;
                double* row = inverse_.data() + at(r) * at(rows_);
                for (int c = 0; c < rows_; ++c) row[c] -= factor * pivot_row[c];
            }
            ++since_;
        }
        stuck_ = true;
    }

    // The inverse from scratch, by elimination with the largest pivot of each column.
    void refactor() {
        since_ = 0;
        const std::size_t n = at(rows_);
        std::vector<double> matrix(n * n), column(n);
        for (std::size_t c = 0; c < n; ++c) {
            entries(basis_[c], column);
            for (std::size_t r = 0; r < n; ++r) matrix[r * n + c] = column[r];
        }
        std::vector<double> inverse(n * n, 0.0);
        for (std::size_t r = 0; r < n; ++r) inverse[r * n + r] = 1.0;
        for (std::size_t c = 0; c < n; ++c) {
            std::size_t top = c;
            for (std::size_t r = c + 1; r < n; ++r) {
                if (std::abs(matrix[r * n + c]) > std::abs(matrix[top * n + c])) top = r;
            }
            if (std::abs(matrix[top * n + c]) < 1e-14) return;  // keep the updated inverse
            if (top != c) {
                std::swap_ranges(&matrix[top * n], &matrix[top * n] + n, &matrix[c * n]);
                std::swap_ranges(&inverse[top * n], &inverse[top * n] + n, &inverse[c * n]);
            }
            const double pivot = matrix[c * n + c];
            for (std::size_t k = 0; k < n; ++k) {
                matrix[c * n + k] /= pivot;
                inverse[c * n + k] /= pivot;
            }
            for (std::size_t r = 0; r < n; ++r) {
                const double factor = matrix[r * n + c];
                if (r == c || factor == 0.0) continue;
                for (std::size_t k = 0; k < n; ++k) {
                    matrix[r * n + k] -= factor * matrix[c * n + k];
                    inverse[r * n + k] -= factor * inverse[c * n + k];
                }
            }
        }
        inverse_ = std::move(inverse);
        recompute();
    }

    // Values of the basis: inverse times (right side less the counts outside it).
    void recompute() {
        std::vector<double> left(right_), column(at(rows_));
        for (int g = 0; g < offers_; ++g) {
            const double count = at_high_[at(g)] != 0 ? box_.high[at(g)] : box_.low[at(g)];
            if (inBasis_[at(g)] != 0 || count == 0.0) continue;
            entries({Column::kCount, g, 0}, column);
            for (int r = 0; r < rows_; ++r) left[at(r)] -= column[at(r)] * count;
        }
        values_.assign(at(rows_), 0.0);
        for (int r = 0; r < rows_; ++r) {
            const double* row = inverse_.data() + at(r) * at(rows_);
            for (int c = 0; c < rows_; ++c) values_[at(r)] += row[c] * left[at(c)];
        }
    }

    FleetBound& fleet_;
    const Box& box_;
    int offers_, kinds_, scenarios_, block_, rows_;
    double scale_ = 0.0;
    bool stuck_ = false;
    int since_ = 0, next_ = 0;
    std::vector<double> right_, inverse_, values_, dual_;
    std::vector<Column> basis_;
    std::vector<char> at_high_, inBasis_, absent_;
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
    return Programme(*this, box).run(cancel);
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

#include "serving/programme.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "serving/inverse.hpp"

namespace optalloc::serving {

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kPivot = 1e-9;    // smaller entries are not divided by
constexpr double kReduced = 1e-10; // a reduced price within this of 0 is 0, in units of the largest price
constexpr double kApart = 1e-10;   // replicas added to a row so that no two meet their bounds at once
constexpr int kRefactor = 64;      // pivots between two inversions

std::size_t at(int index) { return static_cast<std::size_t>(index); }

}  // namespace

Programme::Programme(FleetBound& fleet, const Box& box)
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
    at_high_.assign(at(offers_), 0);
    // Start: counts at their least, everything left undone.
    basis_.resize(at(rows_));
    for (int r = 0; r < rows_; ++r) {
        const bool share = r < scenarios_ * block_ && r % block_ == kinds_;
        basis_[at(r)] = share ? Column{Column::kShortage, r / block_, 0} : Column{Column::kSlack, r, 0};
    }
    in_basis_.assign(at(offers_), 0);
    inverse_.assign(at(rows_) * at(rows_), 0.0);
    for (int r = 0; r < rows_; ++r) inverse_[at(r) * at(rows_) + at(r)] = 1.0;
    recompute();
}

std::vector<double> Programme::counts() const {
    std::vector<double> counts(at(offers_));
    for (int g = 0; g < offers_; ++g) counts[at(g)] = at_high_[at(g)] != 0 ? box_.high[at(g)] : box_.low[at(g)];
    for (int r = 0; r < rows_; ++r) {
        if (basis_[at(r)].what == Column::kCount) counts[at(basis_[at(r)].which)] = values_[at(r)];
    }
    return counts;
}

double Programme::short_of() const {
    double share = 0.0;
    for (int r = 0; r < rows_; ++r) {
        if (basis_[at(r)].what == Column::kShortage) share = std::max(share, values_[at(r)]);
    }
    return share;
}

double Programme::cost(const Column& column) const {
    if (column.what == Column::kCount) return box_.price[at(column.which)];
    return column.what == Column::kShortage ? box_.shortage : 0.0;
}

double Programme::objective() const {
    double sum = 0.0;
    for (int g = 0; g < offers_; ++g) {
        if (in_basis_[at(g)] == 0) sum += box_.price[at(g)] * (at_high_[at(g)] != 0 ? box_.high[at(g)] : box_.low[at(g)]);
    }
    for (int r = 0; r < rows_; ++r) sum += cost(basis_[at(r)]) * values_[at(r)];
    return sum;
}

// The entries of a column, dense.
void Programme::entries(const Column& column, std::vector<double>& out) const {
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

// dual = basis prices times the inverse.
void Programme::reprice() {
    dual_.assign(at(rows_), 0.0);
    for (int r = 0; r < rows_; ++r) {
        const double price = cost(basis_[at(r)]);
        if (price == 0.0) continue;
        const double* row = inverse_.data() + at(r) * at(rows_);
        for (int c = 0; c < rows_; ++c) dual_[at(c)] += price * row[c];
    }
}

double Programme::count_price(int g) const {
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
void Programme::solve(const std::int32_t* cancel) {
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
            if (in_basis_[at(g)] != 0 || box_.high[at(g)] <= box_.low[at(g)]) continue;
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
            const int number = static_cast<int>(fleet_.used_.size());
            for (int i = 0; i < number; ++i, load += kinds_) {
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
            in_basis_[at(out.which)] = 0;
            at_high_[at(out.which)] = to_high ? 1 : 0;
        }
        double begin = 0.0;
        if (enter.what == Column::kCount) {
            begin = at_high_[at(enter.which)] != 0 ? box_.high[at(enter.which)] : box_.low[at(enter.which)];
            in_basis_[at(enter.which)] = 1;
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

// The inverse from scratch.
void Programme::refactor() {
    since_ = 0;
    std::vector<double> inverse = inverse_of(
        at(rows_), [&](std::size_t c, std::vector<double>& column) { entries(basis_[c], column); });
    if (inverse.empty()) return;  // keep the updated one
    inverse_ = std::move(inverse);
    recompute();
}

// Values of the basis: inverse times (right side less the counts outside it).
void Programme::recompute() {
    std::vector<double> left(right_), column(at(rows_));
    for (int g = 0; g < offers_; ++g) {
        const double count = at_high_[at(g)] != 0 ? box_.high[at(g)] : box_.low[at(g)];
        if (in_basis_[at(g)] != 0 || count == 0.0) continue;
        entries({Column::kCount, g, 0}, column);
        for (int r = 0; r < rows_; ++r) left[at(r)] -= column[at(r)] * count;
    }
    values_.assign(at(rows_), 0.0);
    for (int r = 0; r < rows_; ++r) {
        const double* row = inverse_.data() + at(r) * at(rows_);
        for (int c = 0; c < rows_; ++c) values_[at(r)] += row[c] * left[at(c)];
    }
}

}  // namespace optalloc::serving

#include "serving/dual.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include "clones.hpp"

namespace optalloc::serving {

namespace {

constexpr double kNothing = 1e-12;  // time that starts no basis
constexpr int kMostIdle = 3;        // boxes that a cut stays for without holding anything

OPTALLOC_CLONES void multiply(double* __restrict out, const double* load, const std::int32_t* kind,
                              const double* by_kind, std::size_t n) {
    for (std::size_t i = 0; i < n; ++i) out[i] = load[i] * by_kind[kind[i]];
}

}  // namespace

DualSimplex::DualSimplex(const Fleet& fleet)
    : fleet_(fleet),
      offers_(fleet.offers),
      kinds_(fleet.kinds),
      buckets_(fleet.buckets()),
      serves_(static_cast<int>(fleet.serves.size())),
      bucket_(fleet.serves.size()) {
    for (const Serve& serve : fleet.serves) {
        load_.push_back(serve.load);
        kind_.push_back(serve.kind);
    }
    for (int j = 0; j < buckets_; ++j) {
        for (int i = fleet.first[at(j)]; i < fleet.first[at(j + 1)]; ++i) bucket_[at(i)] = j;
    }
}

// --- columns

double DualSimplex::low(const Column& column) const { return column.what == kCount ? box_->low[at(column.which)] : 0.0; }

double DualSimplex::high(const Column& column) const {
    if (column.what == kCount) return box_->high[at(column.which)];
    return column.what == kSlack ? slack_high_[at(column.which)] : 1.0;
}

DualSimplex::State& DualSimplex::state(const Column& column) {
    auto& states = column.what == kCount ? count_state_ : column.what == kSlack ? slack_state_ : share_state_;
    return states[at(column.which)];
}

// The entries of a column, dense; those of a share less those of its bucket's key.
void DualSimplex::entries(const Column& column, std::vector<double>& out) const {
    std::fill(out.begin(), out.end(), 0.0);
    if (column.what == kSlack) {
        out[at(column.which)] = 1.0;
    } else if (column.what == kShare) {
        share_entries(column.which, 1.0, out);
        share_entries(key_[at(bucket_[at(column.which)])], -1.0, out);
    } else {
        const int g = column.which;
        const double* time = time_of(g);
        for (int k = 0; k < kinds_; ++k) out[at(k)] = -time[k];
        for (int p = 0; p < fleet_.limits; ++p) out[at(kinds_ + p)] = fleet_.use[at(p * offers_ + g)];
        for (std::size_t c = 0; c < cuts_.size(); ++c) out[at(base_) + c] = -cuts_[c].price * time[cuts_[c].kind];
    }
}

void DualSimplex::share_entries(int share, double sign, std::vector<double>& out) const {
    const Serve& serve = fleet_.serves[at(share)];
    out[at(serve.kind)] += sign * serve.load;
    for (std::size_t c = 0; c < cuts_.size(); ++c) {
        const Cut& cut = cuts_[c];
        if (cut.kind == serve.kind && cut.has[at(bucket_[at(share)])] != 0) out[at(base_) + c] += sign * serve.load / cut.unit;
    }
}

// A row of multipliers times the columns of all counts.
void DualSimplex::count_rates(const double* row, std::vector<double>& out) const {
    std::vector<double> by_kind(row, row + kinds_);
    for (std::size_t c = 0; c < cuts_.size(); ++c) by_kind[at(cuts_[c].kind)] += row[at(base_) + c] * cuts_[c].price;
    out.assign(at(offers_), 0.0);
    for (int g = 0; g < offers_; ++g) {
        const double* time = time_of(g);
        for (int k = 0; k < kinds_; ++k) out[at(g)] -= by_kind[at(k)] * time[k];
        for (int p = 0; p < fleet_.limits; ++p) out[at(g)] += row[kinds_ + p] * fleet_.use[at(p * offers_ + g)];
    }
}

void DualSimplex::costs(const double* multipliers, double* out) const {
    multiply(out, load_.data(), kind_.data(), multipliers, load_.size());
    for (std::size_t c = 0; c < cuts_.size(); ++c) {
        const Cut& cut = cuts_[c];
        const double each = multipliers[at(base_) + c] / cut.unit;
        if (each == 0.0) continue;
        for (const int i : cut.items) out[i] += each * load_[at(i)];
    }
}

// --- what is asked for

double DualSimplex::objective() const {
    double sum = 0.0;
    for (int g = 0; g < offers_; ++g) {
        const State now = count_state_[at(g)];
        if (now != kBasic) sum += box_->price[at(g)] * (now == kHigh ? box_->high[at(g)] : box_->low[at(g)]);
    }
    for (int r = 0; r < rows_; ++r) {
        if (basis_[at(r)].what == kCount) sum += box_->price[at(basis_[at(r)].which)] * values_[at(r)];
    }
    return sum;
}

std::vector<double> DualSimplex::counts() const {
    std::vector<double> counts(at(offers_));
    for (int g = 0; g < offers_; ++g) counts[at(g)] = count_state_[at(g)] == kHigh ? box_->high[at(g)] : box_->low[at(g)];
    for (int r = 0; r < rows_; ++r) {
        if (basis_[at(r)].what == kCount) counts[at(basis_[at(r)].which)] = values_[at(r)];
    }
    return counts;
}

std::vector<double> DualSimplex::shares() const {
    std::vector<double> shares(at(serves_), 0.0);
    for (const int key : key_) shares[at(key)] = 1.0;
    const auto give = [&](int share, double value) {
        shares[at(share)] = value;
        shares[at(key_[at(bucket_[at(share)])])] -= value;
    };
    for (const int share : highs_) give(share, 1.0);
    for (int r = 0; r < rows_; ++r) {
        if (basis_[at(r)].what == kShare) give(basis_[at(r)].which, values_[at(r)]);
    }
    return shares;
}

std::vector<double> DualSimplex::multipliers() const {
    std::vector<double> row(at(rows_), 0.0);
    for (int r = 0; r < rows_; ++r) {
        if (basis_[at(r)].what != kCount) continue;
        const double price = box_->price[at(basis_[at(r)].which)];
        const double* inverse = inverse_.data() + at(r) * at(rows_);
        for (int c = 0; c < rows_; ++c) row[at(c)] -= price * inverse[c];
    }
    return row;
}

// --- beginning a box

void DualSimplex::start(const WholeBox& box) {
    box_ = &box;
    scale_ = 1e-300;
    for (const double price : box.price) scale_ = std::max(scale_, price);
    const bool first = basis_.empty(), same = std::equal(time_.begin(), time_.end(), box.time.begin(), box.time.end());
    time_.assign(box.time.begin(), box.time.end());
    if (first) {
        reset();
        return;
    }
    forget();
    if (!same) refactor();
    settle();
}

void DualSimplex::restart() { reset(); }

// A basis that serves everything where time is cheapest.
void DualSimplex::reset() {
    base_ = kinds_ + fleet_.limits;
    rows_ = base_ + static_cast<int>(cuts_.size());
    basis_.resize(at(rows_));
    for (int r = 0; r < rows_; ++r) basis_[at(r)] = {kSlack, r};
    slack_state_.assign(at(rows_), kBasic);
    count_state_.assign(at(offers_), kLow);
    share_state_.assign(at(serves_), kLow);
    highs_.clear();
    std::vector<double> price(at(kinds_), kInfinity);
    std::vector<int> cheapest(at(kinds_), -1);
    for (int g = 0; g < offers_; ++g) {
        const double* time = time_of(g);
        const auto k = at(static_cast<int>(std::max_element(time, time + kinds_) - time));
        if (box_->high[at(g)] <= box_->low[at(g)] || time[k] <= kNothing || box_->price[at(g)] / time[k] >= price[k]) continue;
        price[k] = box_->price[at(g)] / time[k];
        cheapest[k] = g;
    }
    for (int k = 0; k < kinds_; ++k) {
        if (cheapest[at(k)] < 0) continue;
        slack_state_[at(k)] = kLow;
        count_state_[at(cheapest[at(k)])] = kBasic;
        basis_[at(k)] = {kCount, cheapest[at(k)]};
    }
    key_.assign(at(buckets_), 0);
    for (int j = 0; j < buckets_; ++j) {
        int best = fleet_.first[at(j)];
        double least = kInfinity;
        for (int i = fleet_.first[at(j)]; i < fleet_.first[at(j + 1)]; ++i) {
            const double cost = price[at(fleet_.serves[at(i)].kind)] * fleet_.serves[at(i)].load;
            if (cost < least) {
                least = cost;
                best = i;
            }
        }
        key_[at(j)] = best;
        share_state_[at(best)] = kKey;
    }
    refactor();
    settle();
}

// Every column outside the basis goes to the bound that its reduced price asks for.
void DualSimplex::settle() {
    slack_high_.assign(at(rows_), 0.0);
    right_.assign(at(rows_), 0.0);
    std::vector<double> most(at(kinds_), 0.0);
    for (int g = 0; g < offers_; ++g) {
        for (int k = 0; k < kinds_; ++k) most[at(k)] += time_of(g)[k] * box_->high[at(g)];
    }
    std::copy(most.begin(), most.end(), slack_high_.begin());
    for (int p = 0; p < fleet_.limits; ++p) right_[at(kinds_ + p)] = slack_high_[at(kinds_ + p)] = box_->limit[at(p)];
    for (std::size_t c = 0; c < cuts_.size(); ++c) {
        right_[at(base_) + c] = cuts_[c].right;
        slack_high_[at(base_) + c] = std::max(0.0, cuts_[c].right + cuts_[c].price * most[at(cuts_[c].kind)]);
    }
    reprice();
    const double none = kReduced * scale_;
    const auto place = [&](std::vector<State>& states, const std::vector<double>& nets) {
        for (std::size_t i = 0; i < states.size(); ++i) {
            if (states[i] != kBasic && std::abs(nets[i]) > none) states[i] = nets[i] < 0.0 ? kHigh : kLow;
        }
    };
    place(count_state_, net_count_);
    place(slack_state_, net_slack_);
    for (const int share : highs_) share_state_[at(share)] = kLow;
    highs_.clear();
    std::vector<char> split(key_.size(), 0);
    for (const Column& column : basis_) {
        if (column.what == kShare) split[at(bucket_[at(column.which)])] = 1;
    }
    std::vector<double>& net = net_share_;
    for (int j = 0; j < buckets_; ++j) {
        const int begin = fleet_.first[at(j)], end = fleet_.first[at(j + 1)];
        const int best = static_cast<int>(std::min_element(net.begin() + begin, net.begin() + end) - net.begin());
        if (net[at(best)] >= -none) continue;
        if (split[at(j)] == 0) {
            share_state_[at(std::exchange(key_[at(j)], best))] = kLow;
            share_state_[at(best)] = kKey;
            const double less = net[at(best)];
            for (int i = begin; i < end; ++i) net[at(i)] -= less;
            continue;
        }
        for (int i = begin; i < end; ++i) {
            if (share_state_[at(i)] != kLow || net[at(i)] >= -none) continue;
            share_state_[at(i)] = kHigh;
            highs_.push_back(i);
        }
    }
    recompute();
}

// --- cuts

void DualSimplex::add(std::vector<Cut> cuts) {
    const int more = static_cast<int>(cuts.size()), old = rows_;
    const std::size_t n = at(old), m = at(old + more);
    for (Cut& cut : cuts) cuts_.push_back(std::move(cut));
    std::vector<double> inverse(m * m, 0.0), column(m);
    for (std::size_t r = 0; r < n; ++r) std::copy_n(&inverse_[r * n], n, &inverse[r * m]);
    for (std::size_t r = 0; r < n; ++r) {
        if (basis_[r].what == kSlack) continue;
        entries(basis_[r], column);
        for (std::size_t c = n; c < m; ++c) {
            if (column[c] == 0.0) continue;
            for (std::size_t i = 0; i < n; ++i) inverse[c * m + i] -= column[c] * inverse_[r * n + i];
        }
    }
    inverse_ = std::move(inverse);
    for (int r = old; r < old + more; ++r) {
        inverse_[at(r) * m + at(r)] = 1.0;
        basis_.push_back({kSlack, r});
        slack_state_.push_back(kBasic);
    }
    rows_ = old + more;
    settle();
}

void DualSimplex::forget() {
    std::vector<int> place(at(rows_), -1);  // of the row's slack in the basis
    for (int r = 0; r < rows_; ++r) {
        if (basis_[at(r)].what == kSlack) place[at(basis_[at(r)].which)] = r;
    }
    std::vector<int> row(at(rows_));  // new number of each row, -1: gone
    std::vector<char> stays(at(rows_), 1);
    int kept = 0, number = 0;
    for (int r = 0; r < rows_; ++r) {
        row[at(r)] = number;
        if (r >= base_) {
            Cut& cut = cuts_[at(r - base_)];
            cut.idle = place[at(r)] >= 0 ? cut.idle + 1 : 0;
            if (cut.idle > kMostIdle) {
                row[at(r)] = -1;
                stays[at(place[at(r)])] = 0;
                continue;
            }
            if (kept != r - base_) cuts_[at(kept)] = std::move(cut);
            ++kept;
        }
        slack_state_[at(number++)] = slack_state_[at(r)];
    }
    if (number == rows_) return;
    cuts_.resize(at(kept));
    slack_state_.resize(at(number));
    std::vector<double> inverse;
    std::vector<Column> basis;
    inverse.reserve(at(number) * at(number));
    for (int r = 0; r < rows_; ++r) {
        if (stays[at(r)] == 0) continue;
        for (int c = 0; c < rows_; ++c) {
            if (row[at(c)] >= 0) inverse.push_back(inverse_[at(r) * at(rows_) + at(c)]);
        }
        Column column = basis_[at(r)];
        if (column.what == kSlack) column.which = row[at(column.which)];
        basis.push_back(column);
    }
    inverse_ = std::move(inverse);
    basis_ = std::move(basis);
    rows_ = number;
}

}  // namespace optalloc::serving

#include "serving/dual.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace optalloc::serving {

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kFeasible = 1e-9;  // a value this far outside its bounds is within them
constexpr double kApart = 1e-7;     // reduced prices that tie are moved this far apart, in units of the largest price
constexpr double kReduced = 1e-10;  // a reduced price within this of 0 is 0, in units of the largest price
constexpr double kPivot = 1e-9;     // smaller entries are not divided by, relative to what they are sums of
constexpr double kNothing = 1e-12;  // time that starts no basis
constexpr int kRefactor = 64;       // pivots between two inversions
constexpr int kMostPivots = 20000;
constexpr int kMostIdle = 3;        // boxes that a cut stays for without holding anything

std::size_t at(int index) { return static_cast<std::size_t>(index); }

}  // namespace

DualSimplex::DualSimplex(const Fleet& fleet)
    : fleet_(fleet),
      offers_(fleet.offers),
      kinds_(fleet.kinds),
      buckets_(fleet.buckets()),
      serves_(static_cast<int>(fleet.serves.size())),
      bucket_(fleet.serves.size()) {
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
    for (int i = 0; i < serves_; ++i) out[i] = fleet_.serves[at(i)].load * multipliers[fleet_.serves[at(i)].kind];
    for (std::size_t c = 0; c < cuts_.size(); ++c) {
        const Cut& cut = cuts_[c];
        const double each = multipliers[at(base_) + c] / cut.unit;
        if (each == 0.0) continue;
        for (const int i : cut.items) out[i] += each * fleet_.serves[at(i)].load;
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

// --- simplex

Outcome DualSimplex::solve(double cutoff, const std::int32_t* cancel) {
    bool fresh = false, moved = false;
    int idle = 0, most_idle = 20 + rows_ / 4;
    for (int pivots = 0; pivots < kMostPivots; ++pivots) {
        if (since_ >= kRefactor) {
            refactor();
            reprice();
            recompute();
        }
        change_keys();
        bool below = false;
        const int leave = leaving(below);
        if (leave < 0) {
            if (!moved) return Outcome::kServes;
            moved = false;  // to the end at the true prices
            settle();
            continue;
        }
        if (objective() >= cutoff || (pivots % 64 == 63 && *cancel != 0)) return Outcome::kStopped;
        double length = 0.0;
        const Step step = pivot(leave, below, length);
        if (step == Step::kNoColumn) return Outcome::kNone;
        if (step == Step::kNoise) {
            if (fresh) return Outcome::kStopped;
            fresh = true;
            refactor();
            reprice();
            recompute();
            continue;
        }
        fresh = false;
        idle = length > kReduced * scale_ ? 0 : idle + 1;
        if (idle > most_idle) {
            move_apart();
            moved = true;
            idle = 0;
            most_idle *= 2;
        }
    }
    return Outcome::kStopped;
}

// No two columns are to tie.
void DualSimplex::move_apart() {
    double part = 0.0;
    const auto move = [&](std::vector<double>& nets, const std::vector<State>& states) {
        for (std::size_t i = 0; i < nets.size(); ++i) {
            part = std::fmod(part + 0.618033988749895, 1.0);
            if (states[i] == kLow) nets[i] += kApart * scale_ * part;
            if (states[i] == kHigh) nets[i] -= kApart * scale_ * part;
        }
    };
    move(net_count_, count_state_);
    move(net_slack_, slack_state_);
    move(net_share_, share_state_);
}

// A key below 0 changes places with the largest basic share of its bucket.
void DualSimplex::change_keys() {
    left_.resize(key_.size(), 1.0);
    const auto bucket = [&](int share) { return at(bucket_[at(share)]); };
    for (const int share : highs_) left_[bucket(share)] -= 1.0;
    for (int r = 0; r < rows_; ++r) {
        if (basis_[at(r)].what == kShare) left_[bucket(basis_[at(r)].which)] -= values_[at(r)];
    }
    for (int r = 0; r < rows_; ++r) {
        if (basis_[at(r)].what != kShare) continue;
        const std::size_t b = bucket(basis_[at(r)].which);
        if (left_[b] >= -kFeasible) continue;
        int best = r;
        for (int q = r; q < rows_; ++q) {
            if (basis_[at(q)].what == kShare && bucket(basis_[at(q)].which) == b && values_[at(q)] > values_[at(best)]) best = q;
        }
        double* row = inverse_.data() + at(best) * at(rows_);
        for (int c = 0; c < rows_; ++c) row[c] = -row[c];
        for (int q = 0; q < rows_; ++q) {
            if (q == best || basis_[at(q)].what != kShare || bucket(basis_[at(q)].which) != b) continue;
            const double* other = inverse_.data() + at(q) * at(rows_);
            for (int c = 0; c < rows_; ++c) row[c] -= other[c];
        }
        const int share = std::exchange(basis_[at(best)].which, key_[b]);
        share_state_[at(std::exchange(key_[b], share))] = kBasic;
        share_state_[at(share)] = kKey;
        std::swap(values_[at(best)], left_[b]);
    }
    for (const int share : highs_) left_[bucket(share)] = 1.0;
    for (int r = 0; r < rows_; ++r) {
        if (basis_[at(r)].what == kShare) left_[bucket(basis_[at(r)].which)] = 1.0;
    }
}

// The row of the basis that is furthest outside its bounds, for its length; -1 if none is.
int DualSimplex::leaving(bool& below) const {
    double most = 0.0;
    int leave = -1;
    for (int r = 0; r < rows_; ++r) {
        const Column& column = basis_[at(r)];
        const double under = low(column) - values_[at(r)];
        const double over = column.what == kShare ? 0.0 : values_[at(r)] - high(column);
        const double outside = std::max(under, over);
        if (outside <= kFeasible) continue;
        const double* row = inverse_.data() + at(r) * at(rows_);
        double size = 0.0;
        for (int c = 0; c < rows_; ++c) size += row[c] * row[c];
        if (outside * outside > most * size) {
            most = outside * outside / size;
            leave = r;
            below = under > 0.0;
        }
    }
    return leave;
}

DualSimplex::Step DualSimplex::pivot(int leave, bool below, double& length) {
    const double* rho = inverse_.data() + at(leave) * at(rows_);
    double largest = 0.0;
    for (int c = 0; c < rows_; ++c) largest = std::max(largest, std::abs(rho[c]));
    count_rates(rho, rate_count_);
    rate_slack_.assign(rho, rho + rows_);
    beyond_keys(rho, rate_share_);
    // Shares in the basis cannot enter; those at their upper bound are tried like counts.
    std::vector<double> rate_high(highs_.size());
    for (std::size_t h = 0; h < highs_.size(); ++h) rate_high[h] = std::exchange(rate_share_[at(highs_[h])], 0.0);
    for (const Column& basic : basis_) {
        if (basic.what == kShare) rate_share_[at(basic.which)] = 0.0;
    }
    // The first reduced price to reach 0 enters; of those that do so within rounding, the one with the largest entry.
    const double way = below ? -1.0 : 1.0, slip = kReduced * scale_, least = kPivot * largest;
    const auto each = [&](auto&& visit) {
        for (int g = 0; g < offers_; ++g) {
            if (count_state_[at(g)] == kBasic || box_->high[at(g)] <= box_->low[at(g)]) continue;
            visit(Column{kCount, g}, count_state_[at(g)] == kHigh, net_count_[at(g)], rate_count_[at(g)]);
        }
        for (int r = 0; r < rows_; ++r) {
            if (slack_state_[at(r)] == kBasic || slack_high_[at(r)] <= 0.0) continue;
            visit(Column{kSlack, r}, slack_state_[at(r)] == kHigh, net_slack_[at(r)], rate_slack_[at(r)]);
        }
        for (std::size_t h = 0; h < highs_.size(); ++h) {
            visit(Column{kShare, highs_[h]}, true, net_share_[at(highs_[h])], rate_high[h]);
        }
    };
    double reach = kInfinity, size = 0.0;
    each([&](Column, bool high, double net, double rate) {
        const double helps = high ? -way * rate : way * rate;
        if (helps > least) reach = std::min(reach, (std::max(0.0, high ? -net : net) + slip) / helps);
    });
    for (std::size_t i = 0; i < rate_share_.size(); ++i) {
        const double helps = way * rate_share_[i];
        if (net_share_[i] + slip < reach * helps && helps > least * fleet_.serves[i].load) reach = (std::max(0.0, net_share_[i]) + slip) / helps;
    }
    if (reach == kInfinity) {
        ray_.assign(rho, rho + rows_);
        if (!below) {
            for (double& price : ray_) price = -price;
        }
        return Step::kNoColumn;
    }
    Column enter{kSlack, -1};
    double net_enter = 0.0, rate_enter = 0.0;
    each([&](Column column, bool high, double net, double rate) {
        const double helps = high ? -way * rate : way * rate, price = std::max(0.0, high ? -net : net);
        if (helps <= least || helps <= size || price > reach * helps) return;
        size = helps;
        enter = column;
        net_enter = high ? -price : price;
        rate_enter = rate;
    });
    for (std::size_t i = 0; i < rate_share_.size(); ++i) {
        const double helps = way * rate_share_[i];
        if (helps <= size || net_share_[i] > reach * helps || helps <= least * fleet_.serves[i].load) continue;
        size = helps;
        enter = {kShare, static_cast<int>(i)};
        net_enter = std::max(0.0, net_share_[i]);
        rate_enter = rate_share_[i];
    }
    for (std::size_t h = 0; h < highs_.size(); ++h) rate_share_[at(highs_[h])] = rate_high[h];
    std::vector<double> column(at(rows_)), step(at(rows_));
    entries(enter, column);
    std::vector<int> filled;
    for (int c = 0; c < rows_; ++c) {
        if (column[at(c)] != 0.0) filled.push_back(c);
    }
    for (int r = 0; r < rows_; ++r) {
        const double* row = inverse_.data() + at(r) * at(rows_);
        for (const int c : filled) step[at(r)] += row[c] * column[at(c)];
    }
    const double by = step[at(leave)];
    if (std::abs(by - rate_enter) > 1e-6 * std::abs(rate_enter)) return Step::kNoise;

    // Reduced prices.
    const double price = net_enter / rate_enter;
    length = std::abs(net_enter);
    for (int g = 0; g < offers_; ++g) net_count_[at(g)] -= price * rate_count_[at(g)];
    for (int r = 0; r < rows_; ++r) net_slack_[at(r)] -= price * rate_slack_[at(r)];
    for (std::size_t i = 0; i < net_share_.size(); ++i) net_share_[i] -= price * rate_share_[i];

    // Values: the leaving column goes to the bound that it is beyond.
    const Column out = basis_[at(leave)];
    const double begin = state(enter) == kHigh ? high(enter) : low(enter);
    const double move = (values_[at(leave)] - (below ? low(out) : high(out))) / by;
    for (int r = 0; r < rows_; ++r) values_[at(r)] -= move * step[at(r)];
    values_[at(leave)] = begin + move;
    if (enter.what == kShare && state(enter) == kHigh) std::erase(highs_, enter.which);
    state(enter) = kBasic;
    state(out) = below ? kLow : kHigh;
    basis_[at(leave)] = enter;
    for (const Column& basic : basis_) {
        auto& nets = basic.what == kCount ? net_count_ : basic.what == kSlack ? net_slack_ : net_share_;
        nets[at(basic.which)] = 0.0;
    }
    auto& nets = out.what == kCount ? net_count_ : out.what == kSlack ? net_slack_ : net_share_;
    nets[at(out.which)] = -price;

    double* pivot_row = inverse_.data() + at(leave) * at(rows_);
    for (int c = 0; c < rows_; ++c) pivot_row[c] /= by;
    for (int r = 0; r < rows_; ++r) {
        const double factor = step[at(r)];
        if (r == leave || factor == 0.0) continue;
        double* row = inverse_.data() + at(r) * at(rows_);
        for (int c = 0; c < rows_; ++c) row[c] -= factor * pivot_row[c];
    }
    ++since_;
    return Step::kDone;
}

// What each share costs beyond its bucket's key.
void DualSimplex::beyond_keys(const double* multipliers, std::vector<double>& out) const {
    out.resize(at(serves_));
    costs(multipliers, out.data());
    for (int j = 0; j < buckets_; ++j) {
        const double key = out[at(key_[at(j)])];
        for (int i = fleet_.first[at(j)]; i < fleet_.first[at(j + 1)]; ++i) out[at(i)] -= key;
    }
}

// The inverse from scratch, by elimination with the largest pivot of each column.
void DualSimplex::refactor() {
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
        if (std::abs(matrix[top * n + c]) < 1e-14) {  // a count without room left its row: begin anew
            reset();
            return;
        }
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
            for (std::size_t k = c; k < n; ++k) matrix[r * n + k] -= factor * matrix[c * n + k];
            for (std::size_t k = 0; k < n; ++k) inverse[r * n + k] -= factor * inverse[c * n + k];
        }
    }
    inverse_ = std::move(inverse);
}

// Values of the basis: inverse times (right side less all that is outside it).
void DualSimplex::recompute() {
    std::vector<double> left(right_), column(at(rows_));
    const auto take = [&](const Column& what, double value) {
        if (value == 0.0) return;
        entries(what, column);
        for (int r = 0; r < rows_; ++r) left[at(r)] -= column[at(r)] * value;
    };
    for (int g = 0; g < offers_; ++g) {
        if (count_state_[at(g)] != kBasic) {
            take({kCount, g}, count_state_[at(g)] == kHigh ? box_->high[at(g)] : box_->low[at(g)]);
        }
    }
    for (int r = 0; r < rows_; ++r) {
        if (slack_state_[at(r)] == kHigh) left[at(r)] -= slack_high_[at(r)];
    }
    for (const int share : highs_) take({kShare, share}, 1.0);
    for (const int key : key_) left[at(fleet_.serves[at(key)].kind)] -= fleet_.serves[at(key)].load;
    for (std::size_t c = 0; c < cuts_.size(); ++c) {
        for (const int i : cuts_[c].items) {
            if (share_state_[at(i)] == kKey) left[at(base_) + c] -= fleet_.serves[at(i)].load / cuts_[c].unit;
        }
    }
    values_.assign(at(rows_), 0.0);
    for (int r = 0; r < rows_; ++r) {
        const double* row = inverse_.data() + at(r) * at(rows_);
        for (int c = 0; c < rows_; ++c) values_[at(r)] += row[c] * left[at(c)];
    }
}

void DualSimplex::reprice() {
    net_slack_ = multipliers();
    count_rates(net_slack_.data(), net_count_);
    for (int g = 0; g < offers_; ++g) net_count_[at(g)] += box_->price[at(g)];
    beyond_keys(net_slack_.data(), net_share_);
    for (const Column& basic : basis_) {
        auto& nets = basic.what == kCount ? net_count_ : basic.what == kSlack ? net_slack_ : net_share_;
        nets[at(basic.which)] = 0.0;
    }
}

}  // namespace optalloc::serving

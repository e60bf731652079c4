#include <algorithm>
#include <cmath>
#include <utility>

#include "clones.hpp"
#include "serving/dual.hpp"
#include "serving/inverse.hpp"

namespace optalloc::serving {

namespace {

constexpr double kFar = 1e100;       // no column enters at such a price
constexpr double kFeasible = 1e-9;  // a value this far outside its bounds is within them
constexpr double kApart = 1e-7;     // reduced prices that tie are moved this far apart, in units of the largest price
constexpr double kPivot = 1e-9;     // smaller entries are not divided by, relative to what they are sums of
constexpr int kRefactor = 64;       // pivots between two inversions
constexpr int kMostPivots = 20000;

constexpr std::size_t kBlock = 32;  // shares that are looked at together

// Whether any reduced price falls to 0 before `reach`.
OPTALLOC_CLONES bool any_within(const double* net, const double* rate, double reach, std::size_t n) {
    int found = 0;
    for (std::size_t i = 0; i < n; ++i) found += net[i] < reach * rate[i] ? 1 : 0;
    return found != 0;
}

}  // namespace

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
    std::vector<int> close;  // shares that may be first
    reach = std::min(reach, kFar);
    for (std::size_t begin = 0; begin < rate_share_.size(); begin += kBlock) {
        const std::size_t end = std::min(begin + kBlock, rate_share_.size());
        if (!any_within(&net_share_[begin], &rate_share_[begin], way * reach, end - begin)) continue;
        for (std::size_t i = begin; i < end; ++i) {
            const double helps = way * rate_share_[i], price = std::max(0.0, net_share_[i]);
            if (helps <= least * load_[i] || price > reach * helps) continue;
            close.push_back(static_cast<int>(i));
            reach = std::min(reach, (price + slip) / helps);
        }
    }
    if (reach >= kFar) {
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
    for (const int i : close) {
        const double helps = way * rate_share_[at(i)], price = std::max(0.0, net_share_[at(i)]);
        if (helps <= size || price > reach * helps) continue;
        size = helps;
        enter = {kShare, i};
        net_enter = price;
        rate_enter = rate_share_[at(i)];
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

// The inverse from scratch.
void DualSimplex::refactor() {
    since_ = 0;
    std::vector<double> inverse = inverse_of(
        at(rows_), [&](std::size_t c, std::vector<double>& column) { entries(basis_[c], column); });
    if (inverse.empty()) return reset();  // a count without room left its row: begin anew
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

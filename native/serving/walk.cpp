#include "serving/walk.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace optalloc::serving {

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
// A layer may be the end of one crossing and the begin of the next on the same nodes: each pays half.
constexpr double kShare = 0.5;
constexpr int kMostWide = 8;  // nodes told apart on one side of a crossing; more count as this many

std::size_t at(int index) { return static_cast<std::size_t>(index); }

enum Role { kPlain, kOut, kIn };

struct Use {
    int item;
    Role role;
};

// Cheapest sets of the items of some regions.
class Covers {
  public:
    Covers(const WalkItems& items, const std::vector<bool>& of, int size, double link, Role marked)
        : items_(items), size_(size), marked_(marked) {
        for (int i = 0; i < static_cast<int>(items.region.size()); ++i) {
            if (of[at(items.region[at(i)])]) mine_.push_back(i);
        }
        // marked nodes at least `a`, weight at least h: rows a = 0 .. kMostWide
        cost_.assign(at(kMostWide + 1), std::vector<double>(at(size + 1), kInfinity));
        last_.assign(cost_.size(), std::vector<Use>(at(size + 1), {-1, kPlain}));
        cost_[0][0] = 0.0;
        for (int a = 0; a <= kMostWide; ++a) {
            for (int h = a == 0 ? 1 : 0; h <= size; ++h) relax(a, h);
        }
        // only marked nodes, each passing at most b links: rows b = 1 .. kMostWide
        capped_.assign(cost_.size(), std::vector<double>(at(size + 1), kInfinity));
        capped_last_.assign(cost_.size(), std::vector<int>(at(size + 1), -1));
        for (int b = 1; b <= kMostWide; ++b) {
            const double cap = b == kMostWide ? 1.0 : std::min(1.0, b * link);
            caps_[at(b)] = cap;
            auto& row = capped_[at(b)];
            row[0] = 0.0;
            for (int h = 1; h <= size; ++h) {
                for (const int i : mine_) {
                    const double through = price(i, marked_) + row[at(std::max(0, h - width(i, cap)))];
                    if (through < row[at(h)]) {
                        row[at(h)] = through;
                        capped_last_[at(b)][at(h)] = i;
                    }
                }
            }
        }
    }

    double cost(int marked, int h) const { return cost_[at(marked)][at(std::min(h, size_))]; }
    double capped(int links, int h) const { return capped_[at(links)][at(std::min(h, size_))]; }

    void take(int marked, int h, double share, Walk& walk) const {
        h = std::min(h, size_);
        while (h > 0 || marked > 0) {
            const Use use = last_[at(marked)][at(h)];
            count(use, share, walk);
            h = std::max(0, h - width(use.item, 1.0));
            if (use.role != kPlain) --marked;
        }
    }

    void take_capped(int links, int h, double share, Walk& walk) const {
        h = std::min(h, size_);
        while (h > 0) {
            const int item = capped_last_[at(links)][at(h)];
            count({item, marked_}, share, walk);
            h = std::max(0, h - width(item, caps_[at(links)]));
        }
    }

  private:
    // Rounded up: more sets count as covers.
    int width(int item, double cap) const {
        return std::max(1, static_cast<int>(std::ceil(std::min(items_.weight[at(item)], cap) * size_ - 1e-9)));
    }

    double price(int item, Role role) const {
        return role == kPlain ? items_.price[at(item)] : role == kOut ? items_.out[at(item)] : items_.in[at(item)];
    }

    void relax(int a, int h) {
        double& best = cost_[at(a)][at(h)];
        for (const int i : mine_) {
            const int rest = std::max(0, h - width(i, 1.0));
            if (h > 0 && price(i, kPlain) + cost_[at(a)][at(rest)] < best) {
                best = price(i, kPlain) + cost_[at(a)][at(rest)];
                last_[at(a)][at(h)] = {i, kPlain};
            }
            if (a > 0 && price(i, marked_) + cost_[at(a - 1)][at(rest)] < best) {
                best = price(i, marked_) + cost_[at(a - 1)][at(rest)];
                last_[at(a)][at(h)] = {i, marked_};
            }
        }
    }

    static void count(const Use& use, double share, Walk& walk) {
        auto& into = use.role == kPlain ? walk.plain : use.role == kOut ? walk.out : walk.in;
        into[at(use.item)] += share;
    }

    const WalkItems& items_;
    int size_;
    Role marked_;
    std::vector<int> mine_;
    std::vector<std::vector<double>> cost_, capped_;
    std::vector<std::vector<Use>> last_;
    std::vector<std::vector<int>> capped_last_;
    double caps_[kMostWide + 1] = {};
};

// How a crossing is paid for: `wide` nodes marked on the counted side, the other side capped by them.
struct Crossing {
    double extra = 0.0;
    int region = -1, wide = 0;
    bool leaves = false, counted_out = false;
};

class Search {
  public:
    Search(const WalkItems& items, const WalkLimits& limits) : items_(items), in_(limits) {
        const int size = in_.levels * in_.parts;
        for (int p = 0; p < in_.regions; ++p) {
            std::vector<bool> own(at(in_.regions), false), rest(at(in_.regions), true);
            own[at(p)] = true;
            rest[at(p)] = false;
            own_out_.emplace_back(items, own, size, in_.leaves[at(p)], kOut);
            own_in_.emplace_back(items, own, size, in_.enters[at(p)], kIn);
            rest_out_.emplace_back(items, rest, size, in_.enters[at(p)], kOut);
            rest_in_.emplace_back(items, rest, size, in_.leaves[at(p)], kIn);
        }
        std::vector<int> state(at(in_.regions), 0);
        list(state, 0, 0);
        for (const auto& x : states_) {
            layer_.push_back(std::max(0.0, whole(x) - in_.cover));
            int reached = 0;
            for (int p = 0; p < in_.regions; ++p) {
                if (x[at(p)] >= in_.visit[at(p)]) reached |= 1 << p;
            }
            reached_.push_back(reached);
        }
        for (int p = 0; p < in_.regions; ++p) {
            if (in_.visit[at(p)] <= in_.levels) goal_ |= 1 << p;
        }
    }

    Walk run() {
        const int n = static_cast<int>(states_.size()), masks = 1 << in_.regions;
        std::vector<double> dist(at(n * masks), kInfinity), step(at(n * n), -1.0);
        std::vector<int> before(dist.size(), -1);
        std::vector<bool> done(dist.size(), false);
        for (int s = 0; s < n; ++s) {
            const int where = s * masks + (reached_[at(s)] & goal_);
            dist[at(where)] = layer_[at(s)];
        }
        int last = -1;
        while (true) {
            int best = -1;
            for (int w = 0; w < n * masks; ++w) {
                if (!done[at(w)] && (best < 0 || dist[at(w)] < dist[at(best)])) best = w;
            }
            if (best < 0 || dist[at(best)] == kInfinity) break;
            done[at(best)] = true;
            const int s = best / masks, mask = best % masks;
            if (mask == goal_) {
                last = best;
                break;
            }
            for (int t = 0; t < n; ++t) {
                const int where = t * masks + (mask | (reached_[at(t)] & goal_));
                if (done[at(where)]) continue;
                double& cost = step[at(s * n + t)];
                if (cost < 0.0) cost = kShare * crossing(states_[at(s)], states_[at(t)]).extra;
                const double through = dist[at(best)] + cost + layer_[at(t)];
                if (through < dist[at(where)]) {
                    dist[at(where)] = through;
                    before[at(where)] = best;
                }
            }
        }
        Walk walk{kInfinity, 0.0, {}, {}, {}};
        for (auto* list : {&walk.plain, &walk.out, &walk.in}) list->assign(items_.region.size(), 0.0);
        if (last < 0) return walk;
        walk.excess = dist[at(last)];
        std::vector<int> path;
        for (int where = last; where >= 0; where = before[at(where)]) path.push_back(where / masks);
        std::reverse(path.begin(), path.end());
        write(path, walk);
        return walk;
    }

  private:
    int height(int level) const { return level * in_.parts; }
    double plain(int p, const std::vector<int>& x) const { return own_out_[at(p)].cost(0, height(x[at(p)])); }

    double plain_rest(int p, const std::vector<int>& x) const {
        double total = 0.0;
        for (int r = 0; r < in_.regions; ++r) total += r == p ? 0.0 : plain(r, x);
        return total;
    }

    double whole(const std::vector<int>& x) const {
        double total = 0.0;
        for (int p = 0; p < in_.regions; ++p) total += plain(p, x);
        return total;
    }

    // What a layer pays more, for marked nodes that cost `more` than the plain ones they stand for.
    double added(double total, double more) const {
        return std::max(in_.cover, total + std::max(0.0, more)) - std::max(in_.cover, total);
    }

    int rest_of(int p, const std::vector<int>& x) const {
        int total = 0;
        for (int r = 0; r < in_.regions; ++r) total += r == p ? 0 : x[at(r)];
        return total;
    }

    // Levels are rounded down, so the shares add up to a little less than one.
    void list(std::vector<int>& state, int region, int used) {
        if (region == in_.regions) {
            if (used >= in_.levels - in_.regions + 1) states_.push_back(state);
            return;
        }
        for (int x = 0; used + x <= in_.levels; ++x) {
            state[at(region)] = x;
            list(state, region + 1, used + x);
        }
        state[at(region)] = 0;
    }

    // The dearest of the crossings that a change of shares needs; each is a bound of its own.
    Crossing crossing(const std::vector<int>& x, const std::vector<int>& y) const {
        Crossing dearest;
        for (int p = 0; p < in_.regions; ++p) {
            const int change = y[at(p)] - x[at(p)];
            if (std::abs(change) <= 1) continue;  // may be rounding
            const bool leaves = change < 0;
            const int amount = height(std::abs(change) - 1);
            const Covers& out = leaves ? own_out_[at(p)] : rest_out_[at(p)];
            const Covers& in = leaves ? rest_in_[at(p)] : own_in_[at(p)];
            const int held_out = height(leaves ? x[at(p)] : rest_of(p, x));
            const int held_in = height(leaves ? rest_of(p, y) : y[at(p)]);
            const double base_out = leaves ? plain(p, x) : plain_rest(p, x);
            const double base_in = leaves ? plain_rest(p, y) : plain(p, y);
            const double all_out = whole(x), all_in = whole(y);
            for (const bool counted_out : {true, false}) {
                Crossing best{kInfinity, p, 0, leaves, counted_out};
                for (int a = 1; a <= kMostWide; ++a) {
                    const double ends = counted_out ? out.cost(a, held_out) : out.capped(a, amount);
                    const double begins = counted_out ? in.capped(a, amount) : in.cost(a, held_in);
                    const double extra = added(all_out, ends - base_out) + added(all_in, begins - base_in);
                    if (extra < best.extra) {
                        best.extra = extra;
                        best.wide = a;
                    }
                }
                if (best.extra > dearest.extra) dearest = best;
            }
        }
        return dearest;
    }

    // What the layers of a path use. A crossing stands for half a layer, on its marked nodes; a layer that costs
    // less than any cover (by rounding) is left to the covers.
    void write(const std::vector<int>& path, Walk& walk) const {
        std::vector<double> share(path.size(), 1.0);
        for (std::size_t l = 0; l + 1 < path.size(); ++l) {
            const auto &x = states_[at(path[l])], &y = states_[at(path[l + 1])];
            const Crossing c = crossing(x, y);
            if (c.region < 0) continue;
            if (pay(c, x, y, true, walk)) share[l] -= kShare;
            if (pay(c, x, y, false, walk)) share[l + 1] -= kShare;
        }
        for (std::size_t l = 0; l < path.size(); ++l) {
            const auto& x = states_[at(path[l])];
            if (whole(x) < in_.cover) continue;
            walk.layers += share[l];
            for (int p = 0; p < in_.regions; ++p) own_out_[at(p)].take(0, height(x[at(p)]), share[l], walk);
        }
    }

    bool pay(const Crossing& c, const std::vector<int>& x, const std::vector<int>& y, bool side_out,
             Walk& walk) const {
        const int p = c.region, amount = height(std::abs(y[at(p)] - x[at(p)]) - 1);
        const bool own = c.leaves == side_out, counted = c.counted_out == side_out;
        const auto& here = side_out ? x : y;
        const auto& all = side_out ? (own ? own_out_ : rest_out_) : (own ? own_in_ : rest_in_);
        const Covers& covers = all[at(p)];
        const double base = own ? plain(p, here) : plain_rest(p, here);
        const int held = height(own ? here[at(p)] : rest_of(p, here));
        const double cost = counted ? covers.cost(c.wide, held) : covers.capped(c.wide, amount);
        if (added(whole(here), cost - base) <= 0.0) return false;
        walk.layers += kShare;
        for (int r = 0; r < in_.regions; ++r) {
            if ((r == p) != own) own_out_[at(r)].take(0, height(here[at(r)]), kShare, walk);
        }
        if (counted) covers.take(c.wide, held, kShare, walk);
        else covers.take_capped(c.wide, amount, kShare, walk);
        return true;
    }

    const WalkItems& items_;
    const WalkLimits& in_;
    std::vector<Covers> own_out_, own_in_, rest_out_, rest_in_;
    std::vector<std::vector<int>> states_;
    std::vector<double> layer_;
    std::vector<int> reached_;
    int goal_ = 0;
};

}  // namespace

Walk cheapest_walk(const WalkItems& items, const WalkLimits& limits) { return Search(items, limits).run(); }

}  // namespace optalloc::serving

#include "serving/split.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <limits>
#include <queue>
#include <utility>

namespace optalloc::serving {

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr int kPhases = 9;  // 3 of each group
constexpr int kMasks = 4;

std::size_t at(int index) { return static_cast<std::size_t>(index); }

// One group of nodes at one side of crossings: what its share of a layer costs, and what nodes do not earn there.
class Group {
  public:
    // `caps`: the most that a node passes to or from 0, 1, .. nodes of the other group
    Group(const SplitItems& items, const SplitLimits& limits, int group, std::vector<double> caps)
        : items_(items), caps_(std::move(caps)), sizes_(static_cast<int>(items.size.size())), group_(group),
          parts_(limits.cells * limits.parts), most_(limits.wide), wide_(std::min(most_, limits.nodes[group])) {
        std::vector<Ware> wares;
        for (int j = 0; j < sizes_; ++j) wares.push_back({items.size[at(j)], size_price(j), -1, j});
        losses_.assign(at(sizes_ + 1), {kInfinity, -1, -1});
        for (int i = 0; i < static_cast<int>(items.group.size()); ++i) {
            if (items.group[at(i)] != group) continue;
            const double width = items.weight[at(i)] * parts_;
            wares.push_back({std::max(1, static_cast<int>(std::ceil(width - 1e-9))), items.price[at(i)], i, -1});
            for (int j = 0; j <= sizes_ && (j == 0 || items.size[at(j - 1)] < width - 1e-9); ++j) {
                const bool by_size = j < sizes_ && items.size[at(j)] < width - 1e-9;
                const double paid = by_size ? size_price(j) : items.price[at(i)];
                const double loss = items.whole[at(i)] - items.length[at(i)] * paid;
                if (loss < losses_[at(j)].amount) losses_[at(j)] = {loss, i, by_size ? j : -1};
            }
        }
        layer_.assign(at(parts_ + 1), kInfinity);
        ware_.assign(layer_.size(), {});
        layer_[0] = 0.0;
        for (int h = 1; h <= parts_; ++h) {
            for (const Ware& ware : wares) {
                const double through = ware.price + layer_[at(std::max(0, h - ware.width))];
                if (through < layer_[at(h)]) {
                    layer_[at(h)] = through;
                    ware_[at(h)] = ware;
                }
            }
        }
        lost_.assign(at((most_ + 1) * (most_ + 1) * (parts_ + 1)), kInfinity);
        step_.assign(lost_.size(), {0, -1});
        for (int links = 0; links < most_; ++links) fill(links);
    }

    int wide() const { return wide_; }

    // The cheapest way to carry h parts of the flow through a layer.
    double layer(int h) const { return layer_[at(std::clamp(h, 0, parts_))]; }

    void use_layer(int h, Split& split) const {
        h = std::clamp(h, 0, parts_);
        while (h > 0) {
            const Ware& ware = ware_[at(h)];
            if (ware.item >= 0) split.price[at(ware.item)] += 1.0;
            else split.size_price[at(group_ * sizes_ + ware.size)] += 1.0;
            h = std::max(0, h - ware.width);
        }
    }

    // What `count` nodes at a crossing lose at least, when each has `links` links to the other group, all
    // together pass `all` parts, of which `own` at most are from or for their own group.
    double lost(int count, int links, int own, int all) const {
        return by_own(count, links, own, all) ? lost_[place(links, count, own)] : lost_[place(0, count, all)];
    }

    void use_lost(int count, int links, int own, int all, double share, Split& split) const {
        const bool own_binds = by_own(count, links, own, all);
        int h = std::clamp(own_binds ? own : all, 0, parts_);
        for (; count > 0; --count) {
            const auto [beyond, which] = step_[place(own_binds ? links : 0, count, h)];
            const Loss& loss = losses_[at(which)];
            split.whole[at(loss.item)] += share;
            const double given = share * items_.length[at(loss.item)];
            if (loss.size < 0) split.price[at(loss.item)] -= given;
            else split.size_price[at(group_ * sizes_ + loss.size)] -= given;
            h -= beyond;
        }
    }

  private:
    struct Ware {
        int width = 0;
        double price = 0.0;
        int item = -1, size = -1;
    };
    struct Loss {  // of the node that loses least at a share above one size (or none) and up to the next
        double amount;
        int item, size;
    };

    // Whether what links carry and the group may pass among its own is less than all.
    bool by_own(int count, int links, int own, int all) const {
        return links < most_ && own + count * caps_[at(links)] * parts_ < all;
    }

    double size_price(int j) const { return items_.size_price[at(group_ * sizes_ + j)]; }

    std::size_t place(int links, int count, int h) const {
        return at((links * (most_ + 1) + count) * (parts_ + 1) + std::clamp(h, 0, parts_));
    }

    // What a node passes beyond its links is taken from what the group may pass among its own.
    void fill(int links) {
        std::vector<std::pair<int, int>> steps;  // parts beyond the links, index of the least loss
        for (int j = 0; j <= sizes_; ++j) {
            const int share = j == 0 ? 0 : items_.size[at(j - 1)];
            const int beyond = std::max(0, static_cast<int>(std::floor(share - caps_[at(links)] * parts_ + 1e-9)));
            if (losses_[at(j)].item < 0) continue;
            if (!steps.empty() && losses_[at(j)].amount >= losses_[at(steps.back().second)].amount) continue;
            if (!steps.empty() && steps.back().first == beyond) steps.pop_back();
            steps.emplace_back(beyond, j);
        }
        for (int h = 0; h <= parts_; ++h) lost_[place(links, 0, h)] = 0.0;
        for (int count = 1; count <= wide_; ++count) {
            for (const auto& [beyond, which] : steps) {
                for (int h = beyond; h <= parts_; ++h) {
                    const std::size_t here = place(links, count, h);
                    const double through = lost_[place(links, count - 1, h - beyond)] + losses_[at(which)].amount;
                    if (through < lost_[here]) {
                        lost_[here] = through;
                        step_[here] = {beyond, which};
                    }
                }
            }
        }
    }

    const SplitItems& items_;
    std::vector<double> caps_;
    int sizes_, group_, parts_, most_, wide_;
    std::vector<Loss> losses_;
    std::vector<double> layer_, lost_;
    std::vector<Ware> ware_;
    std::vector<std::pair<int, int>> step_;
};

class Search {
  public:
    Search(const SplitItems& items, const SplitLimits& limits)
        : items_(items), in_(limits), total_(limits.cells * limits.parts),
          ends_{Group(items, limits, 0, caps(0, true)), Group(items, limits, 1, caps(1, true))},
          begins_{Group(items, limits, 0, caps(1, false)), Group(items, limits, 1, caps(0, false))} {
        for (int x = 0; x < in_.cells; ++x) {
            cheapest_.push_back(x * in_.parts);
            for (int h = x * in_.parts; h <= (x + 1) * in_.parts; ++h) {
                if (layer(h) < layer(cheapest_.back())) cheapest_.back() = h;
            }
            excess_.push_back(std::max(0.0, layer(cheapest_.back()) - in_.cover));
        }
        for (auto& table : cross_) table.assign(at(in_.cells * in_.cells), {});
        for (int x = 0; x < in_.cells; ++x) {
            for (int y = 0; y < in_.cells; ++y) {
                if (x != y) price(x, y);
            }
        }
    }

    Split run() {
        Split split{kInfinity, 0.0, {}, {}, {}};
        split.price.assign(items_.price.size(), 0.0);
        split.whole.assign(items_.price.size(), 0.0);
        split.size_price.assign(items_.size_price.size(), 0.0);
        const int n = in_.cells;
        std::vector<double> dist(at(kPhases * kMasks * n), kInfinity);
        std::vector<std::pair<int, int>> before(dist.size(), {-1, 0});  // and which kind of crossing
        using Entry = std::pair<double, int>;
        std::priority_queue<Entry, std::vector<Entry>, std::greater<>> open;
        const auto reach = [&](int phases, int mask, int x, double cost, int from, int kind) {
            const int where = (phases * kMasks + (mask | seen(x))) * n + x;
            if (cost >= dist[at(where)]) return;
            dist[at(where)] = cost;
            before[at(where)] = {from, kind};
            open.emplace(cost, where);
        };
        for (int x = 0; x < n; ++x) reach(0, 0, x, excess_[at(x)], -1, 0);
        while (!open.empty()) {
            const auto [cost, where] = open.top();
            open.pop();
            if (cost > dist[at(where)]) continue;
            const int x = where % n, mask = where / n % kMasks, phases = where / n / kMasks;
            if (mask == kMasks - 1 && phase(phases, 0) != 1 && phase(phases, 1) != 1) {
                split.excess = cost;
                write(where, before, split);
                break;
            }
            for (int y = 0; y < n; ++y) {
                if (y == x) continue;
                const int giver = y < x ? 0 : 1, taker = 1 - giver;
                if (phase(phases, giver) == 2) continue;
                const double through = cost + excess_[at(y)];
                for (int given = phase(phases, giver); given <= 2 * phase(phases, giver); ++given) {
                    for (int taken = std::max(1, phase(phases, taker)); taken <= 2; ++taken) {
                        const int kind = (phase(phases, giver) == 0 ? 2 : 0) + (taken == 2 ? 1 : 0);
                        const int after = with(with(phases, giver, given), taker, taken);
                        reach(after, mask, y, through + cross(kind, x, y).cost, where, kind);
                    }
                }
            }
        }
        return split;
    }

  private:
    struct Crossing {
        double cost = kInfinity;
        int ends = 0, begins = 0;
    };
    // Nodes of a group lose by halves at both ends; at their end alone as long as none of the group has begun at a
    // crossing (phase 0), at their begin alone once none will end at one (phase 2).
    double of_ends(int kind) const { return in_.begins_pay && kind < 2 ? 0.5 : 1.0; }
    double of_begins(int kind) const { return in_.begins_pay ? (kind % 2 == 0 ? 0.5 : 1.0) : 0.0; }

    static int phase(int phases, int group) { return group == 0 ? phases % 3 : phases / 3; }
    static int with(int phases, int group, int now) {
        return group == 0 ? phases / 3 * 3 + now : phases % 3 + 3 * now;
    }
    double room(int giver, int from, int to) const {
        return in_.room[at((giver * in_.wide + from - 1) * in_.wide + to - 1)];
    }

    // The most that a node gives to, or takes from, so many of the other group.
    std::vector<double> caps(int giver, bool gives) const {
        std::vector<double> found{0.0};
        for (int n = 1; n <= in_.wide; ++n) {
            found.push_back(std::min(1.0, gives ? room(giver, 1, n) : room(giver, n, 1)));
        }
        return found;
    }

    int seen(int x) const { return (x <= in_.low ? 1 : 0) | (x >= in_.high ? 2 : 0); }
    const Crossing& cross(int kind, int x, int y) const { return cross_[at(kind)][at(x * in_.cells + y)]; }

    // Group 0 carries at least h parts, and less than one more.
    double layer(int h) const { return ends_[0].layer(h) + ends_[1].layer(total_ - h - 1); }

    // The most parts of the flow that a group carries.
    int most(int group, int x) const { return (group == 0 ? x + 1 : in_.cells - x) * in_.parts; }

    // A change of shares from cell x to y: nodes of one group end, nodes of the other begin.
    void price(int x, int y) {
        const int giver = y < x ? 0 : 1, taker = 1 - giver;
        const double change = std::max(0, std::abs(x - y) - 1) / static_cast<double>(in_.cells);
        const Group &out = ends_[at(giver)], &in = begins_[at(taker)];
        for (int a = 1; a <= out.wide(); ++a) {
            for (int b = in_.begins_pay ? 1 : in_.wide; b <= (in_.begins_pay ? in.wide() : in_.wide); ++b) {
                if (a < in_.wide && b < in_.wide && room(giver, a, b) < change - 1e-9) continue;
                const double ended = out.lost(a, b, most(giver, y), most(giver, x));
                const double begun = in_.begins_pay ? in.lost(b, a, most(taker, x), most(taker, y)) : 0.0;
                for (int kind = 0; kind < 4; ++kind) {
                    Crossing& best = cross_[at(kind)][at(x * in_.cells + y)];
                    const double cost = of_ends(kind) * ended + of_begins(kind) * begun;
                    if (cost < best.cost) best = {cost, a, b};
                }
            }
        }
    }

    void write(int where, const std::vector<std::pair<int, int>>& before, Split& split) const {
        while (where >= 0) {
            const int y = where % in_.cells;
            const int h = cheapest_[at(y)];
            if (layer(h) >= in_.cover) {  // else by rounding: left to the covers
                split.layers += 1.0;
                ends_[0].use_layer(h, split);
                ends_[1].use_layer(total_ - h - 1, split);
            }
            const auto [from, kind] = before[at(where)];
            if (from >= 0) {
                const int x = from % in_.cells, giver = y < x ? 0 : 1, taker = 1 - giver;
                const Crossing& c = cross(kind, x, y);
                ends_[at(giver)].use_lost(c.ends, c.begins, most(giver, y), most(giver, x), of_ends(kind), split);
                if (in_.begins_pay) {
                    begins_[at(taker)].use_lost(c.begins, c.ends, most(taker, x), most(taker, y), of_begins(kind),
                                                split);
                }
            }
            where = from;
        }
    }

    const SplitItems& items_;
    const SplitLimits& in_;
    int total_;
    std::array<Group, 2> ends_, begins_;
    std::vector<int> cheapest_;
    std::vector<double> excess_;
    std::array<std::vector<Crossing>, 4> cross_;
};

}  // namespace

Split cheapest_split(const SplitItems& items, const SplitLimits& limits) { return Search(items, limits).run(); }

}  // namespace optalloc::serving

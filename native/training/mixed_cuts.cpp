// The exact value of one shape: its best cuts into stages.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "training/mixed.hpp"

namespace optalloc::training {

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

}  // namespace

// min over cuts of S + (m - 1) max tau + max tail, where that is at most `cutoff`; else infinity. Labels (S, max
// tau, max tail) go from stage to stage; one is dropped if another of the same cut is no worse in all three, or
// if what is left at best brings it beyond the cutoff.
double MixedSearch::solve(const MixedShape& shape, int num_micro, double cutoff, MixedReplica* out, int* most) {
    const int stages = shape.stages(), size = layers_ + 1;
    const double more = num_micro - 1;
    std::vector<double> fastest(static_cast<std::size_t>(stages) + 1, 0.0);  // best rate from a stage on
    std::vector<double> links(static_cast<std::size_t>(stages) + 1, 0.0);    // least links from a stage on
    for (int i = stages - 1; i >= 0; --i) {
        const auto at = static_cast<std::size_t>(i);
        fastest[at] = std::max(fastest[at + 1], rate_[static_cast<std::size_t>(kind_of(shape, i))]);
        if (i + 1 < stages) {
            const MixedLink link = link_behind(shape, i);
            links[at] = links[at + 1] + 2.0 * (link.latency + least_boundary_ * link.seconds_per_byte);
        }
    }
    const double room = cutoff - links[0] - shape.least_tail;
    double cap = room / num_micro;
    if (more > 0) cap = std::min(cap, (room - least_pass(shape, cap)) / more);
    if (!(cap >= shape.least_beta)) return kInfinity;
    // From the right, no fewer layers than these can be done before a stage.
    std::vector<int> least(static_cast<std::size_t>(stages) + 1, layers_);
    for (int i = stages - 1; i > 0; --i) {
        const int kind = kind_of(shape, i), end = least[static_cast<std::size_t>(i) + 1];
        const auto r = role(i, stages);
        if (i == stages - 1 && stages_.at(kind, 1, r, end, end).tau > cap) return kInfinity;
        int low = 0, high = end;  // the last of these always is possible: the stage then ends further right
        while (low < high) {
            const int middle = (low + high) / 2;
            if (stages_.at(kind, stages - i, r, middle, end).tau <= cap) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        least[static_cast<std::size_t>(i)] = low;
    }
    std::vector<std::vector<std::vector<Label>>> cells(static_cast<std::size_t>(stages) + 1);
    for (auto& row : cells) row.resize(static_cast<std::size_t>(size));
    cells[0][0].push_back({0.0, 0.0, 0.0, 0, 0});
    const double floor = shape.least_beta;
    for (int i = 0; i < stages; ++i) {
        const auto at = static_cast<std::size_t>(i);
        const int kind = kind_of(shape, i);
        const auto r = role(i, stages);
        const bool last = i == stages - 1;
        const MixedLink link = last ? MixedLink{0.0, 0.0} : link_behind(shape, i);
        for (int begin = 0; begin <= layers_; ++begin) {
            const auto& from = cells[at][static_cast<std::size_t>(begin)];
            if (from.empty()) continue;
            const int lowest = std::max(begin + (i > 0 && !last ? 1 : 0), last ? layers_ : least[at + 1]);
            const int highest = last ? layers_ : layers_ - std::max(0, stages - 2 - i);
            for (int end = lowest; end <= highest; ++end) {
                const MixedOption option = stages_.at(kind, stages - i, r, begin, end);
                if (option.tau > cap) break;
                double step = option.tau;
                if (!last) {
                    step += 2.0 * (link.latency +
                                   input_.boundary[static_cast<std::size_t>(end)] * link.seconds_per_byte);
                }
                double rest = 0.0;
                if (!last) {
                    rest = links[at + 1] +
                           std::max(0.0, 1.0 - work_prefix_[static_cast<std::size_t>(end)]) / fastest[at + 1];
                }
                auto& to = cells[at + 1][static_cast<std::size_t>(end)];
                for (std::size_t index = 0; index < from.size(); ++index) {
                    Label label{from[index].s + step, std::max(from[index].beta, option.tau),
                                std::max(from[index].theta, option.tail), begin,
                                static_cast<std::int32_t>(index)};
                    const double beta = std::max(label.beta, floor);
                    if ((label.s + rest + more * beta + label.theta) * (1.0 - 1e-13) > cutoff) continue;
                    bool worse = false;
                    for (const Label& other : to) {
                        if (other.s <= label.s && std::max(other.beta, floor) <= beta &&
                            other.theta <= label.theta) {
                            worse = true;
                            break;
                        }
                    }
                    if (worse) continue;
                    std::erase_if(to, [&](const Label& other) {
                        return label.s <= other.s && beta <= std::max(other.beta, floor) &&
                               label.theta <= other.theta;
                    });
                    to.push_back(label);
                }
            }
        }
    }
    const auto& done = cells[static_cast<std::size_t>(stages)][static_cast<std::size_t>(layers_)];
    double best = kInfinity;
    std::size_t which = 0;
    for (std::size_t k = 0; k < done.size(); ++k) {
        const double value = done[k].s + more * done[k].beta + done[k].theta;
        if (most != nullptr) {  // this label is within the cutoff, but for rounding
            const double spare = std::max(0.0, std::floor((cutoff - value) / done[k].beta * (1.0 + 1e-12)));
            *most = std::max(*most, num_micro + static_cast<int>(std::min(spare, 1e6)));
        }
        if (value < best) {
            best = value;
            which = k;
        }
    }
    if (best > cutoff) return kInfinity;
    if (out != nullptr) {
        out->num_micro = num_micro;
        out->value = best;
        out->beta = done[which].beta;
        const auto count = static_cast<std::size_t>(stages);
        out->kinds.assign(count, 0);
        out->layers.assign(count, 0);
        out->full.assign(count, 0);
        out->selective.assign(count, 0);
        int end = layers_;
        for (int i = stages - 1; i >= 0; --i) {
            const auto at = static_cast<std::size_t>(i);
            const Label& label = cells[at + 1][static_cast<std::size_t>(end)][which];
            const int kind = kind_of(shape, i);
            out->kinds[at] = kind;
            out->layers[at] = end - label.from_end;
            stages_.compute(kind, stages - i, role(i, stages), label.from_end, end, &out->full[at],
                            &out->selective[at]);
            which = static_cast<std::size_t>(label.from_index);
            end = label.from_end;
        }
    }
    return best;
}

}  // namespace optalloc::training

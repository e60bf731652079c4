// Kernels of serving plans: covers, splits and placements of layers, and fleets of replicas.
#include "bindings/families.hpp"

#include <nanobind/stl/vector.h>

#include <cmath>

#include "bindings/arrays.hpp"
#include "serving/anneal.hpp"
#include "serving/cover.hpp"
#include "serving/iteration.hpp"
#include "serving/join.hpp"
#include "serving/lattice.hpp"
#include "serving/load_rows.hpp"
#include "serving/offers.hpp"
#include "serving/shares.hpp"
#include "serving/split.hpp"
#include "serving/whole.hpp"

namespace optalloc::bindings {

namespace sv = optalloc::serving;

namespace {

// What serves each bucket (those of bucket j from first[j] to first[j + 1]), checked.
std::vector<sv::Serve> serves_of(const Array<std::int32_t, 1>& first, const Array<std::int32_t, 1>& serving,
                                 const Array<double, 1>& load, int kinds) {
    const std::size_t n = serving.shape(0);
    bool fits = first.shape(0) >= 1 && load.shape(0) == n && kinds >= 1 && first.data()[0] == 0 &&
                first.data()[first.shape(0) - 1] == static_cast<std::int32_t>(n);
    for (std::size_t j = 0; fits && j + 1 < first.shape(0); ++j) fits = first.data()[j] < first.data()[j + 1];
    for (std::size_t i = 0; fits && i < n; ++i) fits = serving.data()[i] >= 0 && serving.data()[i] < kinds;
    if (!fits) throw nb::value_error("fleet tables have the wrong shape");
    std::vector<sv::Serve> serves(n);
    for (std::size_t i = 0; i < n; ++i) serves[i] = {serving.data()[i], load.data()[i]};
    return serves;
}

// Offers of engines with these times, checked.
sv::Offers offers_of(const Array<double, 2>& request_s, const Array<std::int64_t, 2>& offers,
                     const Array<double, 1>& fixed, double gain, bool latency, double most_s, std::size_t groups) {
    const std::size_t n = fixed.shape(0), flight = request_s.shape(1);
    bool fits = offers.shape(0) == 3 && offers.shape(1) == n;
    const std::int64_t *engine = offers.data(), *number = engine + n, *group = number + n;
    for (std::size_t i = 0; fits && i < n; ++i) {
        fits = engine[i] >= 0 && engine[i] < static_cast<std::int64_t>(request_s.shape(0)) && number[i] >= 1 &&
               number[i] <= static_cast<std::int64_t>(flight) && group[i] >= 0 &&
               group[i] < static_cast<std::int64_t>(groups);
    }
    if (!fits) throw nb::value_error("offers have the wrong shape");
    return {{request_s.data(), request_s.size()}, flight, {engine, n}, {number, n}, {group, n}, view(fixed), gain, latency, most_s};
}

// Tables of LoadTable, checked and kept.
class LoadRows {
  public:
    LoadRows(Reals chunk, Reals size, Reals time, Array<double, 3> line, Array<double, 4> batch_s,
             Array<double, 3> free_s, double fresh, double output)
        : chunk_(std::move(chunk)), size_(std::move(size)), time_(std::move(time)), line_(std::move(line)),
          batch_s_(std::move(batch_s)), free_s_(std::move(free_s)), fresh_(fresh), output_(output) {
        const std::size_t chunks = chunk_.shape(0), engines = line_.shape(1), times = time_.shape(0);
        if (line_.shape(0) != chunks || line_.shape(2) != sv::kFigures || batch_s_.shape(0) != chunks ||
            batch_s_.shape(1) != engines || batch_s_.shape(2) != size_.shape(0) || batch_s_.shape(3) != times ||
            times == 0 || free_s_.shape(0) != chunks || free_s_.shape(1) != engines) {
            throw nb::value_error("tables of loads have the wrong shape");
        }
    }

    // (load, chunk, batch)
    nb::tuple promising(double ttft_s, double tpot_s, const Longs& engine, const Longs& full, const Longs& interval,
                        const Reals& q, const Flags& allowed, const Reals& below_s) const {
        const std::size_t n = engine.shape(0);
        bool fits = full.shape(0) == n && interval.shape(0) == n && q.shape(0) == n && allowed.shape(0) == n &&
                    below_s.shape(0) == n && knows(engine);
        for (std::size_t i = 0; fits && i < n; ++i) {
            fits = interval.data()[i] >= 0 && interval.data()[i] < static_cast<std::int64_t>(free_s_.shape(2));
        }
        if (!fits) throw nb::value_error("loads have the wrong shape");
        sv::Promising found;
        {
            nb::gil_scoped_release release;
            found = sv::promising_rows(table(ttft_s, tpot_s), {view(engine), view(full), view(interval), view(q),
                                                               view(allowed), view(below_s)});
        }
        return nb::make_tuple(given(std::move(found.load)), given(std::move(found.chunk)),
                              given(std::move(found.batch)));
    }

    // Writes the least seconds of the first token, of a further one and of a request with each row of a chunk.
    void sharp(std::size_t chunk, const Array<double, 2>& least_s, const Array<double, 2>& most_s, int rounds,
               const Longs& engine, const Reals& q, const Reals& fit, const Out<double, 1>& ttft_s,
               const Out<double, 1>& token_s, const Out<double, 1>& request_s) const {
        const std::size_t n = engine.shape(0), cells = least_s.shape(1);
        if (chunk >= line_.shape(0) || least_s.shape(0) != line_.shape(1) || most_s.shape(0) != line_.shape(1) ||
            cells == 0 || most_s.shape(1) != cells || q.shape(0) != n || fit.shape(0) != n || ttft_s.shape(0) != n ||
            token_s.shape(0) != n || request_s.shape(0) != n || !knows(engine)) {
            throw nb::value_error("rows of loads have the wrong shape");
        }
        nb::gil_scoped_release release;
        const sv::TokenCells tokens{cells, {least_s.data(), least_s.size()}, {most_s.data(), most_s.size()}};
        sv::sharp_rows(table(0.0, 0.0), chunk, tokens, rounds, view(engine), view(q), view(fit), {ttft_s.data(), n},
                       {token_s.data(), n}, {request_s.data(), n});
    }

    void lower_full_ends(double ttft_s, double tpot_s, const Longs& engine, const Reals& left, const Reals& right,
                         const Out<double, 2>& left_s, const Out<double, 2>& right_s,
                         const Out<std::int64_t, 2>& chunk, const Out<std::int64_t, 2>& batch) const {
        const std::size_t n = engine.shape(0), intervals = left.shape(0), all = n * intervals;
        if (right.shape(0) != intervals || left_s.shape(1) != intervals || left_s.size() != all ||
            right_s.size() != all || chunk.size() != all || batch.size() != all || !knows(engine)) {
            throw nb::value_error("ends of lines have the wrong shape");
        }
        nb::gil_scoped_release release;
        sv::lower_full_ends(table(ttft_s, tpot_s), {view(engine), view(left), view(right), {left_s.data(), all},
                                                    {right_s.data(), all}, {chunk.data(), all}, {batch.data(), all}});
    }

  private:
    bool knows(const Longs& engine) const {
        for (std::size_t i = 0; i < engine.shape(0); ++i) {
            if (engine.data()[i] < 0 || engine.data()[i] >= static_cast<std::int64_t>(line_.shape(1))) return false;
        }
        return true;
    }

    sv::LoadTable table(double ttft_s, double tpot_s) const {
        return {line_.shape(1), free_s_.shape(2), view(chunk_), view(size_), view(time_),
                {line_.data(), line_.size()}, {batch_s_.data(), batch_s_.size()}, {free_s_.data(), free_s_.size()},
                fresh_, output_, ttft_s, tpot_s};
    }

    Reals chunk_, size_, time_;
    Array<double, 3> line_;
    Array<double, 4> batch_s_;
    Array<double, 3> free_s_;
    double fresh_, output_;
};

}  // namespace

void bind_serving(nb::module_& m) {
    // (bound, cost) of the cheapest cover; `counts` gets it.
    m.def("cheapest_cover", [](const Array<double, 1>& weights, const Array<double, 1>& costs,
                               const Array<std::int32_t, 1>& limits, const Out<std::int32_t, 1>& counts,
                               std::size_t most_states) {
        const std::size_t n = weights.shape(0);
        if (costs.shape(0) != n || limits.shape(0) != n || counts.shape(0) != n) {
            throw nb::value_error("cover arrays have the wrong shape");
        }
        sv::Cover cover{};
        {
            nb::gil_scoped_release release;
            cover = sv::cheapest_cover(view(weights), view(costs), view(limits), {counts.data(), n}, most_states);
        }
        return nb::make_tuple(cover.bound, cover.cost);
    });
    // Least costs of lanes that share a flow, by length; `counts` (lengths x lanes) gets how often each is taken.
    m.def("cheapest_shares", [](const Array<double, 2>& cost, const Array<std::int32_t, 1>& cells,
                                const Array<std::int32_t, 1>& region, const Array<std::int32_t, 1>& low,
                                const Array<std::int32_t, 1>& high, int parts, const Out<std::int32_t, 2>& counts) {
        const std::size_t n = cost.shape(0), lengths = cost.shape(1), regions = low.shape(0);
        bool fits = cells.shape(0) == n && region.shape(0) == n && high.shape(0) == regions && parts >= 1 &&
                    counts.shape(0) == lengths && counts.shape(1) == n;
        for (std::size_t i = 0; fits && i < n; ++i) {
            fits = cells.data()[i] >= 1 && region.data()[i] >= 0 && region.data()[i] < static_cast<int>(regions);
        }
        for (std::size_t r = 0; fits && r < regions; ++r) {
            fits = low.data()[r] >= 0 && low.data()[r] <= high.data()[r] && high.data()[r] <= parts;
        }
        if (!fits) throw nb::value_error("arrays of shared lanes have the wrong shape");
        nb::gil_scoped_release release;
        return sv::cheapest_shares({lengths, {cost.data(), cost.size()}, view(cells), view(region), view(low),
                                    view(high), parts},
                                   {counts.data(), counts.size()});
    });
    // (excess, layers, price, whole, size_price): the cheapest way between two groups, and what it uses.
    m.def("cheapest_split",
          [](const Array<std::int32_t, 1>& group, const Array<double, 1>& weight, const Array<double, 1>& length,
             const Array<double, 1>& price, const Array<double, 1>& whole, const Array<std::int32_t, 1>& size,
             const Array<double, 1>& size_price, int cells, int parts, int inside, int outside,
             const Array<double, 3>& room, int low, int high, double cover, bool begins_pay) {
              const std::size_t n = group.shape(0);
              if (weight.shape(0) != n || length.shape(0) != n || price.shape(0) != n || whole.shape(0) != n ||
                  size_price.shape(0) != 2 * size.shape(0) || cells < 1 || parts < 1 || cells * parts > 10'000 ||
                  room.shape(0) != 2 || room.shape(1) != room.shape(2) || room.shape(1) < 1 || room.shape(1) > 100) {
                  throw nb::value_error("arrays of a split have the wrong shape");
              }
              for (std::size_t i = 0; i < n; ++i) {
                  if (group.data()[i] < 0 || group.data()[i] > 1) throw nb::value_error("an item names no group");
              }
              for (std::size_t j = 0; j < size.shape(0); ++j) {
                  if (size.data()[j] <= (j == 0 ? 0 : size.data()[j - 1])) throw nb::value_error("sizes do not grow");
              }
              sv::Split split{};
              {
                  nb::gil_scoped_release release;
                  split = sv::cheapest_split({view(group), view(weight), view(length), view(price), view(whole),
                                              view(size), view(size_price)},
                                             {cells, parts, {inside, outside}, static_cast<int>(room.shape(1)),
                                              {room.data(), room.size()}, low, high, cover, begins_pay});
              }
              return nb::make_tuple(split.excess, split.layers, split.price, split.whole, split.size_price);
          });
    // (flow, steps); `ranges` (nodes x 2) is improved in place. No steps: the flow alone.
    m.def("improve_placement",
          [](const Array<double, 2>& throughput, const Array<double, 2>& links, const Array<double, 1>& source,
             const Array<double, 1>& sink, int num_layers, bool partial, const Out<std::int32_t, 2>& ranges,
             std::uint64_t seed, std::int64_t steps, double target, double hot, double cold, double seconds,
             int moves, double limit, const Array<double, 2>& step, const Array<double, 2>& delay,
             const Array<std::int32_t, 1>& cancel) {
              const std::size_t n = throughput.shape(0);
              if (std::isfinite(limit) && (step.shape(0) != n || step.shape(1) != throughput.shape(1) ||
                                           delay.shape(0) != n + 2 || delay.shape(1) != n)) {
                  throw nb::value_error("times of the placement have the wrong shape");
              }
              if (links.shape(0) != n || links.shape(1) != n || source.shape(0) != n || sink.shape(0) != n ||
                  ranges.shape(0) != n || ranges.shape(1) != 2) {
                  throw nb::value_error("placement arrays have the wrong shape");
              }
              if (moves < 0 || moves > 2) throw nb::value_error("moves are 0, 1 or 2");
              const sv::FlowInstance instance{static_cast<int>(n),
                                              num_layers,
                                              static_cast<int>(throughput.shape(1)),
                                              partial,
                                              {throughput.data(), throughput.size()},
                                              {links.data(), links.size()},
                                              view(source),
                                              view(sink),
                                              limit,
                                              {step.data(), step.size()},
                                              {delay.data(), delay.size()}};
              std::vector<sv::Range> here(n);
              for (std::size_t i = 0; i < n; ++i) here[i] = {ranges.data()[2 * i], ranges.data()[2 * i + 1]};
              std::int64_t taken = 0;
              double flow = 0.0;
              {
                  nb::gil_scoped_release release;
                  flow = sv::anneal(instance, here, {seed, steps, target, hot, cold, seconds, static_cast<sv::Moves>(moves)},
                                    cancel.data(), taken);
              }
              for (std::size_t i = 0; i < n; ++i) {
                  ranges.data()[2 * i] = here[i].begin;
                  ranges.data()[2 * i + 1] = here[i].end;
              }
              return nb::make_tuple(flow, taken);
          });
    // Seconds of iterations; `coefficients` as in serving/iteration.hpp, a row each.
    m.def("device_seconds", [](const Array<double, 2>& coefficients, const Longs& engine, const Reals& prompt,
                               const Reals& sequences, const Out<double, 1>& seconds) {
        const std::size_t n = engine.shape(0), engines = coefficients.shape(1);
        bool fits = coefficients.shape(0) == sv::kCoefficients && prompt.shape(0) == n && sequences.shape(0) == n &&
                    seconds.shape(0) == n;
        for (std::size_t i = 0; fits && i < n; ++i) {
            fits = engine.data()[i] >= 0 && engine.data()[i] < static_cast<std::int64_t>(engines);
        }
        if (!fits) throw nb::value_error("iterations have the wrong shape");
        nb::gil_scoped_release release;
        sv::device_seconds({coefficients.data(), coefficients.size()}, engines, view(engine), view(prompt),
                           view(sequences), {seconds.data(), n});
    });
    // Rows of engines under loads; see serving/load_rows.hpp.
    nb::class_<LoadRows>(m, "LoadRows")
        .def(nb::init<Reals, Reals, Reals, Array<double, 3>, Array<double, 4>, Array<double, 3>, double, double>())
        .def("promising", &LoadRows::promising)
        .def("sharp", &LoadRows::sharp)
        .def("lower_full_ends", &LoadRows::lower_full_ends);
    // `cost` and `which` (groups x requests from 0) are lowered to the cheapest of `offers` (engine, number, group).
    m.def("cheapest_offers", [](const Array<double, 2>& request_s, const Array<std::int64_t, 2>& offers,
                                const Array<double, 1>& fixed, double gain, bool latency, double most_s,
                                const Out<double, 2>& cost, const Out<std::int64_t, 2>& which) {
        const std::size_t groups = cost.shape(0), width = request_s.shape(1) + 1;
        const sv::Offers given = offers_of(request_s, offers, fixed, gain, latency, most_s, groups);
        if (cost.shape(1) != width || which.shape(0) != groups || which.shape(1) != width) {
            throw nb::value_error("offers have the wrong shape");
        }
        nb::gil_scoped_release release;
        sv::cheapest_offers(given, {cost.data(), cost.size()}, {which.data(), which.size()});
    });
    // `found` (as `request_s`) is lowered to the least cost of all requests with each engine and load.
    m.def("least_beside", [](const Array<double, 2>& request_s, const Array<std::int64_t, 2>& offers,
                             const Array<double, 1>& fixed, double gain, bool latency, double most_s,
                             const Array<double, 2>& rest, const Out<double, 2>& found) {
        const sv::Offers given = offers_of(request_s, offers, fixed, gain, latency, most_s, rest.shape(0));
        if (rest.shape(1) != request_s.shape(1) + 1 || found.shape(0) != request_s.shape(0) ||
            found.shape(1) != request_s.shape(1)) {
            throw nb::value_error("offers have the wrong shape");
        }
        nb::gil_scoped_release release;
        sv::least_beside(given, {rest.data(), rest.size()}, {found.data(), found.size()});
    });
    // `most` and `last` get the most layers and a stage for every number of free nodes.
    m.def("cover_lattice", [](const Array<std::int64_t, 1>& layers, const Array<std::int64_t, 2>& nodes,
                              const Array<std::int64_t, 1>& counts, const Out<std::int32_t, 1>& most,
                              const Out<std::int32_t, 1>& last) {
        std::size_t entries = 1;
        bool fits = nodes.shape(0) == layers.shape(0) && nodes.shape(1) == counts.shape(0);
        for (std::size_t t = 0; t < counts.shape(0); ++t) {
            fits = fits && counts.data()[t] >= 0;
            entries *= fits ? static_cast<std::size_t>(counts.data()[t]) + 1 : 0;
        }
        for (std::size_t i = 0; fits && i < nodes.size(); ++i) fits = nodes.data()[i] >= 0;
        if (!fits || most.shape(0) != entries || last.shape(0) != entries) {
            throw nb::value_error("stages and numbers of nodes have the wrong shape");
        }
        nb::gil_scoped_release release;
        sv::cover_lattice({view(layers), {nodes.data(), nodes.size()}}, view(counts), {most.data(), entries},
                          {last.data(), entries});
    });
    // `cost` and `taken`, from `first` on, get the least of every total of two shares, and how much is of the first.
    m.def("join_shares", [](const Array<double, 1>& one, const Array<double, 1>& other, bool largest, std::size_t first,
                            const Out<double, 1>& cost, const Out<std::int64_t, 1>& taken) {
        const std::size_t n = one.shape(0);
        if (other.shape(0) != n || cost.shape(0) != n || taken.shape(0) != n) {
            throw nb::value_error("shares have the wrong shape");
        }
        nb::gil_scoped_release release;
        sv::join_shares(view(one), view(other), largest, first, {cost.data(), n}, {taken.data(), n});
    });
}

// The bound for whole counts holds its buckets, its last basis and its cuts; each call answers for one box of counts with
// (1: it serves, 0: nothing does, -1: stopped; bound; counts; values of buckets; prices; prices of limits).
void bind_whole(nb::module_& m) {
    nb::class_<sv::WholeBound>(m, "WholeBound")
        .def("__init__",
             [](sv::WholeBound* self, const Array<std::int32_t, 1>& first, const Array<std::int32_t, 1>& serving,
                const Array<double, 1>& load, int kinds, const Array<double, 2>& use) {
                 new (self) sv::WholeBound({{first.data(), first.data() + first.shape(0)},
                                            serves_of(first, serving, load, kinds),
                                            kinds,
                                            static_cast<int>(use.shape(1)),
                                            static_cast<int>(use.shape(0)),
                                            {use.data(), use.data() + use.size()}});
             })
        .def("bound", [](sv::WholeBound& self, const Array<double, 1>& low, const Array<double, 1>& high,
                         const Array<double, 1>& price, const Array<double, 2>& time, const Array<double, 1>& unit, const Array<double, 1>& limit, double cutoff, int rounds,
                         const Array<std::int32_t, 1>& cancel) {
            const sv::Fleet& fleet = self.fleet();
            const auto offers = static_cast<std::size_t>(fleet.offers), kinds = static_cast<std::size_t>(fleet.kinds);
            if (low.shape(0) != offers || high.shape(0) != offers || price.shape(0) != offers ||
                time.shape(0) != offers || time.shape(1) != kinds || unit.shape(0) != kinds ||
                limit.shape(0) != static_cast<std::size_t>(fleet.limits) || cancel.shape(0) == 0) {
                throw nb::value_error("the box of a fleet has the wrong shape");
            }
            sv::WholeBoxBound found;
            {
                nb::gil_scoped_release release;
                found = self.bound({view(low), view(high), view(price), {time.data(), time.size()}, view(unit), view(limit), cutoff, rounds},
                                   cancel.data());
            }
            const int outcome = found.outcome == sv::Outcome::kServes ? 1 : found.outcome == sv::Outcome::kNone ? 0 : -1;
            return nb::make_tuple(outcome, found.bound, given(std::move(found.counts)), given(std::move(found.values)),
                                  given(std::move(found.prices)), given(std::move(found.limit_prices)));
        });
}

}  // namespace optalloc::bindings

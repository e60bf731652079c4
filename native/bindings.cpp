// Python bindings of the native kernels: the only file that knows Python.
#include <cmath>

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/vector.h>

#include "assignment/rows.hpp"
#include "assignment/solve.hpp"
#include "assignment/sparse.hpp"
#include "serving/cover.hpp"
#include "serving/mix.hpp"
#include "serving/placement.hpp"
#include "serving/walk.hpp"
#include "simulate/requests.hpp"
#include "training/bounds.hpp"
#include "training/mixed.hpp"
#include "training/partition.hpp"

namespace nb = nanobind;

namespace {

template <typename T, int Dims>
using Array = nb::ndarray<const T, nb::ndim<Dims>, nb::c_contig, nb::device::cpu>;
template <typename T, int Dims>
using Out = nb::ndarray<T, nb::ndim<Dims>, nb::c_contig, nb::device::cpu>;

// ---- training ----------------------------------------------------------------------------------------

namespace tr = optalloc::training;

// Columns of the two mesh tables; training/kernel.py builds them in this order.
enum MeshInt { kSchedule, kStages, kChunks, kMicro, kStageDevices, kDomainDevices, kRule, kMeshInts };
enum MeshReal {
    kCapacity, kLogits, kOverlap, kLatencyNear, kLatencyFar, kTransferNear, kTransferFar, kTied, kBound,
    kWeight, kFixed, kMeshReals
};

tr::MeshCost mesh_cost(const std::int32_t* ints, const double* reals, const double* layers,
                       std::size_t types) {
    tr::MeshCost mesh;
    mesh.shape = {static_cast<tr::Schedule>(ints[kSchedule]), ints[kStages], ints[kChunks], ints[kMicro]};
    mesh.layer.resize(types);
    for (std::size_t t = 0; t < types; ++t) {
        const double* c = layers + t * tr::kLayerFields;
        mesh.layer[t] = {c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7], c[8], c[9], c[10], c[11], c[12], c[13]};
    }
    mesh.stage_devices = ints[kStageDevices];
    mesh.domain_devices = ints[kDomainDevices];
    mesh.recompute_rule = ints[kRule];
    mesh.capacity = reals[kCapacity];
    mesh.logits = reals[kLogits];
    mesh.overlap = reals[kOverlap];
    mesh.link_latency_near = reals[kLatencyNear];
    mesh.link_latency_far = reals[kLatencyFar];
    mesh.link_transfer_near = reals[kTransferNear];
    mesh.link_transfer_far = reals[kTransferFar];
    mesh.tied = reals[kTied];
    return mesh;
}

std::vector<tr::MeshCost> mesh_costs(const Array<std::int32_t, 2>& ints, const Array<double, 2>& reals,
                                     const Array<double, 3>& layers) {
    const std::size_t count = ints.shape(0), types = layers.shape(1);
    if (ints.shape(1) != kMeshInts || reals.shape(1) != kMeshReals || reals.shape(0) != count ||
        layers.shape(0) != count || layers.shape(2) != tr::kLayerFields) {
        throw nb::value_error("mesh tables have the wrong shape");
    }
    std::vector<tr::MeshCost> meshes;
    meshes.reserve(count);
    for (std::size_t k = 0; k < count; ++k) {
        meshes.push_back(mesh_cost(ints.data() + k * kMeshInts, reals.data() + k * kMeshReals,
                                   layers.data() + k * types * tr::kLayerFields, types));
    }
    return meshes;
}

template <typename T>
std::span<const T> view(const Array<T, 1>& array) {
    return {array.data(), array.shape(0)};
}

// A vector handed over to NumPy.
template <typename T>
nb::ndarray<nb::numpy, T, nb::ndim<1>> given(std::vector<T>&& values) {
    auto* kept = new std::vector<T>(std::move(values));
    const nb::capsule owner(kept, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
    return {kept->data(), {kept->size()}, owner};
}

using Longs = Array<std::int64_t, 1>;
using Reals = Array<double, 1>;
using Flags = Array<std::uint8_t, 1>;

// The arguments of both kernels over stems, checked: no array may be shorter than what indexes it.
struct StemInput {
    tr::Stems stems;
    tr::Stages stages;

    StemInput(const Longs& ranks, const Longs& most, const Longs& micro, const Longs& shardings, const Reals& work,
              const Reals& least, const Reals& again, const Reals& least_bytes, const Reals& state_bytes,
              const Reals& held_bytes, const Reals& short_bytes, const Reals& weight, const Flags& devices,
              const Flags& allowed, const Flags& tried, const Longs& schedules, double room_bytes, double fixed_s,
              int layers)
        : stems{view(ranks), view(most),        view(micro),       view(shardings),  view(work),       view(least),
                view(again), view(least_bytes), view(state_bytes), view(held_bytes), view(short_bytes)},
          stages{view(weight), view(devices), view(allowed), view(tried), view(schedules), room_bytes, fixed_s,
                 layers} {
        const std::size_t n = ranks.shape(0), most_stages = allowed.shape(0);
        bool fits = most.shape(0) == n && micro.shape(0) == n && shardings.shape(0) == n && work.shape(0) == n &&
                    least.shape(0) == n && again.shape(0) == n && least_bytes.shape(0) == n &&
                    state_bytes.shape(0) == n && held_bytes.shape(0) == n && short_bytes.shape(0) == n &&
                    tried.shape(0) == most_stages && schedules.shape(0) == 2 * most_stages &&
                    weight.shape(0) == devices.shape(0);
        for (std::size_t k = 0; fits && k < n; ++k) {
            fits = stems.ranks[k] > 0 && stems.most[k] < static_cast<std::int64_t>(most_stages) &&
                   stems.ranks[k] * stems.most[k] < static_cast<std::int64_t>(weight.shape(0));
        }
        if (!fits) throw nb::value_error("tables of stems have the wrong shape");
    }
};

void bind_training(nb::module_& m) {
    m.def("path_bounds", [](const Array<double, 2>& work, const Array<std::int32_t, 1>& schedules,
                            const Array<std::int32_t, 1>& chunks, const Longs& stages, const Longs& micro, int layers) {
        const std::size_t n = work.shape(0), count = schedules.shape(0);
        if (work.shape(1) != tr::kWorkFields || chunks.shape(0) != count || stages.shape(0) != n ||
            micro.shape(0) != n) {
            throw nb::value_error("tables of work have the wrong shape");
        }
        auto* bounds = new double[std::max<std::size_t>(1, count * n)];
        const nb::capsule owner(bounds, [](void* p) noexcept { delete[] static_cast<double*>(p); });
        for (std::size_t k = 0; k < n; ++k) {
            const double* w = work.data() + k * tr::kWorkFields;
            const tr::Work one{w[0], w[1], w[2], w[3], w[4], w[5], w[6]};
            for (std::size_t c = 0; c < count; ++c) {
                bounds[c * n + k] = tr::path_bound(one, schedules.data()[c], chunks.data()[c], stages.data()[k],
                                                   micro.data()[k], layers);
            }
        }
        return nb::ndarray<nb::numpy, double, nb::ndim<2>>(bounds, {count, n}, owner);
    });
    // (configurations, least bound, least bound of each stem, configurations of each, stems and stages of the seeds)
    m.def("survey_stems",
          [](const Longs& ranks, const Longs& most, const Longs& micro, const Longs& shardings, const Reals& work,
             const Reals& least, const Reals& again, const Reals& least_bytes, const Reals& state_bytes,
             const Reals& held_bytes, const Reals& short_bytes, const Reals& weight, const Flags& devices,
             const Flags& allowed, const Flags& tried, const Longs& schedules, double room_bytes, double fixed_s,
             int layers, std::size_t num_seeds) {
              const StemInput in(ranks, most, micro, shardings, work, least, again, least_bytes, state_bytes,
                                 held_bytes, short_bytes, weight, devices, allowed, tried, schedules, room_bytes,
                                 fixed_s, layers);
              tr::Survey out = tr::survey(in.stems, in.stages, num_seeds);
              return nb::make_tuple(out.configurations, out.floor, given(std::move(out.floors)),
                                    given(std::move(out.counts)), given(std::move(out.seed_stem)),
                                    given(std::move(out.seed_stages)));
          });
    // (stem, stages, configurations, bound of each shape, configurations that the bound and memory exclude)
    m.def("promising_shapes",
          [](const Longs& ranks, const Longs& most, const Longs& micro, const Longs& shardings, const Reals& work,
             const Reals& least, const Reals& again, const Reals& least_bytes, const Reals& state_bytes,
             const Reals& held_bytes, const Reals& short_bytes, const Reals& weight, const Flags& devices,
             const Flags& allowed, const Flags& tried, const Longs& schedules, double room_bytes, double fixed_s,
             int layers, const Reals& floors, const Longs& counts, double goal, double ceiling) {
              const StemInput in(ranks, most, micro, shardings, work, least, again, least_bytes, state_bytes,
                                 held_bytes, short_bytes, weight, devices, allowed, tried, schedules, room_bytes,
                                 fixed_s, layers);
              if (floors.shape(0) != ranks.shape(0) || counts.shape(0) != ranks.shape(0)) {
                  throw nb::value_error("tables of stems have the wrong shape");
              }
              tr::Promising out = tr::promising(in.stems, in.stages, view(floors), view(counts), goal, ceiling);
              return nb::make_tuple(given(std::move(out.stem)), given(std::move(out.stages)),
                                    given(std::move(out.counts)), given(std::move(out.bounds)), out.pruned_by_bound,
                                    out.pruned_by_memory);
          });
    nb::class_<tr::ShapeCache>(m, "ShapeCache").def(nb::init<>());
    m.def(
        "solve_meshes",
        [](const Array<std::int32_t, 2>& ints, const Array<double, 2>& reals, const Array<double, 3>& layers,
           const Array<std::int64_t, 1>& groups, const Array<std::int32_t, 1>& sequence,
           const Array<double, 1>& boundary, tr::ShapeCache& cache,
           const std::vector<std::int64_t>& leader_groups, const std::vector<double>& leader_values,
           std::size_t num_leaders, double ceiling, double margin, std::int64_t work_limit,
           const Array<std::int32_t, 1>& cancel) {
            const auto meshes = mesh_costs(ints, reals, layers);
            std::vector<double> bounds, weights, fixed;
            for (std::size_t k = 0; k < meshes.size(); ++k) {
                const double* row = reals.data() + k * kMeshReals;
                bounds.push_back(row[kBound]);
                weights.push_back(row[kWeight]);
                fixed.push_back(row[kFixed]);
            }
            std::vector<tr::Leader> leaders;
            for (std::size_t k = 0; k < leader_groups.size(); ++k) {
                leaders.push_back({leader_groups[k], leader_values[k]});
            }
            std::vector<tr::Answer> answers;
            {
                nb::gil_scoped_release release;
                answers = tr::solve_block({meshes, bounds, weights, fixed, view(groups), ceiling, margin, work_limit},
                                          view(sequence), view(boundary), cache, leaders, num_leaders,
                                          cancel.data());
            }
            nb::list out;
            for (const tr::Answer& a : answers) {
                out.append(nb::make_tuple(static_cast<int>(a.outcome), a.value, a.bound, a.leaves,
                                          a.layers_per_chunk, a.full, a.selective));
            }
            return out;
        });
    m.def(
        "evaluate_mesh",
        [](const Array<std::int32_t, 2>& ints, const Array<double, 2>& reals, const Array<double, 3>& layers,
           const Array<std::int32_t, 1>& sequence, const Array<double, 1>& boundary,
           const std::vector<int>& layers_per_chunk, const std::vector<int>& full,
           const std::vector<int>& selective) {
            const auto meshes = mesh_costs(ints, reals, layers);
            const auto pp = static_cast<std::size_t>(meshes.at(0).shape.num_stages);
            std::vector<double> bytes(pp), ends(pp);
            tr::ShapeFacts facts(meshes[0].shape);
            const double value = tr::evaluate(meshes[0], view(sequence), view(boundary), facts,
                                              layers_per_chunk, full, selective, bytes, ends);
            return nb::make_tuple(value, bytes, ends);
        });
    // Step time without the fixed part of each row of cuts and recomputation of one mesh; infinite where it does not fit.
    m.def("evaluate_cuts",
          [](const Array<std::int32_t, 2>& ints, const Array<double, 2>& reals, const Array<double, 3>& layers,
             const Array<std::int32_t, 1>& sequence, const Array<double, 1>& boundary,
             const Array<std::int32_t, 2>& cuts, const Array<std::int32_t, 2>& full,
             const Array<std::int32_t, 2>& selective) {
              const auto meshes = mesh_costs(ints, reals, layers);
              const tr::Shape& shape = meshes.at(0).shape;
              const auto pp = static_cast<std::size_t>(shape.num_stages);
              const std::size_t n = cuts.shape(0), chunks = static_cast<std::size_t>(shape.num_chunks());
              if (cuts.shape(1) != chunks || full.shape(0) != n || full.shape(1) != pp || selective.shape(0) != n ||
                  selective.shape(1) != pp) {
                  throw nb::value_error("tables of cuts have the wrong shape");
              }
              for (std::size_t k = 0; k < n; ++k) {
                  long long total = 0;
                  for (std::size_t c = 0; c < chunks; ++c) {
                      const int size = cuts.data()[k * chunks + c];
                      if (size < 0) throw nb::value_error("a chunk of fewer than no layers");
                      total += size;
                  }
                  if (total != static_cast<long long>(sequence.shape(0))) {
                      throw nb::value_error("cuts that do not hold every layer");
                  }
              }
              tr::ShapeFacts facts(shape);
              return given(tr::evaluate_cuts(meshes[0], view(sequence), view(boundary), facts,
                                             {cuts.data(), n * chunks}, {full.data(), n * pp},
                                             {selective.data(), n * pp}));
          });
    m.def(
        "run_schedule",
        [](int schedule, int num_stages, int chunks_per_stage, int num_micro, const Array<double, 1>& forward,
           const Array<double, 1>& backward, const Array<double, 1>& weight, const Array<double, 1>& link) {
            const tr::Shape shape{static_cast<tr::Schedule>(schedule), num_stages, chunks_per_stage, num_micro};
            tr::EventClock clock(shape);
            std::vector<double> ends(static_cast<std::size_t>(num_stages));
            if (!clock.run({view(forward), view(backward), view(weight), view(link)}, ends)) {
                throw nb::value_error("the schedule deadlocks");
            }
            nb::list stages;
            for (std::size_t i = 0; i < ends.size(); ++i) {
                nb::list ops;
                for (std::size_t k = 0; k < clock.orders()[i].size(); ++k) {
                    const tr::Op& op = clock.orders()[i][k];
                    ops.append(nb::make_tuple(static_cast<int>(op.pass), op.chunk, op.micro,
                                              clock.starts()[i][k]));
                }
                stages.append(ops);
            }
            return nb::make_tuple(ends, stages);
        });
    m.def("held_vectors", [](int schedule, int num_stages, int chunks_per_stage, int num_micro, int stage) {
        return tr::held_vectors({static_cast<tr::Schedule>(schedule), num_stages, chunks_per_stage, num_micro},
                                stage);
    });
}

// Columns of the kinds of a mixed search; training/mixed/solve.py builds them in this order.
enum KindReal { kKindCapacity, kKindLogits, kKindSent, kKindTied, kKindReduce, kKindGather, kKindReals };

nb::tuple mixed_answer(const tr::MixedAnswer& answer) {
    nb::list replicas;
    for (const tr::MixedReplica& r : answer.replicas) {
        replicas.append(nb::make_tuple(r.num_micro, r.value, r.kinds, r.layers, r.full, r.selective));
    }
    return nb::make_tuple(static_cast<int>(answer.status), answer.value, replicas, answer.shapes, answer.refined,
                          answer.solved, answer.packings);
}

void bind_mixed(nb::module_& m) {
    nb::class_<tr::MixedSearch>(m, "MixedSearch")
        .def("__init__",
             [](tr::MixedSearch* self, const Array<std::int32_t, 2>& ints, const Array<double, 2>& reals,
                const Array<double, 3>& layers, const Array<double, 2>& heads,
                const std::vector<int>& available, const std::vector<int>& domain,
                const Array<double, 3>& links, const Array<std::int32_t, 1>& sequence,
                const Array<double, 1>& boundary, double overlap, int num_micro, int most_stages,
                int least_replicas, int most_replicas) {
                 const std::size_t count = ints.shape(0), types = layers.shape(1), groups = available.size();
                 if (ints.shape(1) != 2 || reals.shape(0) != count || reals.shape(1) != kKindReals ||
                     layers.shape(0) != count || layers.shape(2) != tr::kLayerFields ||
                     heads.shape(0) != count || heads.shape(1) != tr::kLayerFields ||
                     domain.size() != groups || groups > tr::kMostGroups || links.shape(0) != groups ||
                     links.shape(1) != groups + 2 || links.shape(2) != 2) {
                     throw nb::value_error("the tables of a mixed search have the wrong shape");
                 }
                 const auto cost = [](const double* c) {
                     return tr::LayerCost{c[0], c[1], c[2], c[3],  c[4],  c[5],  c[6],
                                          c[7], c[8], c[9], c[10], c[11], c[12], c[13]};
                 };
                 tr::MixedInput input;
                 for (std::size_t k = 0; k < count; ++k) {
                     const double* r = reals.data() + k * kKindReals;
                     tr::MixedKind kind{ints(k, 0),      ints(k, 1),        r[kKindCapacity], r[kKindLogits],
                                        r[kKindSent],    r[kKindTied],      r[kKindReduce],   r[kKindGather],
                                        {},              cost(heads.data() + k * tr::kLayerFields)};
                     for (std::size_t t = 0; t < types; ++t) {
                         kind.layer.push_back(cost(layers.data() + (k * types + t) * tr::kLayerFields));
                     }
                     input.kinds.push_back(std::move(kind));
                 }
                 input.available = available;
                 input.domain = domain;
                 for (std::size_t g = 0; g < groups; ++g) {  // near, far, then to every group
                     const auto link = [&](std::size_t to) {
                         return tr::MixedLink{links(g, to, 0), links(g, to, 1)};
                     };
                     input.near.push_back(link(0));
                     input.far.push_back(link(1));
                     input.across.emplace_back();
                     for (std::size_t h = 0; h < groups; ++h) input.across.back().push_back(link(h + 2));
                 }
                 input.sequence.assign(sequence.data(), sequence.data() + sequence.shape(0));
                 input.boundary.assign(boundary.data(), boundary.data() + boundary.shape(0));
                 input.overlap = overlap;
                 input.num_micro = num_micro;
                 input.most_stages = most_stages;
                 input.least_replicas = least_replicas;
                 input.most_replicas = most_replicas;
                 new (self) tr::MixedSearch(std::move(input));
             })
        .def("inherit", &tr::MixedSearch::inherit)
        .def("prices", &tr::MixedSearch::prices)
        .def("refute", [](tr::MixedSearch& self, double target, std::int64_t most_solved,
                          const Array<std::int32_t, 1>& cancel) {
            tr::MixedAnswer answer;
            {
                nb::gil_scoped_release release;
                answer = self.refute(target, most_solved, cancel.data());
            }
            return mixed_answer(answer);
        })
        .def("improve", [](tr::MixedSearch& self, double target, double step, const Array<std::int32_t, 1>& cancel) {
            tr::MixedAnswer answer;
            {
                nb::gil_scoped_release release;
                answer = self.improve(target, step, cancel.data());
            }
            return mixed_answer(answer);
        });
}

// ---- assignment --------------------------------------------------------------------------------------

namespace as = optalloc::assignment;

nb::bytes packed(const as::Proof& proof) {
    return nb::bytes(proof.rows.data(), proof.rows.size() * sizeof(proof.rows[0]));
}

void bind_assignment(nb::module_& m) {
    // Returns (status, value, units, bound, nodes, multipliers, scale, witness bound, proof); value and units are
    // None without an assignment. watch(nodes, value, units, bound) -> stop? gets units where the value is new.
    // start: the unit of each task of a feasible assignment, or None. floor: a bound proven elsewhere, or None. proof: None unless asked for, else
    // (rows as in record.hpp, scale, target, whether the tree is of the costs 0).
    m.def("solve_assignment",
          [](const Array<std::int64_t, 2>& costs, const Array<std::int64_t, 2>& loads,
             const Array<std::int64_t, 1>& capacities, const Array<std::uint8_t, 2>& allowed,
             const nb::callable& watch, std::uint64_t seed, const std::optional<std::vector<int>>& start,
             bool prove, int threads, std::optional<std::int64_t> floor) {
              const std::size_t n = costs.shape(0), width = costs.shape(1);
              if (capacities.shape(0) != width || loads.shape(0) != n || loads.shape(1) != width ||
                  allowed.shape(0) != n || allowed.shape(1) != width) {
                  throw nb::value_error("assignment tables have the wrong shape");
              }
              bool has_told = false;
              std::int64_t told = 0;
              const as::Watch call = [&](const as::Snapshot& now) {
                  const nb::gil_scoped_acquire acquire;
                  nb::object value = nb::none(), units = nb::none();
                  if (now.has_value) {
                      value = nb::int_(now.value);
                      if (!has_told || now.value != told) units = nb::cast(std::vector<int>(now.unit, now.unit + n));
                      has_told = true;
                      told = now.value;
                  }
                  return nb::cast<bool>(watch(now.nodes, value, units, now.bound));
              };
              as::Answer answer;
              as::Options options{.seed = seed, .start = start.value_or(std::vector<int>{}), .floor = floor,
                                   .threads = threads, .prove = prove};
              {
                  const nb::gil_scoped_release release;
                  answer = as::solve({costs.data(), n * width}, {loads.data(), n * width}, view(capacities),
                                     {allowed.data(), n * width}, options, call);
              }
              nb::object value = nb::none(), units = nb::none();
              if (answer.has_value) {
                  value = nb::int_(answer.value);
                  units = nb::cast(answer.unit);
              }
              nb::object proof = nb::none();
              if (prove) {
                  const as::Proof& tree = answer.proof;
                  proof = nb::make_tuple(packed(tree), tree.scale, tree.target, tree.without_costs);
              }
              return nb::make_tuple(static_cast<int>(answer.status), value, units, answer.bound, answer.nodes,
                                    answer.multiplier, answer.scale, answer.witness_bound, proof);
          },
          nb::arg("costs"), nb::arg("loads"), nb::arg("capacities"), nb::arg("allowed"), nb::arg("watch"),
          nb::arg("seed") = 0, nb::arg("start") = nb::none(), nb::arg("prove") = false,
          nb::arg("threads") = 1, nb::arg("floor") = nb::none());
    // The unit of each task over lists of candidates of shape (N, K); empty where nothing feasible was found.
    // watch(value, units) -> stop? both None unless a better assignment was found.
    m.def("solve_sparse_assignment",
          [](const Array<std::int32_t, 2>& units, const Array<std::int64_t, 2>& costs,
             const Array<std::int64_t, 2>& loads, const Array<std::int64_t, 1>& capacities,
             const Array<double, 1>& prices, int rounds, std::uint64_t seed, const nb::callable& watch) {
              const std::size_t n = units.shape(0), width = units.shape(1);
              if (costs.shape(0) != n || loads.shape(0) != n || costs.shape(1) != width || loads.shape(1) != width ||
                  prices.shape(0) != capacities.shape(0)) {
                  throw nb::value_error("candidate tables have the wrong shape");
              }
              for (std::size_t j = 0; j < n; ++j) {
                  bool any = false;
                  for (std::size_t e = j * width; e < (j + 1) * width; ++e) {
                      const auto unit = static_cast<std::int64_t>(units.data()[e]);
                      if (unit >= static_cast<std::int64_t>(capacities.shape(0))) throw nb::value_error("no such unit");
                      any = any || unit >= 0;
                  }
                  if (!any) throw nb::value_error("a task has no candidate");
              }
              const as::Candidates candidates{.num_tasks = static_cast<int>(n),
                                              .num_units = static_cast<int>(capacities.shape(0)),
                                              .num_candidates = static_cast<int>(width),
                                              .unit = {units.data(), n * width},
                                              .cost = {costs.data(), n * width},
                                              .load = {loads.data(), n * width},
                                              .capacity = view(capacities)};
              const as::SparseWatch call = [&](std::int64_t value, const std::vector<int>* better) {
                  const nb::gil_scoped_acquire acquire;
                  if (better == nullptr) return nb::cast<bool>(watch(nb::none(), nb::none()));
                  return nb::cast<bool>(watch(value, *better));
              };
              const nb::gil_scoped_release release;
              return as::solve_sparse(candidates, view(prices), rounds, seed, call);
          });
}

namespace ro = optalloc::assignment::rows;

void bind_rows(nb::module_& m) {
    // Unit-major costs and allowed (M, N), loads (R, M, N), capacities (R, M); groups of tasks that stay
    // apart; the unit that keeps nobody apart (-1: none). Returns (status, value, units, bound, nodes, proof);
    // value and units are None without an assignment. watch(nodes, value, bound) -> stop? proof: None unless asked
    // for, else (rows as in record.hpp, scale, shift, target, whether the tree is of the costs 0, kept, classes, cells).
    m.def("solve_rows",
          [](const Array<std::int64_t, 2>& costs, const Array<std::int64_t, 3>& loads,
             const Array<std::int64_t, 2>& capacities, const Array<std::uint8_t, 2>& allowed,
             const std::vector<std::vector<int>>& apart, int open, const nb::object& enough,
             const nb::callable& watch, std::uint64_t seed, bool prove) {
              const std::size_t width = costs.shape(0), n = costs.shape(1), r = loads.shape(0);
              if (loads.shape(1) != width || loads.shape(2) != n || capacities.shape(0) != r ||
                  capacities.shape(1) != width || allowed.shape(0) != width || allowed.shape(1) != n) {
                  throw nb::value_error("row tables have the wrong shape");
              }
              ro::Instance instance;
              instance.num_tasks = static_cast<int>(n);
              instance.num_units = static_cast<int>(width);
              instance.num_resources = static_cast<int>(r);
              instance.open = open;
              instance.cost.assign(costs.data(), costs.data() + width * n);
              instance.load.assign(loads.data(), loads.data() + r * width * n);
              instance.capacity.assign(capacities.data(), capacities.data() + r * width);
              instance.allowed.assign(allowed.data(), allowed.data() + width * n);
              instance.apart = apart;
              for (const auto& group : apart) {
                  for (const int j : group) {
                      if (j < 0 || j >= instance.num_tasks) throw nb::value_error("a group names no task");
                  }
              }
              std::optional<std::int64_t> goal;
              if (!enough.is_none()) goal = nb::cast<std::int64_t>(enough);
              const ro::Watch call = [&](const ro::Snapshot& now) {
                  const nb::gil_scoped_acquire acquire;
                  const nb::object value = now.best == nullptr ? nb::none() : nb::object(nb::int_(now.best->cost));
                  return nb::cast<bool>(watch(now.nodes, value, now.bound));
              };
              ro::Answer answer;
              {
                  const nb::gil_scoped_release release;
                  answer = ro::solve(instance, goal, seed, prove, call);
              }
              nb::object value = nb::none(), units = nb::none();
              if (answer.has_best) {
                  value = nb::int_(answer.best.cost);
                  units = nb::cast(answer.best.unit);
              }
              nb::object proof = nb::none();
              if (prove) {
                  const as::Proof& tree = answer.proof;
                  proof = nb::make_tuple(packed(tree), tree.scale, tree.shift, tree.target, tree.without_costs,
                                         answer.kept, answer.classes, answer.cells);
              }
              return nb::make_tuple(static_cast<int>(answer.status), value, units, answer.bound, answer.nodes, proof);
          },
          nb::arg("costs"), nb::arg("loads"), nb::arg("capacities"), nb::arg("allowed"), nb::arg("apart"),
          nb::arg("open"), nb::arg("enough").none(), nb::arg("watch"), nb::arg("seed") = 0, nb::arg("prove") = false);
}

// ---- serving -----------------------------------------------------------------------------------------

namespace sv = optalloc::serving;

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
    // (excess, layers, plain, out, in): the cheapest walk, and how much of each item it uses.
    m.def("cheapest_walk",
          [](const Array<std::int32_t, 1>& region, const Array<double, 1>& weight, const Array<double, 1>& price,
             const Array<double, 1>& out, const Array<double, 1>& in, int levels, int parts,
             const Array<double, 1>& leaves, const Array<double, 1>& enters, const Array<std::int32_t, 1>& visit,
             double cover) {
              const std::size_t n = region.shape(0), regions = leaves.shape(0);
              if (weight.shape(0) != n || price.shape(0) != n || out.shape(0) != n || in.shape(0) != n ||
                  enters.shape(0) != regions || visit.shape(0) != regions || regions > 8 || levels < 1 || parts < 1) {
                  throw nb::value_error("walk arrays have the wrong shape");
              }
              for (std::size_t i = 0; i < n; ++i) {
                  if (region.data()[i] < 0 || region.data()[i] >= static_cast<std::int32_t>(regions)) {
                      throw nb::value_error("an item names no region");
                  }
              }
              sv::Walk walk{};
              {
                  nb::gil_scoped_release release;
                  walk = sv::cheapest_walk({view(region), view(weight), view(price), view(out), view(in)},
                                           {static_cast<int>(regions), levels, parts, view(leaves), view(enters),
                                            view(visit), cover});
              }
              return nb::make_tuple(walk.excess, walk.layers, walk.plain, walk.out, walk.in);
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
}

// The fleet's bound holds its buckets and the splits it met; each call answers for one box of counts with
// (bound, value, share of the load undone, counts, prices, prices of limits).
void bind_mix(nb::module_& m) {
    nb::class_<sv::FleetBound>(m, "FleetBound")
        .def("__init__",
             [](sv::FleetBound* self, const Array<std::int32_t, 1>& first, const Array<std::int32_t, 1>& serving,
                const Array<double, 1>& load, const Array<std::int32_t, 1>& kind, int kinds,
                const Array<double, 2>& use) {
                 const std::size_t n = serving.shape(0), offers = kind.shape(0);
                 bool fits = first.shape(0) >= 1 && load.shape(0) == n && use.shape(1) == offers && kinds >= 1 &&
                             first.data()[0] == 0 && first.data()[first.shape(0) - 1] == static_cast<std::int32_t>(n);
                 for (std::size_t j = 0; fits && j + 1 < first.shape(0); ++j) fits = first.data()[j] < first.data()[j + 1];
                 for (std::size_t i = 0; fits && i < n; ++i) fits = serving.data()[i] >= 0 && serving.data()[i] < kinds;
                 for (std::size_t g = 0; fits && g < offers; ++g) fits = kind.data()[g] >= 0 && kind.data()[g] < kinds;
                 if (!fits) throw nb::value_error("fleet tables have the wrong shape");
                 std::vector<sv::Serve> serves(n);
                 for (std::size_t i = 0; i < n; ++i) serves[i] = {serving.data()[i], load.data()[i]};
                 new (self) sv::FleetBound({first.data(), first.data() + first.shape(0)}, std::move(serves),
                                           {kind.data(), kind.data() + offers}, kinds,
                                           {use.data(), use.data() + use.size()}, static_cast<int>(use.shape(0)));
             })
        .def("bound", [](sv::FleetBound& self, const Array<double, 1>& low, const Array<double, 1>& high,
                         const Array<double, 1>& price, const Array<double, 2>& room, const Array<double, 2>& spare,
                         const Array<double, 1>& limit, double shortage, double cutoff, double enough,
                         double closed, const Array<std::int32_t, 1>& cancel) {
            const auto offers = static_cast<std::size_t>(self.offers());
            if (low.shape(0) != offers || high.shape(0) != offers || price.shape(0) != offers ||
                room.shape(1) != offers || spare.shape(0) != room.shape(0) || room.shape(0) == 0 ||
                spare.shape(1) != static_cast<std::size_t>(self.kinds()) ||
                limit.shape(0) != static_cast<std::size_t>(self.limits()) || cancel.shape(0) == 0) {
                throw nb::value_error("the box of a fleet has the wrong shape");
            }
            sv::BoxBound found;
            {
                nb::gil_scoped_release release;
                found = self.bound({view(low), view(high), view(price), {room.data(), room.size()},
                                    {spare.data(), spare.size()}, view(limit), shortage, cutoff, enough, closed},
                                   cancel.data());
            }
            return nb::make_tuple(found.bound, found.value, found.short_of, given(std::move(found.counts)),
                                  given(std::move(found.prices)), given(std::move(found.limit_prices)));
        });
}

// ---- simulation --------------------------------------------------------------------------------------

namespace si = optalloc::simulate;

// Columns of the table of engines; simulate/requests/kernel.py builds them in this order.
enum EngineInt {
    kEnginePool, kEngineCount, kEngineRanks, kEngineWeight, kEngineChunk, kEngineBatch, kEngineBlocks, kEngineExtra,
    kEngineContext, kEnginePair, kEngineEach, kEngineInts
};

void bind_simulation(nb::module_& m) {
    // A row of `kinds`, and four tables of its step times each. Returns the fields of RequestOutput in their order.
    m.def("run_requests",
          [](const Array<std::int64_t, 2>& kinds, const std::vector<Longs>& decode,
             const std::vector<Array<std::int32_t, 1>>& prompt, const std::vector<Array<std::int32_t, 1>>& count,
             const std::vector<Array<double, 2>>& grid, const Longs& arrival, const Array<std::int32_t, 1>& input,
             const Array<std::int32_t, 1>& output, const Array<std::int32_t, 1>& cached,
             const Array<std::int32_t, 1>& group, const Array<std::int32_t, 1>& prefix, int clients, int block_tokens,
             std::int64_t transfer, std::int64_t transfer_token, bool least_loaded, bool record,
             const Array<std::int32_t, 1>& cancel) {
              const std::size_t n = arrival.shape(0), number = kinds.shape(0);
              bool fits = kinds.shape(1) == kEngineInts && number >= 1 && decode.size() == number &&
                          prompt.size() == number && count.size() == number && grid.size() == number &&
                          input.shape(0) == n && output.shape(0) == n && cached.shape(0) == n && group.shape(0) == n &&
                          block_tokens >= 1 && cancel.shape(0) == 1;
              for (std::size_t k = 0; fits && k < n; ++k) {
                  fits = group.data()[k] >= -1 && group.data()[k] < static_cast<std::int64_t>(prefix.shape(0));
              }
              std::vector<si::KindInput> input_kinds;
              for (std::size_t p = 0; fits && p < number; ++p) {
                  const std::int64_t* row = kinds.data() + p * kEngineInts;
                  const std::int64_t before = p == 0 ? 0 : row[kEnginePool - kEngineInts];
                  const std::int64_t most = p == 0 ? 0 : 1;  // pools in order, from 0
                  fits = row[kEnginePool] >= before && row[kEnginePool] <= most && row[kEngineCount] >= 1 &&
                         row[kEngineRanks] >= 1 && row[kEngineWeight] >= 1 && prompt[p].shape(0) >= 2 &&
                         count[p].shape(0) >= 2 &&
                         grid[p].shape(0) == prompt[p].shape(0) && grid[p].shape(1) == count[p].shape(0) &&
                         static_cast<std::int64_t>(decode[p].shape(0)) > row[kEngineBatch];
                  input_kinds.push_back({static_cast<int>(row[kEnginePool]),
                                         static_cast<int>(row[kEngineCount]),
                                         static_cast<int>(row[kEngineRanks]),
                                         row[kEngineWeight],
                                         static_cast<int>(row[kEngineChunk]),
                                         static_cast<int>(row[kEngineBatch]),
                                         row[kEngineBlocks],
                                         row[kEngineExtra],
                                         {view(decode[p]),
                                          view(prompt[p]),
                                          view(count[p]),
                                          {grid[p].data(), grid[p].size()},
                                          row[kEngineContext],
                                          row[kEnginePair],
                                          row[kEngineEach]}});
              }
              if (!fits) throw nb::value_error("tables of engines or requests have the wrong shape");
              const si::RequestInput requests{.arrival = view(arrival),
                                              .input = view(input),
                                              .output = view(output),
                                              .cached = view(cached),
                                              .group = view(group),
                                              .prefix = view(prefix),
                                              .clients = clients,
                                              .block_tokens = block_tokens,
                                              .transfer = transfer,
                                              .transfer_token = transfer_token,
                                              .least_loaded = least_loaded,
                                              .record = record};
              si::RequestOutput out;
              {
                  nb::gil_scoped_release release;
                  out = si::run_requests(input_kinds, requests, cancel.data());
              }
              auto* kept = new std::vector<si::Stretch>(std::move(out.stretches));
              const nb::capsule owner(kept, [](void* p) noexcept { delete static_cast<std::vector<si::Stretch>*>(p); });
              const nb::ndarray<nb::numpy, std::int64_t, nb::ndim<2>> stretches(
                  reinterpret_cast<std::int64_t*>(kept->data()), {kept->size(), si::kStretchFields}, owner);
              return nb::make_tuple(static_cast<int>(out.status), given(std::move(out.arrival)),
                                    given(std::move(out.start)), given(std::move(out.first)),
                                    given(std::move(out.handed)), given(std::move(out.finish)),
                                    given(std::move(out.preemptions)), given(std::move(out.hits)),
                                    given(std::move(out.rank)), given(std::move(out.second_rank)),
                                    given(std::move(out.busy)), given(std::move(out.iterations)),
                                    given(std::move(out.peak)), stretches);
          });
}

}  // namespace

NB_MODULE(_native, m) {
    m.doc() = "Native kernels of optalloc; each has a NumPy reference beside it in Python.";
    bind_training(m);
    bind_mixed(m);
    bind_assignment(m);
    bind_rows(m);
    bind_serving(m);
    bind_mix(m);
    bind_simulation(m);
}

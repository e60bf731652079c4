// Kernels of training plans on equal devices.
#include "bindings/families.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <nanobind/stl/vector.h>

#include "bindings/arrays.hpp"
#include "training/bounds.hpp"
#include "training/partition.hpp"

namespace optalloc::bindings {

namespace tr = optalloc::training;

namespace {

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

// The arguments of both kernels over stems, checked: no array may be shorter than what indexes it.
struct StemInput {
    tr::Stems stems;
    std::vector<double> fullest;
    tr::Stages stages;

    StemInput(const Longs& ranks, const Longs& most, const Longs& micro, const Longs& shardings, const Longs& key,
              const Array<double, 2>& work, const Reals& again, const Reals& least_bytes, const Reals& state_bytes,
              const Reals& held_bytes, const Reals& short_bytes, const Reals& weight, const Flags& devices,
              const Flags& allowed, const Flags& tried, const Longs& schedules, const Flags& kinds,
              const Longs& chunks, double room_bytes, double fixed_s, int layers)
        : stems{view(ranks),
                view(most),
                view(micro),
                view(shardings),
                view(key),
                {work.data(), work.size()},
                view(again),
                view(least_bytes),
                view(state_bytes),
                view(held_bytes),
                view(short_bytes)},
          fullest(allowed.shape(0)),
          stages{view(weight), view(devices), view(allowed), view(tried), view(schedules), view(kinds),
                 view(chunks), fullest,       room_bytes,    fixed_s,     layers} {
        for (std::size_t pp = 1; pp < fullest.size(); ++pp) {
            fullest[pp] = std::ceil(static_cast<double>(layers) / static_cast<double>(pp));
        }
        const std::size_t n = ranks.shape(0), most_stages = allowed.shape(0);
        const auto keys = static_cast<std::int64_t>(work.shape(0));
        bool fits = most.shape(0) == n && micro.shape(0) == n && shardings.shape(0) == n && key.shape(0) == n &&
                    work.shape(1) == tr::kWorkFields && again.shape(0) == work.shape(0) &&
                    least_bytes.shape(0) == n && state_bytes.shape(0) == n && held_bytes.shape(0) == n &&
                    short_bytes.shape(0) == n && tried.shape(0) == most_stages &&
                    schedules.shape(0) == 2 * most_stages && kinds.shape(0) == 2 * most_stages &&
                    chunks.shape(0) == 2 * most_stages && weight.shape(0) == devices.shape(0);
        for (std::size_t k = 0; fits && k < n; ++k) {
            fits = stems.ranks[k] > 0 && stems.key[k] >= 0 && stems.key[k] < keys && stems.most[k] < static_cast<std::int64_t>(most_stages) &&
                   stems.ranks[k] * stems.most[k] < static_cast<std::int64_t>(weight.shape(0));
        }
        if (!fits) throw nb::value_error("tables of stems have the wrong shape");
    }
};

}  // namespace

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
          [](const Longs& ranks, const Longs& most, const Longs& micro, const Longs& shardings, const Longs& key,
             const Array<double, 2>& work, const Reals& again, const Reals& least_bytes, const Reals& state_bytes,
             const Reals& held_bytes, const Reals& short_bytes, const Reals& weight, const Flags& devices,
             const Flags& allowed, const Flags& tried, const Longs& schedules, const Flags& kinds,
             const Longs& chunks, double room_bytes, double fixed_s, int layers, std::size_t num_seeds) {
              const StemInput in(ranks, most, micro, shardings, key, work, again, least_bytes, state_bytes,
                                 held_bytes, short_bytes, weight, devices, allowed, tried, schedules, kinds, chunks,
                                 room_bytes, fixed_s, layers);
              tr::Survey out = tr::survey(in.stems, in.stages, num_seeds);
              return nb::make_tuple(out.configurations, out.floor, given(std::move(out.floors)),
                                    given(std::move(out.counts)), given(std::move(out.seed_stem)),
                                    given(std::move(out.seed_stages)));
          });
    // (stem, stages, configurations, bound of each shape, configurations that work, memory and paths exclude)
    m.def("promising_shapes",
          [](const Longs& ranks, const Longs& most, const Longs& micro, const Longs& shardings, const Longs& key,
             const Array<double, 2>& work, const Reals& again, const Reals& least_bytes, const Reals& state_bytes,
             const Reals& held_bytes, const Reals& short_bytes, const Reals& weight, const Flags& devices,
             const Flags& allowed, const Flags& tried, const Longs& schedules, const Flags& kinds,
             const Longs& chunks, double room_bytes, double fixed_s, int layers, const Reals& floors, const Longs& counts, double goal, double ceiling) {
              const StemInput in(ranks, most, micro, shardings, key, work, again, least_bytes, state_bytes,
                                 held_bytes, short_bytes, weight, devices, allowed, tried, schedules, kinds, chunks,
                                 room_bytes, fixed_s, layers);
              if (floors.shape(0) != ranks.shape(0) || counts.shape(0) != ranks.shape(0)) {
                  throw nb::value_error("tables of stems have the wrong shape");
              }
              tr::Promising out = tr::promising(in.stems, in.stages, view(floors), view(counts), goal, ceiling);
              return nb::make_tuple(given(std::move(out.stem)), given(std::move(out.stages)),
                                    given(std::move(out.counts)), given(std::move(out.bounds)), out.pruned_by_work,
                                    out.pruned_by_memory, out.pruned_by_path);
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
            if (layers_per_chunk.size() != static_cast<std::size_t>(meshes[0].shape.num_chunks()) || full.size() != pp ||
                selective.size() != pp ||
                std::accumulate(layers_per_chunk.begin(), layers_per_chunk.end(), 0LL) !=
                    static_cast<long long>(sequence.shape(0))) {
                throw nb::value_error("a split that does not fit the mesh");
            }
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
    // The end of each of the first `stages` stages, behind which a micro-batch turns round after `turn` seconds.
    m.def("stage_ends",
          [](int schedule, int num_stages, int chunks_per_stage, int num_micro, const Array<double, 1>& forward,
             const Array<double, 1>& backward, const Array<double, 1>& weight, const Array<double, 1>& link,
             int stages, double turn) {
              tr::WaveClock clock({static_cast<tr::Schedule>(schedule), num_stages, chunks_per_stage, num_micro});
              std::vector<double> ends(static_cast<std::size_t>(stages));
              clock.ends({view(forward), view(backward), view(weight), view(link)}, ends, stages, turn);
              return ends;
          });
    m.def("held_vectors", [](int schedule, int num_stages, int chunks_per_stage, int num_micro, int stage) {
        return tr::held_vectors({static_cast<tr::Schedule>(schedule), num_stages, chunks_per_stage, num_micro},
                                stage);
    });
}

}  // namespace optalloc::bindings

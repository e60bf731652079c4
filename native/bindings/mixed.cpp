// The search for training plans on devices of several types.
#include "bindings/families.hpp"

#include <nanobind/stl/vector.h>

#include "bindings/arrays.hpp"
#include "training/mixed.hpp"

namespace optalloc::bindings {

namespace tr = optalloc::training;

namespace {

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

}  // namespace

void bind_mixed(nb::module_& m) {
    nb::class_<tr::MixedSearch>(m, "MixedSearch")
        .def("__init__",
             [](tr::MixedSearch* self, const Array<std::int32_t, 2>& ints, const Array<double, 2>& reals,
                const Array<double, 3>& layers, const Array<double, 2>& heads,
                const std::vector<int>& available, const std::vector<int>& domain,
                const Array<double, 3>& links, const Array<std::int32_t, 1>& sequence,
                const Array<double, 1>& boundary, double overlap, int num_micro, int most_stages,
                int most_blocks, int least_replicas, int most_replicas) {
                 const std::size_t count = ints.shape(0), types = layers.shape(1), groups = available.size();
                 if (count == 0 || ints.shape(1) != 2 || reals.shape(0) != count || reals.shape(1) != kKindReals ||
                     layers.shape(0) != count || layers.shape(2) != tr::kLayerFields ||
                     heads.shape(0) != count || heads.shape(1) != tr::kLayerFields ||
                     domain.size() != groups || groups > tr::kMostGroups || most_blocks > tr::kMostBlocks || links.shape(0) != groups ||
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
                 input.most_blocks = most_blocks;
                 input.least_replicas = least_replicas;
                 input.most_replicas = most_replicas;
                 new (self) tr::MixedSearch(std::move(input));
             })
        .def("inherit", &tr::MixedSearch::inherit)
        .def("prices", &tr::MixedSearch::prices)
        .def("bound", &tr::MixedSearch::bound)
        .def("look", [](tr::MixedSearch& self, double target, const Array<std::int32_t, 1>& cancel) {
            tr::MixedAnswer answer;
            {
                nb::gil_scoped_release release;
                answer = self.look(target, cancel.data());
            }
            return mixed_answer(answer);
        })
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

}  // namespace optalloc::bindings

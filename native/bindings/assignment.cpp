// The exact and the large solvers of the assignment problem.
#include "bindings/families.hpp"

#include <optional>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/vector.h>

#include "bindings/arrays.hpp"
#include "assignment/rows.hpp"
#include "assignment/solve.hpp"
#include "assignment/sparse.hpp"

namespace optalloc::bindings {

namespace as = optalloc::assignment;

namespace {

nb::bytes packed(const as::Proof& proof) {
    return nb::bytes(proof.rows.data(), proof.rows.size() * sizeof(proof.rows[0]));
}

}  // namespace

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
    // for, else (rows as in record.hpp, scale, shift, target, whether the tree is of the costs 0, kept, classes).
    // start: the unit of each task of a feasible assignment, or None. floor: a bound proven elsewhere, or None.
    // cells: of a knapsack table, see rows.hpp.
    m.def("solve_rows",
          [](const Array<std::int64_t, 2>& costs, const Array<std::int64_t, 3>& loads,
             const Array<std::int64_t, 2>& capacities, const Array<std::uint8_t, 2>& allowed,
             const std::vector<std::vector<int>>& apart, int open, std::optional<std::int64_t> enough,
             const nb::callable& watch, std::uint64_t seed, bool prove, const std::optional<std::vector<int>>& start,
             std::optional<std::int64_t> floor, std::int64_t cells, int threads) {
              if (threads < 1) throw nb::value_error("no thread");
              if (cells < 1) throw nb::value_error("a table needs a cell");
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
              instance.cells = cells;
              for (const auto& group : apart) {
                  for (const int j : group) {
                      if (j < 0 || j >= instance.num_tasks) throw nb::value_error("a group names no task");
                  }
              }
              const ro::Options options{.enough = enough, .floor = floor, .start = start.value_or(std::vector<int>{}),
                                        .seed = seed, .threads = threads, .prove = prove};
              if (!options.start.empty() && options.start.size() != n) throw nb::value_error("the start has the wrong length");
              for (const int i : options.start) {
                  if (i < 0 || i >= instance.num_units) throw nb::value_error("the start names no unit");
              }
              const ro::Watch call = [&](const ro::Snapshot& now) {
                  const nb::gil_scoped_acquire acquire;
                  const nb::object value = now.best == nullptr ? nb::none() : nb::object(nb::int_(now.best->cost));
                  return nb::cast<bool>(watch(now.nodes, value, now.bound));
              };
              ro::Answer answer;
              {
                  const nb::gil_scoped_release release;
                  answer = ro::solve(instance, options, call);
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
                                         answer.kept, answer.classes);
              }
              return nb::make_tuple(static_cast<int>(answer.status), value, units, answer.bound, answer.nodes, proof);
          },
          nb::arg("costs"), nb::arg("loads"), nb::arg("capacities"), nb::arg("allowed"), nb::arg("apart"),
          nb::arg("open"), nb::arg("enough").none(), nb::arg("watch"), nb::arg("seed") = 0, nb::arg("prove") = false,
          nb::arg("start") = nb::none(), nb::arg("floor") = nb::none(), nb::arg("cells") = 2048,
          nb::arg("threads") = 1);
}

}  // namespace optalloc::bindings

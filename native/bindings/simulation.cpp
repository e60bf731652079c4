// The simulation of requests.
#include "bindings/families.hpp"

#include <nanobind/stl/vector.h>

#include "bindings/arrays.hpp"
#include "simulate/requests.hpp"

namespace optalloc::bindings {

namespace si = optalloc::simulate;

namespace {

// Columns of the table of engines; simulate/requests/kernel.py builds them in this order.
enum EngineInt {
    kEnginePool, kEngineCount, kEngineRanks, kEngineWeight, kEngineChunk, kEngineBatch, kEngineBlocks, kEngineExtra,
    kEngineContext, kEnginePair, kEngineEach, kEngineInts
};

}  // namespace

void bind_simulation(nb::module_& m) {
    // A row of `kinds`, and four tables of its step times each, twice: of a rank, and of what all ranks share (or empty
    // ones). Returns the fields of RequestOutput in their order.
    m.def("run_requests",
          [](const Array<std::int64_t, 2>& kinds, const std::vector<Longs>& decode,
             const std::vector<Array<std::int32_t, 1>>& prompt, const std::vector<Array<std::int32_t, 1>>& count,
             const std::vector<Array<double, 2>>& grid, const std::vector<Longs>& shared_decode,
             const std::vector<Array<std::int32_t, 1>>& shared_prompt,
             const std::vector<Array<std::int32_t, 1>>& shared_count,
             const std::vector<Array<double, 2>>& shared_grid, const Longs& arrival, const Array<std::int32_t, 1>& input,
             const Array<std::int32_t, 1>& output, const Array<std::int32_t, 1>& cached,
             const Array<std::int32_t, 1>& shared, const Longs& path_start, const Array<std::int32_t, 1>& path,
             const Array<std::int32_t, 1>& node_blocks, bool leaves_own, int clients, int block_tokens,
             std::int64_t transfer, std::int64_t transfer_token, int routing, bool record,
             const Array<std::int32_t, 1>& cancel) {
              const std::size_t n = arrival.shape(0), number = kinds.shape(0);
              bool fits = kinds.shape(1) == kEngineInts && number >= 1 && decode.size() == number &&
                          prompt.size() == number && count.size() == number && grid.size() == number &&
                          shared_decode.size() == number && shared_prompt.size() == number &&
                          shared_count.size() == number && shared_grid.size() == number &&
                          input.shape(0) == n && output.shape(0) == n && cached.shape(0) == n && shared.shape(0) == n &&
                          path_start.shape(0) == n + 1 && path_start.data()[0] == 0 &&
                          path_start.data()[n] == static_cast<std::int64_t>(path.shape(0)) && block_tokens >= 1 &&
                          cancel.shape(0) == 1 && routing >= 0 && routing <= static_cast<int>(si::Routing::kPrefix);
              for (std::size_t k = 0; fits && k < n; ++k) fits = path_start.data()[k] <= path_start.data()[k + 1];
              for (std::size_t k = 0; fits && k < path.shape(0); ++k) {
                  fits = path.data()[k] >= 0 && path.data()[k] < static_cast<std::int64_t>(node_blocks.shape(0));
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
                  if (fits && shared_decode[p].shape(0) > 0) {
                      fits = shared_prompt[p].shape(0) >= 2 && shared_count[p].shape(0) >= 2 &&
                             shared_grid[p].shape(0) == shared_prompt[p].shape(0) &&
                             shared_grid[p].shape(1) == shared_count[p].shape(0) &&
                             static_cast<std::int64_t>(shared_decode[p].shape(0)) >
                                 row[kEngineBatch] * row[kEngineRanks];
                  }
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
                                          row[kEngineEach]},
                                         {view(shared_decode[p]),
                                          view(shared_prompt[p]),
                                          view(shared_count[p]),
                                          {shared_grid[p].data(), shared_grid[p].size()}}});
              }
              if (!fits) throw nb::value_error("tables of engines or requests have the wrong shape");
              const si::RequestInput requests{.arrival = view(arrival),
                                              .input = view(input),
                                              .output = view(output),
                                              .cached = view(cached),
                                              .shared = view(shared),
                                              .path_start = view(path_start),
                                              .path = view(path),
                                              .node_blocks = view(node_blocks),
                                              .leaves_own = leaves_own,
                                              .clients = clients,
                                              .block_tokens = block_tokens,
                                              .transfer = transfer,
                                              .transfer_token = transfer_token,
                                              .routing = static_cast<si::Routing>(routing),
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

}  // namespace optalloc::bindings

// SPDX-License-Identifier: Apache-2.0
// What a router does with its logits: softmax over n experts, the 8 best, their renormalised weights.
#include <moeroute/core/router_spec.hpp>
#include <moeroute/io/npy.hpp>
#include <moeroute/routing/selection.hpp>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "support.hpp"

namespace {

using namespace moeroute;
constexpr index_t k = 8;

router_spec spec_of(index_t n) {
  router_spec spec;
  spec.experts = n;
  spec.top_k = k;
  spec.renormalize = true;
  return spec;
}

void softmax_top_8(benchmark::State& state) {
  index_t const n = state.range(0);
  auto const& z = bench_logits(bench_rows, n);
  std::vector<std::int16_t> ids(bench_rows * k);
  std::vector<float> weights(ids.size());
  auto const finite = std::make_unique<bool[]>(bench_rows), tied = std::make_unique<bool[]>(bench_rows);
  matrix_view<float> const m(z.data(), bench_rows, n);
  for (auto _ : state)
    in_parts(bench_rows, static_cast<int>(state.range(1)), [&](index_t first, index_t count) {
      selector<float> apply(spec_of(n));
      apply.rows(m.rows_from(first, count), ids.data() + first * k, weights.data() + first * k, finite.get() + first,
                 tied.get() + first);
      benchmark::ClobberMemory();
    });
  finish(state, bench_rows, 4 * bench_rows * n);
}

void answers(std::filesystem::path const& folder) {
  for (index_t const n : {64, 128, 256}) {
    auto const size = std::to_string(n);
    auto const z = read_npy<float>(folder / ("logits_" + size + ".npy"));
    index_t const rows = z.shape.at(0);
    auto const r = select(matrix_view<float>(z.values.data(), rows, n), spec_of(n));
    write_npy(folder / ("selection_ids_" + size + ".npy"), std::span<std::int16_t const>(r.ids), {rows, k});
    write_npy(folder / ("selection_weights_" + size + ".npy"), std::span<float const>(r.weights), {rows, k});
  }
}

}  // namespace

int main(int argc, char** argv) {
  for (int const threads : bench_threads())
    benchmark::RegisterBenchmark("softmax, top 8, renormalize", softmax_top_8)
        ->UseRealTime()
        ->ArgsProduct({{64, 128, 256}, {threads}});
  return bench_main(argc, argv, answers);
}

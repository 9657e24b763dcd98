// SPDX-License-Identifier: Apache-2.0
// The 8 largest of every row, sorted, with ids, values and the count of ties.
#include <moeroute/core/scalar.hpp>
#include <moeroute/io/npy.hpp>
#include <moeroute/numeric/top_k.hpp>

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "support.hpp"

namespace {

using namespace moeroute;
constexpr index_t k = 8;

template <class T>
void top_8(benchmark::State& state) {
  index_t const n = state.range(0);
  auto const& f = bench_logits(bench_rows, n);
  std::vector<T> z(f.size());
  for (std::size_t i = 0; i < z.size(); ++i) {
    if constexpr (std::is_same_v<T, bf16>)
      z[i] = to_bf16(f[i]);
    else
      z[i] = f[i];
  }
  std::vector<std::int16_t> ids(bench_rows * k);
  std::vector<T> values(bench_rows * k);
  matrix_view<T> const m(z.data(), bench_rows, n);
  for (auto _ : state)
    in_parts(bench_rows, static_cast<int>(state.range(1)), [&](index_t first, index_t count) {
      benchmark::DoNotOptimize(
          top_k_rows(m.rows_from(first, count), k, ids.data() + first * k, values.data() + first * k));
    });
  finish(state, bench_rows, index_t(sizeof(T)) * bench_rows * n);
}

void answers(std::filesystem::path const& folder) {
  for (index_t const n : {64, 128, 256}) {
    auto const size = std::to_string(n);
    auto const z = read_npy<float>(folder / ("logits_" + size + ".npy"));
    index_t const rows = z.shape.at(0);
    std::vector<std::int32_t> ids(static_cast<std::size_t>(rows * k));
    std::vector<float> values(ids.size());
    top_k_rows(matrix_view<float>(z.values.data(), rows, n), k, ids.data(), values.data());
    write_npy(folder / ("top_8_ids_" + size + ".npy"), std::span<std::int32_t const>(ids), {rows, k});
    write_npy(folder / ("top_8_values_" + size + ".npy"), std::span<float const>(values), {rows, k});
  }
}

}  // namespace

int main(int argc, char** argv) {
  for (int const threads : bench_threads()) {
    benchmark::RegisterBenchmark("top_8 float", top_8<float>)->UseRealTime()->ArgsProduct({{64, 128, 256}, {threads}});
    benchmark::RegisterBenchmark("top_8 bf16", top_8<bf16>)->UseRealTime()->ArgsProduct({{64, 256}, {threads}});
  }
  return bench_main(argc, argv, answers);
}

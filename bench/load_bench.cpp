// SPDX-License-Identifier: Apache-2.0
// Slots per expert: 8 ids a token, n experts. Items are ids.
#include <moeroute/core/batch.hpp>
#include <moeroute/io/npy.hpp>
#include <moeroute/numeric/top_k.hpp>
#include <moeroute/routing/load.hpp>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "support.hpp"

namespace {

using namespace moeroute;
constexpr index_t k = 8;

template <class Id>
void count(benchmark::State& state) {
  index_t const n = state.range(0);
  auto const threads = state.range(1);
  auto const& z = bench_logits(bench_rows, n);
  std::vector<Id> ids(bench_rows * k);
  top_k_rows(matrix_view<float>(z.data(), bench_rows, n), k, ids.data());
  routing_batch<float, float, Id> const batch(n, {ids.data(), bench_rows, k});
  for (auto _ : state) {
    std::vector<load> parts(static_cast<std::size_t>(threads), load({n}));
    parallel_for(threads, static_cast<int>(threads), [&](index_t i) {
      auto const first = bench_rows * i / threads, last = bench_rows * (i + 1) / threads;
      parts[static_cast<std::size_t>(i)].update(batch.slice(first, last - first));
    });
    for (std::size_t i = 1; i < parts.size(); ++i) parts[0].merge(parts[i]);
    benchmark::DoNotOptimize(parts[0].count());
  }
  finish(state, bench_rows * k, index_t(sizeof(Id)) * bench_rows * k);
}

void answers(std::filesystem::path const& folder) {
  for (index_t const n : {64, 256}) {
    auto const size = std::to_string(n);
    auto const z = read_npy<float>(folder / ("logits_" + size + ".npy"));
    index_t const rows = z.shape.at(0);
    std::vector<std::int16_t> ids(static_cast<std::size_t>(rows * k));
    top_k_rows(matrix_view<float>(z.values.data(), rows, n), k, ids.data());
    auto const r = load_of(matrix_view<std::int16_t>(ids.data(), rows, k), n);
    write_npy(folder / ("load_" + size + ".npy"), std::span<std::uint64_t const>(r.counts), {n});
  }
}

}  // namespace

int main(int argc, char** argv) {
  for (int const threads : bench_threads()) {
    benchmark::RegisterBenchmark("load uint8", count<std::uint8_t>)->UseRealTime()->ArgsProduct({{64, 256}, {threads}});
    benchmark::RegisterBenchmark("load int16", count<std::int16_t>)->UseRealTime()->ArgsProduct({{64, 256}, {threads}});
  }
  return bench_main(argc, argv, answers);
}

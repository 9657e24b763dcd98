// SPDX-License-Identifier: Apache-2.0
// Counting n float values into 1,024 bins of equal width. Items are values.
#include <moeroute/io/npy.hpp>
#include <moeroute/numeric/histogram.hpp>

#include <cstddef>
#include <filesystem>
#include <span>
#include <vector>

#include "support.hpp"

namespace {

using namespace moeroute;
constexpr histogram_options bins{.low = -8, .high = 8, .bins = 1024};

void count(benchmark::State& state) {
  auto const& x = bench_logits(state.range(0), 1);
  auto const threads = state.range(1);
  for (auto _ : state) {
    std::vector<histogram> parts(static_cast<std::size_t>(threads), histogram(bins));
    parallel_for(threads, static_cast<int>(threads), [&](index_t i) {
      auto const first = bench_values * i / threads, last = bench_values * (i + 1) / threads;
      parts[static_cast<std::size_t>(i)].update(vector_view<float>(x.data() + first, last - first));
    });
    for (std::size_t i = 1; i < parts.size(); ++i) parts[0].merge(parts[i]);
    benchmark::DoNotOptimize(parts[0].count());
  }
  finish(state, bench_values, 4 * bench_values);
}

void answers(std::filesystem::path const& folder) {
  histogram h(bins);
  h.update(read_npy<float>(folder / "logits_64.npy").values);
  auto const counts = h.result().counts;
  write_npy(folder / "histogram.npy", std::span<std::uint64_t const>(counts), {bins.bins});
}

}  // namespace

int main(int argc, char** argv) {
  for (int const threads : bench_threads())
    benchmark::RegisterBenchmark("histogram", count)->UseRealTime()->Args({bench_values, threads});
  return bench_main(argc, argv, answers);
}

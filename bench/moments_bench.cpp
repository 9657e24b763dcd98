// SPDX-License-Identifier: Apache-2.0
// Mean, variance, skewness and kurtosis of n float values in one pass. Items are values.
#include <moeroute/io/npy.hpp>
#include <moeroute/numeric/moments.hpp>

#include <cstddef>
#include <filesystem>
#include <span>
#include <vector>

#include "support.hpp"

namespace {

using namespace moeroute;

void moments_of_values(benchmark::State& state) {
  auto const& x = bench_logits(state.range(0), 1);
  auto const threads = state.range(1);
  for (auto _ : state) {
    std::vector<moments> parts(static_cast<std::size_t>(threads));
    parallel_for(threads, static_cast<int>(threads), [&](index_t i) {
      auto const first = bench_values * i / threads, last = bench_values * (i + 1) / threads;
      parts[static_cast<std::size_t>(i)].update(vector_view<float>(x.data() + first, last - first));
    });
    for (std::size_t i = 1; i < parts.size(); ++i) parts[0].merge(parts[i]);
    benchmark::DoNotOptimize(parts[0].result().excess_kurtosis);
  }
  finish(state, bench_values, 4 * bench_values);
}

void answers(std::filesystem::path const& folder) {
  auto const z = read_npy<float>(folder / "logits_64.npy");
  auto const r = moments_of(z.values);
  std::vector<double> const out{r.mean, r.variance, r.skewness, r.excess_kurtosis};
  write_npy(folder / "moments.npy", std::span<double const>(out), {4});
}

}  // namespace

int main(int argc, char** argv) {
  for (int const threads : bench_threads())
    benchmark::RegisterBenchmark("moments", moments_of_values)->UseRealTime()->Args({bench_values, threads});
  return bench_main(argc, argv, answers);
}

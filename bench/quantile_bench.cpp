// SPDX-License-Identifier: Apache-2.0
// Five quantiles of n float values. Items are values.
#include <moeroute/io/npy.hpp>
#include <moeroute/numeric/quantile.hpp>

#include <filesystem>
#include <span>
#include <vector>

#include "support.hpp"

namespace {

using namespace moeroute;
std::vector<double> const levels{0.01, 0.25, 0.5, 0.75, 0.99};

void quantiles(benchmark::State& state) {
  auto const& x = bench_logits(bench_values, 1);
  for (auto _ : state) benchmark::DoNotOptimize(quantiles_of(x, levels).data());
  finish(state, bench_values, 4 * bench_values);
}

void answers(std::filesystem::path const& folder) {
  auto const q = quantiles_of(read_npy<float>(folder / "logits_256.npy").values, levels);
  write_npy(folder / "quantiles.npy", std::span<double const>(q), {static_cast<index_t>(q.size())});
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::RegisterBenchmark("quantiles", quantiles)->UseRealTime()->Args({bench_values, 1});
  return bench_main(argc, argv, answers);
}

// SPDX-License-Identifier: Apache-2.0
// Cluster bootstrap of the load of 64 experts: 1,000 replicates of n documents. Items are replicates.
#include <moeroute/inference/bootstrap.hpp>
#include <moeroute/io/npy.hpp>

#include <cstdint>
#include <filesystem>
#include <numeric>
#include <span>
#include <vector>

#include "support.hpp"

namespace {

using namespace moeroute;
constexpr index_t experts = 64;
constexpr index_t replicates = 1000;

std::vector<double> document_counts(index_t documents) {
  std::vector<double> sums;
  for (float const z : bench_logits(documents, experts)) sums.push_back(static_cast<double>(static_cast<int>(16 * z) + 128));
  return sums;
}
std::vector<std::int64_t> ids(index_t documents) {
  std::vector<std::int64_t> out(static_cast<std::size_t>(documents));
  std::iota(out.begin(), out.end(), std::int64_t{0});
  return out;
}

void bootstrap(benchmark::State& state) {
  index_t const n = state.range(0);
  auto const sums = document_counts(n);
  auto const cluster = ids(n);
  bootstrap_options options;
  options.replicates = replicates;
  for (auto _ : state)
    benchmark::DoNotOptimize(replicate_totals(matrix_view<double>(sums.data(), n, experts), cluster, options,
                                              static_cast<int>(state.range(1)))
                                 .data());
  state.SetItemsProcessed(state.iterations() * replicates);
}

void answers(std::filesystem::path const& folder) {
  index_t const n = 1000;
  auto const sums = document_counts(n);
  bootstrap_options options;
  options.replicates = replicates;
  auto const totals = replicate_totals(matrix_view<double>(sums.data(), n, experts), ids(n), options);
  write_npy(folder / "bootstrap_sums.npy", std::span<double const>(sums), {n, experts});
  write_npy(folder / "bootstrap_totals.npy", std::span<double const>(totals.data(), totals.size()),
            {replicates, experts});
}

}  // namespace

int main(int argc, char** argv) {
  for (int const threads : bench_threads())
    benchmark::RegisterBenchmark("bootstrap", bootstrap)->UseRealTime()->Args({10'000, threads});
  return bench_main(argc, argv, answers);
}

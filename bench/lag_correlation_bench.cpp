// SPDX-License-Identifier: Apache-2.0
// The two permutation tests over lags, of the order of 48 layers and of the expert labels within each of them: items are
// permutations. And the correlations of all pairs of 48 layers alone: an item is the matrix.
#include <moeroute/io/npy.hpp>
#include <moeroute/layers/lag_correlation.hpp>
#include <moeroute/layers/layer_order.hpp>

#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "support.hpp"

namespace {

using namespace moeroute;

constexpr index_t layers = 48, lags = 24;

void layer_order(benchmark::State& state) {
  auto const& z = bench_logits(layers, layers);
  layer_order_options options;
  options.delta_max = lags;
  options.permutations = 20000;
  options.threads = static_cast<int>(state.range(1));
  matrix_view<float> const similarity(z.data(), layers, layers);
  for (auto _ : state) benchmark::DoNotOptimize(layer_order_test(similarity, options).lags[0].p_value);
  state.SetItemsProcessed(state.iterations() * options.permutations);
}

void expert_labels(benchmark::State& state) {
  index_t const experts = state.range(0);
  auto const& z = bench_logits(layers, experts);
  lag_correlation_options options;
  options.delta_max = lags;
  options.permutations = 1000;
  options.threads = static_cast<int>(state.range(1));
  matrix_view<float> const profiles(z.data(), layers, experts);
  for (auto _ : state) benchmark::DoNotOptimize(lag_correlation(profiles, options).lags[0].p_value);
  state.SetItemsProcessed(state.iterations() * options.permutations);
}

void correlations(benchmark::State& state) {
  index_t const experts = state.range(0);
  auto const& z = bench_logits(layers, experts);
  lag_correlation_options options;
  options.delta_max = layers;
  options.permutations = 0;
  matrix_view<float> const profiles(z.data(), layers, experts);
  for (auto _ : state) benchmark::DoNotOptimize(lag_correlation(profiles, options).matrix.data());
  state.SetItemsProcessed(state.iterations());
}

void answers(std::filesystem::path const& folder) {
  for (index_t const n : {64, 128}) {
    auto const size = std::to_string(n);
    auto const z = read_npy<float>(folder / ("logits_" + size + ".npy"));
    matrix_view<float> const m(z.values.data(), layers, n);
    auto const r = lag_correlation(m, {.delta_max = lags, .permutations = 4999});
    std::vector<double> correlation(static_cast<std::size_t>(layers * layers), 1.0), label, order;
    for (index_t i = 0; i < layers; ++i)
      for (index_t d = 1; d <= lags && i + d < layers; ++d)
        for (auto const at : {i * layers + i + d, (i + d) * layers + i})
          correlation[static_cast<std::size_t>(at)] =
              r.matrix(static_cast<std::size_t>(i), static_cast<std::size_t>(d - 1));
    // Beyond lag 24 correlations of no interest here; any symmetric matrix will do.
    auto const o = layer_order_test(matrix_view<double>(correlation.data(), layers, layers),
                                    {.delta_max = lags, .permutations = 4999});
    for (auto const& lag : r.lags) {
      label.push_back(lag.mean);
      label.push_back(lag.p_value);
      label.push_back(lag.p_adjusted);
    }
    for (auto const& lag : o.lags) {
      order.push_back(lag.mean);
      order.push_back(lag.p_value);
      order.push_back(lag.p_adjusted);
    }
    write_npy(folder / ("similarity_" + size + ".npy"), std::span<double const>(correlation), {layers, layers});
    write_npy(folder / ("expert_labels_" + size + ".npy"), std::span<double const>(label), {lags, 3});
    write_npy(folder / ("layer_order_" + size + ".npy"), std::span<double const>(order), {lags, 3});
  }
}

}  // namespace

int main(int argc, char** argv) {
  for (int const threads : bench_threads()) {
    benchmark::RegisterBenchmark("layer_order", layer_order)->UseRealTime()->ArgsProduct({{layers}, {threads}});
    benchmark::RegisterBenchmark("expert_labels", expert_labels)
        ->UseRealTime()
        ->ArgsProduct({{64, 128}, {threads}});
  }
  benchmark::RegisterBenchmark("corrcoef", correlations)->UseRealTime()->Args({128, 1});
  return bench_main(argc, argv, answers);
}

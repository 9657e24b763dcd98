// SPDX-License-Identifier: Apache-2.0
// Softmax stored, softmax added to exact sums (the pass of the analysis), log-sum-exp.
#include <moeroute/io/npy.hpp>
#include <moeroute/numeric/softmax.hpp>

#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "support.hpp"

namespace {

using namespace moeroute;

void softmax_stored(benchmark::State& state) {
  index_t const n = state.range(0);
  auto const& z = bench_logits(bench_rows, n);
  std::vector<float> p(z.size());
  matrix_view<float> const m(z.data(), bench_rows, n);
  for (auto _ : state)
    in_parts(bench_rows, static_cast<int>(state.range(1)),
             [&](index_t first, index_t count) { softmax_rows(m.rows_from(first, count), p.data() + first * n); });
  finish(state, bench_rows, 8 * bench_rows * n);  // read and written
}

void softmax_mean(benchmark::State& state) {
  index_t const n = state.range(0);
  auto const threads = state.range(1);
  auto const& z = bench_logits(bench_rows, n);
  matrix_view<float> const m(z.data(), bench_rows, n);
  for (auto _ : state) {
    std::vector<exact_sums> parts(static_cast<std::size_t>(threads), exact_sums(n));
    parallel_for(threads, static_cast<int>(threads), [&](index_t i) {
      auto const first = bench_rows * i / threads;
      softmax_accumulate(m.rows_from(first, bench_rows * (i + 1) / threads - first),
                         parts[static_cast<std::size_t>(i)]);
    });
    for (std::size_t i = 1; i < parts.size(); ++i) parts[0].merge(parts[i]);
    benchmark::DoNotOptimize(parts[0].sum(0));
  }
  finish(state, bench_rows, 4 * bench_rows * n);
}

void log_sum_exp(benchmark::State& state) {
  index_t const n = state.range(0);
  auto const& z = bench_logits(bench_rows, n);
  std::vector<double> out(bench_rows);
  matrix_view<float> const m(z.data(), bench_rows, n);
  for (auto _ : state)
    in_parts(bench_rows, static_cast<int>(state.range(1)),
             [&](index_t first, index_t count) { log_sum_exp_rows(m.rows_from(first, count), out.data() + first); });
  finish(state, bench_rows, 4 * bench_rows * n);
}

void answers(std::filesystem::path const& folder) {
  for (index_t const n : {64, 128, 256}) {
    auto const size = std::to_string(n);
    auto const z = read_npy<float>(folder / ("logits_" + size + ".npy"));
    index_t const rows = z.shape.at(0);
    matrix_view<float> const m(z.values.data(), rows, n);
    std::vector<float> p(z.values.size());
    softmax_rows(m, p.data());
    std::vector<double> lse(static_cast<std::size_t>(rows)), mean(static_cast<std::size_t>(n));
    log_sum_exp_rows(m, lse.data());
    exact_sums sums(n);
    softmax_accumulate(m, sums);
    for (index_t i = 0; i < n; ++i) mean[static_cast<std::size_t>(i)] = sums.sum(i) / static_cast<double>(rows);
    write_npy(folder / ("softmax_" + size + ".npy"), std::span<float const>(p), {rows, n});
    write_npy(folder / ("log_sum_exp_" + size + ".npy"), std::span<double const>(lse), {rows});
    write_npy(folder / ("softmax_mean_" + size + ".npy"), std::span<double const>(mean), {n});
  }
}

}  // namespace

int main(int argc, char** argv) {
  for (int const threads : bench_threads()) {
    benchmark::RegisterBenchmark("softmax", softmax_stored)->UseRealTime()->ArgsProduct({{64, 256}, {threads}});
    benchmark::RegisterBenchmark("softmax_mean", softmax_mean)->UseRealTime()->ArgsProduct({{64, 256}, {threads}});
    benchmark::RegisterBenchmark("log_sum_exp", log_sum_exp)->UseRealTime()->ArgsProduct({{64, 128, 256}, {threads}});
  }
  return bench_main(argc, argv, answers);
}

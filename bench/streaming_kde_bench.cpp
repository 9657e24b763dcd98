// SPDX-License-Identifier: Apache-2.0
// Counting values into cells of a streaming_kde: exact counters of bf16, packed cells of float; and the answers of
// both. A row is n values.
#include <moeroute/density/streaming_kde.hpp>
#include <moeroute/io/npy.hpp>

#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "support.hpp"

namespace {

using namespace moeroute;

std::vector<bf16> narrowed(std::vector<float> const& x) {
  std::vector<bf16> out;
  for (float const v : x) out.push_back(to_bf16(v));
  return out;
}

template <class T>
void count(benchmark::State& state, std::vector<T> const& x) {
  index_t const n = state.range(0);
  auto const threads = static_cast<index_t>(state.range(1));
  matrix_view<T> const m(x.data(), bench_rows, n);
  for (auto _ : state) {
    std::vector<streaming_kde<T>> parts(static_cast<std::size_t>(threads));
    parallel_for(threads, static_cast<int>(threads), [&](index_t i) {
      auto const first = bench_rows * i / threads;
      parts[static_cast<std::size_t>(i)].update(m.rows_from(first, bench_rows * (i + 1) / threads - first));
    });
    for (std::size_t i = 1; i < parts.size(); ++i) parts[0].merge(parts[i]);
    benchmark::DoNotOptimize(parts[0].count());
  }
  finish(state, bench_rows, static_cast<index_t>(sizeof(T)) * bench_rows * n);
}

void count_bf16(benchmark::State& state) { count(state, narrowed(bench_logits(bench_rows, state.range(0)))); }
void count_float(benchmark::State& state) { count(state, bench_logits(bench_rows, state.range(0))); }

// The histogram of 1,024 bins over [-8, 8) and the density at 1,024 points that the peers give.
void answers(std::filesystem::path const& folder) {
  for (index_t const n : {64, 128, 256}) {
    auto const size = std::to_string(n);
    auto const z = read_npy<float>(folder / ("logits_" + size + ".npy"));
    streaming_kde<float> a({.grid_log2 = 10, .extremes = 1});
    a.update(z.values);
    std::vector<std::uint64_t> histogram(1024);
    for (auto const& c : a.cells()) histogram[static_cast<std::size_t>((c.lo + 8) * 64)] += c.count;
    streaming_kde<bf16> half;
    half.update(narrowed(z.values));
    std::vector<double> density, bound, density_bf16;
    auto const fine = a.estimate(kernel_kind::gaussian, 0.1), exact = half.estimate(kernel_kind::gaussian, 0.1);
    for (int i = 0; i < 64; ++i) {
      auto const f = fine.pdf(-4 + i / 8.0);
      density.push_back(f.value);
      bound.push_back(f.hi - f.lo);
      density_bf16.push_back(exact.pdf(-4 + i / 8.0).value);
    }
    write_npy(folder / ("histogram_" + size + ".npy"), std::span<std::uint64_t const>(histogram), {1024});
    write_npy(folder / ("density_" + size + ".npy"), std::span<double const>(density), {64});
    write_npy(folder / ("density_bound_" + size + ".npy"), std::span<double const>(bound), {64});
    write_npy(folder / ("density_bf16_" + size + ".npy"), std::span<double const>(density_bf16), {64});
  }
}

}  // namespace

int main(int argc, char** argv) {
  for (int const threads : bench_threads()) {
    benchmark::RegisterBenchmark("streaming_kde float", count_float)
        ->UseRealTime()
        ->ArgsProduct({{64, 128, 256}, {threads}});
    benchmark::RegisterBenchmark("streaming_kde bf16", count_bf16)
        ->UseRealTime()
        ->ArgsProduct({{64, 128, 256}, {threads}});
  }
  return bench_main(argc, argv, answers);
}

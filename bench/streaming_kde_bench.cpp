// SPDX-License-Identifier: Apache-2.0
// Counting n values into cells of a streaming_kde: exact counters of bf16, packed cells of float; and the answers of
// both. Items are values.
#include <moeroute/density/streaming_kde.hpp>
#include <moeroute/io/npy.hpp>

#include <filesystem>
#include <span>
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
  auto const threads = static_cast<index_t>(state.range(1));
  for (auto _ : state) {
    std::vector<streaming_kde<T>> parts(static_cast<std::size_t>(threads));
    parallel_for(threads, static_cast<int>(threads), [&](index_t i) {
      auto const first = bench_values * i / threads, last = bench_values * (i + 1) / threads;
      parts[static_cast<std::size_t>(i)].update(vector_view<T>(x.data() + first, last - first));
    });
    for (std::size_t i = 1; i < parts.size(); ++i) parts[0].merge(parts[i]);
    benchmark::DoNotOptimize(parts[0].count());
  }
  finish(state, bench_values, static_cast<index_t>(sizeof(T)) * bench_values);
}

void count_bf16(benchmark::State& state) {
  static auto const x = narrowed(bench_logits(bench_values, 1));
  count(state, x);
}
void count_float(benchmark::State& state) { count(state, bench_logits(bench_values, 1)); }

// The density at 64 points that the peers give.
void answers(std::filesystem::path const& folder) {
  auto const z = read_npy<float>(folder / "logits_64.npy");
  streaming_kde<float> a;
  a.update(z.values);
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
  write_npy(folder / "density.npy", std::span<double const>(density), {64});
  write_npy(folder / "density_bound.npy", std::span<double const>(bound), {64});
  write_npy(folder / "density_bf16.npy", std::span<double const>(density_bf16), {64});
}

}  // namespace

int main(int argc, char** argv) {
  for (int const threads : bench_threads()) {
    benchmark::RegisterBenchmark("streaming_kde float", count_float)->UseRealTime()->Args({bench_values, threads});
    benchmark::RegisterBenchmark("streaming_kde bf16", count_bf16)->UseRealTime()->Args({bench_values, threads});
  }
  return bench_main(argc, argv, answers);
}

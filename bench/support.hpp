// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_BENCH_SUPPORT_HPP
#define MOEROUTE_BENCH_SUPPORT_HPP

#include <moeroute/core/parallel.hpp>
#include <moeroute/core/view.hpp>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include <benchmark/benchmark.h>

// Every benchmark is named task/n/threads and counts rows as items and what it must read as bytes: bench/compare.py
// goes by that.

/// Rows of every benchmark over a matrix: 64 MiB of float logits of 64 experts, more than the last-level cache holds.
inline constexpr moeroute::index_t bench_rows = 1 << 18;

inline std::vector<int> bench_threads() {
  int const all = moeroute::thread_count(0);
  return all > 1 ? std::vector<int>{1, all} : std::vector<int>{1};
}

/// Calls f(first, count) for `threads` equal parts of the rows.
template <class F>
void in_parts(moeroute::index_t rows, int threads, F const& f) {
  moeroute::parallel_for(threads, threads, [&](moeroute::index_t i) {
    auto const first = rows * i / threads, last = rows * (i + 1) / threads;
    f(first, last - first);
  });
}

/// Float logits that look like a router's; the values matter little, their order must not be regular.
inline std::vector<float> bench_logits(moeroute::index_t rows, moeroute::index_t n) {
  std::vector<float> z(static_cast<std::size_t>(rows * n));
  std::uint64_t state = 1;
  for (auto& v : z) {
    float sum = -6;
    for (int i = 0; i < 12; ++i) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      sum += static_cast<float>(state >> 40) * 0x1p-24f;
    }
    v = sum;
  }
  return z;
}

inline void finish(benchmark::State& state, moeroute::index_t rows, moeroute::index_t bytes) {
  state.SetItemsProcessed(state.iterations() * rows);
  state.SetBytesProcessed(state.iterations() * bytes);
}

/// `--answers FOLDER` writes what the code under test makes of the inputs there, for the peers to compare; otherwise
/// benchmarks run.
inline int bench_main(int argc, char** argv, std::function<void(std::filesystem::path const&)> const& answers) try {
  if (argc == 3 && std::string_view(argv[1]) == "--answers") {
    answers(argv[2]);
    return 0;
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
} catch (std::exception const& e) {
  std::fprintf(stderr, "%s: %s\n", argv[0], e.what());
  return 1;
}

#endif

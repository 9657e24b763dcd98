// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_BENCH_SUPPORT_HPP
#define MOEROUTE_BENCH_SUPPORT_HPP

#include <moeroute/core/parallel.hpp>
#include <moeroute/core/view.hpp>
#include <moeroute/numeric/random.hpp>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <benchmark/benchmark.h>

// Every benchmark is named task/n/threads and counts rows as items and what it must read as bytes: bench/compare.py
// goes by that.

/// Rows of every benchmark over a matrix: 64 MiB of float logits of 64 experts, more than the last-level cache holds.
inline constexpr moeroute::index_t bench_rows = 1 << 18;
/// Numbers of every benchmark over a vector: as much.
inline constexpr moeroute::index_t bench_values = 1 << 24;

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

/// Float logits that look like a router's; the values matter little, their order must not be regular. Made once per
/// program: Google Benchmark calls a benchmark several times to find out how often it should run.
inline std::vector<float> const& bench_logits(moeroute::index_t rows, moeroute::index_t n) {
  static std::map<moeroute::index_t, std::vector<float>> made;
  auto& z = made[rows * n];
  if (z.empty()) {
    z.resize(static_cast<std::size_t>(rows * n));
    std::uint64_t word = 0;
    for (auto& v : z) {
      float sum = -6;
      for (int i = 0; i < 3; ++i)
        for (std::uint64_t bits = moeroute::mix64(++word), k = 0; k < 4; ++k, bits >>= 16)
          sum += static_cast<float>(bits & 0xffff) * 0x1p-16f;
      v = sum;
    }
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

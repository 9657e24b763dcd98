// SPDX-License-Identifier: Apache-2.0
// How often two experts of a layer are chosen together: 8 of n, counted per token; and the same for all pairs of 16
// layers. On machines that count the bits of a register at once this sweeps bitmaps; "increments" is the way of all
// others.
#include <moeroute/core/batch.hpp>
#include <moeroute/io/npy.hpp>
#include <moeroute/numeric/simd.hpp>
#include <moeroute/numeric/top_k.hpp>
#include <moeroute/routing/coactivation.hpp>
#include <moeroute/routing/transition.hpp>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "support.hpp"

namespace {

using namespace moeroute;
constexpr index_t k = 8, layers = 16, batch_tokens = 1024;

std::vector<std::int16_t> choices(index_t n) {
  auto const& z = bench_logits(bench_rows, n);
  std::vector<std::int16_t> ids(bench_rows * k);
  top_k_rows(matrix_view<float>(z.data(), bench_rows, n), k, ids.data());
  return ids;
}

template <simd_level Level>
void count(benchmark::State& state) {
  index_t const n = state.range(0);
  int const threads = static_cast<int>(state.range(1));
  auto const ids = choices(n);
  routing_batch<> const batch(n, {ids.data(), bench_rows, k});
  detail::limit_simd_level(Level);
  std::vector<coactivation> parts(static_cast<std::size_t>(threads), coactivation({n}));
  for (auto _ : state)
    parallel_for(threads, threads, [&](index_t i) {
      auto const first = bench_rows * i / threads, last = bench_rows * (i + 1) / threads;
      parts[static_cast<std::size_t>(i)].update(batch.slice(first, last - first));
    });
  detail::limit_simd_level(simd_level::avx512);
  finish(state, bench_rows, index_t(sizeof(std::int16_t)) * bench_rows * k);
}

// Counts within each layer and between each two, as blocks of the matrix [16 n, 16 n] above its diagonal.
struct every_pair {
  std::vector<coactivation> within;
  std::vector<transition> between;

  explicit every_pair(index_t n)
      : within(layers, coactivation({n})), between(layers * (layers - 1) / 2, transition({n, n})) {}

  void update(matrix_view<std::int16_t> ids, index_t n) {
    auto const layer = [&](index_t l) {
      return routing_batch<>(n, {ids.data() + l * k, ids.rows(), k, ids.row_stride(), 1});
    };
    auto pair = between.begin();
    for (index_t a = 0; a < layers; ++a) {
      within[static_cast<std::size_t>(a)].update(layer(a));
      for (index_t b = a + 1; b < layers; ++b) (pair++)->update(layer(a), layer(b));
    }
  }
};

void count_every_pair(benchmark::State& state) {
  index_t const n = state.range(0), tokens = bench_rows / layers;
  int const threads = static_cast<int>(state.range(1));
  auto const ids = choices(n);
  matrix_view<std::int16_t> const all(ids.data(), tokens, layers * k);
  std::vector<every_pair> parts(static_cast<std::size_t>(threads), every_pair(n));
  for (auto _ : state)
    parallel_for(threads, threads, [&](index_t i) {
      // In batches that stay in cache for all pairs of layers.
      for (index_t t = tokens * i / threads, last = tokens * (i + 1) / threads; t < last; t += batch_tokens)
        parts[static_cast<std::size_t>(i)].update(all.rows_from(t, std::min(batch_tokens, last - t)), n);
    });
  finish(state, tokens, index_t(sizeof(std::int16_t)) * tokens * layers * k);
}

void answers(std::filesystem::path const& folder) {
  for (index_t const n : {64, 256}) {
    auto const size = std::to_string(n);
    auto const z = read_npy<float>(folder / ("logits_" + size + ".npy"));
    index_t const rows = z.shape.at(0);
    std::vector<std::int16_t> ids(static_cast<std::size_t>(rows * k));
    top_k_rows(matrix_view<float>(z.values.data(), rows, n), k, ids.data());
    coactivation a({n});
    a.update(routing_batch<>(n, {ids.data(), rows, k}));
    auto const r = a.result();
    std::vector<std::int64_t> counts(r.counts.begin(), r.counts.end());
    write_npy(folder / ("coactivation_" + size + ".npy"), std::span<std::int64_t const>(counts), {n, n});
    if (n != 64) continue;
    // 16 rows of the logits are one token here, one for each layer.
    every_pair all(n);
    all.update(matrix_view<std::int16_t>(ids.data(), rows / layers, layers * k), n);
    std::vector<std::int64_t> blocks;
    auto pair = all.between.begin();
    for (auto const& w : all.within) {
      auto const inside = w.result();
      blocks.insert(blocks.end(), inside.counts.begin(), inside.counts.end());
      for (auto b = &w - all.within.data() + 1; b < layers; ++b) {
        auto const outside = (pair++)->result();
        blocks.insert(blocks.end(), outside.counts.begin(), outside.counts.end());
      }
    }
    write_npy(folder / "coactivation_pairs.npy", std::span<std::int64_t const>(blocks),
              {layers * (layers + 1) / 2, n, n});
  }
}

}  // namespace

int main(int argc, char** argv) {
  for (int const threads : bench_threads()) {
    benchmark::RegisterBenchmark("coactivation", count<simd_level::avx512>)
        ->UseRealTime()
        ->ArgsProduct({{64, 256}, {threads}});
    benchmark::RegisterBenchmark("coactivation increments", count<simd_level::avx2>)
        ->UseRealTime()
        ->ArgsProduct({{64, 256}, {threads}});
    benchmark::RegisterBenchmark("coactivation, all pairs of 16 layers", count_every_pair)
        ->UseRealTime()
        ->Args({64, threads});
  }
  return bench_main(argc, argv, answers);
}

// SPDX-License-Identifier: Apache-2.0
// What the memory gives: reading (the ceiling of every pass over logits) and the triad a = b + s c. Bytes are counted
// as they are asked for; the triad's hidden read of `a` is not.
#include <moeroute/numeric/simd.hpp>

#include <cstddef>
#include <vector>

#include "support.hpp"

namespace {

using namespace moeroute;
constexpr index_t values = index_t{1} << 26;  // 256 MiB an array

struct read_kernel {
  template <simd_level Level>
  MOEROUTE_ALWAYS_INLINE static float run(float const* p, index_t n) {
    constexpr int W = detail::lane_count<Level, float>;
    detail::lanes<float, W> sum[4] = {}, v;
    for (index_t i = 0; i + 4 * W <= n; i += 4 * W)
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) {
        detail::load<W>(v, p + i + k * W);
        sum[k] += v;
      }
    return sum[0][0] + sum[1][0] + sum[2][0] + sum[3][0];
  }
};

struct triad_kernel {
  template <simd_level Level>
  MOEROUTE_ALWAYS_INLINE static void run(float* a, float const* b, float const* c, index_t n) {
    constexpr int W = detail::lane_count<Level, float>;
    detail::lanes<float, W> x, y;
    for (index_t i = 0; i + W <= n; i += W) {
      detail::load<W>(x, b + i);
      detail::load<W>(y, c + i);
      x += 3.0f * y;
      detail::store<W>(x, a + i);
    }
  }
};

void memory_read(benchmark::State& state) {
  std::vector<float> const a(values, 1.0f);
  for (auto _ : state)
    in_parts(values, static_cast<int>(state.range(1)), [&](index_t first, index_t count) {
      benchmark::DoNotOptimize(detail::dispatch<read_kernel>(a.data() + first, count));
    });
  finish(state, values, 4 * values);
}

void memory_triad(benchmark::State& state) {
  std::vector<float> a(values), b(values, 1.0f), c(values, 2.0f);
  for (auto _ : state) {
    in_parts(values, static_cast<int>(state.range(1)), [&](index_t first, index_t count) {
      detail::dispatch<triad_kernel>(a.data() + first, static_cast<float const*>(b.data() + first),
                                     static_cast<float const*>(c.data() + first), count);
    });
    benchmark::ClobberMemory();
  }
  finish(state, values, 12 * values);
}

}  // namespace

int main(int argc, char** argv) {
  for (int const threads : bench_threads()) {
    benchmark::RegisterBenchmark("memory_read", memory_read)->UseRealTime()->Args({values, threads});
    benchmark::RegisterBenchmark("memory_triad", memory_triad)->UseRealTime()->Args({values, threads});
  }
  return bench_main(argc, argv, [](auto const&) {});
}

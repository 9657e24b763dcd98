// SPDX-License-Identifier: Apache-2.0
#include <moeroute/core/view.hpp>
#include <moeroute/numeric/simd.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include <doctest/doctest.h>

#include "support/kernels.hpp"

using namespace moeroute;
using namespace moeroute::detail;

namespace {

struct level_kernel {
  template <simd_level Level>
  MOEROUTE_ALWAYS_INLINE static simd_level run() {
    return Level;
  }
};

struct product_sum_kernel {
  template <simd_level Level, class T>
  MOEROUTE_ALWAYS_INLINE static void run(T const* a, T const* b, T const* c, T* out) {
    constexpr int W = lane_count<Level, T>;
    for (int i = 0; i < 64; i += W) {
      lanes<T, W> x, y, z;
      load<W>(x, a + i);
      load<W>(y, b + i);
      load<W>(z, c + i);
      x *= y;
      round_here(x);
      x += z;
      store<W>(x, out + i);
    }
  }
};

struct widen_kernel {
  template <simd_level Level, class T>
  MOEROUTE_ALWAYS_INLINE static void run(T const* in, float* out, index_t n) {
    constexpr int W = lane_count<Level, float>;
    for (index_t i = 0; i < n; i += W) {
      lanes<float, W> v;
      load_widened<W>(in + i, v);
      store<W>(v, out + i);
    }
  }
};

struct fold_kernel {
  template <simd_level Level, class Fold>
  MOEROUTE_ALWAYS_INLINE static float run(float const* in, Fold fold) {
    constexpr int W = lane_count<Level, float>;
    lanes<float, W> v;
    load<W>(v, in);
    return fold_lanes<float, W>(v, fold);
  }
};

template <class T>
void widens_every_value() {
  std::vector<T> in(65536);
  for (std::size_t i = 0; i < in.size(); ++i) in[i].bits = static_cast<std::uint16_t>(i);
  for (auto const level : levels()) {
    at_level const scope(level);
    std::vector<float> out(in.size());
    dispatch<widen_kernel>(static_cast<T const*>(in.data()), out.data(), index_t{65536});
    int wrong = 0;
    for (std::size_t i = 0; i < in.size(); ++i) {
      float const want = to_float(in[i]);
      wrong += std::isnan(want) ? !std::isnan(out[i]) : std::memcmp(&want, &out[i], sizeof want) != 0;
    }
    CHECK(wrong == 0);
  }
}

}  // namespace

TEST_CASE("simd: dispatch runs the level that is asked for, never more than the machine has") {
  for (auto const level : levels()) {
    at_level const scope(level);
    CHECK(active_simd_level() == level);
    CHECK(dispatch<level_kernel>() == level);
  }
  CHECK(active_simd_level() == supported_simd_level());
  CHECK(dispatch<level_kernel>() == supported_simd_level());
}

TEST_CASE("simd: round_here keeps a product from being fused with a sum") {
  auto const try_type = []<class T>(T epsilon) {
    // (1 + e)^2 - (1 + 2 e) is e^2 when fused, and 0 when the product is rounded first.
    std::vector<T> const a(64, T{1} + epsilon), c(64, -(T{1} + 2 * epsilon));
    for (auto const level : levels()) {
      at_level const scope(level);
      std::vector<T> out(64, T{-1});
      dispatch<product_sum_kernel>(a.data(), a.data(), c.data(), out.data());
      CHECK(out == std::vector<T>(64, T{0}));
    }
  };
  try_type(0x1p-20f);
  try_type(0x1p-40);
}

TEST_CASE("simd: every bf16 and f16 is widened to the float it stands for") {
  widens_every_value<bf16>();
  widens_every_value<f16>();
}

TEST_CASE("simd: folding sums and finds the maximum of all lanes") {
  float values[16];
  for (int i = 0; i < 16; ++i) values[i] = static_cast<float>((i * 7 + 3) % 16 + 1);
  for (auto const level : levels()) {
    at_level const scope(level);
    int const width = 4 << static_cast<int>(level);
    float sum = 0, top = 0;
    for (int i = 0; i < width; ++i) {
      sum += values[i];
      top = std::max(top, values[i]);
    }
    CHECK(dispatch<fold_kernel>(static_cast<float const*>(values), fold_sum{}) == sum);
    CHECK(dispatch<fold_kernel>(static_cast<float const*>(values), fold_max{}) == top);
  }
}

TEST_CASE("simd: scratch is aligned and large enough on the stack and on the heap") {
  for (index_t const n : {0, 1, 32, 33, 1000}) {
    scratch<double, 32> memory(n);
    CHECK(reinterpret_cast<std::uintptr_t>(memory.data()) % 64 == 0);
    for (index_t i = 0; i < n; ++i) memory.data()[i] = 1;  // the address sanitizer watches
  }
}

// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_NUMERIC_EXP_HPP
#define MOEROUTE_NUMERIC_EXP_HPP

#include <moeroute/numeric/simd.hpp>

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>

namespace moeroute {
namespace detail {

// exp(x) = 2^n exp(r), n = round(x / ln 2), |r| <= ln(2) / 2, exp(r) = 1 + r + r^2 q(r).
// ln 2 is split so that n * ln2_high is exact. Adding `magic` rounds x / ln 2 to an integer and leaves it in the low
// bits. The polynomials are minimax in the relative error of exp, highest power first: binary32 those of Cephes (S.
// Moshier), binary64 from tests/golden/exp_polynomial.py. Below `lowest` the result is 0, so every result is a normal
// number and flush-to-zero modes change nothing.
template <class T>
struct exp_constants;

template <>
struct exp_constants<float> {
  using word = std::uint32_t;
  static constexpr int mantissa_bits = 23;
  static constexpr float lowest = -87.0f, highest = 88.0f, magic = 0x1.8p23f;
  static constexpr float log2_e = 0x1.715476p+0f, ln2_high = 0x1.63p-1f, ln2_low = -0x1.bd0106p-13f;
  static constexpr std::array<float, 6> q{1.9875691500e-4f, 1.3981999507e-3f, 8.3334519073e-3f,
                                          4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f};
};

template <>
struct exp_constants<double> {
  using word = std::uint64_t;
  static constexpr int mantissa_bits = 52;
  static constexpr double lowest = -708.0, highest = 709.0, magic = 0x1.8p52;
  static constexpr double log2_e = 0x1.71547652b82fep+0, ln2_high = 0x1.62e42feep-1, ln2_low = 0x1.a39ef35793c76p-33;
  static constexpr std::array<double, 10> q{
      0x1.ad7f395612954p-26, 0x1.28ad9b7dbaf49p-22, 0x1.71df25b64c759p-19, 0x1.a01999e26bfa7p-16, 0x1.a01a012a0de71p-13,
      0x1.6c16c18438ad1p-10, 0x1.1111111127d12p-7,  0x1.555555555083ep-5,  0x1.55555555554f9p-3,  0x1.000000000000ap-1};
};

// x[i] = exp(x[i]) for -inf <= x <= highest; NaN gives some number. N independent registers hide the latency of the
// chain.
template <class T, int W, std::size_t N>
MOEROUTE_ALWAYS_INLINE void exp_lanes(lanes<T, W> (&x)[N]) {
  using constants = exp_constants<T>;
  using real = lanes<T, W>;
  using bits = lanes<typename constants::word, W>;
  real n[N], r[N], p[N];
#pragma GCC unroll 16
  for (std::size_t i = 0; i < N; ++i) {
    n[i] = x[i] * constants::log2_e;
    round_here(n[i]);
    n[i] += constants::magic;
    round_here(n[i]);
    real const whole = n[i] - constants::magic;
    real high = whole * constants::ln2_high, low = whole * constants::ln2_low;
    round_here(high);
    round_here(low);
    r[i] = x[i] - high - low;
    round_here(r[i]);
    p[i] = real{} + constants::q[0];
  }
  for (std::size_t k = 1; k < constants::q.size(); ++k)
#pragma GCC unroll 16
    for (std::size_t i = 0; i < N; ++i) {
      p[i] *= r[i];
      round_here(p[i]);
      p[i] += constants::q[k];
    }
#pragma GCC unroll 16
  for (std::size_t i = 0; i < N; ++i) {
    real square = r[i] * r[i];
    round_here(square);
    p[i] *= square;
    round_here(p[i]);
    p[i] += r[i];
    p[i] += T{1};
    bits exponent, result;
    std::memcpy(&exponent, &n[i], sizeof exponent);
    std::memcpy(&result, &p[i], sizeof result);
    result += exponent << constants::mantissa_bits;
    std::memcpy(&p[i], &result, sizeof result);
    x[i] = x[i] < constants::lowest ? real{} : p[i];
  }
}

/// x[i] = exp(x[i]) for a number of values that four registers divide; x as for exp_lanes.
struct exp_kernel {
  template <simd_level Level, class T>
  MOEROUTE_ALWAYS_INLINE static void run(T* x, std::ptrdiff_t n) {
    constexpr int W = lane_count<Level, T>;
    lanes<T, W> v[4];
    for (std::ptrdiff_t i = 0; i < n; i += 4 * W) {
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) load<W>(v[k], x + i + k * W);
      exp_lanes<T, W>(v);
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) store<W>(v[k], x + i + k * W);
    }
  }
};

}  // namespace detail

/// e^x by one written sequence of operations: the same bits on every machine, compiler and instruction set.
///
/// In     x in any range; float is computed in binary32, double in binary64.
/// Out    within 2 ulp; exactly 1 at 0; 0 below -87 (binary32) or -708 (binary64), infinity above 88 or 709; NaN for
///        NaN.
/// Needs  the default rounding mode.   Cost  about as std::exp for one value; the kernels run the same sequence on
///        whole registers.
template <std::floating_point T>
  requires(sizeof(T) <= 8)
inline T reproducible_exp(T x) noexcept {
  using constants = detail::exp_constants<T>;
  if (x != x) return x;
  if (x > constants::highest) return std::numeric_limits<T>::infinity();
  constexpr int width = 16 / static_cast<int>(sizeof(T));
  detail::lanes<T, width> v[1] = {detail::lanes<T, width>{} + x};
  detail::exp_lanes<T, width>(v);
  return v[0][0];
}

}  // namespace moeroute

#endif

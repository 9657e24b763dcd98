// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_CORE_SCALAR_HPP
#define MOEROUTE_CORE_SCALAR_HPP

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

namespace moeroute {

/// bfloat16 as 16 bits of storage: the upper half of a binary32. Arithmetic goes through float.
struct bf16 {
  std::uint16_t bits = 0;
  friend constexpr bool operator==(bf16, bf16) = default;
};

/// IEEE binary16 as 16 bits of storage. Arithmetic goes through float.
struct f16 {
  std::uint16_t bits = 0;
  friend constexpr bool operator==(f16, f16) = default;
};

/// The value as binary32; exact for every 16-bit input, double is rounded.
constexpr float to_float(float x) noexcept { return x; }
constexpr float to_float(double x) noexcept { return static_cast<float>(x); }
constexpr float to_float(bf16 x) noexcept { return std::bit_cast<float>(static_cast<std::uint32_t>(x.bits) << 16); }
constexpr float to_float(f16 x) noexcept {
  std::uint32_t const sign = static_cast<std::uint32_t>(x.bits & 0x8000u) << 16;
  std::uint32_t const exponent = (x.bits >> 10) & 0x1fu, fraction = x.bits & 0x3ffu;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | (fraction << 13));
  if (exponent != 0) return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (fraction << 13));
  // Subnormal: fraction * 2^-24 is exact in binary32.
  float const magnitude = static_cast<float>(fraction) * 0x1p-24f;
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(magnitude) | sign);
}

/// Round to nearest, ties to even; NaN stays NaN (quiet), overflow gives infinity.
constexpr bf16 to_bf16(float x) noexcept {
  // Without a branch, which would keep a loop from being turned into registers.
  std::uint32_t const u = std::bit_cast<std::uint32_t>(x), nearest = u + 0x7fffu + ((u >> 16) & 1u);
  return {static_cast<std::uint16_t>((x != x ? u | 0x400000u : nearest) >> 16)};
}

/// Round to nearest, ties to even; NaN stays NaN (quiet), overflow gives infinity.
constexpr f16 to_f16(float x) noexcept {
  std::uint32_t const u = std::bit_cast<std::uint32_t>(x), a = u & 0x7fffffffu;
  std::uint16_t const sign = static_cast<std::uint16_t>((u >> 16) & 0x8000u);
  auto const with_sign = [sign](std::uint32_t m) { return f16{static_cast<std::uint16_t>(sign | m)}; };
  if (a > 0x7f800000u) return with_sign(0x7e00u);
  if (a >= 0x477ff000u) return with_sign(0x7c00u);  // from 65520 on the nearest value is infinity
  if (a >= 0x38800000u) return with_sign((a + 0xfffu + ((a >> 13) & 1u) - 0x38000000u) >> 13);
  // Subnormal result: adding 0.5 lets the binary32 adder round at the place where binary16 ends (spacing 2^-24).
  return with_sign(std::bit_cast<std::uint32_t>(std::bit_cast<float>(a) + 0.5f) - std::bit_cast<std::uint32_t>(0.5f));
}

/// Scalars that logits and weights may come in.
template <class T>
concept real_scalar = std::is_same_v<T, float> || std::is_same_v<T, double> || std::is_same_v<T, bf16> || std::is_same_v<T, f16>;

/// double for double, float for everything narrower: the precision in which a scalar is computed with.
template <real_scalar T>
using compute_t = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <real_scalar T>
constexpr compute_t<T> to_compute(T x) noexcept {
  if constexpr (std::is_same_v<T, double>)
    return x;
  else
    return to_float(x);
}

/// False for NaN and the infinities.
template <real_scalar T>
inline bool is_finite(T x) noexcept {
  return std::isfinite(to_compute(x));
}

inline constexpr double quiet_nan = std::numeric_limits<double>::quiet_NaN();

}  // namespace moeroute

#endif

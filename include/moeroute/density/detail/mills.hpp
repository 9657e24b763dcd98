// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_DENSITY_DETAIL_MILLS_HPP
#define MOEROUTE_DENSITY_DETAIL_MILLS_HPP

#include <moeroute/numeric/simd.hpp>

namespace moeroute::detail {

// Coefficients and their error, 5e-17 relative, are from tests/golden/mills_polynomial.py.
inline constexpr double mills_coefficients[24] = {
    -0x1.06ea87375c5b4p-30, -0x1.84e4459756919p-31, 0x1.7b0f1fc3805e3p-27, 0x1.386a441084818p-27,
    -0x1.4d39d50792f0ep-24, -0x1.1afe8a6a10e00p-24, 0x1.082372888b676p-21, 0x1.582e3c1549ea5p-22,
    -0x1.b7debee1da49ep-19, -0x1.7aabc20eeba8dp-23, 0x1.7d010b3c70d15p-16, -0x1.a02c43d08b1aap-16,
    -0x1.19cda437ebfdcp-13, 0x1.df3ecb4614c01p-12,  0x1.47ab73fc90055p-16, -0x1.1355f4909ab39p-8,
    0x1.0bd973acc40a7p-6,   -0x1.37838b3a20ea3p-5,  0x1.f7d96e0d85ca6p-5,  -0x1.0f103e712ef39p-4,
    0x1.9ac85788f58b1p-6,   0x1.3e97eaf5f2f87p-4,   -0x1.d5fd8ffd0f1aap-3, 0x1.28273b50efa76p+0};

/// r = survival / density of the standard normal law at 0 <= z <= 1e150, for a double or lanes of them; within 2e-15.
template <class Real>
MOEROUTE_ALWAYS_INLINE void mills_ratio(Real const& z, Real& r) {
  Real const one = z + 1.0, five = z + 5.0, inverse = 1.0 / (one * five), t = (z - 5.0) * one * inverse;
  Real p = t * mills_coefficients[0] + mills_coefficients[1];
  for (int k = 2; k < 24; ++k) p = p * t + mills_coefficients[k];
  r = p * five * inverse;
}

}  // namespace moeroute::detail

#endif

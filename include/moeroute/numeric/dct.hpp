// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_NUMERIC_DCT_HPP
#define MOEROUTE_NUMERIC_DCT_HPP

#include <moeroute/core/adapt.hpp>
#include <moeroute/core/error.hpp>

#include <bit>
#include <cmath>
#include <complex>
#include <cstddef>
#include <numbers>
#include <utility>
#include <vector>

namespace moeroute {
namespace detail {

// z[k] = sum z[n] e^(-2 pi i k n / N), N a power of two; in place.
inline void fourier(std::vector<std::complex<double>>& z) {
  std::size_t const n = z.size();
  for (std::size_t i = 1, j = 0; i < n; ++i) {
    std::size_t bit = n >> 1;
    for (; (j & bit) != 0; bit >>= 1) j ^= bit;
    j |= bit;
    if (i < j) std::swap(z[i], z[j]);
  }
  std::vector<std::complex<double>> root(n / 2);
  for (std::size_t k = 0; k < root.size(); ++k)
    root[k] = std::polar(1.0, -2 * std::numbers::pi * static_cast<double>(k) / static_cast<double>(n));
  for (std::size_t half = 1; half < n; half *= 2)
    for (std::size_t from = 0; from < n; from += 2 * half)
      for (std::size_t k = 0; k < half; ++k) {
        auto const a = z[from + k], w = root[k * (n / (2 * half))], b = z[from + k + half];
        std::complex<double> const turned(b.real() * w.real() - b.imag() * w.imag(),
                                          b.real() * w.imag() + b.imag() * w.real());
        z[from + k] = a + turned;
        z[from + k + half] = a - turned;
      }
}

inline std::complex<double> quarter_turn(std::size_t k, std::size_t n, double sign) {
  return std::polar(1.0, sign * std::numbers::pi * static_cast<double>(k) / (2 * static_cast<double>(n)));
}

template <class X>
std::vector<double> power_of_two_copy(X const& x, char const* function) {
  auto const view = vector_of(x);
  auto const n = static_cast<std::size_t>(view.size());
  if (!std::has_single_bit(n)) raise<shape_error>(function, ": ", n, " values, must be a power of two");
  std::vector<double> copy(n);
  for (std::size_t i = 0; i < n; ++i) copy[i] = static_cast<double>(to_compute(view[static_cast<index_t>(i)]));
  return copy;
}

}  // namespace detail

/// Discrete cosine transform, type II: y[k] = 2 sum over n of x[n] cos(pi k (2n + 1) / (2N)).
///
/// In     x [N], N a power of two.   Out  y [N]; error about 1e-16 log2 N of the largest |y|.
/// Cost   O(N log N).
/// Throws shape_error for any other length.
/// Source Makhoul 1980, doi:10.1109/TASSP.1980.1163351: one complex transform of the even values and the reversed odd
///        ones. Differs: as given; the factor is that of scipy.fft.dct without norm.
template <real_vector X>
std::vector<double> dct2(X const& x) {
  auto values = detail::power_of_two_copy(x, "moeroute::dct2");
  std::size_t const n = values.size();
  std::vector<std::complex<double>> z(n);
  for (std::size_t i = 0; i < n; ++i) z[i % 2 == 0 ? i / 2 : n - 1 - i / 2] = values[i];
  detail::fourier(z);
  for (std::size_t k = 0; k < n; ++k) values[k] = 2 * (detail::quarter_turn(k, n, -1) * z[k]).real();
  return values;
}

/// Discrete cosine transform, type III: y[n] = x[0] + 2 sum over k > 0 of x[k] cos(pi k (2n + 1) / (2N)).
///
/// In, Out, Cost, Throws, Source  as dct2, whose inverse it is: dct3(dct2(x)) = 2N x.
template <real_vector X>
std::vector<double> dct3(X const& x) {
  auto values = detail::power_of_two_copy(x, "moeroute::dct3");
  std::size_t const n = values.size();
  std::vector<std::complex<double>> z(n);
  // The conjugate of dct2's steps, backwards; the real part of the transform of conj(z) is that of the inverse one.
  for (std::size_t k = 0; k < n; ++k)
    z[k] = std::conj(detail::quarter_turn(k, n, 1) * std::complex<double>(values[k], k > 0 ? -values[n - k] : 0.0));
  detail::fourier(z);
  for (std::size_t i = 0; i < n; ++i) values[i] = z[i % 2 == 0 ? i / 2 : n - 1 - i / 2].real();
  return values;
}

}  // namespace moeroute

#endif

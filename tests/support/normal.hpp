// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_TESTS_SUPPORT_NORMAL_HPP
#define MOEROUTE_TESTS_SUPPORT_NORMAL_HPP

#include <moeroute/numeric/random.hpp>

#include <cmath>
#include <numbers>

/// A draw of the standard normal law, by Box and Muller. The two draws stand in statements of their own: inside one
/// expression C++ leaves their order to the compiler, and the numbers of a test would depend on it.
inline double normal(moeroute::random_stream& random) {
  double const radius = random.uniform();
  double const angle = random.uniform();
  return std::sqrt(-2 * std::log1p(-radius)) * std::cos(2 * std::numbers::pi * angle);
}

#endif

// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_INFERENCE_DETAIL_NORMAL_HPP
#define MOEROUTE_INFERENCE_DETAIL_NORMAL_HPP

#include <moeroute/core/error.hpp>

#include <cmath>
#include <numbers>

#include <boost/math/special_functions/erf.hpp>

namespace moeroute::detail {

inline double normal_cdf(double x) { return 0.5 * std::erfc(-x / std::numbers::sqrt2); }

/// For 0 < p < 1.
inline double normal_quantile(double p) { return -std::numbers::sqrt2 * boost::math::erfc_inv(2 * p); }

inline void check_level(double level, char const* function) {
  if (!(level > 0 && level < 1)) raise(function, ": level ", level, " must lie between 0 and 1");
}

}  // namespace moeroute::detail

#endif

// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_INFERENCE_INTERVAL_HPP
#define MOEROUTE_INFERENCE_INTERVAL_HPP

#include <moeroute/core/error.hpp>
#include <moeroute/core/estimate.hpp>
#include <moeroute/inference/detail/normal.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>

#include <boost/math/special_functions/beta.hpp>

namespace moeroute {

namespace detail {

inline estimate proportion(std::uint64_t k, std::uint64_t n, double level, char const* function) {
  check_level(level, function);
  if (k > n) raise(function, ": k = ", k, " successes exceed n = ", n, " trials");
  estimate e;
  e.level = level;
  if (n > 0) e.value = static_cast<double>(k) / static_cast<double>(n);
  return e;
}

// Wilson's bounds for k successes, not necessarily whole, of n.
struct score_bounds {
  double lower, upper;
};
inline score_bounds wilson_bounds(double k, double n, double level) {
  double const z = normal_quantile(0.5 + level / 2), p = k / n;
  double const centre = p + z * z / (2 * n), half = z * std::sqrt(p * (1 - p) / n + z * z / (4 * n * n)),
               scale = 1 + z * z / n;
  return {std::max(0.0, (centre - half) / scale), std::min(1.0, (centre + half) / scale)};
}

// Beyond so many successes and failures Boost's inverse of the incomplete beta function begins to give up (seen from
// 7e10 on). Its bounds
// and Wilson's, at k -+ 1/2 for the exact interval, then differ by less than 1e-4 of the width.
inline bool beyond_beta(std::uint64_t k, std::uint64_t n) { return std::min(k, n - k) > 1000000000; }

}  // namespace detail

/// Score interval of a share: near its nominal level on average over the share, for n as small as 5.
///
/// In     k successes of n independent trials. Tokens of one document are not independent: count documents, or use
///        bootstrap.hpp.
/// Out    k/n with bounds inside [0, 1]; the lower one is exactly 0 at k = 0, the upper one exactly 1 at k = n.
/// Empty  all NaN at n = 0.
/// Cost   O(1).
/// Throws argument_error if k > n or level is outside (0, 1).
/// Source Wilson 1927, doi:10.1080/01621459.1927.10502953. Differs: as given, no continuity correction.
inline estimate wilson_interval(std::uint64_t k, std::uint64_t n, double level = 0.95) {
  auto e = detail::proportion(k, n, level, "moeroute::wilson_interval");
  if (n == 0) return e;
  auto const bounds = detail::wilson_bounds(static_cast<double>(k), static_cast<double>(n), level);
  e.lower = k == 0 ? 0 : bounds.lower;
  e.upper = k == n ? 1 : bounds.upper;
  return e;
}

/// Exact interval of a share: covers with at least the nominal level, usually more.
///
/// In     k successes of n independent trials.
/// Out    k/n; the bounds at which k or fewer, k or more successes have probability (1 - level)/2.
/// Empty  all NaN at n = 0.
/// Cost   O(1), two incomplete beta inversions.
/// Throws argument_error if k > n or level is outside (0, 1).
/// Source Clopper, Pearson 1934, doi:10.1093/biomet/26.4.404. Differs: above 1e9 successes and failures, see
///        detail::beyond_beta.
inline estimate clopper_pearson_interval(std::uint64_t k, std::uint64_t n, double level = 0.95) {
  auto e = detail::proportion(k, n, level, "moeroute::clopper_pearson_interval");
  if (n == 0) return e;
  double const tail = (1 - level) / 2, s = static_cast<double>(k), f = static_cast<double>(n - k);
  if (detail::beyond_beta(k, n)) {
    e.lower = detail::wilson_bounds(s - 0.5, static_cast<double>(n), level).lower;
    e.upper = detail::wilson_bounds(s + 0.5, static_cast<double>(n), level).upper;
    return e;
  }
  e.lower = k == 0 ? 0 : boost::math::ibeta_inv(s, f + 1, tail);
  e.upper = k == n ? 1 : boost::math::ibetac_inv(s + 1, f, tail);
  return e;
}

/// Equal-tailed credible interval of a share under Jeffreys' prior; near its nominal level on average.
///
/// In     k successes of n independent trials.
/// Out    k/n; quantiles of Beta(k + 1/2, n - k + 1/2), with lower 0 at k = 0 and upper 1 at k = n.
/// Empty  all NaN at n = 0.
/// Cost   O(1), two incomplete beta inversions.
/// Throws argument_error if k > n or level is outside (0, 1).
/// Source Brown, Cai, DasGupta 2001, doi:10.1214/ss/1009213286. Differs: as given; statsmodels 0.15 leaves the ends at
///        the quantiles of the beta law.
inline estimate jeffreys_interval(std::uint64_t k, std::uint64_t n, double level = 0.95) {
  auto e = detail::proportion(k, n, level, "moeroute::jeffreys_interval");
  if (n == 0) return e;
  if (detail::beyond_beta(k, n)) {
    auto const bounds = detail::wilson_bounds(static_cast<double>(k), static_cast<double>(n), level);
    e.lower = bounds.lower;
    e.upper = bounds.upper;
    return e;
  }
  double const tail = (1 - level) / 2, a = static_cast<double>(k) + 0.5, b = static_cast<double>(n - k) + 0.5;
  e.lower = k == 0 ? 0 : boost::math::ibeta_inv(a, b, tail);
  e.upper = k == n ? 1 : boost::math::ibetac_inv(a, b, tail);
  return e;
}

/// Upper confidence bound for the rate of something that n independent trials never showed, e.g. an unseen expert.
///
/// In     n trials: documents, unless tokens really are independent.
/// Out    the rate at which "never" has probability 1 - level; about 3/n at 95 %.
/// Empty  NaN at n = 0.
/// Cost   O(1).
/// Throws argument_error if level is outside (0, 1).
/// Source Clopper, Pearson 1934, one-sided, k = 0. Differs: as given.
inline double unseen_upper_bound(std::uint64_t n, double level = 0.95) {
  detail::check_level(level, "moeroute::unseen_upper_bound");
  return n == 0 ? quiet_nan : -std::expm1(std::log1p(-level) / static_cast<double>(n));
}

}  // namespace moeroute

#endif

// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_INFERENCE_CORRELATION_HPP
#define MOEROUTE_INFERENCE_CORRELATION_HPP

#include <moeroute/core/adapt.hpp>
#include <moeroute/core/estimate.hpp>
#include <moeroute/core/parallel.hpp>
#include <moeroute/inference/detail/normal.hpp>
#include <moeroute/inference/permutation.hpp>
#include <moeroute/numeric/mass.hpp>
#include <moeroute/numeric/random.hpp>
#include <moeroute/numeric/rank.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numbers>
#include <vector>

#include <boost/math/special_functions/beta.hpp>
#include <boost/math/special_functions/gamma.hpp>

namespace moeroute {

/// A correlation with its interval and the two-sided p-value of "no correlation".
struct correlation_result : estimate {
  index_t n = 0;
  double p_value = quiet_nan;
  double log_p = quiet_nan;  ///< natural logarithm of the p-value, exact where p_value is 0
};

namespace detail {

inline constexpr std::uint64_t purpose_correlation = 0x636f7272656c6174u;

// log I_x(a, 1/2) for x = (1 - r)(1 + r), where the incomplete beta function itself underflows: continued fraction of
// DLMF 8.17.22.
inline double log_beta_tail(double a, double r) {
  double const x = (1 - r) * (1 + r), b = 0.5, tiny = 1e-300;
  double c = 1, d = 1 / std::max(tiny, 1 - (a + b) * x / (a + 1)), fraction = d;
  for (double m = 1; m < 1e7; ++m) {
    double change = 1;
    for (double const term : {m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
                              -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))}) {
      d = 1 / (1 + term * d);
      c = 1 + term / c;
      change = c * d;
      fraction *= change;
    }
    if (std::abs(change - 1) < 1e-15) break;
  }
  double const log_x = r * r < 0.5 ? std::log1p(-r * r) : std::log(x);
  double const log_beta = 0.5 * std::log(std::numbers::pi) + std::log(boost::math::tgamma_delta_ratio(a, 0.5));
  return a * log_x + std::log(std::abs(r)) - std::log(a) - log_beta + std::log(fraction);
}

// log of the two-sided p-value of r under a normal law without correlation.
inline double log_p_of_correlation(double r, index_t n) {
  if (std::abs(r) == 1) return -std::numeric_limits<double>::infinity();
  double const a = 0.5 * static_cast<double>(n - 2);
  double const p = r * r < 0.5 ? boost::math::ibetac(0.5, a, r * r) : boost::math::ibeta(a, 0.5, (1 - r) * (1 + r));
  return p > 1e-280 ? std::log(p) : log_beta_tail(a, r);
}

inline correlation_result correlation_of(double r, index_t n, double level, double squared_error,
                                         char const* function) {
  check_level(level, function);
  // A perfect line ends some ulp short of 1; its p-value would be that of the rounding.
  if (1 - std::abs(r) <= 4 * std::numeric_limits<double>::epsilon()) r = std::copysign(1.0, r);
  correlation_result c;
  c.value = r;
  c.level = level;
  c.n = n;
  if (std::isnan(r) || n < 3) return c;
  c.log_p = log_p_of_correlation(r, n);
  c.p_value = std::exp(c.log_p);
  if (n < 4) return c;
  double const half = normal_quantile(0.5 + level / 2) * std::sqrt(squared_error / static_cast<double>(n - 3));
  c.lower = std::abs(r) == 1 ? r : std::tanh(std::atanh(r) - half);
  c.upper = std::abs(r) == 1 ? r : std::tanh(std::atanh(r) + half);
  return c;
}

}  // namespace detail

/// Pearson's correlation with Fisher's interval and the p-value of a normal law.
///
/// In     x, y [n]: one pair per independent unit. Tokens of a document are no units; nor are the experts of two
///        layers, whose numbering is
///        arbitrary: permute them (layers/lag_correlation.hpp).
/// Out    value; bounds tanh(atanh(r) -+ z / sqrt(n - 3)); p_value of Student's t with n - 2 degrees of freedom, log_p
///        at any size.
/// Empty  all NaN if pearson is; bounds NaN for n < 4, p for n < 3. r = -1 or 1, to 4 ulp, has p_value 0 and an
///        interval of one point.
/// Cost   O(n).
/// Bias   the interval takes x and y for normal; permutation_correlation does not.
/// Throws shape_error if lengths differ, argument_error if level is outside (0, 1).
/// Source Fisher 1921, Metron 1:3. Differs: as given.
template <numeric_vector X, numeric_vector Y>
correlation_result pearson_test(X const& x, Y const& y, double level = 0.95) {
  return detail::correlation_of(pearson(x, y), detail::vector_of(x).size(), level, 1, "moeroute::pearson_test");
}

/// Spearman's rank correlation with its interval and p-value.
///
/// In     x, y [n]: one pair per independent unit.
/// Out    value; bounds tanh(atanh(r) -+ z sqrt((1 + r^2/2) / (n - 3))); p_value of Student's t with n - 2 degrees of
///        freedom, rough for n < 10
///        and far out (there permute mid_ranks), but never below the 2/n! of all orders.
/// Empty  all NaN if spearman is; bounds NaN for n < 4, p for n < 3.
/// Cost   O(n log n).
/// Throws shape_error if lengths differ, argument_error if level is outside (0, 1).
/// Source Bonett, Wright 2000, doi:10.1007/BF02294183 for the interval; p-value as scipy's. Differs: the bound 2/n!.
template <numeric_vector X, numeric_vector Y>
correlation_result spearman_test(X const& x, Y const& y, double level = 0.95) {
  double const r = spearman(x, y);
  auto c = detail::correlation_of(r, detail::vector_of(x).size(), level, 1 + r * r / 2, "moeroute::spearman_test");
  if (!std::isnan(c.log_p)) {
    c.log_p = std::max(c.log_p, std::log(2.0) - boost::math::lgamma(static_cast<double>(c.n) + 1));
    c.p_value = std::exp(c.log_p);
  }
  return c;
}

struct permutation_correlation_options {
  index_t permutations = 1999;
  std::uint64_t seed = 1;
  int threads = 1;  ///< 0: all; the result does not depend on it
};

/// Permutation test of "no correlation" that needs no normal law; for Spearman's correlation hand in mid_ranks.
///
/// In     x, y [n]: one pair per independent unit.
/// Out    statistic: r divided by sqrt(mean((x - mx)^2 (y - my)^2) / (var x var y)); p_value (1 + #{|replicate| >=
///        |observed|})/(B + 1), two-sided.
/// Empty  NaN if pearson is.
/// Cost   O(B n).
/// Bias   exact for independent x and y; for x and y that are uncorrelated but dependent (a spread that grows with x)
///        right for large n,
///        which r itself is not.
/// Throws shape_error if lengths differ, argument_error if permutations is negative or exceeds 2^32 - 1.
/// Source DiCiccio, Romano 2017, doi:10.1080/01621459.2016.1202117. Differs: as given.
template <numeric_vector X, numeric_vector Y>
test_result permutation_correlation(X const& x, Y const& y, permutation_correlation_options const& options = {}) {
  double const r = pearson(x, y);
  if (options.permutations < 0 || options.permutations > index_t{std::numeric_limits<std::uint32_t>::max()})
    detail::raise("moeroute::permutation_correlation: permutations = ", options.permutations,
                  " must lie in 0..2^32 - 1");
  if (std::isnan(r)) return {};
  auto const centred = [](auto const& view) {
    std::vector<double> c;
    double mean = 0;
    for (index_t i = 0; i < view.size(); ++i) mean += detail::as_double(view[i]) / static_cast<double>(view.size());
    for (index_t i = 0; i < view.size(); ++i) c.push_back(detail::as_double(view[i]) - mean);
    return c;
  };
  auto const a = centred(detail::vector_of(x)), b = centred(detail::vector_of(y));
  // The variances cancel: sum(a b) / sqrt(n sum((a b)^2)) * sqrt(n), and a permutation moves only the products.
  auto const studentised = [&](auto const& order) {
    double sum = 0, squares = 0;
    for (std::size_t i = 0; i < a.size(); ++i) {
      double const product = a[i] * b[static_cast<std::size_t>(order(i))];
      sum += product;
      squares += product * product;
    }
    return sum == 0 ? 0.0 : sum / std::sqrt(squares);
  };
  double const observed = studentised([](std::size_t i) { return i; });
  std::vector<double> null(static_cast<std::size_t>(options.permutations));
  parallel_for(options.permutations, options.threads, [&](index_t p) {
    random_stream random(options.seed, detail::purpose_correlation, static_cast<std::uint64_t>(p));
    auto const order = random_permutation(static_cast<index_t>(b.size()), random);
    null[static_cast<std::size_t>(p)] = std::abs(studentised([&](std::size_t i) { return order[i]; }));
  });
  return {observed / std::sqrt(static_cast<double>(a.size())), permutation_p_value(std::abs(observed), null)};
}

}  // namespace moeroute

#endif

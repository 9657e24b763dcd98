// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_INFERENCE_GOODNESS_OF_FIT_HPP
#define MOEROUTE_INFERENCE_GOODNESS_OF_FIT_HPP

#include <moeroute/core/adapt.hpp>
#include <moeroute/core/estimate.hpp>
#include <moeroute/numeric/mass.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numbers>
#include <utility>
#include <vector>

#include <boost/math/special_functions/gamma.hpp>

namespace moeroute {

namespace detail {

template <class T>
std::vector<double> sorted_values(vector_view<T> x) {
  std::vector<double> sorted;
  for (index_t i = 0; i < x.size(); ++i)
    if (double const v = as_double(x[i]); !std::isnan(v)) sorted.push_back(v);
  std::sort(sorted.begin(), sorted.end());
  return sorted;
}

// P(sup |Brownian bridge| >= z).
inline double kolmogorov_limit(double z) {
  double sum = 0;
  if (z < 1) {
    double const unit = std::numbers::pi * std::numbers::pi / (8 * z * z);
    for (int k = 1; k < 20; k += 2) sum += std::exp(-k * k * unit);
    return z > 0 ? 1 - std::sqrt(2 * std::numbers::pi) / z * sum : 1;
  }
  for (int k = 1; k < 10; ++k) sum += (k % 2 ? 2 : -2) * std::exp(-2 * k * k * z * z);
  return sum;
}

// P(D+ >= d), exactly (Birnbaum, Tingey 1951): a sum of positive terms.
inline double smirnov_survival(index_t size, double d) {
  double const n = static_cast<double>(size), whole = boost::math::lgamma(n + 1);
  double sum = 0;
  for (double j = 0; j < n * (1 - d); ++j)
    sum += std::exp(whole - boost::math::lgamma(j + 1) - boost::math::lgamma(n - j + 1) +
                    (j - 1) * std::log(d + j / n) + (n - j) * std::log1p(-d - j / n));
  return std::min(1.0, d * sum);
}

// P(D < d), exactly: n!/n^n times the middle entry of the n-th power of a matrix of width 2 ceil(n d) - 1 (Durbin's
// matrix in the form of
// Marsaglia, Tsang, Wang 2003). Powers are rescaled by powers of two on the way.
inline double kolmogorov_exact_cdf(index_t size, double d) {
  double const n = static_cast<double>(size), k = std::floor(n * d) + 1, h = k - n * d;
  auto const m = static_cast<std::size_t>(2 * k - 1);
  std::vector<double> a(m * m);
  for (std::size_t i = 0; i < m; ++i)
    for (std::size_t j = 0; j < m && j <= i + 1; ++j) {
      auto const reach = static_cast<double>(i - j + 1);  // 0 on the upper diagonal
      double v = 1;
      if (j == 0) v -= std::pow(h, static_cast<double>(i + 1));
      if (i == m - 1) v -= std::pow(h, static_cast<double>(m - j));
      if (j == 0 && i == m - 1 && 2 * h > 1) v += std::pow(2 * h - 1, static_cast<double>(m));
      a[i * m + j] = v / boost::math::tgamma(reach + 1);
    }
  struct scaled {
    std::vector<double> x;
    int exponent = 0;
  };
  auto const multiply = [m](scaled const& left, scaled const& right) {
    scaled out{std::vector<double>(m * m), left.exponent + right.exponent};
    for (std::size_t i = 0; i < m; ++i)
      for (std::size_t l = 0; l < m; ++l)
        for (std::size_t j = 0; j < m; ++j) out.x[i * m + j] += left.x[i * m + l] * right.x[l * m + j];
    int const e = std::ilogb(out.x[(m / 2) * m + m / 2]);
    for (double& v : out.x) v = std::ldexp(v, -e);
    out.exponent += e;
    return out;
  };
  scaled square{std::move(a)}, power;
  for (auto bits = static_cast<std::uint64_t>(size); bits > 0; bits >>= 1) {
    if (bits & 1) power = power.x.empty() ? square : multiply(power, square);
    if (bits > 1) square = multiply(square, square);
  }
  double const log_p = std::log(power.x[(m / 2) * m + m / 2]) + power.exponent * std::numbers::ln2 +
                       boost::math::lgamma(n + 1) - n * std::log(n);
  return std::min(1.0, std::exp(log_p));
}

}  // namespace detail

/// P(D >= d) for the two-sided Kolmogorov-Smirnov statistic of n independent values with a continuous law that was
/// fixed beforehand.
///
/// Out    exact to 1e-9 of itself for n <= 500, to 3e-4 above (to 1e-9 where n d^2 > 4 and n <= 1e6).
/// Empty  1 for d <= 1/(2n), 0 for d >= 1, NaN for NaN.
/// Cost   O((n d)^3 log n) with n d < 2 sqrt(n) for n <= 500, O(n) up to 1e6 in the tail, else O(1).
/// Throws argument_error if n < 1.
/// Source Marsaglia, Tsang, Wang 2003, doi:10.18637/jss.v008.i18; tail 2 P(D+ >= d): Simard, L'Ecuyer 2011,
///        doi:10.18637/jss.v039.i11; large n:
///        Vrbik 2020, doi:10.4236/am.2020.113018. Differs: the tail's second term is subtracted in its limit.
inline double kolmogorov_survival(index_t n, double d) {
  if (n < 1) detail::raise("moeroute::kolmogorov_survival: n = ", n, " must be positive");
  double const size = static_cast<double>(n), root = std::sqrt(size), z = root * d;
  if (std::isnan(d)) return quiet_nan;
  if (d <= 0.5 / size) return 1;
  if (d >= 1) return 0;
  if (n <= 500)
    return z * z < 4 && d < 0.5 ? 1 - detail::kolmogorov_exact_cdf(n, d) : 2 * detail::smirnov_survival(n, d);
  if (z > 1.3 && n <= 1000000) return 2 * (detail::smirnov_survival(n, d) - std::exp(-8 * z * z));
  return detail::kolmogorov_limit(z + 1 / (6 * root) + (z - 1) / (4 * size));
}

struct kolmogorov_smirnov_result : test_result {  ///< statistic: D, the larger of the two below
  double above = quiet_nan;                       ///< largest excess of the empirical distribution over the law
  double below = quiet_nan;                       ///< largest deficit
  index_t n = 0;
};

/// Kolmogorov-Smirnov test of a sample against a law that was fixed beforehand.
///
/// In     u [n]: the law's distribution function at each value, in [0, 1]; NaN is left out of n.
/// Out    D and its p-value (kolmogorov_survival).
/// Empty  NaN for n = 0.
/// Cost   O(n log n), and that of the p-value.
/// Bias   a law fitted to the same values makes p far too large: fitted_law_test. Dependent values make it far too
///        small:
///        order_statistic_test(u, 1, 1, documents). Ties (bf16) make it conservative. Of 1e10 values any law is
///        rejected: look at D.
/// Throws argument_error if a u lies outside [0, 1].
/// Source Kolmogorov 1933, Giornale dell'Istituto Italiano degli Attuari 4:83. Differs: as given.
template <real_vector U>
kolmogorov_smirnov_result kolmogorov_smirnov_test(U const& u) {
  auto const sorted = detail::sorted_values(detail::vector_of(u));
  kolmogorov_smirnov_result r;
  r.n = static_cast<index_t>(sorted.size());
  if (sorted.empty()) return r;
  if (sorted.front() < 0 || sorted.back() > 1)
    detail::raise("moeroute::kolmogorov_smirnov_test: values from ", sorted.front(), " to ", sorted.back(),
                  " must lie in [0, 1]");
  double const n = static_cast<double>(sorted.size());
  r.above = r.below = 0;
  for (std::size_t i = 0; i < sorted.size(); ++i) {
    r.above = std::max(r.above, static_cast<double>(i + 1) / n - sorted[i]);
    r.below = std::max(r.below, sorted[i] - static_cast<double>(i) / n);
  }
  r.statistic = std::max(r.above, r.below);
  r.p_value = kolmogorov_survival(r.n, r.statistic);
  return r;
}

/// Kolmogorov-Smirnov test of two samples of independent values.
///
/// In     x [m], y [n]; NaN is left out.
/// Out    D; p_value: probability of as large a D when the m + n values, ties as they are, are dealt at random.
/// Empty  NaN if either is empty.
/// Cost   O(m n) for the exact p-value up to m n = 1e7; the limit law above, O((m + n) log(m + n)).
/// Source Smirnov 1939; ties: Schroeer, Trenkler 1995, doi:10.1016/0167-9473(94)00040-P. Differs: the recursion is over
///        the probability of having
///        crossed, which adds what the usual one subtracts from 1.
template <real_vector X, real_vector Y>
test_result kolmogorov_smirnov_two_sample(X const& x, Y const& y) {
  auto const a = detail::sorted_values(detail::vector_of(x)), b = detail::sorted_values(detail::vector_of(y));
  if (a.empty() || b.empty()) return {};
  auto const m = static_cast<std::int64_t>(a.size()), n = static_cast<std::int64_t>(b.size());
  std::vector<bool> tie_ends(static_cast<std::size_t>(m + n) + 1);
  std::int64_t largest = 0;  // of |i n - j m|: D in units of 1/(m n), exactly
  for (std::int64_t i = 0, j = 0; i < m || j < n;) {
    double const value = j == n || (i < m && a[static_cast<std::size_t>(i)] < b[static_cast<std::size_t>(j)])
                             ? a[static_cast<std::size_t>(i)]
                             : b[static_cast<std::size_t>(j)];
    while (i < m && a[static_cast<std::size_t>(i)] == value) ++i;
    while (j < n && b[static_cast<std::size_t>(j)] == value) ++j;
    tie_ends[static_cast<std::size_t>(i + j)] = true;
    largest = std::max(largest, std::abs(i * n - j * m));
  }
  double const size = static_cast<double>(m) * static_cast<double>(n), d = static_cast<double>(largest) / size;
  if (size > 1e7) return {d, detail::kolmogorov_limit(d * std::sqrt(size / static_cast<double>(m + n)))};
  std::vector<double> crossed(static_cast<std::size_t>(n) + 1);  // probability to have reached D on the way to (i, j)
  for (std::int64_t i = 0; i <= m; ++i)
    for (std::int64_t j = 0; j <= n; ++j) {
      double& here = crossed[static_cast<std::size_t>(j)];
      double const left = j > 0 ? crossed[static_cast<std::size_t>(j - 1)] : 0;
      if (i + j > 0)
        here = (static_cast<double>(i) * here + static_cast<double>(j) * left) / static_cast<double>(i + j);
      if (tie_ends[static_cast<std::size_t>(i + j)] && std::abs(i * n - j * m) >= largest) here = 1;
    }
  return {d, crossed.back()};
}

/// P(A^2 >= a) for the Anderson-Darling statistic of n independent values with a continuous law that was fixed
/// beforehand.
///
/// Out    limit law to 1e-12 of itself at any size, then corrected for n: p is off by 5e-4 at most for n >= 5, by 0.001,
///        0.004 and 0.013 for n = 4, 3, 2, and by 6 % of itself at p = 1e-3 (17 % at n = 2). Exact for n = 1.
/// Empty  1 for a <= 0, NaN for NaN.
/// Cost   O(sqrt(a)).
/// Throws argument_error if n < 1.
/// Source limit: Anderson, Darling 1952, doi:10.1214/aoms/1177729437, as a weighted sum of chi-squares, whose tail is
///        Smirnov's alternating sum
///        of integrals between eigenvalues; correction for n: Marsaglia, Marsaglia 2004, doi:10.18637/jss.v009.i02,
///        constants of errfix.
///        Differs: their last polynomial is -6e-4 at 1; its remainder is kept in proportion to p, so that p neither
///        vanishes nor stops there.
inline double anderson_darling_survival(index_t size, double a) {
  if (size < 1) detail::raise("moeroute::anderson_darling_survival: n = ", size, " must be positive");
  if (std::isnan(a)) return quiet_nan;
  if (a < 0.03) return 1;  // 1 - p is below 1e-16
  if (std::isinf(a)) return 0;
  if (size == 1) {  // A^2 = -1 - ln u (1 - u) in closed form, which the correction misses by 0.04
    double const x = std::min(1.0, 4 * std::exp(-1 - a));
    return x / (1 + std::sqrt(1 - x));
  }
  // pi^-1/2 sum of (-1)^(k+1) times the integral over |v| < 1 of exp(-a (w^2 - 1)/8) w / sqrt((w^2 - 1) cos(pi v/2)), w
  // = 4k + v.
  int const nodes = 32 + static_cast<int>(4 * std::sqrt(std::min(a, 1e6)));
  double sum = 0;
  for (int k = 1; k < 100; ++k) {
    double part = 0;
    for (int i = 0; i < nodes; ++i) {
      double const v = std::cos((i + 0.5) * std::numbers::pi / nodes), w = 4 * k + v;
      part += std::exp(-a * (w * w - 9) / 8) * w *
              std::sqrt((1 - v * v) / ((w * w - 1) * std::cos(std::numbers::pi / 2 * v)));
    }
    sum += (k % 2 ? part : -part) / nodes;
    if (part / nodes < 1e-17 * sum) break;
  }
  double const p = std::sqrt(std::numbers::pi) * std::exp(-a) * sum, x = 1 - p, n = static_cast<double>(size);
  if (x > 0.8) {
    constexpr std::array<double, 6> c{-130.2137, 745.2337, -1705.091, 1950.646, -1116.360, 255.7844};
    double slope = 0, tail = 0;  // (c(x) - c(1)) / (x - 1) by Horner's division
    for (std::size_t i = c.size() - 1; i > 0; --i) {
      tail += c[i];
      slope = slope * x + tail;
    }
    return p * (1 + slope / n);
  }
  double const cut = 0.01265 + 0.1757 / n;
  double error = 0;
  if (x < cut) {
    double const t = x / cut;
    error = std::sqrt(t) * (1 - t) * (49 * t - 102) * (0.0037 / (n * n) + 0.00078 / n + 0.00006) / n;
  } else {
    double const t = (x - cut) / (0.8 - cut);
    error = (-0.00022633 + (6.54034 - (14.6538 - (14.458 - (8.259 - 1.91864 * t) * t) * t) * t) * t) *
            (0.04213 + 0.01365 / n) / n;
  }
  return std::clamp(p - error, 0.0, 1.0);
}

namespace detail {

// A^2 from logarithms of the distribution function, ascending, and of the survival function of the same values.
inline double anderson_darling(std::vector<double> const& log_cdf, std::vector<double> const& log_survival) {
  double const n = static_cast<double>(log_cdf.size());
  double sum = 0;
  for (std::size_t i = 0; i < log_cdf.size(); ++i)
    sum += (2 * static_cast<double>(i) + 1) * (log_cdf[i] + log_survival[log_cdf.size() - 1 - i]);
  return log_cdf.empty() ? quiet_nan : -n - sum / n;
}

}  // namespace detail

/// Anderson-Darling test of a sample against a law that was fixed beforehand: like Kolmogorov-Smirnov's, but sees the
/// tails.
///
/// In     log_cdf, log_survival [n]: logarithms of the law's distribution and survival function at each value, both <=
///        0, so that tails keep their
///        digits. Values with a NaN are left out.
/// Out    A^2 and its p-value (anderson_darling_survival). A value where the law has no mass makes A^2 infinite and p
///        0.
/// Empty  NaN for n = 0.
/// Cost   O(n log n).
/// Bias   as kolmogorov_smirnov_test.
/// Throws shape_error if lengths differ, argument_error if a logarithm is positive.
/// Source Anderson, Darling 1954, doi:10.1080/01621459.1954.10501232. Differs: as given.
template <real_vector LogCdf, real_vector LogSurvival>
test_result anderson_darling_test(LogCdf const& log_cdf, LogSurvival const& log_survival) {
  auto const f = detail::vector_of(log_cdf);
  auto const s = detail::vector_of(log_survival);
  if (f.size() != s.size())
    detail::raise<shape_error>("moeroute::anderson_darling_test: ", f.size(), " values against ", s.size());
  std::vector<std::pair<double, double>> pairs;
  for (index_t i = 0; i < f.size(); ++i) {
    double const a = detail::as_double(f[i]), b = detail::as_double(s[i]);
    if (a > 0 || b > 0)
      detail::raise("moeroute::anderson_darling_test: logarithms ", a, " and ", b, " at ", i, " must not be positive");
    if (!std::isnan(a) && !std::isnan(b)) pairs.emplace_back(a, b);
  }
  // Where log F rounds to the same value, the survival function still orders.
  std::sort(pairs.begin(), pairs.end(), [](auto const& p, auto const& q) {
    return p.first < q.first || (p.first == q.first && p.second > q.second);
  });
  std::vector<double> a, b;
  for (auto const& p : pairs) {
    a.push_back(p.first);
    b.push_back(p.second);
  }
  double const statistic = detail::anderson_darling(a, b);
  return {statistic,
          pairs.empty() ? quiet_nan : anderson_darling_survival(static_cast<index_t>(pairs.size()), statistic)};
}

}  // namespace moeroute

#endif

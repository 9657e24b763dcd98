// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_INFERENCE_COMBINE_HPP
#define MOEROUTE_INFERENCE_COMBINE_HPP

#include <moeroute/core/adapt.hpp>
#include <moeroute/inference/p_value.hpp>
#include <moeroute/numeric/mass.hpp>

#include <algorithm>
#include <cmath>
#include <complex>
#include <cstddef>
#include <limits>
#include <numbers>
#include <vector>

#include <boost/math/special_functions/gamma.hpp>

namespace moeroute {

namespace detail {

// Defined log p-values, ascending.
template <class T>
std::vector<double> sorted_log_p(vector_view<T> log_p, char const* function) {
  std::vector<double> out;
  for (index_t i = 0; i < log_p.size(); ++i) {
    double const v = as_double(log_p[i]);
    if (v > 0) raise(function, ": log p = ", v, " at ", i, " must not be positive");
    if (!std::isnan(v)) out.push_back(v);
  }
  std::sort(out.begin(), out.end());
  return out;
}

// log of the mean of exp(x), largest first in a sorted range of -x: here x = -log p.
inline double log_mean_inverse(std::vector<double> const& log_p) {
  double const largest = -log_p.front();
  if (std::isinf(largest)) return largest;
  double sum = 0;
  for (double const v : log_p) sum += std::exp(-v - largest);
  return largest + std::log(sum / static_cast<double>(log_p.size()));
}

// P(X > x) of the Landau law whose two-sided Laplace transform is s^s: error below 1e-12 of it.
inline double landau_survival(double x) {
  if (x >= -2) {
    // 1/pi times the integral of exp(-t log t - x t) sin(pi t) / t; with t = exp(u - exp(-u)) the trapezoidal rule
    // needs few points.
    double sum = 0;
    double const h = 1.0 / 16, scale = std::max(1.0, 1 + x);
    for (int i = -72; i <= 56; ++i) {
      double const u = h * i, t = std::exp(u - std::exp(-u)) / scale;
      if (t > 0) sum += std::exp(-t * std::log(t) - x * t) * std::sin(std::numbers::pi * t) * (1 + std::exp(-u));
    }
    return h * sum / std::numbers::pi;
  }
  // That sum cancels here. 1 - F, with F the integral of exp(s log s + x s) / (2 pi i s) up the line through the saddle
  // point c.
  double const c = std::exp(-1 - x);
  if (c > 40) return 1;  // F is about exp(-c)
  double sum = 0;
  double const h = std::sqrt(c) / 4;
  for (int i = 0; h * i <= 24 + 9 * std::sqrt(c); ++i) {
    std::complex<double> const s(c, h * i);
    sum += (i == 0 ? 0.5 : 1) * std::real(std::exp(s * std::log(s) + x * s) / s);
  }
  return 1 - h * sum / std::numbers::pi;
}

}  // namespace detail

/// Fisher's combination: many weak signals.
///
/// In     log_p [m]: natural logarithms of p-values, so that nothing underflows; NaN is left out.
/// Out    statistic -2 sum log p; log_p and p_value from its chi-square law with 2 m degrees of freedom.
/// Empty  all NaN.
/// Cost   O(m).
/// Bias   needs independent p-values. Experts of a token, tokens of a document and layers are not.
/// Throws argument_error if a log p is positive.
/// Source Fisher 1932, Statistical Methods for Research Workers, section 21.1. Differs: the tail is summed in
///        logarithms below 1e-280.
template <real_vector LogP>
log_test_result combine_fisher(LogP const& log_p) {
  auto const l = detail::sorted_log_p(detail::vector_of(log_p), "moeroute::combine_fisher");
  if (l.empty()) return {};
  double x = 0;
  for (auto v = l.rbegin(); v != l.rend(); ++v) x -= *v;
  double const m = static_cast<double>(l.size());
  if (std::isinf(x)) return detail::from_log_p(x, -x);
  double const q = boost::math::gamma_q(m, x);
  if (q > 1e-280) return detail::from_log_p(2 * x, q < 0.5 ? std::log(q) : std::log1p(-boost::math::gamma_p(m, x)));
  // exp(-x) sum of x^k / k! for k < m; so far out its largest term is the last one.
  double sum = 0, term = 1;
  for (double k = m - 1; k > 0 && term > 1e-17 * sum; --k) {
    sum += term;
    term *= k / x;
  }
  return detail::from_log_p(2 * x, -x + (m - 1) * std::log(x) - boost::math::lgamma(m) + std::log(sum + term));
}

/// Simes' combination.
///
/// In     log_p [m]; NaN is left out.
/// Out    statistic = log_p = log of min over i of m p_(i) / i, at most 0.
/// Empty  all NaN.
/// Cost   O(m log m).
/// Bias   needs independence, or positive dependence (MTP2). Experts that compete for slots cannot claim it.
/// Throws argument_error if a log p is positive.
/// Source Simes 1986, doi:10.1093/biomet/73.3.751; dependence: Sarkar 1998, doi:10.1214/aos/1028144846. Differs: as
///        given.
template <real_vector LogP>
log_test_result combine_simes(LogP const& log_p) {
  auto const l = detail::sorted_log_p(detail::vector_of(log_p), "moeroute::combine_simes");
  if (l.empty()) return {};
  double smallest = 0;
  for (std::size_t i = 0; i < l.size(); ++i)
    smallest = std::min(smallest, l[i] + std::log(static_cast<double>(l.size()) / static_cast<double>(i + 1)));
  return detail::from_log_p(smallest, smallest);
}

/// Bonferroni's combination: few strong signals, any dependence.
///
/// In     log_p [m]; NaN is left out.
/// Out    statistic: smallest log p; log_p of min(1, m p_(1)).
/// Empty  all NaN.
/// Cost   O(m log m).
/// Throws argument_error if a log p is positive.
/// Source Dunn 1961, doi:10.1080/01621459.1961.10482090. Differs: as given.
template <real_vector LogP>
log_test_result combine_bonferroni(LogP const& log_p) {
  auto const l = detail::sorted_log_p(detail::vector_of(log_p), "moeroute::combine_bonferroni");
  if (l.empty()) return {};
  return detail::from_log_p(l.front(), std::min(0.0, l.front() + std::log(static_cast<double>(l.size()))));
}

/// Cauchy combination (ACAT).
///
/// In     log_p [m], NaN is left out; cap: p above it count as cap, since a single p near 1 would cancel everything.
/// Out    statistic: mean of cot(pi p); log_p of its Cauchy tail.
/// Empty  all NaN.
/// Cost   O(m log m).
/// Bias   close to its level for small p under the dependence of bivariate normal statistics (64 of correlation 1/2
///        reject 7.6 % at 5 %); no
///        such promise for other dependence. The cap of 0.99 lifts the level of independent p by a factor: at 5 % 1.01
///        for m = 8, 1.08 for
///        64, 1.16 for 256; at 1 % 1.06 and less. cap = 1 is the statistic as published.
/// Throws argument_error if a log p is positive or cap is not in (1/2, 1].
/// Source Liu, Xie 2020, doi:10.1080/01621459.2018.1554485; truncation: Fang, Chang, Park, Tseng 2024, Statistica
///        Sinica 34:1.
///        Differs: tails by cotangent and atan2, in logarithms below 1e-280, where 1/2 - atan/pi and 1/p have no digits
///        left.
template <real_vector LogP>
log_test_result combine_cauchy(LogP const& log_p, double cap = 0.99) {
  auto const l = detail::sorted_log_p(detail::vector_of(log_p), "moeroute::combine_cauchy");
  if (!(cap > 0.5 && cap <= 1)) detail::raise("moeroute::combine_cauchy: cap = ", cap, " must lie in (0.5, 1]");
  if (l.empty()) return {};
  double const pi = std::numbers::pi;
  if (l.front() < -645) {  // cot(pi p) = 1/(pi p) to the last bit, and all that is not tiny vanishes beside it
    double const tail = -detail::log_mean_inverse(l);
    return detail::from_log_p(std::exp(-tail) / pi, tail);
  }
  double sum = 0;
  for (auto v = l.rbegin(); v != l.rend(); ++v) {
    double const complement =
        std::max(std::abs(std::expm1(*v)), 1 - cap);  // 1 - p keeps its digits where p is close to 1
    sum += complement < 0.5 ? -1 / std::tan(pi * complement) : 1 / std::tan(pi * std::exp(*v));
  }
  double const mean = sum / static_cast<double>(l.size());
  return detail::from_log_p(mean, std::log(std::atan2(1.0, mean) / pi));
}

/// Harmonic mean p-value, corrected.
///
/// In     log_p [m]; NaN is left out.
/// Out    statistic: log of the harmonic mean, which is itself no p-value: it rejects too often even under
///        independence.
///        log_p from the Landau law that 1/mean tends to: asymptotic in m, exact at m = 1.
/// Empty  all NaN.
/// Cost   O(m log m).
/// Bias   needs independence; small p stay close to their level under much weak dependence.
/// Throws argument_error if a log p is positive.
/// Source Wilson 2019, doi:10.1073/pnas.1814092116: 1/mean - log m - 1 + gamma is nearly Landau (there: location log m
///        + 0.874, scale pi/2).
///        Differs: as given.
template <real_vector LogP>
log_test_result combine_harmonic_mean(LogP const& log_p) {
  auto const l = detail::sorted_log_p(detail::vector_of(log_p), "moeroute::combine_harmonic_mean");
  if (l.empty()) return {};
  double const log_inverse = detail::log_mean_inverse(l), m = static_cast<double>(l.size());
  if (l.size() == 1) return detail::from_log_p(l[0], l[0]);
  // Beyond e^40 the law's tail is 1/x to the last bit.
  double const x = std::exp(log_inverse) - std::log(m) - 1 + std::numbers::egamma;
  double const tail = log_inverse > 40 ? -log_inverse : std::log(detail::landau_survival(x));
  return detail::from_log_p(-log_inverse, tail);
}

/// Harmonic mean p-value that is valid under any dependence.
///
/// In     log_p [m]; NaN is left out.
/// Out    statistic: log of the harmonic mean; log_p of min(1, a_m times it), a_m the smallest factor that suffices;
///        a_m grows like log m.
/// Empty  all NaN.
/// Cost   O(m log m).
/// Throws argument_error if a log p is positive.
/// Source Vovk, Wang 2020, doi:10.1093/biomet/asaa027, proposition 6: a = (y + m)^2 / ((y + 1) m), y^2 = m ((y + 1)
///        log(y + 1) - y), y > 0.
///        Differs: as given; a = m for m <= 2.
template <real_vector LogP>
log_test_result combine_harmonic_mean_any_dependence(LogP const& log_p) {
  auto const l = detail::sorted_log_p(detail::vector_of(log_p), "moeroute::combine_harmonic_mean_any_dependence");
  if (l.empty()) return {};
  double const log_mean = -detail::log_mean_inverse(l), m = static_cast<double>(l.size());
  double factor = m;
  if (l.size() > 2) {
    auto const excess = [m](double y) { return m * ((y + 1) * std::log1p(y) - y) - y * y; };  // positive below the root
    double low = 0.1, high = m;  // the root is above 1 for m = 3 and grows with m
    while (excess(high) > 0) high *= 2;
    for (int i = 0; i < 200 && low < high * (1 - 1e-15); ++i)
      (excess(0.5 * (low + high)) > 0 ? low : high) = 0.5 * (low + high);
    double const y = 0.5 * (low + high);
    factor = (y + m) * (y + m) / ((y + 1) * m);
  }
  return detail::from_log_p(log_mean, std::min(0.0, log_mean + std::log(factor)));
}

}  // namespace moeroute

#endif

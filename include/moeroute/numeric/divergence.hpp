// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_NUMERIC_DIVERGENCE_HPP
#define MOEROUTE_NUMERIC_DIVERGENCE_HPP

#include <moeroute/numeric/mass.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

namespace moeroute {

namespace detail {

// Sums term(p_e, q_e) over the classes, both normalised; NaN if one of them sums to 0.
template <mass_vector P, mass_vector Q, class Term>
double sum_over_classes(P const& p, Q const& q, char const* function, Term const& term) {
  auto const a = masses_of(p, function), b = masses_of(q, function);
  if (a.values.size() != b.values.size())
    raise<shape_error>(function, ": ", a.values.size(), " classes against ", b.values.size());
  if (a.total == 0 || b.total == 0) return quiet_nan;
  double sum = 0;
  for (std::size_t e = 0; e < a.values.size(); ++e) sum += term(a.values[e] / a.total, b.values[e] / b.total);
  return sum;
}

// p log(p/q) - p + q: the same sum as p log(p/q) over a whole distribution, but no term is negative and nothing cancels
// near p = q.
inline double relative_surprise(double p, double q) noexcept {
  if (p == 0) return q;
  if (q == 0) return std::numeric_limits<double>::infinity();
  double const d = (p - q) / q;
  return std::max(0.0, p * std::log1p(d) - (p - q));
}

}  // namespace detail

/// Kullback-Leibler divergence of p from q, in nats.
///
/// In     p, q [E]: counts or shares of any sum.
/// Out    0..infinity; infinite if p has mass where q has none.
/// Empty  NaN if either sums to 0.
/// Cost   O(E).
/// Throws shape_error if lengths differ, argument_error for a negative or non-finite mass.
/// Source Kullback, Leibler 1951, doi:10.1214/aoms/1177729694. Differs: summed as p log(p/q) - p + q.
template <mass_vector P, mass_vector Q>
double kullback_leibler_nats(P const& p, Q const& q) {
  return detail::sum_over_classes(p, q, "moeroute::kullback_leibler_nats", detail::relative_surprise);
}

/// Jensen-Shannon divergence, in nats.
///
/// In     p, q [E]: counts or shares of any sum; both weigh 1/2.
/// Out    0..log 2. From two samples it is too large by about jensen_shannon_bias_nats.
/// Empty  NaN if either sums to 0.
/// Cost   O(E).
/// Throws shape_error if lengths differ, argument_error for a negative or non-finite mass.
/// Source Lin 1991, doi:10.1109/18.61115, equation 4.1 with weights 1/2. Differs: log1p((p - q)/(p + q)) instead of
///        log(2 p/(p + q)), which keeps its digits when p and q are close.
template <mass_vector P, mass_vector Q>
double jensen_shannon_nats(P const& p, Q const& q) {
  double const js = detail::sum_over_classes(p, q, "moeroute::jensen_shannon_nats", [](double a, double b) {
    if (a + b == 0) return 0.0;
    double const d = (a - b) / (a + b);
    return 0.5 * ((a > 0 ? a * std::log1p(d) : 0) + (b > 0 ? b * std::log1p(-d) : 0));
  });
  return std::isnan(js) ? js : std::clamp(js, 0.0, std::numbers::ln2);
}

/// Expected jensen_shannon_nats of two samples from one distribution.
///
/// In     occupied: classes seen in either sample; n1, n2: numbers of independent draws (divide by the design effect
///        for tokens).
/// Out    (occupied - 1)/8 * (1/n1 + 1/n2), the first order in 1/n.
/// Empty  NaN unless n1, n2 > 0 and occupied >= 1.
/// Cost   O(1).
/// Source Grosse et al. 2002, doi:10.1103/PhysRevE.65.041905. Differs: two weights of 1/2, unequal sizes.
inline double jensen_shannon_bias_nats(index_t occupied, double n1, double n2) noexcept {
  if (!(n1 > 0) || !(n2 > 0) || occupied < 1) return quiet_nan;
  return static_cast<double>(occupied - 1) / 8 * (1 / n1 + 1 / n2);
}

/// Total variation distance: the largest difference in probability of any set of experts.
///
/// In     p, q [E]: counts or shares of any sum.
/// Out    half the sum of absolute differences, 0..1.
/// Empty  NaN if either sums to 0.
/// Cost   O(E).
/// Throws shape_error if lengths differ, argument_error for a negative or non-finite mass.
/// Source Levin, Peres, Wilmer 2009, Markov Chains and Mixing Times, proposition 4.2. Differs: as given.
template <mass_vector P, mass_vector Q>
double total_variation(P const& p, Q const& q) {
  return detail::sum_over_classes(p, q, "moeroute::total_variation",
                                  [](double a, double b) { return std::abs(a - b) / 2; });
}

/// Hellinger distance.
///
/// In     p, q [E]: counts or shares of any sum.
/// Out    sqrt(half the sum of squared differences of square roots), 0..1; a metric.
/// Empty  NaN if either sums to 0.
/// Cost   O(E).
/// Throws shape_error if lengths differ, argument_error for a negative or non-finite mass.
/// Source Le Cam, Yang 2000, Asymptotics in Statistics. Differs: scaled to a maximum of 1.
template <mass_vector P, mass_vector Q>
double hellinger(P const& p, Q const& q) {
  return std::sqrt(detail::sum_over_classes(p, q, "moeroute::hellinger", [](double a, double b) {
    if (a == b) return 0.0;
    double const d = (a - b) / (std::sqrt(a) + std::sqrt(b));  // the difference of the roots, without cancellation
    return d * d / 2;
  }));
}

}  // namespace moeroute

#endif

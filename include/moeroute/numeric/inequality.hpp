// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_NUMERIC_INEQUALITY_HPP
#define MOEROUTE_NUMERIC_INEQUALITY_HPP

#include <moeroute/numeric/mass.hpp>

#include <algorithm>
#include <cmath>

namespace moeroute {

// All of these take x [E]: counts or shares of any sum, and are NaN where the sum is 0.

/// How far the busiest expert is above the mean load.
///
/// In     x [E]: counts or shares.
/// Out    max / mean - 1: 0 when balanced, at most E - 1.
/// Empty  NaN if the sum is 0.
/// Cost   O(E).
/// Throws argument_error for a negative or non-finite mass.
/// Source Wang et al. 2024, arXiv:2408.15664 (MaxVio). Differs: as given; of the counts handed in, batch or global.
template <mass_vector X>
double max_violation(X const& x) {
  auto const m = detail::masses_of(x, "moeroute::max_violation");
  if (m.total == 0) return quiet_nan;
  return *std::max_element(m.values.begin(), m.values.end()) * static_cast<double>(m.values.size()) / m.total - 1;
}

/// How far the idlest expert is below the mean load.
///
/// In     x [E]: counts or shares.
/// Out    1 - min / mean: 0 when balanced, 1 if an expert is never chosen.
/// Empty  NaN if the sum is 0.
/// Cost   O(E).
/// Throws argument_error for a negative or non-finite mass.
/// Source the mirror image of max_violation; ours. Differs: nothing published to differ from.
template <mass_vector X>
double min_violation(X const& x) {
  auto const m = detail::masses_of(x, "moeroute::min_violation");
  if (m.total == 0) return quiet_nan;
  return 1 - *std::min_element(m.values.begin(), m.values.end()) * static_cast<double>(m.values.size()) / m.total;
}

/// Standard deviation over mean.
///
/// In     x [E]: counts or shares; ddof 0 divides the squares by E (the experts are all there are), 1 by E - 1.
/// Out    0 when balanced, at most sqrt(E - 1) with ddof 0.
/// Empty  NaN if the sum is 0 or E <= ddof.
/// Cost   O(E).
/// Throws argument_error for a negative or non-finite mass, or ddof other than 0 or 1.
/// Source Shazeer et al. 2017, arXiv:1701.06538, section 4 (its square is their importance loss). Differs: ddof is
///        stated.
template <mass_vector X>
double coefficient_of_variation(X const& x, int ddof = 0) {
  if (ddof != 0 && ddof != 1) detail::raise("moeroute::coefficient_of_variation: ddof = ", ddof, " must be 0 or 1");
  auto const m = detail::masses_of(x, "moeroute::coefficient_of_variation");
  double const n = static_cast<double>(m.values.size()), mean = m.total / n;
  if (m.total == 0 || n <= ddof) return quiet_nan;
  double square = 0;
  for (double const v : m.values) square += (v - mean) * (v - mean);
  return std::sqrt(square / (n - ddof)) / mean;
}

/// Gini index: mean absolute difference of two experts over twice the mean.
///
/// In     x [E]: counts or shares.
/// Out    0 when balanced, (E - 1)/E when one expert has all; times E/(E - 1) it reaches 1.
/// Empty  NaN if the sum is 0.
/// Cost   O(E log E).
/// Throws argument_error for a negative or non-finite mass.
/// Source Gini 1912; sorted form of Sen 1973, On Economic Inequality, section 2.8. Differs: as given, without the
///        factor E/(E - 1).
template <mass_vector X>
double gini(X const& x) {
  auto m = detail::masses_of(x, "moeroute::gini");
  if (m.total == 0) return quiet_nan;
  std::sort(m.values.begin(), m.values.end());
  double const n = static_cast<double>(m.values.size());
  double sum = 0, coefficient = 1 - n;  // 2 i - n - 1 for i = 1..n
  for (double const v : m.values) {
    sum += coefficient * v;
    coefficient += 2;
  }
  return sum / (n * m.total);
}

/// Probability that two independent slots go to the same expert.
///
/// In     x [E]: counts or shares.
/// Out    sum of squared shares, 1/E..1.
/// Empty  NaN if the sum is 0.
/// Cost   O(E).
/// Throws argument_error for a negative or non-finite mass.
/// Source Simpson 1949, doi:10.1038/163688a0. Differs: of the shares handed in, not the unbiased n(n - 1) form.
template <mass_vector X>
double herfindahl(X const& x) {
  auto const m = detail::masses_of(x, "moeroute::herfindahl");
  double square = 0;
  for (double const v : m.values) square += v / m.total * (v / m.total);
  return m.total == 0 ? quiet_nan : square;
}

/// Number of equally used experts that have the same herfindahl: the effective number of order 2.
///
/// In     x [E]: counts or shares.
/// Out    1 / herfindahl, 1..E.
/// Empty  NaN if the sum is 0.
/// Cost   O(E).
/// Throws argument_error for a negative or non-finite mass.
/// Source Hill 1973, doi:10.2307/1934352, order 2. Differs: as given.
template <mass_vector X>
double inverse_simpson(X const& x) {
  return 1 / herfindahl(x);
}

/// Jain's fairness index.
///
/// In     x [E]: counts or shares.
/// Out    (sum x)^2 / (E sum x^2) = 1 / (1 + CV^2) with ddof 0: 1 when balanced, 1/E when one expert has all.
/// Empty  NaN if the sum is 0.
/// Cost   O(E).
/// Throws argument_error for a negative or non-finite mass.
/// Source Jain, Chiu, Hawe 1984, DEC TR-301. Differs: as given.
template <mass_vector X>
double jain_index(X const& x) {
  return inverse_simpson(x) / static_cast<double>(detail::vector_of(x).size());
}

}  // namespace moeroute

#endif

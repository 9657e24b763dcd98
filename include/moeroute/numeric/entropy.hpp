// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_NUMERIC_ENTROPY_HPP
#define MOEROUTE_NUMERIC_ENTROPY_HPP

#include <moeroute/numeric/mass.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace moeroute {

namespace detail {

inline double entropy_of(masses const& m) noexcept {
  if (m.total == 0) return quiet_nan;
  double h = 0;
  for (double const v : m.values)
    if (v > 0) h -= v / m.total * std::log(v / m.total);
  return std::max(0.0, h);
}

inline double occupied(masses const& m) noexcept {
  return static_cast<double>(std::count_if(m.values.begin(), m.values.end(), [](double v) { return v > 0; }));
}

// E[-(k/n) log(k/n)] for k of `marked` among `total`, n drawn without replacement. The law is built from its mode
// outwards by the ratio of neighbours and normalised by its own sum, so that no large factorial is ever formed.
inline double expected_surprise(double marked, double total, double n) noexcept {
  double const first = std::max(0.0, n + marked - total), last = std::min(marked, n);
  double const mode = std::clamp(std::floor((n + 1) * (marked + 1) / (total + 2)), first, last);
  double weight_sum = 0, surprise_sum = 0;
  auto const add = [&](double k, double weight) {
    weight_sum += weight;
    if (k > 0) surprise_sum -= weight * (k / n) * std::log(k / n);
    return weight > 1e-18 * weight_sum;  // the law is log-concave: what is left out is smaller than a geometric tail
  };
  double weight = 1;
  for (double k = mode; add(k, weight) && k < last; ++k)
    weight *= (marked - k) * (n - k) / ((k + 1) * (total - marked - n + k + 1));
  weight = 1;
  for (double k = mode; k > first; --k) {
    weight *= k * (total - marked - n + k) / ((marked - k + 1) * (n - k + 1));
    if (!add(k - 1, weight)) break;
  }
  return surprise_sum / weight_sum;
}

}  // namespace detail

/// Entropy of the shares, in nats.
///
/// In     x [E]: counts or shares of any sum.
/// Out    0..log(E). Plug-in: too small by about (occupied classes - 1)/(2 n) for n independent draws.
/// Empty  NaN if the sum is 0.
/// Cost   O(E).
/// Throws argument_error for a negative or non-finite mass.
/// Source Shannon 1948, doi:10.1002/j.1538-7305.1948.tb01338.x, theorem 2. Differs: natural logarithm.
template <mass_vector X>
double entropy_nats(X const& x) {
  return detail::entropy_of(detail::masses_of(x, "moeroute::entropy_nats"));
}

/// Entropy in nats with its first-order bias removed.
///
/// In     counts [E]: whole numbers, of independent draws (tokens of one document are not: the bias left is then
///        larger).
/// Out    entropy_nats + (occupied classes - 1)/(2 n).
/// Empty  NaN if the sum is 0.
/// Cost   O(E).
/// Throws argument_error for a negative, fractional or non-finite count.
/// Source Miller 1955, Note on the bias of information estimates. Differs: occupied instead of possible classes.
template <mass_vector X>
double entropy_miller_madow_nats(X const& counts) {
  auto const m = detail::masses_of(counts, "moeroute::entropy_miller_madow_nats");
  detail::require_whole(m, "moeroute::entropy_miller_madow_nats");
  return detail::entropy_of(m) + (detail::occupied(m) - 1) / (2 * m.total);
}

/// Entropy over its largest possible value.
///
/// In     x [E]: counts or shares of any sum.
/// Out    entropy_nats / log(E): 1 for equal shares, 0 for a single class.
/// Empty  NaN if the sum is 0 or E < 2.
/// Cost   O(E).
/// Throws argument_error for a negative or non-finite mass.
/// Source Pielou 1966, doi:10.1016/0022-5193(66)90013-0. Differs: as given.
template <mass_vector X>
double normalized_entropy(X const& x) {
  auto const m = detail::masses_of(x, "moeroute::normalized_entropy");
  return m.values.size() < 2 ? quiet_nan
                             : std::min(detail::entropy_of(m) / std::log(static_cast<double>(m.values.size())), 1.0);
}

/// Number of equally used classes that have the same entropy.
///
/// In     x [E]: counts or shares of any sum.
/// Out    exp(entropy_nats), 1..E.
/// Empty  NaN if the sum is 0.
/// Cost   O(E).
/// Throws argument_error for a negative or non-finite mass.
/// Source Hill 1973, doi:10.2307/1934352, order 1. Differs: as given.
template <mass_vector X>
double effective_number(X const& x) {
  return std::exp(detail::entropy_of(detail::masses_of(x, "moeroute::effective_number")));
}

/// Expected plug-in entropy of n of the counted draws, taken without replacement: compares groups of unequal size at
/// equal size.
///
/// In     counts [E]: whole numbers of sum N (bootstrap totals in double are fine); n <= N.
/// Out    nats; entropy_nats itself at n = N, 0 at n = 1.
/// Empty  NaN if n is 0 or exceeds N.
/// Cost   O(sum over classes of the standard deviation of its count in the sample) time, O(E) memory.
/// Throws argument_error for a negative, fractional or non-finite count.
/// Source rarefaction: Hurlbert 1971, doi:10.2307/1934145; for entropy Chao et al. 2014, doi:10.1890/13-0133.1.
///        Differs: the hypergeometric law is summed where it exceeds 1e-18 of its mass.
template <mass_vector X>
double rarefied_entropy_nats(X const& counts, std::uint64_t n) {
  auto const m = detail::masses_of(counts, "moeroute::rarefied_entropy_nats");
  detail::require_whole(m, "moeroute::rarefied_entropy_nats");
  auto const size = static_cast<double>(n);
  if (n == 0 || size > m.total) return quiet_nan;
  if (size == m.total) return detail::entropy_of(m);
  double h = 0;
  for (double const v : m.values)
    if (v > 0) h += detail::expected_surprise(v, m.total, size);
  return std::max(0.0, h);
}

/// rarefied_entropy_nats by its expansion to second order in the counts: quick, and defined for n beyond N.
///
/// In     counts [E]: whole numbers of sum N; n.
/// Out    entropy_nats + (S - 1)/(2 N) - (S - 1)/(2 n) for S occupied classes; the error is of order sum(1/p)/n^2: use
///        it where every class that matters is expected at least about 10 times among n.
/// Empty  NaN if n or N is 0.
/// Cost   O(E).
/// Throws argument_error for a negative, fractional or non-finite count.
/// Source Miller 1955, the bias term at N and at n. Differs: ours, to go between two sizes.
template <mass_vector X>
double rarefied_entropy_expansion_nats(X const& counts, std::uint64_t n) {
  auto const m = detail::masses_of(counts, "moeroute::rarefied_entropy_expansion_nats");
  detail::require_whole(m, "moeroute::rarefied_entropy_expansion_nats");
  if (n == 0) return quiet_nan;
  return detail::entropy_of(m) + (detail::occupied(m) - 1) / 2 * (1 / m.total - 1 / static_cast<double>(n));
}

}  // namespace moeroute

#endif

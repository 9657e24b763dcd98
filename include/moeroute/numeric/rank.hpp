// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_NUMERIC_RANK_HPP
#define MOEROUTE_NUMERIC_RANK_HPP

#include <moeroute/numeric/mass.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>
#include <vector>

namespace moeroute {

/// Ranks from 1, ties sharing the mean of their ranks.
///
/// In     x [n].
/// Out    [n], sums to n(n + 1)/2; all NaN if x holds a NaN, which has no rank.
/// Empty  empty.
/// Cost   O(n log n).
/// Source Kendall 1945, doi:10.1093/biomet/33.3.239. Differs: as given.
template <numeric_vector X>
std::vector<double> mid_ranks(X const& x) {
  auto const view = detail::vector_of(x);
  std::vector<double> values;
  for (index_t i = 0; i < view.size(); ++i) values.push_back(detail::as_double(view[i]));
  std::vector<double> ranks(values.size(), quiet_nan);
  if (std::any_of(values.begin(), values.end(), [](double v) { return std::isnan(v); })) return ranks;
  std::vector<std::size_t> order(values.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&](auto a, auto b) { return values[a] < values[b]; });
  for (std::size_t first = 0, last = 0; first < order.size(); first = last) {
    while (last < order.size() && values[order[last]] == values[order[first]]) ++last;
    for (std::size_t i = first; i < last; ++i) ranks[order[i]] = 0.5 * static_cast<double>(first + 1 + last);
  }
  return ranks;
}

/// Pearson's correlation.
///
/// In     x, y [n].
/// Out    -1..1.
/// Empty  NaN if n < 2, either is constant, or a value is not finite.
/// Cost   O(n), two passes.
/// Throws shape_error if the lengths differ.
/// Source Pearson 1895, doi:10.1098/rspl.1895.0041. Differs: as given.
template <numeric_vector X, numeric_vector Y>
double pearson(X const& x, Y const& y) {
  auto const a = detail::vector_of(x);
  auto const b = detail::vector_of(y);
  if (a.size() != b.size()) detail::raise<shape_error>("moeroute::pearson: ", a.size(), " values against ", b.size());
  double const n = static_cast<double>(a.size());
  double mean_a = 0, mean_b = 0;
  // Constancy is asked of the values: rounding in the mean would leave a constant vector some spread.
  bool constant_a = true, constant_b = true;
  for (index_t i = 0; i < a.size(); ++i) {
    mean_a += detail::as_double(a[i]) / n;
    mean_b += detail::as_double(b[i]) / n;
    constant_a = constant_a && detail::as_double(a[i]) == detail::as_double(a[0]);
    constant_b = constant_b && detail::as_double(b[i]) == detail::as_double(b[0]);
  }
  if (constant_a || constant_b) return quiet_nan;
  // In units of powers of two, which round nothing: otherwise squares beyond 1e308 or below 1e-308 are lost.
  double largest_a = 0, largest_b = 0;
  for (index_t i = 0; i < a.size(); ++i) {
    largest_a = std::max(largest_a, std::abs(detail::as_double(a[i]) - mean_a));
    largest_b = std::max(largest_b, std::abs(detail::as_double(b[i]) - mean_b));
  }
  auto const unit_of = [](double largest) {
    return largest > 0 && std::isfinite(largest) ? std::ldexp(1.0, -std::clamp(std::ilogb(largest), -1000, 1000)) : 1.0;
  };
  double const scale_a = unit_of(largest_a), scale_b = unit_of(largest_b);
  double aa = 0, bb = 0, ab = 0;
  for (index_t i = 0; i < a.size(); ++i) {
    double const u = (detail::as_double(a[i]) - mean_a) * scale_a, v = (detail::as_double(b[i]) - mean_b) * scale_b;
    aa += u * u;
    bb += v * v;
    ab += u * v;
  }
  double const r = ab / (std::sqrt(aa) * std::sqrt(bb));
  return std::isnan(r) ? r : std::clamp(r, -1.0, 1.0);
}

/// Spearman's rank correlation: pearson of mid_ranks.
///
/// In     x, y [n].
/// Out    -1..1.
/// Empty  NaN if n < 2, either is constant, or a value is NaN.
/// Cost   O(n log n).
/// Throws shape_error if the lengths differ.
/// Source Spearman 1904, doi:10.2307/1412159. Differs: as given, ties by mid-ranks.
template <numeric_vector X, numeric_vector Y>
double spearman(X const& x, Y const& y) {
  return pearson(mid_ranks(x), mid_ranks(y));
}

}  // namespace moeroute

#endif

// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_DENSITY_PUBLISHED_CDF_HPP
#define MOEROUTE_DENSITY_PUBLISHED_CDF_HPP

#include <moeroute/core/adapt.hpp>
#include <moeroute/core/error.hpp>
#include <moeroute/core/scalar.hpp>
#include <moeroute/density/bandwidth.hpp>
#include <moeroute/density/kde.hpp>
#include <moeroute/density/kernel.hpp>
#include <moeroute/numeric/simd.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <utility>
#include <vector>

namespace moeroute {

/// A CDF by its values on a grid, as the published pipelines store it: their pickles and .npz files hold these two
/// arrays.
struct published_cdf {
  std::vector<double> x;  ///< ascending
  std::vector<double> cdf;
};

namespace detail {

// a * b + c with the product rounded, as numpy's loops do it: a compiler may not fuse the two.
inline double rounded_multiply_add(double a, double b, double c) noexcept {
  double product = a * b;
  round_here(product);
  return product + c;
}

}  // namespace detail

/// The grid of the published pipelines: numpy.linspace(minimum - 0.2 |minimum|, maximum + 0.2 |maximum|, points), bit
/// by bit.
///
/// In     extremes of the training sample; points >= 2.
/// Throws argument_error if minimum > maximum, one of them is not finite, or points < 2.
/// Source AliABULIEL/MOE-with-feature-selection, pipelines/run_deepseek_pipeline.py; numpy 2 linspace. Differs: as
///        given. The margin grows with the distance of an extreme from 0, not with the bandwidth, and is empty at 0.
inline std::vector<double> published_grid(double minimum, double maximum, index_t points = 10000) {
  if (!(minimum <= maximum) || std::isinf(minimum) || std::isinf(maximum) || points < 2)
    detail::raise("moeroute::published_grid: minimum = ", minimum, ", maximum = ", maximum, ", points = ", points);
  double const start = detail::rounded_multiply_add(-0.2, std::abs(minimum), minimum);
  double const stop = detail::rounded_multiply_add(0.2, std::abs(maximum), maximum);
  double const length = stop - start, intervals = static_cast<double>(points - 1), step = length / intervals;
  std::vector<double> x(static_cast<std::size_t>(points));
  for (index_t i = 0; i < points; ++i) {
    double const at = static_cast<double>(i);
    // numpy's way around a step that underflows
    x[static_cast<std::size_t>(i)] = step == 0 ? detail::rounded_multiply_add(at / intervals, length, start)
                                               : detail::rounded_multiply_add(at, step, start);
  }
  x.back() = stop;
  return x;
}

/// Density on the grid to CDF on the grid as published: running sums, divided by the last one.
///
/// Out    cdf of the size of density; NaN if the density is 0 everywhere.
/// Bias   a right Riemann sum: about f(x) dx / 2 too large.
/// Source as published_grid (cdf = cumsum(pdf); cdf /= cdf[-1]). Differs: as given.
inline std::vector<double> published_running_share(std::vector<double> density) {
  for (std::size_t i = 1; i < density.size(); ++i) density[i] += density[i - 1];
  if (!density.empty())
    for (double const total = density.back(); double& v : density) v /= total;
  return density;
}

/// {x, cdf} of a sample with a kernel and a bandwidth in the units of kernel.hpp, which are scikit-learn's.
///
/// In     sample [n], finite; all experts of all tokens of a layer pooled, as published.
/// Out    x bit by bit; cdf to 1e-12 of what scipy or scikit-learn give through numpy.
/// Cost   that of kde with 10,000 queries.
/// Throws argument_error if the sample is empty or not finite, or h is refused by kde.
/// Source as published_grid. Differs: as given; the sound way is kde's cdf, with no grid, sum or interpolation.
template <real_vector X>
published_cdf published_cdf_of(X const& sample, kernel_kind kernel, double bandwidth) {
  kde values;
  values.update(sample);
  auto const r = values.result();
  if (r.count == 0 || r.nonfinite > 0)
    detail::raise("moeroute::published_cdf_of: ", r.count, " finite and ", r.nonfinite,
                  " other values, needs finite ones only");
  published_cdf out;
  out.x = published_grid(r.minimum, r.maximum);
  out.cdf = published_running_share(values.estimate(kernel, bandwidth).pdf(out.x));
  return out;
}

/// As scipy.stats.gaussian_kde has it by default: Gaussian kernel, h = sd n^(-1/5) with n - 1 in the sd.
///
/// Throws argument_error if the sample has fewer than two different values, besides what the general form refuses.
template <real_vector X>
published_cdf published_cdf_of(X const& sample) {
  double const h = scott_bandwidth(sample);
  if (!(h > 0))
    detail::raise("moeroute::published_cdf_of: the ", detail::vector_of(sample).size(), " values have no spread");
  return published_cdf_of(sample, kernel_kind::gaussian, h);
}

/// p = 1 - numpy.interp(z, x, cdf), bit by bit: 1 - cdf[0] below the grid, 1 - cdf[-1] = 0 above it, NaN for NaN.
///
/// In     model; z [n] of any scalar, widened to double.
/// Out    p [n]. There is no floor: p can be 0.
/// Cost   O(n log grid).
/// Throws argument_error if x and cdf differ in length, are empty or not finite, or x descends.
/// Source as published_grid; numpy's compiled_base.c for the order of operations. Differs: as given. Beyond the data
///        p is that of the kernel, and 0 is no p-value at all; see docs/statistics/published-p-values.md.
template <real_vector Z>
std::vector<double> published_p_values(published_cdf const& model, Z const& z) {
  auto const& [x, cdf] = model;
  auto const finite = [](double v) { return std::isfinite(v); };
  if (x.empty() || x.size() != cdf.size() || !std::all_of(x.begin(), x.end(), finite) ||
      !std::all_of(cdf.begin(), cdf.end(), finite) || !std::is_sorted(x.begin(), x.end()))
    detail::raise("moeroute::published_p_values: ", x.size(), " grid points and ", cdf.size(),
                  " values, must be as many, finite and ascending");
  auto const view = detail::vector_of(z);
  std::vector<double> p(static_cast<std::size_t>(view.size()));
  for (std::size_t i = 0; i < p.size(); ++i) {
    double const at = static_cast<double>(to_compute(view[static_cast<index_t>(i)]));
    double share = quiet_nan;
    if (at < x.front()) {
      share = cdf.front();
    } else if (at >= x.back()) {
      share = cdf.back();
    } else if (!std::isnan(at)) {
      auto const j = static_cast<std::size_t>(std::upper_bound(x.begin(), x.end(), at) - x.begin()) - 1;
      double const slope = (cdf[j + 1] - cdf[j]) / (x[j + 1] - x[j]);
      share = at == x[j] ? cdf[j] : detail::rounded_multiply_add(slope, at - x[j], cdf[j]);
    }
    p[i] = 1 - share;
  }
  return p;
}

/// The same, rounded to the scalar of z and clamped to [eps, 1 - eps], as compute_pvalues_kde of that repository
/// does.
///
/// Out    p [n] as T. eps is 2^-23 for float, 2^-7 for bf16, 2^-10 for f16, 2^-52 for double: in bf16 the best
///        experts tie at 0.0078.
/// Throws as published_p_values.
/// Source AliABULIEL/MOE-with-feature-selection, deprecated/bh_routing.py, compute_pvalues_kde. Differs: as given.
template <real_vector Z>
std::vector<vector_value_t<Z>> published_clamped_p_values(published_cdf const& model, Z const& z) {
  using T = vector_value_t<Z>;
  constexpr double eps = std::is_same_v<T, double>  ? 0x1p-52
                         : std::is_same_v<T, float> ? 0x1p-23
                         : std::is_same_v<T, bf16>  ? 0x1p-7
                                                    : 0x1p-10;
  auto const rounded = [](double v) {
    if constexpr (std::is_same_v<T, bf16>)
      return to_bf16(static_cast<float>(v));
    else if constexpr (std::is_same_v<T, f16>)
      return to_f16(static_cast<float>(v));
    else
      return static_cast<T>(v);
  };
  std::vector<T> out;
  for (double const v : published_p_values(model, z)) {
    T const p = rounded(v);
    double const wide = static_cast<double>(to_compute(p));
    out.push_back(wide < eps ? rounded(eps) : wide > 1 - eps ? rounded(1 - eps) : p);
  }
  return out;
}

}  // namespace moeroute

#endif

// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_DENSITY_BANDWIDTH_HPP
#define MOEROUTE_DENSITY_BANDWIDTH_HPP

#include <moeroute/core/adapt.hpp>
#include <moeroute/core/error.hpp>
#include <moeroute/density/kde.hpp>
#include <moeroute/density/kernel.hpp>
#include <moeroute/numeric/dct.hpp>
#include <moeroute/numeric/histogram.hpp>
#include <moeroute/numeric/moments.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numbers>
#include <vector>

// Every rule below gives the bandwidth of a gaussian kernel, which is its sd; convert_bandwidth carries it to another
// kernel. NaN and infinite values are left out, as kde leaves them out. A sample of one value, or without spread, has
// bandwidth NaN; so has one whose variance leaves the range of double.

namespace moeroute {
namespace detail {

// A finite sample in order, with what the rules need.
struct spread {
  std::vector<double> values;
  double n = 0, sd = quiet_nan, sd_population = quiet_nan, quartile_range = quiet_nan;

  double quantile(double p) const {  // linear between order statistics, R's type 7
    double const at = p * (n - 1);
    auto const i = static_cast<std::size_t>(at);
    double const a = values[i], b = values[std::min(i + 1, values.size() - 1)];
    return a + (at - static_cast<double>(i)) * (b - a);
  }
  // The smaller of sd and the sd of the normal law with these quartiles; sd where more than half of the values are
  // equal.
  double robust_sd(double normal_quartile_range) const {
    return quartile_range > 0 ? std::min(sd, quartile_range / normal_quartile_range) : sd;
  }
  bool usable() const noexcept { return sd > 0 && std::isfinite(sd); }
};

template <class X>
spread spread_of(X const& x) {
  spread s;
  auto const view = vector_of(x);
  for (index_t i = 0; i < view.size(); ++i)
    if (double const v = static_cast<double>(to_compute(view[i])); std::isfinite(v)) s.values.push_back(v);
  std::vector<double> none;
  sort_sample(s.values, none);
  s.n = static_cast<double>(s.values.size());
  auto const r = moments_of(s.values);
  double const sd = std::sqrt(r.variance);
  if (!(sd > 0 && std::isfinite(sd))) return s;
  s.sd = sd;
  s.sd_population = std::sqrt(r.variance_population);
  s.quartile_range = s.quantile(0.75) - s.quantile(0.25);
  return s;
}

inline double silverman(spread const& s) { return 0.9 * s.robust_sd(1.34) * std::pow(s.n, -0.2); }

// A continuous function's root between two points of unlike signs, to the last bits.
template <class F>
double bisect(double low, double high, F const& f) {
  bool const rising = f(low) < 0;
  for (int i = 0; i < 200; ++i) {
    double const middle = low + (high - low) / 2;
    if (middle == low || middle == high) break;
    ((f(middle) < 0) == rising ? low : high) = middle;
  }
  return low + (high - low) / 2;
}

}  // namespace detail

/// sd n^(-1/5), sd over n - 1: scipy.stats.gaussian_kde's default.
///
/// In     x [n].   Empty  NaN without spread.   Cost  O(n log n), as all rules here.
/// Source Scott 1992, Multivariate Density Estimation, section 6.5, with the constant (4/(d+2))^(1/(d+4)) left out, as
///        scipy has it. Differs: as given.
template <real_vector X>
double scott_bandwidth(X const& x) {
  auto const s = detail::spread_of(x);
  return s.sd * std::pow(s.n, -0.2);
}

/// 0.9 min(sd, IQR / 1.34) n^(-1/5): Silverman's rule of thumb, R's bw.nrd0. The default rule of this library.
///
/// In, Empty, Cost  as scott_bandwidth; quartiles by linear interpolation; sd alone if the IQR is 0.
/// Source Silverman 1986, Density Estimation, equation 3.31. Differs: as given. scipy's "silverman" is another one:
///        (4/3)^(1/5) sd n^(-1/5), the normal reference without the quartiles.
template <real_vector X>
double silverman_bandwidth(X const& x) {
  return detail::silverman(detail::spread_of(x));
}

/// (4/3)^(1/5) min(sd, IQR / 1.349) n^(-1/5): best for a normal density (4/3: minimum of the asymptotic MISE).
///
/// In, Empty, Cost  as silverman_bandwidth.
/// Source Silverman 1986, equation 3.28; the robust scale as statsmodels.nonparametric.bandwidths.bw_normal_reference.
///        Differs: as given.
template <real_vector X>
double normal_reference_bandwidth(X const& x) {
  auto const s = detail::spread_of(x);
  // 2 * the upper quartile of the standard normal law
  return std::pow(4.0 / 3, 0.2) * s.robust_sd(1.3489795003921634) * std::pow(s.n, -0.2);
}

/// 1.06 sd n^(-1/5), sd over n, and 1 if the sd is 0: what the published router analyses pass to scikit-learn for every
/// kernel.
///
/// In     x [n].   Empty  NaN without values.   Cost  O(n log n).
/// Bias   with their compact kernels the same number smooths 1.7 to 2.4 times less, since it is the half-width there;
///        the sound way is convert_bandwidth.
/// Source the expert-activation pipelines that the page docs/statistics/bandwidth.md describes. Differs: as given.
template <real_vector X>
double published_pipeline_bandwidth(X const& x) {
  auto const s = detail::spread_of(x);
  if (s.n == 0) return quiet_nan;
  return s.usable() ? 1.06 * s.sd_population * std::pow(s.n, -0.2) : 1.0;
}

/// 4^(1/3) min(sd, IQR / 1.349) n^(-1/3): for a distribution function, which wants less smoothing than a density.
///
/// In, Empty, Cost  as silverman_bandwidth.
/// Source the rate is Azzalini 1981, doi:10.1093/biomet/68.1.326. Differs: the constant is the minimum of the
///        asymptotic integrated squared error of a gaussian kernel CDF for a normal law, derived in
///        docs/statistics/bandwidth.md; it holds for the gaussian kernel, and the canonical factors do not convert it.
template <real_vector X>
double cdf_bandwidth(X const& x) {
  auto const s = detail::spread_of(x);
  return s.usable() ? std::cbrt(4 / s.n) * s.robust_sd(1.3489795003921634) : quiet_nan;
}

/// The bandwidth of kernel `to` that smooths as `h` does with kernel `from`.
///
/// Source Marron, Nolan 1988: equal ratios to the canonical factor. Differs: as given.
inline double convert_bandwidth(double h, kernel_kind from, kernel_kind to) {
  auto const factor = [](kernel_kind kind) { return visit_kernel(kind, [](auto k) { return k.canonical_factor(); }); };
  return h * (factor(to) / factor(from));  // exactly h for one kernel
}

/// The bandwidth that a density rule would have given for `effective` values instead of n: h (n / effective)^(1/5).
///
/// Throws argument_error unless both are positive.
inline double rescale_bandwidth(double h, double n, double effective) {
  if (!(n > 0 && effective > 0))
    detail::raise("moeroute::rescale_bandwidth: n = ", n, ", effective = ", effective, ", must be positive");
  return h * std::pow(n / effective, 0.2);
}

/// How many independent values a sample of clustered ones is worth: n over the design effect of its distribution
/// function.
///
/// In     x [n]; offsets [D+1]: document d has the values offsets[d] .. offsets[d+1]-1. NaN and infinities are not
///        allowed here.
/// Out    n / max(1, deff), deff = sum of the cluster variances of F at the nine deciles over their variances if values
///        were independent.
/// Empty  NaN below two documents with values or without spread.
/// Cost   O(n log n).
/// Throws shape_error unless offsets run from 0 to n without decreasing, argument_error for a value that is not finite.
/// Source Kish 1965, Survey Sampling, section 8.2, for one share. Differs: pooled over nine of them, so that it does
///        not depend on the scale and sees documents that differ in spread. Asymptotically a density bandwidth needs
///        less correction than this (Hall, Lahiri, Truong 1995, Ann. Statist. 23, 2241); it errs to the smooth
///        side.
template <real_vector X, index_vector Offsets>
double effective_sample_size(X const& x, Offsets const& offsets) {
  auto const view = detail::vector_of(x);
  auto const cuts = detail::vector_of(offsets);
  bool ordered = cuts.size() > 0 && cuts[0] == 0 && static_cast<index_t>(cuts[cuts.size() - 1]) == view.size();
  for (index_t d = 1; d < cuts.size(); ++d) ordered = ordered && cuts[d] >= cuts[d - 1];
  if (!ordered)
    detail::raise<shape_error>("moeroute::effective_sample_size: offsets do not run from 0 to ", view.size());
  for (index_t i = 0; i < view.size(); ++i)
    if (!is_finite(view[i]))
      detail::raise("moeroute::effective_sample_size: value ", to_compute(view[i]), " at ", i, " is not finite");
  auto const s = detail::spread_of(x);
  double documents = 0;
  for (index_t d = 0; d + 1 < cuts.size(); ++d) documents += cuts[d + 1] > cuts[d] ? 1 : 0;
  if (documents < 2 || !s.usable()) return quiet_nan;
  double clustered = 0, independent = 0;
  for (int decile = 1; decile <= 9; ++decile) {
    double const q = s.quantile(decile / 10.0);
    double const p =
        static_cast<double>(std::upper_bound(s.values.begin(), s.values.end(), q) - s.values.begin()) / s.n;
    for (index_t d = 0; d + 1 < cuts.size(); ++d) {
      double inside = 0;
      for (auto i = static_cast<index_t>(cuts[d]); i < static_cast<index_t>(cuts[d + 1]); ++i)
        inside += static_cast<double>(to_compute(view[i])) <= q ? 1 : 0;
      double const residual = inside - p * static_cast<double>(cuts[d + 1] - cuts[d]);
      clustered += residual * residual;
    }
    independent += s.n * p * (1 - p);
  }
  clustered *= documents / (documents - 1);
  independent *= s.n / (s.n - 1);
  return independent > 0 ? s.n / std::max(1.0, clustered / independent) : quiet_nan;
}

/// What a rule that solves an equation gives.
struct selected_bandwidth {
  double bandwidth = quiet_nan;
  bool converged = false;  ///< false: no solution was found, and bandwidth is silverman_bandwidth
};

/// Sheather and Jones's bandwidth, by solving their equation.
///
/// In     x [n].   Empty  NaN without spread.
/// Out    as R's bw.SJ(method = "ste") without its 1,000 bins: pairs are summed exactly up to 512 values, and beyond by
///        linear binning to 1/256 of the narrower pilot bandwidth, which moves the result by about 1e-5.
/// Cost   O(n log n + cells^2), about 10 ms.
/// Source Sheather, Jones 1991, doi:10.1111/j.2517-6161.1991.tb01857.x, equation 12 with its pilot bandwidths; 1.357 =
///        (6 sqrt 2)^(1/7). Differs: falls back to Silverman's rule where the equation has no root (many ties).
template <real_vector X>
selected_bandwidth sheather_jones_bandwidth(X const& x) {
  auto const s = detail::spread_of(x);
  if (!s.usable()) return {};
  double const n = s.n, scale = s.robust_sd(1.349), narrow = 1.23 * scale * std::pow(n, -1.0 / 9),
               wide = 1.24 * scale * std::pow(n, -1.0 / 7);
  // Distances between pairs that can matter to any bandwidth tried, each with the number of its pairs.
  double const reach = 9 * 6 * std::max(narrow, wide), cell = n > 512 ? narrow / 256 : 0;
  std::vector<double> distance, pairs;
  if (cell == 0) {
    for (std::size_t i = 0; i < s.values.size(); ++i)
      for (std::size_t j = i + 1; j < s.values.size() && s.values[j] - s.values[i] <= reach; ++j) {
        distance.push_back(s.values[j] - s.values[i]);
        pairs.push_back(1);
      }
  } else {
    // A value is shared between the two grid points beside it: its place is kept, so the error is of second order.
    std::vector<double> at, count;
    auto const put = [&](double number, double share) {
      auto i = at.size();
      while (i > 0 && at[i - 1] > number) --i;  // at most one step back
      if (i > 0 && at[i - 1] == number) {
        count[i - 1] += share;
      } else {
        at.insert(at.begin() + static_cast<std::ptrdiff_t>(i), number);
        count.insert(count.begin() + static_cast<std::ptrdiff_t>(i), share);
      }
    };
    for (double const v : s.values) {
      double const place = (v - s.values.front()) / cell, number = std::floor(place);
      put(number, 1 - (place - number));
      put(number + 1, place - number);
    }
    pairs.resize(static_cast<std::size_t>(reach / cell) + 2);
    for (std::size_t i = 0; i < at.size(); ++i) {
      pairs[0] += 0.5 * count[i] * count[i];
      for (std::size_t j = i + 1; j < at.size() && at[j] - at[i] < static_cast<double>(pairs.size()); ++j)
        pairs[static_cast<std::size_t>(at[j] - at[i])] += count[i] * count[j];
    }
    pairs[0] -= 0.5 * n;  // of each value with itself, added below
    for (std::size_t k = 0; k < pairs.size(); ++k) distance.push_back(static_cast<double>(k) * cell);
  }
  // Estimates of the integrals of f''^2 and of -f'''^2, Sheather and Jones's S and T, diagonal terms included.
  auto const functional = [&](double g, int order) {
    double sum = 0;
    for (std::size_t k = 0; k < distance.size(); ++k) {
      double const u = distance[k] / g, v = u * u;
      if (v > 1500) continue;
      sum += pairs[k] * std::exp(-0.5 * v) * (order == 4 ? (v - 6) * v + 3 : ((v - 15) * v + 45) * v - 15);
    }
    return (2 * sum + n * (order == 4 ? 3 : -15)) * detail::inv_sqrt_2pi / (n * (n - 1) * std::pow(g, order + 1));
  };
  double const third = -functional(narrow, 6), second = functional(wide, 4);
  selected_bandwidth const fallback{detail::silverman(s), false};
  if (!(third > 0 && second > 0)) return fallback;
  double const alpha = std::pow(6 * std::numbers::sqrt2 * second / third, 1.0 / 7);
  auto const excess = [&](double h) {  // > 0: the equation asks for more
    double const roughness = functional(alpha * std::pow(h, 5.0 / 7), 4);
    return roughness > 0 ? std::pow(0.5 * std::numbers::inv_sqrtpi / (n * roughness), 0.2) - h : detail::infinity;
  };
  double high = 1.144 * scale * std::pow(n, -0.2), low = 0.1 * high;
  for (int i = 0; i < 30 && excess(high) > 0; ++i) high *= 1.1;
  for (int i = 0; i < 60 && excess(low) < 0; ++i) low *= 0.9;
  if (!(excess(low) > 0 && excess(high) <= 0)) return fallback;
  return {detail::bisect(low, high, excess), true};
}

/// The plug-in bandwidth of Botev, Grotowski and Kroese (ISJ), which assumes no normal law anywhere: for several bumps.
///
/// In     x [n].   Empty  NaN without spread.
/// Out    from the cosine transform of 2^14 counts over the range and a tenth of it at both sides.
/// Cost   O(n log n) and about 10 ms.
/// Source Botev, Grotowski, Kroese 2010, doi:10.1214/10-AOS799, algorithm 1 with l = 7; the number of distinct values
///        stands for n, as in the authors' program. Differs: Silverman's rule where the fixed point is not bracketed
///        below t = 0.1.
template <real_vector X>
selected_bandwidth improved_sheather_jones_bandwidth(X const& x) {
  auto const s = detail::spread_of(x);
  if (!s.usable()) return {};
  selected_bandwidth const fallback{detail::silverman(s), false};
  constexpr index_t cells = 1 << 14;
  double const margin = (s.values.back() - s.values.front()) / 10, low = s.values.front() - margin,
               high = s.values.back() + margin;
  if (!std::isfinite(high - low) ||
      !((high - low) / static_cast<double>(cells) > 0x1p-50 * std::max(std::abs(low), std::abs(high))))
    return fallback;
  histogram counts({.low = low, .high = high, .bins = cells});
  counts.update(s.values);
  std::vector<double> share;
  for (auto const c : counts.result().counts) share.push_back(static_cast<double>(c) / s.n);
  auto const transform = dct2(share);
  double distinct = 1;
  for (std::size_t i = 1; i < s.values.size(); ++i) distinct += s.values[i] != s.values[i - 1] ? 1 : 0;
  constexpr double pi = std::numbers::pi;
  // Squared L2 norm of the order-th derivative of the estimate at time t.
  auto const norm = [&](int order, double t) {
    double sum = 0;
    for (std::size_t k = 1; k < transform.size(); ++k) {
      double const square = static_cast<double>(k) * static_cast<double>(k), decay = square * pi * pi * t;
      if (decay > 740) break;
      sum += std::pow(square, order) * transform[k] * transform[k] / 4 * std::exp(-decay);
    }
    return 2 * std::pow(pi, 2 * order) * sum;
  };
  auto const excess = [&](double t) {
    double f = norm(7, t);
    for (int order = 6; order >= 2; --order) {
      double odd = 1;
      for (int i = 3; i < 2 * order; i += 2) odd *= i;
      double const constant = (1 + std::pow(0.5, order + 0.5)) / 3;
      f = norm(order, std::pow(2 * constant * odd * detail::inv_sqrt_2pi / (distinct * f), 2.0 / (3 + 2 * order)));
    }
    return t - std::pow(2 * distinct * std::sqrt(pi) * f, -0.4);
  };
  double const at_zero = excess(0);
  for (double t = 1e-11 + 0.01 * (std::clamp(distinct, 50.0, 1050.0) - 50) / 1000;; t *= 2) {
    t = std::min(t, 0.1);
    double const here = excess(t);
    if (std::isfinite(at_zero) && std::isfinite(here) && at_zero * here < 0)
      return {std::sqrt(detail::bisect(0, t, excess)) * (high - low), true};
    if (t == 0.1) return fallback;
  }
}

/// The bandwidth with the largest leave-one-out likelihood: sum of ln f_-i(x_i), f_-i the estimate from all values but
/// the i-th.
///
/// In     x [n]; any kernel. The result is that kernel's own bandwidth, not a gaussian one.
/// Empty  NaN without spread.
/// Out    converged is false, and the bandwidth Silverman's converted, where the likelihood is largest at the ends of
///        the search, Silverman's / 30 and * 6: so for values with ties, whose likelihood grows without bound as h
///        falls.
/// Cost   about 60 times estimate and pdf of n points.   Bias  one far value can oversmooth the whole estimate.
/// Source Habbema, Hermans, van den Broek 1974; Duin 1976, doi:10.1109/TC.1976.1674577. Differs: as given.
template <real_vector X>
selected_bandwidth likelihood_bandwidth(X const& x, kernel_kind kernel = kernel_kind::gaussian) {
  auto const s = detail::spread_of(x);
  if (!s.usable()) return {};
  auto const sample = kde_of(s.values);
  double const reference = convert_bandwidth(detail::silverman(s), kernel_kind::gaussian, kernel);
  auto const likelihood = [&](double log_h) {
    double const h = std::exp(log_h);
    auto const pdf = sample.estimate(kernel, h).pdf(s.values);
    return visit_kernel(kernel, [&](auto k) {
      double sum = 0;
      for (std::size_t i = 0; i < pdf.size(); ++i) {
        double const others = pdf[i] * s.n * h - k.pdf(0);
        if (others > 1e-4 * k.pdf(0)) {
          sum += std::log(others / ((s.n - 1) * h));
          continue;
        }
        // Hardly anything beside the value itself: the difference is rounding. Sum the neighbours outward, relative to
        // the nearest.
        double const left = i > 0 ? s.values[i] - s.values[i - 1] : detail::infinity;
        double const right = i + 1 < pdf.size() ? s.values[i + 1] - s.values[i] : detail::infinity;
        double const nearest = k.log_pdf(std::min(left, right) / h);
        if (nearest == -detail::infinity) return nearest;
        double total = 0;
        auto const add = [&](std::size_t j) {
          double const term = std::exp(k.log_pdf((s.values[j] - s.values[i]) / h) - nearest);
          total += term;
          return term * s.n > 1e-14 * total;
        };
        for (std::size_t j = i; j-- > 0 && add(j);) {
        }
        for (std::size_t j = i + 1; j < pdf.size() && add(j); ++j) {
        }
        sum += nearest + std::log(total / ((s.n - 1) * h));
      }
      return sum;
    });
  };
  constexpr int steps = 32;
  double const low = std::log(reference / 30), width = std::log(180.0) / steps;
  int best = 0;
  double highest = -detail::infinity;
  for (int i = 0; i <= steps; ++i)
    if (double const value = likelihood(low + i * width); value > highest) {
      highest = value;
      best = i;
    }
  if (best == 0 || best == steps) return {reference, false};
  // Golden section around the best step.
  constexpr double ratio = std::numbers::phi - 1;
  double a = low + (best - 1) * width, b = low + (best + 1) * width, c = b - ratio * (b - a), d = a + ratio * (b - a);
  double at_c = likelihood(c), at_d = likelihood(d);
  while (b - a > 1e-7) {
    if (at_c > at_d) {
      b = d;
      d = c;
      at_d = at_c;
      c = b - ratio * (b - a);
      at_c = likelihood(c);
    } else {
      a = c;
      c = d;
      at_c = at_d;
      d = a + ratio * (b - a);
      at_d = likelihood(d);
    }
  }
  return {std::exp((a + b) / 2), true};
}

}  // namespace moeroute

#endif

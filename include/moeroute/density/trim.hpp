// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_DENSITY_TRIM_HPP
#define MOEROUTE_DENSITY_TRIM_HPP

#include <moeroute/core/adapt.hpp>
#include <moeroute/core/error.hpp>
#include <moeroute/core/scalar.hpp>
#include <moeroute/density/kernel.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include <boost/math/quadrature/gauss.hpp>

namespace moeroute {

template <real_scalar T>
struct trimmed_logits {
  std::vector<T> values;       ///< [rows, kept], row by row, each ascending
  index_t rows = 0;            ///< of the logits, without those left out
  index_t kept = 0;            ///< E - 2a
  std::uint64_t nan_rows = 0;  ///< rows left out because they have a NaN
};

/// Logits without the `each_side` smallest and the `each_side` largest of every token: published as trimmed_{2
/// each_side}.
///
/// In     logits [T,E]; infinities are ranked, rows with a NaN are left out and counted.
/// Out    see trimmed_logits; the training sample of the published pipelines, which test all experts against it.
/// Cost   O(T E log E).
/// Throws argument_error if each_side < 0 or 2 each_side >= E.
/// Bias   it makes no null of "irrelevant experts": ranks within a token decide, both sides lose although one is
///        tested, and p-values of large logits collapse (0.01 to 0.0001). central_normal is the sound way.
/// Source AliABULIEL/MOE-with-feature-selection, trim_top_and_bottom_experts. Differs: each_side = 0 sorts rows too;
///        NaN.
template <real_matrix Logits>
trimmed_logits<matrix_value_t<Logits>> trim_experts(Logits const& logits, index_t each_side) {
  using T = matrix_value_t<Logits>;
  auto const m = detail::matrix_of(logits);
  if (each_side < 0 || 2 * each_side >= m.cols())
    detail::raise("moeroute::trim_experts: each_side = ", each_side, " of ", m.cols(),
                  " experts leaves none, or is negative");
  trimmed_logits<T> out;
  out.kept = m.cols() - 2 * each_side;
  std::vector<T> row(static_cast<std::size_t>(m.cols()));
  for (index_t r = 0; r < m.rows(); ++r) {
    bool broken = false;
    for (index_t e = 0; e < m.cols(); ++e) {
      row[static_cast<std::size_t>(e)] = m(r, e);
      broken = broken || std::isnan(to_compute(m(r, e)));
    }
    if (broken) {
      ++out.nan_rows;
      continue;
    }
    std::sort(row.begin(), row.end(), [](T a, T b) { return to_compute(a) < to_compute(b); });
    for (index_t e = each_side; e < m.cols() - each_side; ++e) out.values.push_back(row[static_cast<std::size_t>(e)]);
    ++out.rows;
  }
  return out;
}

/// What central_normal needs of a sample: sums, so that shards and documents can be added up and resampled.
struct central_sums {
  std::uint64_t total = 0;   ///< finite values
  std::uint64_t inside = 0;  ///< of them in [lower, upper]
  double sum = 0;            ///< of t = (x - centre) / half width, over the inside
  double squares = 0;        ///< of t^2
};

/// A normal law seen through a window, the rest of the sample being something else.
struct central_normal_result {
  double location = quiet_nan, scale = quiet_nan;
  double null_share =
      quiet_nan;  ///< pi0: the normal law's part of all values; above 1 where the centre is more peaked than normal
  double lower = quiet_nan, upper = quiet_nan;
  std::uint64_t total = 0, inside = 0;

  /// Natural logarithm of the upper tail of the fitted law at x.
  double log_p(double x) const noexcept { return gaussian_kernel::log_survival((x - location) / scale); }
};

namespace detail {

// Mean of (t, t^2) and their covariance (tt, tt2, t2t2) under a density exp(a t + b t^2) on [-1, 1], and the
// logarithm of its integral.
struct window_moments {
  double log_integral = 0, mean = 0, mean2 = 0, var = 0, cov = 0, var2 = 0;

  window_moments(double a, double b) {
    using rule = boost::math::quadrature::gauss<double, 30>;
    constexpr int panels = 64;
    double const peak = std::abs(b) > 0 ? std::clamp(-a / (2 * b), -1.0, 1.0) : 1.0;
    double const top = std::max({a + b, b - a, a * peak + b * peak * peak});
    std::array<double, 5> m{};
    for (int p = 0; p < panels; ++p)
      for (std::size_t i = 0; i < rule::abscissa().size(); ++i)
        for (double const side : {-1.0, 1.0}) {
          double const t = (2 * p + 1 + side * rule::abscissa()[i]) / panels - 1,
                       f = rule::weights()[i] * std::exp(t * (a + b * t) - top);
          double power = f;
          for (double& v : m) {
            v += power;
            power *= t;
          }
        }
    mean = m[1] / m[0];
    mean2 = m[2] / m[0];
    var = m[2] / m[0] - mean * mean;
    cov = m[3] / m[0] - mean * mean2;
    var2 = m[4] / m[0] - mean2 * mean2;
    log_integral = top + std::log(m[0] / panels);
  }
};

}  // namespace detail

/// Sums of a sample for the window [lower, upper].
///
/// In     x [n]; NaN and infinities do not count.
/// Throws argument_error unless lower < upper, both finite.
template <real_vector X>
central_sums central_sums_of(X const& x, double lower, double upper) {
  if (!(lower < upper) || std::isinf(lower) || std::isinf(upper))
    detail::raise("moeroute::central_sums_of: window from ", lower, " to ", upper);
  auto const view = detail::vector_of(x);
  double const centre = 0.5 * (lower + upper), half = 0.5 * (upper - lower);
  central_sums s;
  for (index_t i = 0; i < view.size(); ++i) {
    double const v = static_cast<double>(to_compute(view[i]));
    if (!std::isfinite(v)) continue;
    ++s.total;
    if (v < lower || v > upper) continue;
    double const t = (v - centre) / half;
    ++s.inside;
    s.sum += t;
    s.squares += t * t;
  }
  return s;
}

/// Maximum likelihood of a normal law truncated to [lower, upper]: an empirical null that does not ask for what lies
/// outside.
///
/// In     sums of the sample for this window; the window should hold the centre and none of what is tested for.
/// Out    see central_normal_result.
/// Empty  NaN where fewer than 3 values lie inside, they have no spread, or no normal law fits best: the density of
///        the window then curves upwards (a flat or hollow centre).
/// Cost   O(1): some ten Newton steps of 1,920 exponentials.
/// Throws argument_error unless lower < upper, both finite, and inside <= total.
/// Bias   of order 1/inside. The narrower the window, the larger the error: at +-1 sd the standard error of scale is
///        6.1 times, at +-2 sd 1.6 times that of an untruncated sample. What else lies in the window pulls; values of
///        one document are dependent: resample documents, adding their sums.
/// Source Efron 2007, doi:10.1214/009053606000001460 (empirical null by maximum likelihood on an interval). Differs:
///        solved as the exponential family that it is (Newton on a concave likelihood); the interval is the caller's.
inline central_normal_result central_normal(central_sums const& sums, double lower, double upper) {
  if (!(lower < upper) || std::isinf(lower) || std::isinf(upper) || sums.inside > sums.total)
    detail::raise("moeroute::central_normal: window from ", lower, " to ", upper, ", ", sums.inside, " of ", sums.total,
                  " values inside");
  central_normal_result r;
  r.lower = lower, r.upper = upper, r.total = sums.total, r.inside = sums.inside;
  if (sums.inside < 3) return r;
  double const n = static_cast<double>(sums.inside), mean = sums.sum / n, mean2 = sums.squares / n,
               variance = mean2 - mean * mean;
  if (!(variance > 1e-14)) return r;
  double a = mean / variance, b = -0.5 / variance;
  bool const whole = 1 - std::abs(mean) > 9 * std::sqrt(variance);  // the window cuts nothing off that could be seen
  auto at = detail::window_moments(whole ? 0 : a, whole ? 0 : b);
  for (int step = 0; !whole; ++step) {
    double const ga = mean - at.mean, gb = mean2 - at.mean2, det = at.var * at.var2 - at.cov * at.cov;
    double da = (at.var2 * ga - at.cov * gb) / det, db = (at.var * gb - at.cov * ga) / det;
    double const rise = da * ga + db * gb;  // twice what the likelihood per value can still gain
    if (!(rise > 1e-26) || step == 200) {
      if (!(rise < 1e-18)) return r;
      break;
    }
    double const now = a * mean + b * mean2 - at.log_integral;
    for (int halvings = 0; halvings < 60; ++halvings, da *= 0.5, db *= 0.5) {
      auto const next = detail::window_moments(a + da, b + db);
      if ((a + da) * mean + (b + db) * mean2 - next.log_integral >=
          now + 1e-4 * (da * ga + db * gb) - 1e-15 * (1 + std::abs(now))) {
        at = next;
        break;
      }
    }
    a += da;
    b += db;
  }
  if (!(b < 0)) return r;
  double const half = 0.5 * (upper - lower), scale = std::sqrt(-0.5 / b);
  r.location = 0.5 * (lower + upper) + half * a * scale * scale;
  r.scale = half * scale;
  double const from = (lower - r.location) / r.scale, to = (upper - r.location) / r.scale;
  double const mass = from > 0 ? gaussian_kernel::survival(from) - gaussian_kernel::survival(to)
                               : gaussian_kernel::cdf(to) - gaussian_kernel::cdf(from);
  r.null_share = n / static_cast<double>(sums.total) / mass;
  return r;
}

/// The same on a sample and the window that holds its central `share`, from the sample's quantiles.
///
/// Throws argument_error unless 0 < share < 1, or if the window is empty (fewer than two different values).
template <real_vector X>
central_normal_result central_normal(X const& x, double share = 0.8) {
  if (!(share > 0 && share < 1)) detail::raise("moeroute::central_normal: share = ", share, ", must be in (0, 1)");
  auto const view = detail::vector_of(x);
  std::vector<double> finite;
  for (index_t i = 0; i < view.size(); ++i)
    if (is_finite(view[i])) finite.push_back(static_cast<double>(to_compute(view[i])));
  if (finite.empty()) detail::raise("moeroute::central_normal: no finite values");
  std::sort(finite.begin(), finite.end());
  auto const at = [&](double q) {
    return finite[static_cast<std::size_t>(q * static_cast<double>(finite.size() - 1) + 0.5)];
  };
  double const lower = at(0.5 - share / 2), upper = at(0.5 + share / 2);
  return central_normal(central_sums_of(finite, lower, upper), lower, upper);
}

}  // namespace moeroute

#endif

// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_DENSITY_TAIL_HPP
#define MOEROUTE_DENSITY_TAIL_HPP

#include <moeroute/core/adapt.hpp>
#include <moeroute/core/error.hpp>
#include <moeroute/core/scalar.hpp>
#include <moeroute/density/cell_density.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numbers>
#include <vector>

#include <boost/math/special_functions/erf.hpp>

namespace moeroute {

/// Generalised Pareto law of what exceeds a threshold: survival (1 + shape y / scale)^(-1/shape), e^(-y/scale) for
/// shape 0.
struct generalised_pareto {
  double shape = quiet_nan, scale = quiet_nan;

  /// Natural logarithm of the survival function at y >= 0; -infinity from the endpoint on.
  double log_survival(double y) const noexcept {
    double const z = shape * y / scale;
    if (z <= -1) return -std::numeric_limits<double>::infinity();
    return std::abs(z) < 1e-8 ? -y / scale * (1 - z / 2) : -std::log1p(z) / shape;
  }
  double log_pdf(double y) const noexcept {
    double const z = shape * y / scale;
    if (z < -1 || (z == -1 && shape != -1)) return -std::numeric_limits<double>::infinity();
    return shape == -1 ? -std::log(scale) : log_survival(y) - std::log1p(z) - std::log(scale);
  }
  /// Largest possible excess: finite for a negative shape.
  double endpoint() const noexcept {
    return shape < 0 ? -scale / shape : shape >= 0 ? std::numeric_limits<double>::infinity() : quiet_nan;
  }
};

/// Maximum likelihood of a generalised Pareto law with shape >= -1 (below, the likelihood has no maximum).
///
/// In     excesses over a threshold: positive, finite.
/// Out    the law; {-1, largest} if the uniform law up to the largest excess is as likely as the best one inside.
/// Empty  NaN below 10 excesses or if all are equal.
/// Cost   O(n), some 300 passes.
/// Throws argument_error if an excess is not positive and finite.
/// Bias   of order 1/n, towards shorter tails. Values on a lattice (bf16) are no sample of a continuous law.
/// Source Grimshaw 1993, doi:10.1080/00401706.1993.10485040: one parameter, theta = shape/scale, since shape(theta) =
///        mean log(1 + theta y). Differs: a grid and bisection of the derivative instead of his search.
inline generalised_pareto fit_generalised_pareto(std::vector<double> const& excesses) {
  double const n = static_cast<double>(excesses.size());
  double mean = 0, mean2 = 0, mean3 = 0, largest = 0, smallest = std::numeric_limits<double>::infinity();
  for (double const y : excesses) {
    if (!(y > 0) || std::isinf(y))
      detail::raise("moeroute::fit_generalised_pareto: excess = ", y, ", must be positive and finite");
    largest = std::max(largest, y);
    smallest = std::min(smallest, y);
  }
  if (excesses.size() < 10 || smallest == largest) return {};
  // In units of the largest, so that theta is in (-1, infinity) whatever the scale.
  std::vector<double> y(excesses);
  for (double& v : y) {
    v /= largest;
    mean += v / n;
    mean2 += v * v / n;
    mean3 += v * v * v / n;
  }
  auto const shape_of = [&](double theta) {
    double sum = 0;
    for (double const v : y) sum += std::log1p(theta * v);
    return sum / n;
  };
  double const tiny = 1e-5;  // below, shape/theta and its logarithmic derivative come from their series, good to 1e-10
  auto const scale_of = [&](double theta, double shape) {
    return std::abs(theta) < tiny ? mean - theta * (mean2 / 2 - theta * mean3 / 3) : shape / theta;
  };
  auto const likelihood = [&](double theta) {
    double const shape = shape_of(theta);
    return -std::log(scale_of(theta, shape)) - shape - 1;
  };
  auto const slope = [&](double theta) {
    double d = 0;
    for (double const v : y) d += v / (1 + theta * v) / n;
    return std::abs(theta) < tiny ? (mean2 / 2 - 2 * theta * mean3 / 3) / (mean - theta * mean2 / 2) - d
                                  : 1 / theta - d / shape_of(theta) - d;
  };
  double low = 0, high = 1;  // 1 + theta where shape = -1, by bisection
  for (int i = 0; i < 100; ++i) (shape_of(0.5 * (low + high) - 1) < -1 ? low : high) = 0.5 * (low + high);
  double const first = high - 1;
  std::vector<double> grid;
  for (int i = 0; i < 24; ++i) grid.push_back(first * std::pow(1 - i / 24.0, 2));
  grid.push_back(0);
  for (double theta = 1e-3; theta < 1e15; theta *= 2.4) grid.push_back(theta);
  std::size_t best = 0;
  double best_value = -std::numeric_limits<double>::infinity();
  for (std::size_t i = 0; i < grid.size(); ++i)
    if (double const value = likelihood(grid[i]); value > best_value) best_value = value, best = i;
  double from = grid[best > 0 ? best - 1 : 0], to = grid[std::min(best + 1, grid.size() - 1)];
  for (int i = 0; i < 100 && from < to; ++i) {
    double const middle = 0.5 * (from + to);
    (slope(middle) > 0 ? from : to) = middle;
  }
  double const theta = 0.5 * (from + to), shape = shape_of(theta);
  if (!(likelihood(theta) > 0)) return {-1, largest};  // the uniform law has 0 here
  return {shape, scale_of(theta, shape) * largest};
}

struct pareto_tail_options {
  double level = 0.95;       ///< of the bounds of a p-value
  double design_effect = 1;  ///< variance of the sample over that of as many independent values; widens the bounds
};

struct pareto_tail_result {
  double threshold = quiet_nan;
  std::uint64_t total = 0;     ///< values of the sample
  std::uint64_t excesses = 0;  ///< of them above the threshold
  generalised_pareto law;
  double shape_se = quiet_nan, scale_se = quiet_nan;  ///< asymptotic; NaN for shape <= -1/2
  double endpoint = quiet_nan;                        ///< threshold + law.endpoint(): beyond it p is 0
};

/// The upper tail of a sample as a generalised Pareto law above a threshold: p-values beyond the data that have an
/// error.
///
/// In     excesses over the threshold; the threshold; number of values of the whole sample, those below the threshold
///        included.
/// Out    p(x) = excesses/total * survival(x - threshold) for x > threshold, else NaN, with bounds of the stated
///        level, not certain ones: the profile likelihood of (shape, scale) at `level`, added to a normal interval of
///        log(excesses/total). They are -inf below where a law that ends before x fits well enough.
/// Empty  NaN as fit_generalised_pareto.   Cost  O(excesses) with a factor of some 2,000 once, then O(1) per p-value.
/// Throws argument_error if excesses are more than total, an option is out of range (0 < level < 1, design_effect >=
///        1), or as above.
/// Bias   standard errors are too small in small samples: by 12 % for 100 excesses of shape 0.1, by 17 % for 200 of
///        shape -0.2; the bounds are not. The threshold must be so high that the law holds; compare thresholds.
///        Tokens of a document come in clusters: give design_effect. -x for the lower tail.
/// Source Pickands 1975, doi:10.1214/aos/1176343003; standard errors Smith 1987, doi:10.1214/aos/1176350499; sum of
///        the intervals Zou, Donner 2008, Statistics in Medicine 27:1693. Differs: the profile interval is read off
///        the edge of the likelihood region.
class pareto_tail {
 public:
  pareto_tail(std::vector<double> const& excesses, double threshold, std::uint64_t total,
              pareto_tail_options options = {}) {
    if (excesses.size() > total || std::isnan(threshold) || !(options.level > 0 && options.level < 1) ||
        !(options.design_effect >= 1) || std::isinf(options.design_effect))
      detail::raise("moeroute::pareto_tail: ", excesses.size(), " excesses of ", total, " values over ", threshold,
                    ", level = ", options.level, ", design_effect = ", options.design_effect);
    auto& r = result_;
    r.threshold = threshold, r.total = total, r.excesses = excesses.size();
    r.law = fit_generalised_pareto(excesses);
    if (std::isnan(r.law.shape)) return;
    r.endpoint = threshold + r.law.endpoint();
    largest_ = threshold + *std::max_element(excesses.begin(), excesses.end());
    double const k = static_cast<double>(excesses.size()), shape = r.law.shape, design = options.design_effect;
    if (shape > -0.5) {
      r.shape_se = (1 + shape) * std::sqrt(design / k);
      r.scale_se = r.law.scale * std::sqrt(2 * (1 + shape) * design / k);
    }
    double const z = std::numbers::sqrt2 * boost::math::erf_inv(options.level);
    share_half_width_ = z * std::sqrt(design * (1 - k / static_cast<double>(total)) / k);
    find_region(excesses, 0.5 * z * z * design);
  }

  pareto_tail_result const& result() const noexcept { return result_; }

  log_p_enclosure p_value(double x) const {
    log_p_enclosure p;
    auto const& r = result_;
    if (!(x > r.threshold) || std::isnan(r.law.shape)) return p;
    double const y = x - r.threshold, share = std::log(static_cast<double>(r.excesses) / static_cast<double>(r.total));
    double const beyond = r.law.log_survival(y);
    double lo = beyond, hi = beyond;
    for (auto const& law : region_) {
      lo = std::min(lo, law.log_survival(y));
      hi = std::max(hi, law.log_survival(y));
    }
    p.extrapolated = x > largest_;
    p.log_p = share + beyond;
    // Where the law itself ends before x its interval still has an upper end.
    p.log_p_lo = std::isinf(lo) ? lo : p.log_p - std::hypot(beyond - lo, share_half_width_);
    p.log_p_hi = std::min(0.0, std::isinf(beyond) ? share + hi + share_half_width_
                                                  : p.log_p + std::hypot(hi - beyond, share_half_width_));
    return p;
  }

 private:
  // Laws on the edge of {log likelihood >= maximum - drop}, along rays from the maximum.
  void find_region(std::vector<double> const& excesses, double drop) {
    auto const likelihood = [&](generalised_pareto const& law) {
      if (law.shape < -1 || !(law.scale > 0)) return -std::numeric_limits<double>::infinity();
      double sum = 0;
      for (double const y : excesses) sum += law.log_pdf(y);
      return sum;
    };
    auto const& top = result_.law;
    double const least = likelihood(top) - drop, unit = std::sqrt(2 * drop / static_cast<double>(excesses.size()));
    constexpr int rays = 120;
    for (int i = 0; i < rays; ++i) {
      double const angle = 2 * std::numbers::pi * i / rays;
      auto const at = [&](double radius) {
        return generalised_pareto{top.shape + radius * unit * std::cos(angle),
                                  top.scale * std::exp(radius * unit * std::sin(angle))};
      };
      double inside = 0, outside = 1;
      while (outside < 1e6 && likelihood(at(outside)) >= least) inside = outside, outside *= 2;
      for (int j = 0; j < 14; ++j) {  // to 1e-4 of the width
        double const middle = 0.5 * (inside + outside);
        (likelihood(at(middle)) >= least ? inside : outside) = middle;
      }
      region_.push_back(at(inside));
    }
  }

  pareto_tail_result result_;
  std::vector<generalised_pareto> region_;
  double largest_ = quiet_nan, share_half_width_ = quiet_nan;
};

/// The tail of a sample above its own quantile.
///
/// In     x [n]; quantile q in (0, 1): the threshold is the value at place floor(q n), from 0, in ascending order;
///        ties with it are no excesses. NaN and infinities are left out.
/// Throws argument_error if q is not in (0, 1) or no value is finite.
template <real_vector X>
pareto_tail pareto_tail_above(X const& x, double q, pareto_tail_options options = {}) {
  if (!(q > 0 && q < 1)) detail::raise("moeroute::pareto_tail_above: quantile = ", q, ", must be in (0, 1)");
  auto const view = detail::vector_of(x);
  std::vector<double> values;
  for (index_t i = 0; i < view.size(); ++i)
    if (is_finite(view[i])) values.push_back(static_cast<double>(to_compute(view[i])));
  if (values.empty()) detail::raise("moeroute::pareto_tail_above: no finite values");
  auto const rank = std::min(values.size() - 1, static_cast<std::size_t>(q * static_cast<double>(values.size())));
  auto const place = values.begin() + static_cast<index_t>(rank);
  std::nth_element(values.begin(), place, values.end());
  double const threshold = *place;
  std::vector<double> excesses;
  for (double const v : values)
    if (v > threshold) excesses.push_back(v - threshold);
  return {excesses, threshold, values.size(), options};
}

}  // namespace moeroute

#endif

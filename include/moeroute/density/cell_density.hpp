// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_DENSITY_CELL_DENSITY_HPP
#define MOEROUTE_DENSITY_CELL_DENSITY_HPP

#include <moeroute/core/error.hpp>
#include <moeroute/core/scalar.hpp>
#include <moeroute/density/kernel.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

namespace moeroute {

/// `count` values known to lie in [lo, hi], with a mean known to lie in [mean_lo, mean_hi]. All four are equal where
/// the value itself is known.
struct density_cell {
  double lo = 0, hi = 0, mean_lo = 0, mean_hi = 0;
  std::uint64_t count = 0;
};

/// A number and what it is certain to lie between.
struct enclosure {
  double value = quiet_nan, lo = quiet_nan, hi = quiet_nan;
};

/// A p-value as its natural logarithm, which does not underflow, and what it is certain to lie between.
struct log_p_enclosure {
  double log_p = quiet_nan, log_p_lo = quiet_nan, log_p_hi = quiet_nan;
  bool extrapolated = false;  ///< no value lies at y or beyond: the size of p is the kernel's, no evidence of the data
};

/// The tail that a p-value adds up: values as large as y or larger, or as small or smaller.
enum class tail_side { upper, lower };

namespace detail {

// Sum with the rounding errors added up beside it (Neumaier): one final rounding, whatever the number of terms.
struct careful_sum {
  double sum = 0, rest = 0;
  void add(double x) noexcept {
    double const t = sum + x;
    rest += std::abs(sum) >= std::abs(x) ? (sum - t) + x : (x - t) + sum;
    sum = t;
  }
  double value() const noexcept { return sum + rest; }
};

// |u| where K changes between convex and concave, other than 0; edges of the support and jumps among them.
template <class K>
constexpr double kernel_bend(int i) {
  if constexpr (K::kind == kernel_kind::gaussian) return i == 0 ? 1 : infinity;
  if constexpr (K::kind == kernel_kind::logistic) return i == 0 ? 1.3169578969248166 : infinity;  // ln(2 + sqrt 3)
  if constexpr (K::kind == kernel_kind::biweight) return i == 0 ? 0.57735026918962584 : 1;        // 1 / sqrt 3
  if constexpr (K::kind == kernel_kind::triweight) return i == 0 ? 0.44721359549995793 : 1;       // 1 / sqrt 5
  return i == 0 ? K::support : infinity;
}

}  // namespace detail

/// Kernel density estimate of a sample that is known by cells only; every number comes with certain bounds.
///
/// The estimate is that of the sample itself, sum K((y - x_i)/h) / (n h), not of the cells. Where K (for CDF and
/// survival their integral) is convex or concave over a cell, its mean over the values of the cell lies between its
/// value at their mean (Jensen) and its chord at their mean; elsewhere it lies between its smallest and largest value
/// in the cell. Both gaps shrink with the square of the width of the cells, for tophat's pdf with the width.
/// In     cells that hold the sample; kernel; bandwidth h > 0, finite, as kernel.hpp scales it.
/// Out    {value, lo, hi}, lo <= estimate <= hi up to underflow; rounding is included, except that u = (y - x)/h as
///        rounded decides on which side of an edge of tophat a value falls. value is the sum with every value at its
///        cell's mean.
/// Empty  NaN.   Cost  O(cells) per call, some 30 ns per cell within reach.
/// Throws argument_error if h is not positive and finite, a cell is not in order, or the kernel is unknown. y = NaN
///        gives NaN.
/// Source ours: Jensen's inequality, and the chord that lies above a convex function.
class cell_density {
 public:
  cell_density(std::vector<density_cell> cells, kernel_kind kernel, double bandwidth)
      : cells_{std::move(cells)}, kernel_{kernel}, h_{bandwidth} {
    visit_kernel(kernel, [](auto) {});
    if (!(h_ > 0) || std::isinf(h_))
      detail::raise("moeroute::cell_density: bandwidth = ", h_, ", must be positive and finite");
    std::erase_if(cells_, [](density_cell const& c) { return c.count == 0; });
    for (auto const& c : cells_) {
      if (!(c.lo <= c.mean_lo && c.mean_lo <= c.mean_hi && c.mean_hi <= c.hi) || std::isinf(c.lo) || std::isinf(c.hi))
        detail::raise("moeroute::cell_density: cell [", c.lo, ", ", c.hi, "] with mean in [", c.mean_lo, ", ",
                      c.mean_hi, "]");
      n_ += c.count;
      smallest_ = std::min(smallest_, c.lo);
      largest_ = std::max(largest_, c.hi);
    }
  }

  enclosure pdf(double y) const {
    return visit_kernel(kernel_, [&](auto k) {
      using K = decltype(k);
      auto e = sum<K>(y, 1, false, [](double u) { return K::pdf(u); });
      for (double* v : {&e.value, &e.lo, &e.hi}) *v /= h_;
      return e;
    });
  }
  enclosure cdf(double y) const { return one_sided(y, -1); }
  /// 1 - cdf, formed without that difference.
  enclosure survival(double y) const { return one_sided(y, 1); }

  /// log survival(y), or log cdf(y) for the lower tail.
  log_p_enclosure p_value(double y, tail_side side = tail_side::upper) const {
    log_p_enclosure p;
    if (n_ == 0 || std::isnan(y)) return p;
    double const sign = side == tail_side::upper ? 1 : -1, last = side == tail_side::upper ? largest_ : -smallest_;
    p.extrapolated = sign * y > last;
    visit_kernel(kernel_, [&](auto k) {
      using K = decltype(k);
      // Every term relative to the one of the outermost value, so that none underflows that counts.
      double const scale = K::support < detail::infinity ? 0 : K::log_survival((sign * y - last) / h_);
      if (std::isinf(scale)) {
        p.log_p = p.log_p_lo = p.log_p_hi = scale;
        return;
      }
      auto const e = sum<K>(y, sign, true, [scale](double u) {
        return K::support < detail::infinity ? K::survival(u) : std::exp(K::log_survival(u) - scale);
      });
      double const rounding = 4 * unit * (1 + std::abs(scale));
      p.log_p = std::min(0.0, scale + std::log(e.value));
      p.log_p_lo = std::min(p.log_p, scale + std::log(e.lo) - rounding);
      p.log_p_hi = std::min(0.0, std::max(p.log_p, scale + std::log(e.hi) + rounding));
    });
    return p;
  }

  std::vector<density_cell> const& cells() const noexcept { return cells_; }
  std::uint64_t count() const noexcept { return n_; }
  kernel_kind kernel() const noexcept { return kernel_; }
  double bandwidth() const noexcept { return h_; }

 private:
  static constexpr double unit = std::numeric_limits<double>::epsilon();

  enclosure one_sided(double y, double sign) const {
    return visit_kernel(kernel_, [&](auto k) {
      using K = decltype(k);
      auto e = sum<K>(y, sign, true, [](double u) { return K::survival(u); });
      e.value = std::min(e.value, 1.0);
      e.hi = std::min(e.hi, 1.0);
      return e;
    });
  }

  // (1/n) sum over the values of g(sign (y - x)/h). A falling g bends at 0 alone, K at kernel_bend as well.
  template <class K, class G>
  enclosure sum(double y, double sign, bool falling, G const& g) const {
    if (n_ == 0 || std::isnan(y)) return {};
    detail::careful_sum value, lo, hi;
    for (auto const& c : cells_) {
      double const a = sign * (y - c.lo) / h_, b = sign * (y - c.hi) / h_, near = std::min(a, b), far = std::max(a, b);
      // Out of reach: a compact kernel, or a term that is 0 to the last denormal number.
      if (near >= K::support || (!falling && far <= -K::support)) continue;
      double const count = static_cast<double>(c.count), ga = g(a);
      double low = ga, high = ga, middle = ga;
      if (c.lo < c.hi) {
        double const gb = g(b), m = sign * (y - c.mean_lo) / h_, m2 = sign * (y - c.mean_hi) / h_, gm = g(m);
        double const gm2 = c.mean_lo < c.mean_hi ? g(m2) : gm;
        auto const inside = [&](double bend) { return near < bend && bend < far; };
        bool bends = inside(0);
        if (!falling)
          for (int i = 0; i < 2; ++i) {
            double const bend = detail::kernel_bend<K>(i);
            bends = bends || inside(bend) || inside(-bend);
          }
        middle = 0.5 * (gm + gm2);
        if (bends) {
          low = std::min(ga, gb);
          high = !falling && inside(0) ? g(0) : std::max(ga, gb);
        } else {
          auto const chord = [&](double mean) { return ga + (gb - ga) * ((mean - c.lo) / (c.hi - c.lo)); };
          auto const [smallest, largest] = std::minmax({gm, gm2, chord(c.mean_lo), chord(c.mean_hi)});
          low = smallest;
          high = largest;
        }
      }
      // u is off by 2.5 units at most; what that does to g goes by its slope, |g'| <= (1 + |u|) g for unbounded
      // supports.
      double slack = 8 * high;
      if constexpr (K::support < detail::infinity) {
        double const inner = near < 0 && far > 0 ? 0.0 : std::min(std::abs(near), std::abs(far));
        slack += 4 * (falling ? K::pdf(std::max(0.0, inner - 8 * unit)) : std::min(K::max_slope, 8.0));
      } else {
        double const u = falling ? std::max(0.0, far) : std::max(std::abs(near), std::abs(far));
        slack += 4 * u * u * high;
      }
      slack *= unit;
      value.add(count * std::clamp(middle, low, high));
      lo.add(count * std::max(0.0, low - slack));
      hi.add(count * (high + slack));
    }
    double const n = static_cast<double>(n_);
    return {value.value() / n, lo.value() / n * (1 - 4 * unit), hi.value() / n * (1 + 4 * unit)};
  }

  std::vector<density_cell> cells_;
  kernel_kind kernel_;
  double h_;
  std::uint64_t n_ = 0;
  double smallest_ = std::numeric_limits<double>::infinity(), largest_ = -std::numeric_limits<double>::infinity();
};

}  // namespace moeroute

#endif

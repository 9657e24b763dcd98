// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_DENSITY_DETAIL_KERNEL_DENSITY_HPP
#define MOEROUTE_DENSITY_DETAIL_KERNEL_DENSITY_HPP

#include <moeroute/core/adapt.hpp>
#include <moeroute/core/error.hpp>
#include <moeroute/core/parallel.hpp>
#include <moeroute/density/cell_density.hpp>
#include <moeroute/density/detail/kde_analytic.hpp>
#include <moeroute/density/detail/kde_compact.hpp>
#include <moeroute/density/detail/kde_exponential.hpp>
#include <moeroute/density/kernel.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

namespace moeroute {

/// Where the values can lie; a density that would leak over a bound is reflected there.
struct density_bounds {
  double lower = -detail::infinity;
  double upper = detail::infinity;
};

/// A kernel density estimate with one kernel and one bandwidth, ready for any number of queries; see kde.
///
/// In     points [m] in any order, NaN gives NaN; threads 0 means all, and the bits do not depend on it.
/// Out    as many doubles. pdf and log_pdf; cdf and survival, each summed on its smaller side and never as 1 - p of a
///        small p; log_cdf and log_survival stay finite where p underflows.
/// Bounds gaussian, logistic, exponential: relative error of pdf <= 1e-12 against the direct sum at any y, |error| of
///        log survival and log cdf <= 2e-12 down to p = 1e-300. Compact kernels: error <= 1e-13 of the peak, pdf
///        exactly 0 unless |y - x| < h for some x. docs/statistics/kernel-density.md derives them.
/// Empty  a density of no values gives NaN.
/// Cost   per query, n = 1e5: 30 to 100 ns for values in order; sorting the points is O(m log m). A gaussian query more
///        than 8 h from every value sums the values near the edge one by one.
class kernel_density {
 public:
  kernel_kind kernel() const noexcept { return kernel_; }
  double bandwidth() const noexcept { return h_; }

  template <real_vector Points>
  std::vector<double> pdf(Points const& points, int threads = 1) const {
    return pdf_of(copy(points), threads);
  }
  template <real_vector Points>
  std::vector<double> log_pdf(Points const& points, int threads = 1) const {
    return log_pdf_of(copy(points), threads);
  }
  template <real_vector Points>
  std::vector<double> cdf(Points const& points, int threads = 1) const {
    return mass_of(copy(points), false, threads);
  }
  template <real_vector Points>
  std::vector<double> survival(Points const& points, int threads = 1) const {
    return mass_of(copy(points), true, threads);
  }
  template <real_vector Points>
  std::vector<double> log_cdf(Points const& points, int threads = 1) const {
    return log_mass_of(copy(points), false, threads);
  }
  template <real_vector Points>
  std::vector<double> log_survival(Points const& points, int threads = 1) const {
    return log_mass_of(copy(points), true, threads);
  }
  /// log_survival, or log_cdf for the lower tail, as p-values: with the bounds above, and a flag beyond the data.
  ///
  /// There the size of p is the kernel's: 1e-300 says "37 bandwidths beyond the largest value", and no more.
  template <real_vector Points>
  std::vector<log_p_enclosure> p_values(Points const& points, tail_side side = tail_side::upper,
                                        int threads = 1) const {
    return p_values_of(copy(points), side, threads);
  }
  log_p_enclosure p_value(double y, tail_side side = tail_side::upper) const { return p_values_of({y}, side, 1)[0]; }
  /// The smallest y with cdf(y) >= p, to 1e-15 of |y| + h or, where the density is tiny, to 1e-15 of p.
  ///
  /// In     p in [0,1]; 0 and 1 give the ends of the support.
  /// Throws argument_error for any other p.
  template <real_vector Probabilities>
  std::vector<double> quantile(Probabilities const& p, int threads = 1) const {
    return quantile_of(copy(p), threads);
  }

  double pdf(double y) const { return pdf_of({y}, 1)[0]; }
  double log_pdf(double y) const { return log_pdf_of({y}, 1)[0]; }
  double cdf(double y) const { return mass_of({y}, false, 1)[0]; }
  double survival(double y) const { return mass_of({y}, true, 1)[0]; }
  double log_cdf(double y) const { return log_mass_of({y}, false, 1)[0]; }
  double log_survival(double y) const { return log_mass_of({y}, true, 1)[0]; }
  double quantile(double p) const { return quantile_of({p}, 1)[0]; }

 private:
  friend class kde;
  kernel_density(kernel_kind kernel, double h, density_bounds bounds, detail::kde_sample const& sample)
      : kernel_{kernel}, h_{h}, bounds_{bounds}, low_{sample.low}, high_{sample.high} {
    if (sample.values.empty()) return;
    visit_kernel(kernel, [&](auto k) {
      using K = decltype(k);
      if constexpr (std::is_same_v<K, gaussian_kernel>)
        sums_.emplace<detail::analytic_sums<detail::gaussian_expansion>>(sample, h);
      else if constexpr (std::is_same_v<K, logistic_kernel>)
        sums_.emplace<detail::analytic_sums<detail::logistic_expansion>>(sample, h);
      else if constexpr (std::is_same_v<K, exponential_kernel>)
        sums_.emplace<detail::exponential_sums>(sample, h);
      else
        sums_.emplace<detail::compact_sums<K>>(sample, h);
    });
  }

  template <class Points>
  static std::vector<double> copy(Points const& points) {
    auto const view = detail::vector_of(points);
    std::vector<double> out(static_cast<std::size_t>(view.size()));
    for (index_t i = 0; i < view.size(); ++i)
      out[static_cast<std::size_t>(i)] = static_cast<double>(to_compute(view[i]));
    return out;
  }

  // out[i] = finish(value, scale, upper, total) at points[i]; the sums see the finite points in order, in blocks that
  // do not depend on the number of threads.
  template <bool Tails, class Finish>
  std::vector<double> map(std::vector<double> const& points, int threads, Finish const& finish) const {
    std::vector<double> out(points.size(), quiet_nan);
    if (std::holds_alternative<std::monostate>(sums_)) return out;
    std::vector<double> y;
    std::vector<std::size_t> order;
    bool const ready = std::is_sorted(points.begin(), points.end()) &&
                       std::all_of(points.begin(), points.end(), [](double x) { return std::isfinite(x); });
    if (!ready) {
      for (std::size_t i = 0; i < points.size(); ++i)
        if (std::isfinite(points[i])) order.push_back(i);
      std::sort(order.begin(), order.end(),
                [&](std::size_t a, std::size_t b) { return std::pair(points[a], a) < std::pair(points[b], b); });
      y.reserve(order.size());
      for (auto const i : order) y.push_back(points[i]);
    }
    std::vector<double> const& sorted = ready ? points : y;
    auto const place = [&](std::size_t j) { return ready ? j : order[j]; };
    constexpr std::size_t block = 1024;
    std::visit(
        [&](auto const& sums) {
          if constexpr (!std::is_same_v<std::decay_t<decltype(sums)>, std::monostate>) {
            parallel_for(static_cast<index_t>((sorted.size() + block - 1) / block), threads, [&](index_t part) {
              std::size_t const first = static_cast<std::size_t>(part) * block,
                                n = std::min(block, sorted.size() - first);
              double value[block], scale[block];
              std::uint8_t upper[block] = {};
              detail::kde_queries const queries{std::span(sorted).subspan(first, n), value, scale, upper};
              if constexpr (Tails)
                sums.tails(queries);
              else
                sums.density(queries);
              for (std::size_t i = 0; i < n; ++i)
                out[place(first + i)] = finish(value[i], scale[i], upper[i] != 0, sums.boxes().total);
            });
            for (std::size_t i = 0; i < points.size(); ++i)
              if (std::isinf(points[i])) out[i] = finish(0.0, 0.0, points[i] > 0, sums.boxes().total);
          }
        },
        sums_);
    return out;
  }

  bool bounded() const noexcept { return bounds_.lower > -detail::infinity || bounds_.upper < detail::infinity; }
  bool inside(double y) const noexcept { return y >= bounds_.lower && y <= bounds_.upper; }
  // Points mirrored at a bound; infinity where there is none adds nothing.
  static std::vector<double> mirrored(std::vector<double> points, double bound) {
    for (auto& y : points) y = std::isnan(y) ? y : std::isinf(bound) ? bound : 2 * bound - y;
    return points;
  }

  std::vector<double> free_pdf(std::vector<double> const& points, int threads) const {
    return map<false>(points, threads, [h = h_](double value, double scale, bool, double total) {
      return (scale == 0 ? value : value * std::exp(-scale)) / (total * h);
    });
  }
  std::vector<double> free_log_pdf(std::vector<double> const& points, int threads) const {
    return map<false>(points, threads, [h = h_](double value, double scale, bool, double total) {
      return scale == detail::infinity ? -scale : std::log(value / total) - std::log(h) - scale;
    });
  }
  std::vector<double> free_mass(std::vector<double> const& points, bool above, int threads) const {
    return map<true>(points, threads, [above](double value, double scale, bool upper, double total) {
      double const p = std::min(1.0, (scale == 0 ? value : value * std::exp(-scale)) / total);
      return above == upper ? p : 1 - p;
    });
  }
  std::vector<double> free_log_mass(std::vector<double> const& points, bool above, int threads) const {
    return map<true>(points, threads, [above](double value, double scale, bool upper, double total) {
      double const share = std::min(1.0, value / total);
      if (above != upper) return std::log1p(-share * std::exp(-scale));
      return scale == detail::infinity ? -scale : std::log(share) - scale;
    });
  }

  std::vector<double> pdf_of(std::vector<double> const& points, int threads) const {
    auto out = free_pdf(points, threads);
    if (!bounded()) return out;
    for (double const bound : {bounds_.lower, bounds_.upper}) {
      auto const image = free_pdf(mirrored(points, bound), threads);
      for (std::size_t i = 0; i < out.size(); ++i) out[i] += image[i];
    }
    for (std::size_t i = 0; i < out.size(); ++i)
      if (!std::isnan(out[i]) && !inside(points[i])) out[i] = 0;
    return out;
  }
  std::vector<double> log_pdf_of(std::vector<double> const& points, int threads) const {
    auto out = free_log_pdf(points, threads);
    if (!bounded()) return out;
    for (double const bound : {bounds_.lower, bounds_.upper}) {
      auto const image = free_log_pdf(mirrored(points, bound), threads);
      for (std::size_t i = 0; i < out.size(); ++i) {
        double const large = std::max(out[i], image[i]), small = std::min(out[i], image[i]);
        if (small > -detail::infinity)
          out[i] = large + std::log1p(std::exp(small - large));
        else if (!std::isnan(out[i]))
          out[i] = large;
      }
    }
    for (std::size_t i = 0; i < out.size(); ++i)
      if (!std::isnan(out[i]) && !inside(points[i])) out[i] = -detail::infinity;
    return out;
  }
  std::vector<double> mass_of(std::vector<double> points, bool above, int threads) const {
    if (!bounded()) return free_mass(points, above, threads);
    double const a = bounds_.lower, b = bounds_.upper;
    for (auto& y : points) y = std::isnan(y) ? y : std::clamp(y, a, b);
    // Below y: F(y) - F(2a - y) + S(2b - y) - S(2b - a); above y the same seen from the other end.
    double const near = above ? b : a, far = above ? a : b;
    auto out = free_mass(points, above, threads);
    auto const mirror = free_mass(mirrored(points, near), above, threads);
    auto const other = free_mass(mirrored(points, far), !above, threads);
    double const rest = std::isinf(near) || std::isinf(far) ? 0.0 : free_mass({2 * far - near}, !above, 1)[0];
    for (std::size_t i = 0; i < out.size(); ++i)
      out[i] = std::max((out[i] - (std::isinf(near) ? 0.0 : mirror[i])) + ((std::isinf(far) ? 0.0 : other[i]) - rest),
                        0.0);  // NaN stays
    return out;
  }
  std::vector<double> log_mass_of(std::vector<double> const& points, bool above, int threads) const {
    if (!bounded()) return free_log_mass(points, above, threads);
    auto out = mass_of(points, above, threads);
    for (auto& p : out) p = std::log(p);
    return out;
  }

  std::vector<log_p_enclosure> p_values_of(std::vector<double> const& points, tail_side side, int threads) const {
    bool const upper = side == tail_side::upper;
    auto const log_p = log_mass_of(points, upper, threads);
    bool const compact = visit_kernel(kernel_, [](auto k) { return k.support < detail::infinity; });
    std::vector<log_p_enclosure> out(points.size());
    for (std::size_t i = 0; i < out.size(); ++i) {
      auto& p = out[i];
      p.log_p = p.log_p_lo = p.log_p_hi = log_p[i];
      p.extrapolated = !std::isnan(p.log_p) && (upper ? points[i] > high_ : points[i] < low_);
      if (!std::isfinite(p.log_p)) continue;
      if (compact || bounded()) {  // a mass is certain to 1e-13 or 2e-12 of all, a reflected one is the sum of four
        double const mass = std::exp(p.log_p), error = 4 * (compact ? 1e-13 : 2e-12);
        p.log_p_lo = std::log(std::max(0.0, mass - error));
        p.log_p_hi = std::min(0.0, std::log(mass + error));
      } else {  // 2e-12 down to 1e-300, in proportion below
        double const error = 2e-12 * std::max(1.0, -p.log_p / 690);
        p.log_p_lo -= error;
        p.log_p_hi = std::min(0.0, p.log_p_hi + error);
      }
    }
    return out;
  }

  std::vector<double> quantile_of(std::vector<double> const& p, int threads) const;

  using sums_type = std::variant<std::monostate, detail::analytic_sums<detail::gaussian_expansion>,
                                 detail::analytic_sums<detail::logistic_expansion>, detail::exponential_sums,
                                 detail::compact_sums<epanechnikov_kernel>, detail::compact_sums<tophat_kernel>,
                                 detail::compact_sums<triangular_kernel>, detail::compact_sums<biweight_kernel>,
                                 detail::compact_sums<triweight_kernel>, detail::compact_sums<cosine_kernel>>;
  kernel_kind kernel_;
  double h_;
  density_bounds bounds_;
  double low_, high_;  // of the sample
  sums_type sums_;
};

inline std::vector<double> kernel_density::quantile_of(std::vector<double> const& p, int threads) const {
  for (double const v : p)
    if (!(v >= 0 && v <= 1)) detail::raise("moeroute::kernel_density::quantile: p = ", v, ", must be in [0,1]");
  std::vector<double> out(p.size(), quiet_nan);
  if (std::holds_alternative<std::monostate>(sums_)) return out;
  // At `reach` from the sample even the smallest positive double is passed.
  double const support = visit_kernel(kernel_, [](auto k) { return k.support; });
  double const reach = (support < detail::infinity ? support : kernel_ == kernel_kind::gaussian ? 40.0 : 760.0) * h_;
  double const first = std::max(bounds_.lower, low_ - reach), last = std::min(bounds_.upper, high_ + reach);
  struct search {
    std::size_t index;
    double low, high, y;
  };
  std::vector<search> open;
  for (std::size_t i = 0; i < p.size(); ++i) {
    if (p[i] == 0 || p[i] == 1)
      out[i] = p[i] == 0 ? std::max(bounds_.lower, low_ - support * h_) : std::min(bounds_.upper, high_ + support * h_);
    else
      open.push_back({i, first, last, first + (last - first) / 2});
  }
  // Newton on the logarithm of the smaller tail, kept inside a bracket; every third step halves the bracket.
  for (int round = 0; !open.empty() && round < 3000; ++round) {
    std::vector<double> y;
    for (auto const& s : open) y.push_back(s.y);
    auto const below = log_mass_of(y, false, threads), above = log_mass_of(y, true, threads),
               density = log_pdf_of(y, threads);
    std::vector<search> rest;
    for (std::size_t i = 0; i < open.size(); ++i) {
      auto s = open[i];
      double const target = p[s.index];
      bool const lower = target <= 0.5;
      // > 0: the cdf is above the target.
      double const excess = lower ? below[i] - std::log(target) : std::log1p(-target) - above[i];
      (excess >= 0 ? s.high : s.low) = s.y;
      double const slope = std::exp(density[i] - (lower ? below[i] : above[i])), newton = s.y - excess / slope;
      double const fine = 4e-16 * (std::abs(s.y) + h_);
      if (s.high - s.low <= fine || (std::abs(newton - s.y) <= fine && newton >= s.low && newton <= s.high)) {
        out[s.index] = s.high - s.low <= fine ? s.high : newton;
        continue;
      }
      double const half = s.low + (s.high - s.low) / 2;
      s.y = round % 3 != 2 && newton > s.low && newton < s.high ? newton : half;
      if (s.y == s.low || s.y == s.high)
        out[s.index] = s.high;
      else
        rest.push_back(s);
    }
    open = std::move(rest);
  }
  for (auto const& s : open) out[s.index] = s.high;
  return out;
}

}  // namespace moeroute

#endif

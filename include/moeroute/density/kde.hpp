// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_DENSITY_KDE_HPP
#define MOEROUTE_DENSITY_KDE_HPP

#include <moeroute/core/accumulator.hpp>
#include <moeroute/core/adapt.hpp>
#include <moeroute/core/bytes.hpp>
#include <moeroute/core/error.hpp>
#include <moeroute/density/detail/kernel_density.hpp>
#include <moeroute/density/kernel.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace moeroute {

struct kde_options {
  friend bool operator==(kde_options const&, kde_options const&) = default;
};

struct kde_result {
  std::uint64_t count = 0;       ///< values kept
  std::uint64_t nonfinite = 0;   ///< NaN and infinite values, left out
  std::uint64_t weightless = 0;  ///< finite values of weight 0, left out
  double weight = 0;             ///< sum of the weights; count without weights
  double effective_size = 0;     ///< (sum w)^2 / sum w^2, the n of a bandwidth rule; says nothing about dependence
  double minimum = quiet_nan;
  double maximum = quiet_nan;
};

/// A sample from which kernel density estimates with any kernel and bandwidth are made: the exact engine.
///
/// In     values [n], optionally weights [n] >= 0; at most 2^30 values, 8 bytes each, 16 with weights.
/// Out    result() describes the sample; estimate(kernel, h) is the density, see kernel_density.
/// Empty  result() has count 0 and NaN extremes; estimates are NaN.
/// Merge  exact: the state is the multiset of (value, weight), and sums are made from it only in estimate(). Their last
///        bits depend on the order of arrival, because box moments are floating-point sums.
/// Cost   update O(n). estimate O(n): values go into boxes of a width that the bandwidth sets, each with its moments,
///        so a query costs one polynomial per box, O(boxes + m boxes near a query); compact kernels also sort.
/// Throws shape_error if lengths differ, argument_error for a weight that is negative or not finite; nothing is kept
///        then.
/// Source the moments are those of the fast Gauss transform (Greengard, Strain 1991, doi:10.1137/0912004), about fixed
///        boxes. Differs: relative error at every y, by a radius that grows with the distance to the data; a closed
///        series for the logistic kernel; compact kernels by moments about boxes a third of h wide.
class kde {
 public:
  using options_type = kde_options;
  using result_type = kde_result;
  static constexpr merge_law law = merge_law::exact;

  explicit kde(kde_options = {}) noexcept {}

  template <real_vector X>
  void update(X const& x) {
    check(x);
    auto const view = detail::vector_of(x);
    reserve_more(static_cast<std::size_t>(view.size()), weighted_);
    for (index_t i = 0; i < view.size(); ++i) add(static_cast<double>(to_compute(view[i])), 1);
  }
  template <real_vector X, real_vector W>
  void update(X const& x, W const& w) {
    check(x, w);
    auto const view = detail::vector_of(x);
    auto const weights = detail::vector_of(w);
    reserve_more(static_cast<std::size_t>(view.size()), true);
    for (index_t i = 0; i < view.size(); ++i)
      add(static_cast<double>(to_compute(view[i])), static_cast<double>(to_compute(weights[i])));
  }
  template <real_vector X>
  void check(X const& x) const {
    check_size(static_cast<std::uint64_t>(detail::vector_of(x).size()));
  }
  template <real_vector X, real_vector W>
  void check(X const& x, W const& w) const {
    auto const weights = detail::vector_of(w);
    if (auto const n = detail::vector_of(x).size(); n != weights.size())
      detail::raise<shape_error>("moeroute::kde: ", weights.size(), " weights for ", n, " values");
    for (index_t i = 0; i < weights.size(); ++i)
      if (double const v = static_cast<double>(to_compute(weights[i])); !(v >= 0 && v < detail::infinity))
        detail::raise("moeroute::kde: weight ", v, " at ", i, " must be finite and not negative");
    check(x);
  }

  void merge(kde const& other) {
    if (&other == this) return merge(kde(other));
    check_size(other.values_.size());
    reserve_more(other.values_.size(), weighted_ || other.weighted_);
    for (std::size_t i = 0; i < other.values_.size(); ++i)
      add(other.values_[i], other.weighted_ ? other.weights_[i] : 1.0);
    nonfinite_ += other.nonfinite_;
    weightless_ += other.weightless_;
  }

  /// The density with one kernel and bandwidth h, which is in the kernel's own unit: see smoothing_kernel and
  /// bandwidth.hpp.
  ///
  /// bounds: values are known to lie between them; mass that a kernel lays beyond is reflected at the bound once, so
  /// the density integrates to 1 where h is small against upper - lower.
  /// Throws argument_error unless 1e-290 <= h <= 1e290, lower < upper, and all values lie between them.
  kernel_density estimate(kernel_kind kernel, double h, density_bounds bounds = {}) const {
    if (!(h >= 1e-290 && h <= 1e290))
      detail::raise("moeroute::kde::estimate: h = ", h, ", must be positive, between 1e-290 and 1e290");
    if (!(bounds.lower < bounds.upper))
      detail::raise("moeroute::kde::estimate: lower = ", bounds.lower, ", upper = ", bounds.upper);
    if (low_ < bounds.lower || high_ > bounds.upper)
      detail::raise("moeroute::kde::estimate: values from ", low_, " to ", high_, " are not all in [", bounds.lower,
                    ", ", bounds.upper, "]");
    return {kernel, h, bounds, {values_, weights_, low_, high_}};
  }

  kde_result result() const {
    kde_result r;
    r.count = values_.size();
    r.nonfinite = nonfinite_;
    r.weightless = weightless_;
    r.weight = r.effective_size = static_cast<double>(values_.size());
    if (values_.empty()) return r;
    r.minimum = low_;
    r.maximum = high_;
    if (weights_.empty()) return r;
    auto sorted = weights_;  // one order of summation for every order of arrival
    std::sort(sorted.begin(), sorted.end());
    double const largest = sorted.back();
    double sum = 0, squares = 0;
    for (double const w : sorted) {
      sum += w / largest;
      squares += w / largest * (w / largest);
    }
    r.weight = sum * largest;
    r.effective_size = sum * sum / squares;
    return r;
  }

  /// The values kept, in order of arrival, and their weights: none if all are 1.
  std::vector<double> const& values() const noexcept { return values_; }
  std::vector<double> const& weights() const noexcept { return weights_; }

  options_type options() const noexcept { return {}; }
  std::uint64_t count() const noexcept { return values_.size(); }

  friend bool operator==(kde const& a, kde const& b) {
    if (a.values_.size() != b.values_.size() || a.nonfinite_ != b.nonfinite_ || a.weightless_ != b.weightless_)
      return false;
    return a.ordered() == b.ordered();
  }

  std::vector<std::byte> serialize() const {
    auto const [values, weights] = ordered();
    byte_writer w;
    w.put(nonfinite_);
    w.put(weightless_);
    w.put(values);
    w.put(weights);
    return std::move(w).bytes();
  }
  static kde deserialize(std::span<std::byte const> bytes) {
    byte_reader r(bytes);
    kde k;
    k.nonfinite_ = r.get<std::uint64_t>();
    k.weightless_ = r.get<std::uint64_t>();
    k.values_ = r.get_vector<double>();
    k.weights_ = r.get_vector<double>();
    k.weighted_ = !k.weights_.empty();
    r.finish();
    if (k.values_.size() > most) r.fail("kde: too many values");
    if (!k.weights_.empty() && k.weights_.size() != k.values_.size())
      r.fail("kde: values and weights differ in number");
    for (double const v : k.values_)
      if (!std::isfinite(v) || (v == 0 && std::signbit(v))) r.fail("kde: a value is not finite or is -0");
    for (double const v : k.weights_)
      if (!(v > 0 && v < detail::infinity)) r.fail("kde: a weight is not positive");
    if (k.ordered() != std::pair(k.values_, k.weights_)) r.fail("kde: values are not in order");
    if (!k.values_.empty()) {
      k.low_ = k.values_.front();
      k.high_ = k.values_.back();
    }
    return k;
  }

 private:
  static constexpr std::size_t most = std::size_t{1} << 30;

  void check_size(std::uint64_t more) const {
    if (more > most - values_.size())
      detail::raise("moeroute::kde: ", values_.size(), " values and ", more, " more, at most ", most);
  }
  void reserve_more(std::size_t more, bool weighted) {
    std::size_t const size = values_.size() + more;
    auto const grow = [size](std::vector<double>& v) {
      if (size > v.capacity()) v.reserve(std::max(size, 2 * v.capacity()));
    };
    grow(values_);
    if (!weighted) return;
    grow(weights_);
    if (!weighted_) weights_.resize(values_.size(), 1.0);
    weighted_ = true;
  }
  void add(double value, double weight) noexcept {  // there is room
    if (!std::isfinite(value)) {
      ++nonfinite_;
    } else if (weight == 0) {
      ++weightless_;
    } else {
      values_.push_back(value + 0.0);  // no -0
      low_ = std::min(low_, values_.back());
      high_ = std::max(high_, values_.back());
      if (weighted_) weights_.push_back(weight);
    }
  }
  // Sorted, and without weights if all are 1: one form for one multiset.
  std::pair<std::vector<double>, std::vector<double>> ordered() const {
    std::pair state(values_, weights_);
    if (std::all_of(weights_.begin(), weights_.end(), [](double w) { return w == 1; })) state.second.clear();
    detail::sort_sample(state.first, state.second);
    return state;
  }

  std::vector<double> values_, weights_;
  bool weighted_ = false;  // every value has its entry in weights_
  std::uint64_t nonfinite_ = 0, weightless_ = 0;
  double low_ = detail::infinity, high_ = -detail::infinity;  // extremes
};
static_assert(accumulator<kde> && accumulates<kde, std::vector<double>> &&
              accumulates<kde, std::vector<double>, std::vector<double>>);

/// kde of one vector.
template <real_vector X>
kde kde_of(X const& x) {
  kde k;
  k.update(x);
  return k;
}

}  // namespace moeroute

#endif

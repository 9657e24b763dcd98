// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_NUMERIC_HISTOGRAM_HPP
#define MOEROUTE_NUMERIC_HISTOGRAM_HPP

#include <moeroute/core/accumulator.hpp>
#include <moeroute/core/adapt.hpp>
#include <moeroute/core/bytes.hpp>
#include <moeroute/core/error.hpp>
#include <moeroute/core/scalar.hpp>
#include <moeroute/numeric/simd.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <utility>
#include <vector>

namespace moeroute {
namespace detail {

/// Bins of a block of values, and whether all of them are proved: 0 <= bin < bins, low <= x <= high, edge bin <= x <
/// edge bin + 1. The product with 1 / step rounds, so a value next to an edge may land beside its bin. Sign bits
/// instead of comparisons, which GCC 12 takes apart lane by lane for 64-byte registers; NaN fails one of the two tests
/// against the edges, whichever sign it has.
struct bin_kernel {
  static constexpr int block = 64;

  template <simd_level Level, class T>
  MOEROUTE_ALWAYS_INLINE static bool run(T const* x, double low, double high, double step, std::int32_t bins,
                                         std::int32_t* bin) {
    constexpr int W = lane_count<Level, double>;
    using real = lanes<double, W>;
    using word = lanes<std::uint64_t, W>;
    double const inverse = 1 / step;
    word outside{};
    lanes<std::uint32_t, W> above{};
    auto const refuse = [&](real const& difference, std::uint64_t turned) __attribute__((always_inline)) {
      word bits;
      std::memcpy(&bits, &difference, sizeof bits);
      outside |= bits ^ turned;
    };
    for (int i = 0; i < block; i += W) {
      lanes<compute_t<T>, W> v;
      load_widened<W>(x + i, v);
      real const y = __builtin_convertvector(v, real), from_low = y - low;
      auto const index = __builtin_convertvector(from_low * inverse, lanes<std::int32_t, W>);
      real const place = __builtin_convertvector(index, real);
      real below_edge = place * step, above_edge = (place + 1.0) * step;
      round_here(below_edge);  // as histogram::edge
      round_here(above_edge);
      refuse(from_low, 0);
      refuse(high - y, 0);
      refuse(y - (below_edge + low), 0);
      refuse(y - (above_edge + low), ~std::uint64_t{0});
      lanes<std::uint32_t, W> from_first;
      std::memcpy(&from_first, &index, sizeof index);
      above |= static_cast<std::uint32_t>(bins - 1) - from_first;
      store<W>(index, bin + i);
    }
    return fold_lanes<std::uint64_t, W>(outside, fold_or{}) >> 63 == 0 &&
           fold_lanes<std::uint32_t, W>(above, fold_or{}) >> 31 == 0;
  }

 private:
  struct fold_or {
    template <class V>
    MOEROUTE_ALWAYS_INLINE void operator()(V& a, V const& b) const {
      a |= b;
    }
  };
};

}  // namespace detail

struct histogram_options {
  double low = 0, high = 1;
  index_t bins = 64;
  friend bool operator==(histogram_options const&, histogram_options const&) = default;
};

struct histogram_result {
  std::vector<std::uint64_t> counts;  ///< [bins]
  std::vector<double> edges;          ///< [bins + 1], from low to high
  std::uint64_t below = 0;            ///< finite values < low
  std::uint64_t above = 0;            ///< finite values > high
  std::uint64_t minus_infinity = 0, plus_infinity = 0, nan = 0;
};

/// Counts of values in bins of equal width.
///
/// In     values [n] of any scalar.
/// Out    bin i holds edge i <= x < edge i + 1, the last bin also x = high: the edges decide, not a rounded quotient.
/// Empty  counts are 0.
/// Merge  exact.   Cost  O(1) per value, O(bins) memory; several times faster where x is contiguous.
/// Throws argument_error unless low < high are finite with a finite difference, 1 <= bins <= 2^26, and the bins are
///        wider than the spacing of doubles there.
/// Source numpy.histogram with range, for the edges and the rule. Differs: what lies outside is counted.
class histogram {
 public:
  using options_type = histogram_options;
  using result_type = histogram_result;
  static constexpr merge_law law = merge_law::exact;

  explicit histogram(histogram_options const& options = {}) : options_{options} {
    auto const [low, high, bins] = options;
    if (!(low < high && std::isfinite(high - low)) || bins < 1 || bins > index_t{1} << 26)
      detail::raise("moeroute::histogram: low = ", low, ", high = ", high, ", bins = ", bins);
    step_ = (high - low) / static_cast<double>(bins);
    if (low + step_ == low || high - step_ == high)
      detail::raise("moeroute::histogram: bins = ", bins, " between ", low, " and ", high,
                    " are narrower than double precision");
    counts_.resize(static_cast<std::size_t>(bins));
  }

  template <real_vector X>
  void update(X const& x) {
    auto const view = detail::vector_of(x);
    index_t i = 0;
    if (view.contiguous()) {
      constexpr int block = detail::bin_kernel::block;
      alignas(64) std::int32_t bin[block];
      for (; i + block <= view.size(); i += block)
        if (detail::dispatch<detail::bin_kernel>(view.data() + i, options_.low, options_.high, step_,
                                                 static_cast<std::int32_t>(options_.bins),
                                                 static_cast<std::int32_t*>(bin)))
          for (auto const b : bin) ++counts_[static_cast<std::size_t>(b)];
        else
          for (index_t j = i; j < i + block; ++j) add(static_cast<double>(to_compute(view[j])));
    }
    for (; i < view.size(); ++i) add(static_cast<double>(to_compute(view[i])));
  }
  template <real_vector X>
  void check(X const&) const noexcept {}

  void merge(histogram const& other) {
    if (other.options_ != options_)
      detail::raise("moeroute::histogram::merge: bins = ", options_.bins, " in [", options_.low, ", ", options_.high,
                    "] and ", other.options_.bins, " in [", other.options_.low, ", ", other.options_.high, "]");
    for (std::size_t i = 0; i < counts_.size(); ++i) counts_[i] += other.counts_[i];
    for (std::size_t i = 0; i < 5; ++i) outside_[i] += other.outside_[i];
  }

  histogram_result result() const {
    histogram_result r;
    r.counts = counts_;
    for (index_t i = 0; i <= options_.bins; ++i) r.edges.push_back(edge(i));
    r.below = outside_[0];
    r.above = outside_[1];
    r.minus_infinity = outside_[2];
    r.plus_infinity = outside_[3];
    r.nan = outside_[4];
    return r;
  }

  options_type const& options() const noexcept { return options_; }
  /// Values seen, wherever they fell.
  std::uint64_t count() const noexcept {
    std::uint64_t n = 0;
    for (auto const c : counts_) n += c;
    for (auto const c : outside_) n += c;
    return n;
  }
  friend bool operator==(histogram const&, histogram const&) = default;

  std::vector<std::byte> serialize() const {
    byte_writer w;
    w.put(options_.low);
    w.put(options_.high);
    w.put(static_cast<std::int64_t>(options_.bins));
    w.put(counts_);
    w.put(std::span<std::uint64_t const>(outside_));
    return std::move(w).bytes();
  }
  static histogram deserialize(std::span<std::byte const> bytes) {
    byte_reader r(bytes);
    histogram_options options;
    options.low = r.get<double>();
    options.high = r.get<double>();
    auto const bins = r.get<std::int64_t>();
    auto counts = r.get_vector<std::uint64_t>(), outside = r.get_vector<std::uint64_t>();
    r.finish();
    if (bins < 1 || static_cast<std::uint64_t>(bins) != counts.size() || outside.size() != 5)
      r.fail("histogram: counts do not fit the bins");
    options.bins = static_cast<index_t>(bins);
    try {
      histogram h(options);
      h.counts_ = std::move(counts);
      std::copy(outside.begin(), outside.end(), h.outside_);
      return h;
    } catch (argument_error const& e) {
      r.fail(e.what());
    }
  }

 private:
  double edge(index_t i) const noexcept {
    if (i == options_.bins) return options_.high;
    double distance = static_cast<double>(i) * step_;
    detail::round_here(distance);
    return distance + options_.low;
  }
  void add(double x) noexcept {
    if (x >= options_.low && x <= options_.high) {
      auto i = std::min(static_cast<index_t>((x - options_.low) / step_), options_.bins - 1);
      while (x < edge(i)) --i;  // at most one step: the quotient is off by rounding only
      while (i + 1 < options_.bins && x >= edge(i + 1)) ++i;
      ++counts_[static_cast<std::size_t>(i)];
    } else {
      ++outside_[std::isnan(x) ? 4 : std::isinf(x) ? (x < 0 ? 2 : 3) : (x < options_.low ? 0 : 1)];
    }
  }

  histogram_options options_;
  double step_ = 0;
  std::vector<std::uint64_t> counts_;
  std::uint64_t outside_[5] = {};  // below, above, minus infinity, plus infinity, NaN
};
static_assert(accumulator<histogram> && accumulates<histogram, std::vector<double>>);

}  // namespace moeroute

#endif

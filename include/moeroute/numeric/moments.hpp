// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_NUMERIC_MOMENTS_HPP
#define MOEROUTE_NUMERIC_MOMENTS_HPP

#include <moeroute/core/accumulator.hpp>
#include <moeroute/core/bytes.hpp>
#include <moeroute/numeric/mass.hpp>
#include <moeroute/numeric/simd.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <span>
#include <utility>
#include <vector>

namespace moeroute {
namespace detail {

/// The sums of the first four powers of x - shift. Sixteen lanes of double at every level, folded in one order.
struct power_sums_kernel {
  template <simd_level Level, class T>
  MOEROUTE_ALWAYS_INLINE static void run(T const* x, index_t n, double shift, double* sums) {
    constexpr int D = lane_count<Level, double>, registers = 16 / D;
    using real = lanes<double, D>;
    real s1[registers] = {}, s2[registers] = {}, s3[registers] = {}, s4[registers] = {};
    index_t i = 0;
    for (; i + 16 <= n; i += 16)
#pragma GCC unroll 8
      for (int k = 0; k < registers; ++k) {
        lanes<compute_t<T>, D> v;
        load_widened<D>(x + i + k * D, v);
        real const d = __builtin_convertvector(v, real) - shift;
        real d2 = d * d;
        round_here(d2);
        real d3 = d2 * d, d4 = d2 * d2;
        round_here(d3);
        round_here(d4);
        s1[k] += d;
        s2[k] += d2;
        s3[k] += d3;
        s4[k] += d4;
      }
    real* const all[4] = {s1, s2, s3, s4};
    for (int p = 0; p < 4; ++p) {
      for (int h = registers / 2; h > 0; h /= 2)
        for (int k = 0; k < h; ++k) all[p][k] += all[p][k + h];
      sums[p] = fold_lanes<double, D>(all[p][0], fold_sum{});
    }
    for (; i < n; ++i) {
      double const d = static_cast<double>(to_compute(x[i])) - shift;
      double d2 = d * d;
      round_here(d2);
      double d3 = d2 * d, d4 = d2 * d2;
      round_here(d3);
      round_here(d4);
      sums[0] += d;
      sums[1] += d2;
      sums[2] += d3;
      sums[3] += d4;
    }
  }
};

}  // namespace detail

struct moments_options {
  friend bool operator==(moments_options const&, moments_options const&) = default;
};

struct moments_result {
  std::uint64_t count = 0;
  std::uint64_t nonfinite = 0;  ///< NaN and infinite values, left out
  double mean = quiet_nan;
  double variance = quiet_nan;                   ///< squares over n - 1
  double variance_population = quiet_nan;        ///< squares over n
  double skewness = quiet_nan;                   ///< m3 / m2^(3/2)
  double excess_kurtosis = quiet_nan;            ///< m4 / m2^2 - 3
  double skewness_corrected = quiet_nan;         ///< G1, unbiased under a normal law
  double excess_kurtosis_corrected = quiet_nan;  ///< G2, unbiased under a normal law
};

/// Mean, variance, skewness and kurtosis of a stream of numbers, in one pass.
///
/// In     x [n]: finite values; NaN and infinities are counted in nonfinite and left out.
/// Out    see moments_result.
/// Empty  mean NaN; variance NaN below 2 values; skewness and kurtosis NaN below 2 values or without spread; G1 below
///        3, G2 below 4.
/// Merge  approximate, because sums of powers of differences to a moving mean round: mean to 1e-13 of |mean| + sd,
///        variance to 1e-12, skewness and kurtosis to 1e-10, relative, while |mean| < 100 sd (at 1e6 sd: 1e-9, 1e-8).
/// Cost   O(n) time, O(1) memory.
/// Throws nothing.
/// Source Pebay 2008, Sandia report SAND2008-6212; G1, G2: Joanes, Gill 1998, doi:10.1111/1467-9884.00122. Differs: as
///        given.
class moments {
 public:
  using options_type = moments_options;
  using result_type = moments_result;
  static constexpr merge_law law = merge_law::approximate;

  explicit moments(moments_options = {}) noexcept {}

  template <numeric_vector X>
  void update(X const& x) {
    auto const view = detail::vector_of(x);
    using value = typename decltype(view)::value_type;
    std::array<double, static_cast<std::size_t>(block)> copy;
    for (index_t first = 0; first < view.size(); first += block) {
      index_t const n = std::min(block, view.size() - first);
      if constexpr (real_scalar<value>)
        if (view.contiguous()) {
          add_block(view.data() + first, n);
          continue;
        }
      for (index_t i = 0; i < n; ++i) copy[static_cast<std::size_t>(i)] = detail::as_double(view[first + i]);
      add_block(copy.data(), n);
    }
  }
  template <numeric_vector X>
  void check(X const&) const noexcept {}

  void merge(moments const& other) noexcept {
    auto const nonfinite = nonfinite_ + other.nonfinite_;
    if (n_ == 0 || other.n_ == 0) {  // exactly, where the formulas below would round
      if (n_ == 0) *this = other;
      nonfinite_ = nonfinite;
      return;
    }
    nonfinite_ = nonfinite;
    double const a = static_cast<double>(n_), b = static_cast<double>(other.n_), n = a + b, d = other.mean_ - mean_;
    // With the common mean m = mean_a + d b/n, the values of part a move by -d b/n and those of b by d a/n; expanding
    // the powers of the moved differences and adding the parts gives the lines below.
    double const d2 = d * d / n;
    m4_ += other.m4_ + d2 * d * d * a * b * (a * a - a * b + b * b) / (n * n) +
           6 * d2 * (a * a * other.m2_ + b * b * m2_) / n + 4 * d * (a * other.m3_ - b * m3_) / n;
    m3_ += other.m3_ + d2 * d * a * b * (a - b) / n + 3 * d * (a * other.m2_ - b * m2_) / n;
    m2_ += other.m2_ + d2 * a * b;
    mean_ += d * b / n;
    n_ += other.n_;
  }

  moments_result result() const noexcept {
    moments_result r;
    r.count = n_;
    r.nonfinite = nonfinite_;
    double const n = static_cast<double>(n_);
    if (n_ > 0) r.mean = mean_;
    if (n_ < 2) return r;
    r.variance = m2_ / (n - 1);
    r.variance_population = m2_ / n;
    if (!(m2_ > 0)) return r;
    r.skewness = std::sqrt(n) * m3_ / std::pow(m2_, 1.5);
    r.excess_kurtosis = n * m4_ / (m2_ * m2_) - 3;
    if (n_ > 2) r.skewness_corrected = r.skewness * std::sqrt(n * (n - 1)) / (n - 2);
    if (n_ > 3) r.excess_kurtosis_corrected = ((n + 1) * r.excess_kurtosis + 6) * (n - 1) / ((n - 2) * (n - 3));
    return r;
  }

  options_type options() const noexcept { return {}; }
  /// Finite values seen.
  std::uint64_t count() const noexcept { return n_; }
  friend bool operator==(moments const&, moments const&) = default;

  std::vector<std::byte> serialize() const {
    byte_writer w;
    w.put(n_);
    w.put(nonfinite_);
    for (double const v : {mean_, m2_, m3_, m4_}) w.put(v);
    return std::move(w).bytes();
  }
  static moments deserialize(std::span<std::byte const> bytes) {
    byte_reader r(bytes);
    moments m;
    m.n_ = r.get<std::uint64_t>();
    m.nonfinite_ = r.get<std::uint64_t>();
    for (double* v : {&m.mean_, &m.m2_, &m.m3_, &m.m4_}) *v = r.get<double>();
    if (!(m.m2_ >= 0 && m.m4_ >= 0) || std::isnan(m.mean_) || std::isnan(m.m3_)) r.fail("moments are of no numbers");
    for (double const v : {m.mean_, m.m2_, m.m3_, m.m4_})
      if (m.n_ == 0 && v != 0) r.fail("moments without numbers");
    r.finish();
    return m;
  }

 private:
  static constexpr index_t block = 1024;

  // Powers of differences to the mean so far, which are turned to the mean of the block and merged.
  template <real_scalar T>
  void add_block(T const* x, index_t n) {
    double const shift = n_ > 0 ? mean_ : static_cast<double>(to_compute(x[0]));
    double sums[4];
    detail::dispatch<detail::power_sums_kernel>(x, n, shift, static_cast<double*>(sums));
    if (!std::isfinite(sums[3])) {  // a value is not finite, or a power of one overflows
      std::vector<T> finite;
      std::copy_if(x, x + n, std::back_inserter(finite), [](T v) { return is_finite(v); });
      if (finite.size() < static_cast<std::size_t>(n)) {
        nonfinite_ += static_cast<std::uint64_t>(n) - finite.size();
        if (!finite.empty()) add_block(finite.data(), static_cast<index_t>(finite.size()));
        return;
      }
    }
    auto const [s1, s2, s3, s4] = sums;
    double const d = s1 / static_cast<double>(n);
    moments part;
    part.n_ = static_cast<std::uint64_t>(n);
    part.mean_ = shift + d;
    part.m2_ = std::max(0.0, s2 - d * s1);
    part.m3_ = s3 - d * (3 * s2 - 2 * d * s1);
    part.m4_ = std::max(0.0, s4 - d * (4 * s3 - d * (6 * s2 - 3 * d * s1)));
    merge(part);
  }

  std::uint64_t n_ = 0, nonfinite_ = 0;
  double mean_ = 0, m2_ = 0, m3_ = 0, m4_ = 0;  // sums of powers of differences to the mean
};
static_assert(accumulator<moments> && accumulates<moments, std::vector<double>>);

/// moments of one vector.
template <numeric_vector X>
moments_result moments_of(X const& x) {
  moments m;
  m.update(x);
  return m.result();
}

}  // namespace moeroute

#endif

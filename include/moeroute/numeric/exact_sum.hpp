// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_NUMERIC_EXACT_SUM_HPP
#define MOEROUTE_NUMERIC_EXACT_SUM_HPP

#include <moeroute/core/bytes.hpp>
#include <moeroute/core/error.hpp>
#include <moeroute/core/scalar.hpp>
#include <moeroute/core/view.hpp>
#include <moeroute/numeric/simd.hpp>

#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace moeroute {
namespace detail {

__extension__ using uint128 = unsigned __int128;

/// So many rows of units, each at most 2^52, fit in one 64-bit word.
inline constexpr index_t exact_block_rows = 2048;

// Between these every unit and every sum is a normal double.
inline void check_bound(double bound) {
  if (!(bound >= 0x1p-500 && bound <= 0x1p500) || std::bit_cast<std::uint64_t>(bound) << 12 != 0)
    raise("moeroute::exact_sums: bound = ", bound, ", must be a power of two between 2^-500 and 2^500");
}

// round-half-even(x * 2^52 / bound): the doubles from bound to 2 bound are spaced 2^-52 bound, so the addition does the
// rounding. x may be a product of the caller, which must not be fused with the addition.
inline std::uint64_t units_of(double x, double bound) noexcept {
  round_here(x);
  return std::bit_cast<std::uint64_t>(x + bound) - std::bit_cast<std::uint64_t>(bound);
}

// The one conversion is correctly rounded, the scaling by a power of two is exact.
inline double value_of(std::uint64_t low, std::uint64_t high, double bound) noexcept {
  return static_cast<double>(static_cast<uint128>(high) << 64 | low) * (bound * 0x1p-52);
}

inline void add_wide(std::uint64_t& low, std::uint64_t& high, std::uint64_t units) noexcept {
  low += units;
  high += low < units ? 1u : 0u;
}

inline std::uint64_t counted(std::uint64_t count, std::uint64_t more, std::uint64_t times) {
  std::uint64_t product, sum;
  if (__builtin_mul_overflow(more, times, &product) || __builtin_add_overflow(count, product, &sum))
    raise("moeroute::exact_sums::merge: ", more, " rows times ", times, " overflow a 64-bit count");
  return sum;
}

}  // namespace detail

/// N sums of values between 0 and a bound, in fixed point: the same state for every order, split and merge.
///
/// In     rows of N values 0 <= x <= bound, bound a power of two; each counts round-half-even(x 2^52 / bound) units.
/// Out    sum(i) is the double nearest to the integer sum, so its error is at most 2^-53 bound per value added and one
///        rounding. rows; nan and out_of_range count values that were refused and added nothing.
/// Empty  sums are 0.   Merge  exact.   Cost  O(N) per row, 16 bytes per cell.
/// Throws argument_error for a bound that is no power of two, shape_error for a row of another length; nothing is
/// counted then.
class exact_sums {
 public:
  explicit exact_sums(index_t n, double bound = 1.0) : bound_{bound} {
    detail::check_bound(bound);
    if (n < 0) detail::raise("moeroute::exact_sums: n = ", n, ", must not be negative");
    low_.resize(static_cast<std::size_t>(n));
    high_.resize(static_cast<std::size_t>(n));
  }

  index_t size() const noexcept { return static_cast<index_t>(low_.size()); }
  double bound() const noexcept { return bound_; }
  std::uint64_t rows() const noexcept { return rows_; }
  std::uint64_t nan() const noexcept { return nan_; }
  std::uint64_t out_of_range() const noexcept { return out_of_range_; }

  double sum(index_t i) const noexcept {
    auto const [low, high] = words(i);
    return detail::value_of(low, high, bound_);
  }
  /// The sum in units of bound / 2^52, low word first.
  std::array<std::uint64_t, 2> words(index_t i) const noexcept {
    auto const cell = static_cast<std::size_t>(i);
    MOEROUTE_ASSERT(cell < low_.size());
    return {low_[cell], high_[cell]};
  }

  /// Adds one row.
  template <real_scalar T>
  void add_row(vector_view<T> row) {
    check_size(row.size());
    for (index_t i = 0; i < row.size(); ++i) add_value(static_cast<std::size_t>(i), to_compute(row[i]));
    ++rows_;
  }
  template <real_scalar T>
  void add_row(T const* row, index_t n) {
    add_row(vector_view<T>(row, n));
  }
  template <real_scalar T>
  void add_rows(matrix_view<T> rows) {
    if (rows.rows() > 0) check_size(rows.cols());
    for (index_t r = 0; r < rows.rows(); ++r) add_row(rows.row(r));
  }
  /// Adds one value to one cell; counts as a row.
  void add_at(index_t i, double x) {
    if (i < 0 || i >= size()) detail::raise("moeroute::exact_sums::add_at: cell ", i, " of ", size());
    add_value(static_cast<std::size_t>(i), x);
    ++rows_;
  }
  /// For kernels: adds units[i] to cell i, the sum of `rows` rows of at most 2^52 units each.
  void add_units(std::uint64_t const* units, index_t rows) noexcept {
    MOEROUTE_ASSERT(rows >= 0 && rows <= detail::exact_block_rows);
    for (std::size_t i = 0; i < low_.size(); ++i) detail::add_wide(low_[i], high_[i], units[i]);
    rows_ += static_cast<std::uint64_t>(rows);
  }

  /// As if every row of `other` had been added `times` times.
  /// Throws argument_error if size or bound differ or the number of rows leaves 64 bits; nothing is merged then.
  void merge(exact_sums const& other, std::uint64_t times = 1) {
    if (other.size() != size() || other.bound_ != bound_)
      detail::raise("moeroute::exact_sums::merge: ", size(), " cells of bound ", bound_, " and ", other.size(),
                    " of bound ", other.bound_);
    auto const rows = detail::counted(rows_, other.rows_, times);
    auto const nan = detail::counted(nan_, other.nan_, times);
    out_of_range_ = detail::counted(out_of_range_, other.out_of_range_, times);
    rows_ = rows;
    nan_ = nan;
    // A cell holds at most rows * 2^52 < 2^116 units, so 128 bits never overflow.
    for (std::size_t i = 0; i < low_.size(); ++i) {
      auto const wide = (static_cast<detail::uint128>(high_[i]) << 64 | low_[i]) +
                        (static_cast<detail::uint128>(other.high_[i]) << 64 | other.low_[i]) * times;
      low_[i] = static_cast<std::uint64_t>(wide);
      high_[i] = static_cast<std::uint64_t>(wide >> 64);
    }
  }

  void serialize(byte_writer& out) const {
    out.put(bound_);
    for (auto const count : {rows_, nan_, out_of_range_}) out.put(count);
    out.put(low_);
    out.put(high_);
  }
  /// Throws format_error on a state that no sequence of additions leads to.
  static exact_sums deserialize(byte_reader& in) {
    exact_sums s(0);
    s.bound_ = in.get<double>();
    for (auto* count : {&s.rows_, &s.nan_, &s.out_of_range_}) *count = in.get<std::uint64_t>();
    s.low_ = in.get_vector<std::uint64_t>();
    s.high_ = in.get_vector<std::uint64_t>();
    try {
      detail::check_bound(s.bound_);
    } catch (argument_error const& e) {
      in.fail(e.what());
    }
    if (s.low_.size() != s.high_.size()) in.fail("exact_sums: low and high words differ in number");
    auto const most = static_cast<detail::uint128>(s.rows_) << 52;
    for (std::size_t i = 0; i < s.low_.size(); ++i)
      if ((static_cast<detail::uint128>(s.high_[i]) << 64 | s.low_[i]) > most)
        in.fail("exact_sums: a sum exceeds rows times bound");
    return s;
  }

  friend bool operator==(exact_sums const&, exact_sums const&) = default;

 private:
  void check_size(index_t n) const {
    if (n != size()) detail::raise<shape_error>("moeroute::exact_sums: a row of ", n, " values for ", size(), " sums");
  }
  void add_value(std::size_t cell, double x) noexcept {
    if (x >= 0 && x <= bound_)
      detail::add_wide(low_[cell], high_[cell], detail::units_of(x, bound_));
    else
      ++(std::isnan(x) ? nan_ : out_of_range_);
  }

  double bound_;
  std::uint64_t rows_ = 0, nan_ = 0, out_of_range_ = 0;
  std::vector<std::uint64_t> low_, high_;
};

/// One sum of values between 0 and a bound, as exact_sums but without memory of its own.
///
/// In     values 0 <= x <= bound.   Out  sum(); count() values added; nan() and out_of_range() values refused.
/// Empty  0.   Merge  exact.   Throws as exact_sums.
class exact_sum {
 public:
  explicit exact_sum(double bound = 1.0) : bound_{bound} { detail::check_bound(bound); }

  void add(double x) noexcept {
    if (x >= 0 && x <= bound_) {
      detail::add_wide(low_, high_, detail::units_of(x, bound_));
      ++count_;
    } else {
      ++(std::isnan(x) ? nan_ : out_of_range_);
    }
  }
  void merge(exact_sum const& other, std::uint64_t times = 1) {
    if (other.bound_ != bound_)
      detail::raise("moeroute::exact_sum::merge: bound ", bound_, " and bound ", other.bound_);
    auto const count = detail::counted(count_, other.count_, times);
    auto const nan = detail::counted(nan_, other.nan_, times);
    out_of_range_ = detail::counted(out_of_range_, other.out_of_range_, times);
    count_ = count;
    nan_ = nan;
    auto const wide = (static_cast<detail::uint128>(high_) << 64 | low_) +
                      (static_cast<detail::uint128>(other.high_) << 64 | other.low_) * times;
    low_ = static_cast<std::uint64_t>(wide);
    high_ = static_cast<std::uint64_t>(wide >> 64);
  }

  double sum() const noexcept { return detail::value_of(low_, high_, bound_); }
  double bound() const noexcept { return bound_; }
  std::uint64_t count() const noexcept { return count_; }
  std::uint64_t nan() const noexcept { return nan_; }
  std::uint64_t out_of_range() const noexcept { return out_of_range_; }

  void serialize(byte_writer& out) const {
    out.put(bound_);
    for (auto const word : {count_, nan_, out_of_range_, low_, high_}) out.put(word);
  }
  static exact_sum deserialize(byte_reader& in) {
    exact_sum s;
    s.bound_ = in.get<double>();
    for (auto* word : {&s.count_, &s.nan_, &s.out_of_range_, &s.low_, &s.high_}) *word = in.get<std::uint64_t>();
    try {
      detail::check_bound(s.bound_);
    } catch (argument_error const& e) {
      in.fail(e.what());
    }
    if ((static_cast<detail::uint128>(s.high_) << 64 | s.low_) > static_cast<detail::uint128>(s.count_) << 52)
      in.fail("exact_sum: the sum exceeds count times bound");
    return s;
  }

  friend bool operator==(exact_sum const&, exact_sum const&) = default;

 private:
  double bound_;
  std::uint64_t count_ = 0, nan_ = 0, out_of_range_ = 0, low_ = 0, high_ = 0;
};

}  // namespace moeroute

#endif

// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_CORE_VIEW_HPP
#define MOEROUTE_CORE_VIEW_HPP

#include <cstddef>
#include <type_traits>

namespace moeroute {

/// Signed type of shapes, strides and expert ids: -1 is a legal id (a dropped slot).
using index_t = std::ptrdiff_t;

/// Id of a slot that no expert served.
inline constexpr index_t no_expert = -1;

/// Read-only strided view of a vector in memory that somebody else owns.
template <class T>
class vector_view {
  static_assert(!std::is_const_v<T>, "views are read-only already: write vector_view<T>");

 public:
  using value_type = T;

  constexpr vector_view() noexcept = default;
  constexpr vector_view(T const* data, index_t size, index_t stride = 1) noexcept
      : data_{data}, size_{size}, stride_{stride} {}

  constexpr T const& operator[](index_t i) const noexcept { return data_[i * stride_]; }
  constexpr index_t size() const noexcept { return size_; }
  constexpr bool empty() const noexcept { return size_ == 0; }
  constexpr index_t stride() const noexcept { return stride_; }
  constexpr T const* data() const noexcept { return data_; }
  constexpr bool contiguous() const noexcept { return stride_ == 1 || size_ < 2; }

 private:
  T const* data_ = nullptr;
  index_t size_ = 0, stride_ = 1;
};

/// Read-only strided view of a matrix in memory that somebody else owns. Strides are in elements.
template <class T>
class matrix_view {
  static_assert(!std::is_const_v<T>, "views are read-only already: write matrix_view<T>");

 public:
  using value_type = T;

  constexpr matrix_view() noexcept = default;
  constexpr matrix_view(T const* data, index_t rows, index_t cols) noexcept : matrix_view(data, rows, cols, cols, 1) {}
  constexpr matrix_view(T const* data, index_t rows, index_t cols, index_t row_stride, index_t col_stride) noexcept
      : data_{data}, rows_{rows}, cols_{cols}, row_stride_{row_stride}, col_stride_{col_stride} {}

  constexpr T const& operator()(index_t r, index_t c) const noexcept { return data_[r * row_stride_ + c * col_stride_]; }
  constexpr vector_view<T> row(index_t r) const noexcept { return {data_ + r * row_stride_, cols_, col_stride_}; }
  /// Rows first .. first+count-1.
  constexpr matrix_view rows_from(index_t first, index_t count) const noexcept {
    return {data_ + first * row_stride_, count, cols_, row_stride_, col_stride_};
  }
  constexpr index_t rows() const noexcept { return rows_; }
  constexpr index_t cols() const noexcept { return cols_; }
  constexpr bool empty() const noexcept { return rows_ == 0 || cols_ == 0; }
  constexpr index_t row_stride() const noexcept { return row_stride_; }
  constexpr index_t col_stride() const noexcept { return col_stride_; }
  constexpr T const* data() const noexcept { return data_; }

 private:
  T const* data_ = nullptr;
  index_t rows_ = 0, cols_ = 0, row_stride_ = 0, col_stride_ = 1;
};

}  // namespace moeroute

#endif

// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_WEIGHTS_DETAIL_DOT_PRODUCTS_HPP
#define MOEROUTE_WEIGHTS_DETAIL_DOT_PRODUCTS_HPP

#include <moeroute/core/scalar.hpp>
#include <moeroute/core/view.hpp>
#include <moeroute/numeric/simd.hpp>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <type_traits>

namespace moeroute::detail {

// Dot products of all rows of one panel with all rows of another. A panel holds up to dot_block columns of its rows,
// widened to the type T that is computed in. Within a block every lane adds its products in T, each operation rounded
// once; the lanes are folded in a fixed order and the sum goes to a double. So the bits are the same at every dispatch
// level, and the error of a sum over any number of blocks is at most
//     (dot_block / dot_lanes + 4) u * sum |a_i b_i|,   u = 2^-24 for float, 2^-53 for double,
// beside the rounding of the doubles: one rounding of the product, at most 63 (127) of the lane, 4 (3) of the fold.
inline constexpr index_t dot_block = 1024;
template <class T>
inline constexpr int dot_lanes = 64 / static_cast<int>(sizeof(T));
// One cache line more than the block: rows at a distance of 4 KiB would share their places in the cache.
template <class T>
inline constexpr index_t panel_pitch = dot_block + dot_lanes<T>;
inline constexpr index_t tile_rows = 4;

struct widen_row_kernel {
  template <simd_level Level, class In, class T>
  MOEROUTE_ALWAYS_INLINE static void run(In const* from, index_t n, T* to) {
    constexpr int W = lane_count<Level, T>;
    lanes<T, W> v;
    index_t i = 0;
    for (; i + W <= n; i += W) {
      load_widened<W>(from + i, v);
      store<W>(v, to + i);
    }
    if (i < n) {  // the panel has room for a whole register
      In rest[W] = {};
      std::memcpy(rest, from + i, static_cast<std::size_t>(n - i) * sizeof(In));
      load_widened<W>(rest, v);
      store<W>(v, to + i);
    }
  }
};

struct dot_panel_kernel {
  template <simd_level Level, class T>
  MOEROUTE_ALWAYS_INLINE static void run(T const* a, index_t rows_a, T const* b, index_t rows_b, index_t n, double* out,
                                         index_t stride) {
    constexpr int A = static_cast<int>(tile_rows),
                  B = Level == simd_level::avx512 ? 4 : 2;  // accumulators in registers
    bool const half = a == b;  // the same rows: the products below the diagonal are left to the caller
    for (index_t i = 0; i < rows_a; i += A)
      for (index_t j = half ? i : 0; j < rows_b; j += B)
        tile<Level, T, A, B>(a + i * panel_pitch<T>, b + j * panel_pitch<T>, n, out + i * stride + j, stride,
                             std::min<index_t>(A, rows_a - i), std::min<index_t>(B, rows_b - j));
  }

  template <simd_level Level, class T, int A, int B>
  MOEROUTE_ALWAYS_INLINE static void tile(T const* a, T const* b, index_t n, double* out, index_t stride,
                                          index_t rows_a, index_t rows_b) {
    constexpr int W = lane_count<Level, T>, L = dot_lanes<T>;
    T part[A][B][L];
    for (int g = 0; g < L; g += W) {  // registers narrower than the lanes take them in turns
      lanes<T, W> sum[A][B] = {}, x[A], y, product;
      for (index_t c = g; c < n; c += L) {
#pragma GCC unroll 8
        for (int i = 0; i < A; ++i) load<W>(x[i], a + i * panel_pitch<T> + c);
#pragma GCC unroll 8
        for (int j = 0; j < B; ++j) {
          load<W>(y, b + j * panel_pitch<T> + c);
#pragma GCC unroll 8
          for (int i = 0; i < A; ++i) {
            product = x[i] * y;
            round_here(product);
            sum[i][j] += product;
          }
        }
      }
#pragma GCC unroll 8
      for (int i = 0; i < A; ++i)
#pragma GCC unroll 8
        for (int j = 0; j < B; ++j) store<W>(sum[i][j], &part[i][j][g]);
    }
    for (index_t i = 0; i < rows_a; ++i)
      for (index_t j = 0; j < rows_b; ++j) {
        lanes<T, L> v;
        std::memcpy(&v, part[i][j], sizeof v);
        out[i * stride + j] += static_cast<double>(fold_lanes<T, L>(v, fold_sum{}));
      }
  }
};

/// Up to dot_block columns of some rows, widened to T and padded with zeros to whole tiles: rows * 4 KiB for float.
template <class T>
class panel {
 public:
  explicit panel(index_t rows) : rows_{rows}, values_((rows + tile_rows - 1) / tile_rows * tile_rows * panel_pitch<T>) {
    std::fill(values_.data(), values_.data() + (rows + tile_rows - 1) / tile_rows * tile_rows * panel_pitch<T>, T{0});
  }

  /// Row r becomes the columns first .. first+n-1 of `row`, n <= dot_block. All rows of a panel are set with one n.
  template <class In>
  void set(index_t r, vector_view<In> row, index_t first, index_t n) {
    T* const to = values_.data() + r * panel_pitch<T>;
    if constexpr (std::is_same_v<compute_t<In>, T>) {
      if (row.contiguous()) {
        dispatch<widen_row_kernel>(row.data() + first, n, to);
      } else {
        for (index_t i = 0; i < n; ++i) to[i] = to_compute(row[first + i]);
      }
    } else {
      for (index_t i = 0; i < n; ++i) to[i] = static_cast<T>(to_compute(row[first + i]));
    }
    std::fill(to + n, to + panel_pitch<T>, T{0});
    n_ = n;
  }

  /// The rows of the panel become the columns first .. of `m`, over its rows from .. from+n-1, n <= dot_block.
  template <class In>
  void set_columns(matrix_view<In> m, index_t first, index_t from, index_t n) {
    T* const to = values_.data();
    for (index_t f = 0; f < n; ++f)
      for (index_t r = 0; r < rows_; ++r)
        to[r * panel_pitch<T> + f] = static_cast<T>(to_compute(m(from + f, first + r)));
    for (index_t r = 0; r < rows_; ++r) std::fill(to + r * panel_pitch<T> + n, to + (r + 1) * panel_pitch<T>, T{0});
    n_ = n;
  }

  index_t rows() const noexcept { return rows_; }
  index_t columns() const noexcept { return n_; }
  T const* row(index_t r) noexcept { return values_.data() + r * panel_pitch<T>; }

 private:
  index_t rows_, n_ = 0;
  scratch<T, 16> values_;
};

/// out [a.rows, b.rows] += dot products of the rows; of one panel with itself only those with i / 4 <= j / 4.
template <class T>
void add_dot_products(panel<T>& a, panel<T>& b, double* out, index_t stride) {
  dispatch<dot_panel_kernel>(a.row(0), a.rows(), b.row(0), b.rows(), a.columns(), out, stride);
}

/// The type in which products of both are computed: double as soon as one is.
template <class A, class B>
using dot_type =
    std::conditional_t<std::is_same_v<compute_t<A>, double> || std::is_same_v<compute_t<B>, double>, double, float>;

/// out [a.rows, b.rows] = a b^T. Memory  (a.rows + b.rows) KiB * sizeof(dot_type).
template <class A, class B>
void dot_products(matrix_view<A> a, matrix_view<B> b, double* out) {
  using T = dot_type<A, B>;
  if (a.rows() == 0 || b.rows() == 0) return;
  panel<T> x(a.rows()), y(b.rows());
  std::fill(out, out + a.rows() * b.rows(), 0.0);
  for (index_t first = 0; first < a.cols(); first += dot_block) {
    index_t const n = std::min(dot_block, a.cols() - first);
    for (index_t r = 0; r < a.rows(); ++r) x.set(r, a.row(r), first, n);
    for (index_t r = 0; r < b.rows(); ++r) y.set(r, b.row(r), first, n);
    add_dot_products(x, y, out, b.rows());
  }
}

}  // namespace moeroute::detail

#endif

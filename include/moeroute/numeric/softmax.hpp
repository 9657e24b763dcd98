// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_NUMERIC_SOFTMAX_HPP
#define MOEROUTE_NUMERIC_SOFTMAX_HPP

#include <moeroute/core/error.hpp>
#include <moeroute/core/scalar.hpp>
#include <moeroute/core/view.hpp>
#include <moeroute/numeric/exact_sum.hpp>
#include <moeroute/numeric/exp.hpp>
#include <moeroute/numeric/simd.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

namespace moeroute {
namespace detail {

// A sum over a row runs in 32 lanes, lane j over the elements j, j + 32, ..., then halves until one is left. No
// register is wider than 32 lanes, so every level adds the same numbers in the same order. A row is padded to whole
// blocks with -inf, whose exp is 0.
inline constexpr int sum_lanes = 32;
inline constexpr index_t padded_size(index_t n) noexcept { return (n + sum_lanes - 1) / sum_lanes * sum_lanes; }

// Rows up to this length are worked on in stack memory.
inline constexpr int stack_row = 512;

template <class T>
inline constexpr T minus_infinity = -std::numeric_limits<T>::infinity();

template <class T>
struct row_start {
  T maximum;    // of the row; a NaN may or may not show
  bool finite;  // no NaN, no infinity
};

/// Copies a row widened into x, padded with -inf to whole blocks.
template <simd_level Level, class In>
MOEROUTE_ALWAYS_INLINE row_start<compute_t<In>> widen_row(In const* z, index_t n, compute_t<In>* x) {
  using T = compute_t<In>;
  constexpr int W = lane_count<Level, T>;
  using real = lanes<T, W>;
  real top = real{} + minus_infinity<T>, poison{}, v;
  index_t i = 0;
  for (; i + W <= n; i += W) {
    load_widened<W>(z + i, v);
    store<W>(v, x + i);
    top = v > top ? v : top;
    poison += v - v;  // 0, or NaN for ever after one value that is not finite
  }
  if (i < n) {
    In rest[W];
    std::fill(rest, rest + W, z[0]);
    std::memcpy(rest, z + i, static_cast<std::size_t>(n - i) * sizeof(In));
    load_widened<W>(rest, v);
    store<W>(v, x + i);
    top = v > top ? v : top;
    poison += v - v;
    std::fill(x + n, x + padded_size(n), minus_infinity<T>);
  } else {
    for (; i < padded_size(n); i += W) store<W>(real{} + minus_infinity<T>, x + i);
  }
  T const sum = fold_lanes<T, W>(poison, fold_sum{});
  return {fold_lanes<T, W>(top, fold_max{}), sum == sum};
}

/// x = exp(x - maximum) over a padded row; returns the sum, which is at least 1.
template <simd_level Level, class T>
MOEROUTE_ALWAYS_INLINE T exp_row(T* x, index_t n, T maximum) {
  constexpr int W = lane_count<Level, T>, registers = sum_lanes / W;
  constexpr int together = std::min(registers, 4);  // more would spill
  using real = lanes<T, W>;
  real sum[registers] = {};
  for (index_t i = 0; i < n; i += sum_lanes)
#pragma GCC unroll 16
    for (int j = 0; j < registers; j += together) {
      if (i + j * W >= n) continue;  // nothing but padding, whose exp is 0
      real e[together];
#pragma GCC unroll 4
      for (int k = 0; k < together; ++k) {
        load<W>(e[k], x + i + (j + k) * W);
        e[k] -= maximum;
      }
      exp_lanes<T, W>(e);
#pragma GCC unroll 4
      for (int k = 0; k < together; ++k) {
        sum[j + k] += e[k];
        store<W>(e[k], x + i + (j + k) * W);
      }
    }
  for (int h = registers / 2; h > 0; h /= 2)
    for (int j = 0; j < h; ++j) sum[j] += sum[j + h];
  return fold_lanes<T, W>(sum[0], fold_sum{});
}

// What softmax makes of a row with a value that is not finite: -inf has probability 0, and this is the maximum to
// subtract, unless a NaN, +inf or nothing but -inf makes every probability NaN.
template <class T>
T maximum_or_nan(T const* x, index_t n) noexcept {
  T top = minus_infinity<T>;
  for (index_t i = 0; i < n; ++i) {
    if (std::isnan(x[i])) return x[i];
    top = std::max(top, x[i]);
  }
  return std::isinf(top) ? std::numeric_limits<T>::quiet_NaN() : top;
}

/// Widens the row into x and leaves exp(x - maximum) there; false if the softmax of the row is NaN.
template <simd_level Level, class In>
MOEROUTE_ALWAYS_INLINE bool start_row(In const* z, index_t n, compute_t<In>* x, compute_t<In>& maximum,
                                      compute_t<In>& sum) {
  auto const start = widen_row<Level>(z, n, x);
  maximum = start.maximum;
  if (!start.finite) maximum = maximum_or_nan(x, n);
  if (maximum != maximum) return false;
  sum = exp_row<Level>(x, n, maximum);
  return true;
}

struct softmax_kernel {
  template <simd_level Level, class In, class Out>
  MOEROUTE_ALWAYS_INLINE static void run(In const* z, index_t n, Out* p, compute_t<In>* x) {
    using T = compute_t<In>;
    T maximum, sum;
    if (!start_row<Level>(z, n, x, maximum, sum)) {
      std::fill(p, p + n, std::numeric_limits<Out>::quiet_NaN());
      return;
    }
    T const inverse = T{1} / sum;
    for (index_t i = 0; i < n; ++i) p[i] = static_cast<Out>(x[i] * inverse);
  }
};

struct log_sum_exp_kernel {
  template <simd_level Level, class In>
  MOEROUTE_ALWAYS_INLINE static double run(In const* z, index_t n, compute_t<In>* x) {
    compute_t<In> maximum, sum;
    if (start_row<Level>(z, n, x, maximum, sum))
      return static_cast<double>(maximum) + std::log(static_cast<double>(sum));
    // Only the infinities of one sign have a limit.
    bool const nan = std::any_of(x, x + n, [](auto v) { return std::isnan(v); });
    return nan ? quiet_nan : static_cast<double>(*std::max_element(x, x + n));
  }
};

struct sigmoid_kernel {
  template <simd_level Level, class In, class Out>
  MOEROUTE_ALWAYS_INLINE static void run(In const* z, index_t n, Out* p, compute_t<In>* x) {
    using T = compute_t<In>;
    constexpr int W = lane_count<Level, T>;
    using real = lanes<T, W>;
    widen_row<Level>(z, n, x);
    for (index_t i = 0; i < n; i += 2 * W) {
      real v[2], e[2];
#pragma GCC unroll 2
      for (int k = 0; k < 2; ++k) {
        load<W>(v[k], x + i + k * W);
        e[k] = v[k] > T{0} ? -v[k] : v[k];
      }
      exp_lanes<T, W>(e);
#pragma GCC unroll 2
      for (int k = 0; k < 2; ++k) {
        real const one = real{} + T{1};
        e[k] = (v[k] > T{0} ? one : e[k]) / (one + e[k]);
        e[k] = v[k] == v[k] ? e[k] : v[k];
        store<W>(e[k], x + i + k * W);
      }
    }
    for (index_t i = 0; i < n; ++i) p[i] = static_cast<Out>(x[i]);
  }
};

/// Adds the units of bound + p, bits included, of `rows` rows to the cells; returns how many rows were left out.
struct softmax_accumulate_kernel {
  template <simd_level Level, class In>
  MOEROUTE_ALWAYS_INLINE static index_t run(In const* z, index_t rows, index_t n, index_t row_stride, double bound,
                                            compute_t<In>* x, std::uint64_t* cells) {
    using T = compute_t<In>;
    constexpr int W = lane_count<Level, T>, D = lane_count<Level, double>;
    index_t skipped = 0;
    for (index_t r = 0; r < rows; ++r) {
      auto const start = widen_row<Level>(z + r * row_stride, n, x);
      if (!start.finite) {
        ++skipped;
        continue;
      }
      T const inverse = T{1} / exp_row<Level>(x, n, start.maximum);
      for (index_t i = 0; i < n; i += W) {
        lanes<T, W> p;
        load<W>(p, x + i);
        p *= inverse;
        round_here(p);
        lanes<T, D> part[W / D];
        std::memcpy(part, &p, sizeof p);
#pragma GCC unroll 2
        for (int k = 0; k < W / D; ++k) {
          lanes<double, D> const shifted = __builtin_convertvector(part[k], lanes<double, D>) + bound;
          lanes<std::uint64_t, D> bits, cell;
          std::memcpy(&bits, &shifted, sizeof bits);
          load<D>(cell, cells + i + k * D);
          cell += bits;
          store<D>(cell, cells + i + k * D);
        }
      }
    }
    return skipped;
  }
};

template <class T>
void gather(vector_view<T> row, T* out) noexcept {
  for (index_t i = 0; i < row.size(); ++i) out[i] = row[i];
}

/// Calls f(pointer to contiguous elements, r) for every row, through a copy where the columns are strided.
template <class T, class F>
void for_each_row(matrix_view<T> m, F const& f) {
  if (m.col_stride() == 1 || m.cols() < 2) {
    for (index_t r = 0; r < m.rows(); ++r) f(m.data() + r * m.row_stride(), r);
    return;
  }
  std::vector<T> copy(static_cast<std::size_t>(m.cols()));
  for (index_t r = 0; r < m.rows(); ++r) {
    gather(m.row(r), copy.data());
    f(copy.data(), r);
  }
}

// The type of the results: what the row is computed in, or wider.
template <class Out, class In>
concept holds_result_of = std::floating_point<Out> && sizeof(Out) >= sizeof(compute_t<In>);

}  // namespace detail

/// Probabilities of one row of logits.
///
/// In     z [n], any of float, double, bf16, f16. -inf is a masked expert.
/// Out    p [n] = exp(z - max z) / sum, computed in binary32 (binary64 for double): the same bits at every dispatch
///        level, with every compiler. Error of one p at most about (2 + max z - z) ulp, of a mean over many rows 1e-8
///        (binary64: 2e-16). NaN throughout if a logit is NaN or +inf, or all are -inf. In place is allowed.
/// Needs  the default rounding mode, subnormal numbers not flushed.
/// Empty  nothing is written.   Cost  O(n); memory on the stack up to 512 values, n values on the heap above.
template <real_scalar In, detail::holds_result_of<In> Out>
void softmax_row(In const* z, index_t n, Out* p) {
  if (n <= 0) return;
  detail::scratch<compute_t<In>, detail::stack_row> x(detail::padded_size(n));
  detail::dispatch<detail::softmax_kernel>(z, n, p, x.data());
}

/// softmax_row of every row of z [T,E] into p [T,E], row-major.
template <real_scalar In, detail::holds_result_of<In> Out>
void softmax_rows(matrix_view<In> z, Out* p) {
  if (z.empty()) return;
  detail::scratch<compute_t<In>, detail::stack_row> x(detail::padded_size(z.cols()));
  detail::for_each_row(z, [&](In const* row, index_t r) {
    detail::dispatch<detail::softmax_kernel>(row, z.cols(), p + r * z.cols(), x.data());
  });
}

/// log(sum of exp(z)) of one row of logits.
///
/// In     z [n].   Out  max z + log(sum), the sum as in softmax_row; the logarithm is the C library's, in double.
///        Absolute error about 2e-7 (binary64: 4e-16) plus half an ulp. NaN if a logit is NaN; otherwise +inf if one
///        is.
/// Empty  -inf.   Cost  O(n).
template <real_scalar In>
double log_sum_exp_row(In const* z, index_t n) {
  if (n <= 0) return detail::minus_infinity<double>;
  detail::scratch<compute_t<In>, detail::stack_row> x(detail::padded_size(n));
  return detail::dispatch<detail::log_sum_exp_kernel>(z, n, x.data());
}

/// log_sum_exp_row of every row of z [T,E] into out [T].
template <real_scalar In>
void log_sum_exp_rows(matrix_view<In> z, double* out) {
  if (z.cols() <= 0) return std::fill(out, out + z.rows(), detail::minus_infinity<double>);
  detail::scratch<compute_t<In>, detail::stack_row> x(detail::padded_size(z.cols()));
  detail::for_each_row(z, [&](In const* row, index_t r) {
    out[r] = detail::dispatch<detail::log_sum_exp_kernel>(row, z.cols(), x.data());
  });
}

/// 1 / (1 + exp(-z)) of one row of logits.
///
/// In     z [n].   Out  p [n] within 3 ulp, the same bits at every dispatch level; 0 below -87 (binary64: -708); NaN
///        for NaN.
/// Empty  nothing is written.   Cost  O(n).
template <real_scalar In, detail::holds_result_of<In> Out>
void sigmoid_row(In const* z, index_t n, Out* p) {
  if (n <= 0) return;
  detail::scratch<compute_t<In>, detail::stack_row> x(detail::padded_size(n));
  detail::dispatch<detail::sigmoid_kernel>(z, n, p, x.data());
}

/// sigmoid_row of every row of z [T,E] into p [T,E], row-major.
template <real_scalar In, detail::holds_result_of<In> Out>
void sigmoid_rows(matrix_view<In> z, Out* p) {
  if (z.empty()) return;
  detail::scratch<compute_t<In>, detail::stack_row> x(detail::padded_size(z.cols()));
  detail::for_each_row(z, [&](In const* row, index_t r) {
    detail::dispatch<detail::sigmoid_kernel>(row, z.cols(), p + r * z.cols(), x.data());
  });
}

/// Adds the softmax of every row to exact sums, without storing it.
///
/// In     logits [T,E]; sums of E cells and a bound of at least 1.
/// Out    the number of rows with a NaN or infinite logit; such a row adds nothing. sums.rows() grows by the others.
/// Merge  exact: any split of the rows leaves the same state, as softmax_row with add_row does.
/// Throws shape_error if the cells are not E, argument_error for a smaller bound; nothing is counted then.
/// Cost   O(T E), one read of the logits; memory as softmax_row.
template <real_scalar In>
std::uint64_t softmax_accumulate(matrix_view<In> logits, exact_sums& sums) {
  using namespace detail;
  if (logits.rows() <= 0) return 0;
  auto const n = logits.cols();
  if (n != sums.size())
    raise<shape_error>("moeroute::softmax_accumulate: logits of ", n, " experts for ", sums.size(), " sums");
  if (sums.bound() < 1)
    raise("moeroute::softmax_accumulate: bound = ", sums.bound(), ", a probability needs at least 1");
  if (n == 0) return 0;

  auto const padded = padded_size(n);
  scratch<compute_t<In>, stack_row> x(padded);
  scratch<std::uint64_t, stack_row> cells(padded);
  bool const strided = logits.col_stride() != 1 && n > 1;
  std::vector<In> copy(strided ? static_cast<std::size_t>(n * std::min(logits.rows(), exact_block_rows)) : 0);
  auto const bias = std::bit_cast<std::uint64_t>(sums.bound());
  std::uint64_t skipped = 0;
  for (index_t first = 0; first < logits.rows(); first += exact_block_rows) {
    auto block = logits.rows_from(first, std::min(exact_block_rows, logits.rows() - first));
    if (strided) {
      for (index_t r = 0; r < block.rows(); ++r) gather(block.row(r), copy.data() + r * n);
      block = {copy.data(), block.rows(), n};
    }
    std::fill_n(cells.data(), padded, std::uint64_t{0});
    auto const left_out = dispatch<softmax_accumulate_kernel>(block.data(), block.rows(), n, block.row_stride(),
                                                              sums.bound(), x.data(), cells.data());
    auto const added = block.rows() - left_out;
    for (index_t i = 0; i < n; ++i) cells.data()[i] -= static_cast<std::uint64_t>(added) * bias;
    sums.add_units(cells.data(), added);
    skipped += static_cast<std::uint64_t>(left_out);
  }
  return skipped;
}

}  // namespace moeroute

#endif

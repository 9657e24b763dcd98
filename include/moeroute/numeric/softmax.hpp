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
inline constexpr index_t padded_size(index_t n) noexcept {
  constexpr index_t block = 2 * sum_lanes;  // four of the widest registers
  return (n + block - 1) / block * block;
}

// Rows up to this length are worked on in stack memory.
inline constexpr int stack_row = 512;

template <class T>
inline constexpr T minus_infinity = -std::numeric_limits<T>::infinity();

// Two rows at a time go through each step: the chain of operations within a row is long, and so two of them overlap.
// More rows would come back to memory that is no longer in the nearest cache.
inline constexpr index_t row_block = 2;

template <real_scalar T>
inline constexpr T minus_infinity_of = minus_infinity<T>;
template <>
inline constexpr bf16 minus_infinity_of<bf16>{0xff80};
template <>
inline constexpr f16 minus_infinity_of<f16>{0xfc00};

/// Rows of n values, read by whole registers of W; behind the end stands -inf.
template <int W, real_scalar In>
class padded_rows {
 public:
  MOEROUTE_ALWAYS_INLINE explicit padded_rows(index_t n) : whole_{n / W * W}, rest_{n - whole_} {
    std::fill(tail_, tail_ + longest, minus_infinity_of<In>);
  }
  MOEROUTE_ALWAYS_INLINE void start(In const* row) {
    row_ = row;
    if (rest_ > 0) std::memcpy(tail_, row + whole_, static_cast<std::size_t>(rest_) * sizeof(In));
  }
  /// The values from place i on, a multiple of W, at most 3 W beyond the end.
  MOEROUTE_ALWAYS_INLINE void read(index_t i, lanes<compute_t<In>, W>& v) const {
    load_widened<W>(i < whole_ ? row_ + i : tail_ + (i - whole_), v);
  }

 private:
  static constexpr int longest = 4 * W;
  In tail_[longest];
  In const* row_ = nullptr;
  index_t whole_, rest_;
};

/// The maximum of a row; `finite` is false if a value is NaN or infinite, and the maximum is then some number.
template <simd_level Level, class In>
MOEROUTE_ALWAYS_INLINE compute_t<In> row_maximum(In const* z, index_t n, bool& finite) {
  using T = compute_t<In>;
  constexpr int W = lane_count<Level, T>;
  using real = lanes<T, W>;
  T maximum = to_compute(z[0]), sum = 0;
  if (n < W) {
    for (index_t i = 0; i < n; ++i) {
      T const x = to_compute(z[i]);
      maximum = x > maximum ? x : maximum;
      sum += x - x;
    }
  } else {
    real top = real{} + maximum, poison{}, v;
    for (index_t i = 0; i < n; i += W) {
      load_widened<W>(z + std::min(i, n - W), v);  // the last register may take values once more
      top = v > top ? v : top;
      poison += v - v;  // 0, or NaN for ever after one value that is not finite
    }
    maximum = fold_lanes<T, W>(top, fold_max{});
    sum = fold_lanes<T, W>(poison, fold_sum{});
  }
  finite = sum == sum;
  return maximum;
}

/// What exp_row finds besides the sum, for those who want it.
struct no_moment {};
template <class T>
struct first_moment {
  T value;  ///< sum of e^(z - maximum) (maximum - z)
};

template <int N, class In, int W, class E, class Moment>
MOEROUTE_ALWAYS_INLINE void exp_registers(padded_rows<W, In> const& row, index_t i, compute_t<In> maximum, E e,
                                          lanes<compute_t<In>, W>* sum, Moment* moment) {
  using T = compute_t<In>;
  constexpr bool with_moment = !std::is_same_v<Moment, no_moment>;
  lanes<T, W> x[N], d[N];
#pragma GCC unroll 4
  for (int k = 0; k < N; ++k) {
    row.read(i + k * W, x[k]);
    x[k] -= maximum;
    d[k] = x[k];
  }
  exp_lanes<T, W>(x);
#pragma GCC unroll 4
  for (int k = 0; k < N; ++k) {
    sum[k % (sum_lanes / W)] += x[k];
    if constexpr (with_moment) {
      lanes<T, W> term = d[k] * x[k];
      round_here(term);
      moment[k % (sum_lanes / W)] -= d[k] < exp_constants<T>::lowest ? lanes<T, W>{} : term;
    }
    if constexpr (std::is_pointer_v<E>) store<W>(x[k], e + i + k * W);
  }
}

template <class T, int W>
MOEROUTE_ALWAYS_INLINE T fold_sum_lanes(lanes<T, W> (&sum)[sum_lanes / W]) {
  for (int h = sum_lanes / W / 2; h > 0; h /= 2)
    for (int j = 0; j < h; ++j) sum[j] += sum[j + h];
  return fold_lanes<T, W>(sum[0], fold_sum{});
}

/// e = exp(z - maximum) over a row padded to whole registers, unless e is null; returns the sum, which is at least 1.
/// Asks for the memory of a row of the next block, which would otherwise be waited for all at once.
template <class In, int W, class E, class Moment>
MOEROUTE_ALWAYS_INLINE compute_t<In> exp_row(padded_rows<W, In>& row, In const* z, index_t n, compute_t<In> maximum,
                                             std::uintptr_t next_row, E e, Moment& moment) {
  using T = compute_t<In>;
  constexpr int registers = sum_lanes / W, block = std::max(registers, 4);
  constexpr index_t line = 64 / static_cast<index_t>(sizeof(In));
  for (index_t i = 0; i < n; i += line)
    __builtin_prefetch(reinterpret_cast<void const*>(next_row + static_cast<std::size_t>(i) * sizeof(In)));
  row.start(z);
  constexpr bool with_moment = !std::is_same_v<Moment, no_moment>;
  lanes<T, W> sum[registers] = {};
  std::conditional_t<with_moment, lanes<T, W>, no_moment> weighted[registers] = {};
  for (index_t i = 0; i < n; i += block * W)
#pragma GCC unroll 4
    for (int j = 0; j < block; j += 4) {
      // Beyond the end is nothing but padding, whose exp is 0.
      if (registers < 4 && i + 2 * W >= n)
        exp_registers<2>(row, i, maximum, e, sum, weighted);
      else if (i + j * W < n)
        exp_registers<4>(row, i + j * W, maximum, e, sum + j, weighted + j);
    }
  if constexpr (with_moment) moment.value = fold_sum_lanes<T, W>(weighted);
  return fold_sum_lanes<T, W>(sum);
}
template <class In, int W, class E>
MOEROUTE_ALWAYS_INLINE compute_t<In> exp_row(padded_rows<W, In>& row, In const* z, index_t n, compute_t<In> maximum,
                                             std::uintptr_t next_row, E e) {
  no_moment none;
  return exp_row(row, z, n, maximum, next_row, e, none);
}

// What softmax makes of a row with a value that is not finite: -inf has probability 0, and this is the maximum to
// subtract, unless a NaN, +inf or nothing but -inf makes every probability NaN.
template <class In>
compute_t<In> maximum_or_nan(In const* z, index_t n) noexcept {
  using T = compute_t<In>;
  T top = minus_infinity<T>;
  for (index_t i = 0; i < n; ++i) {
    T const x = to_compute(z[i]);
    if (std::isnan(x)) return x;
    top = std::max(top, x);
  }
  return std::isinf(top) ? std::numeric_limits<T>::quiet_NaN() : top;
}

template <class In>
std::uintptr_t after_block(In const* z, index_t row, index_t row_stride) noexcept {
  return reinterpret_cast<std::uintptr_t>(z) + static_cast<std::size_t>((row + row_block) * row_stride) * sizeof(In);
}

/// The number to subtract from every row of a block; NaN if its softmax is NaN.
template <simd_level Level, class In>
MOEROUTE_ALWAYS_INLINE void row_maxima(In const* z, index_t rows, index_t n, index_t row_stride,
                                       compute_t<In>* maximum) {
  for (index_t r = 0; r < rows; ++r) {
    bool finite;
    maximum[r] = row_maximum<Level>(z + r * row_stride, n, finite);
    if (!finite) maximum[r] = maximum_or_nan(z + r * row_stride, n);
  }
}

struct softmax_kernel {
  template <simd_level Level, class In, class Out>
  MOEROUTE_ALWAYS_INLINE static void run(In const* z, index_t rows, index_t n, index_t row_stride, Out* p,
                                         compute_t<In>* x) {
    using T = compute_t<In>;
    constexpr int W = lane_count<Level, T>;
    T maximum[row_block];
    padded_rows<W, In> padded(n);
    for (index_t first = 0; first < rows; first += row_block) {
      index_t const here = std::min(row_block, rows - first);
      row_maxima<Level>(z + first * row_stride, here, n, row_stride, maximum);
      for (index_t r = first; r < first + here; ++r) {
        Out* const out = p + r * n;
        T const top = maximum[r - first];
        if (top != top) {
          std::fill(out, out + n, std::numeric_limits<Out>::quiet_NaN());
          continue;
        }
        T const inverse = T{1} / exp_row(padded, z + r * row_stride, n, top, after_block(z, r, row_stride), x);
        for (index_t i = 0; i < n; ++i) out[i] = static_cast<Out>(x[i] * inverse);
      }
    }
  }
};

/// sum[r] = the sum that softmax divides row r by, or just 1 if it is not wanted; NaN if a value is not finite.
struct softmax_sum_kernel {
  template <simd_level Level, class In>
  MOEROUTE_ALWAYS_INLINE static void run(In const* z, index_t rows, index_t n, index_t row_stride, bool wanted,
                                         compute_t<In>* sum) {
    using T = compute_t<In>;
    padded_rows<lane_count<Level, T>, In> padded(n);
    T maximum[row_block];
    bool finite[row_block];
    for (index_t first = 0; first < rows; first += row_block) {
      index_t const here = std::min(row_block, rows - first);
      for (index_t r = 0; r < here; ++r)
        maximum[r] = row_maximum<Level>(z + (first + r) * row_stride, n, finite[r]);
      for (index_t r = 0; r < here; ++r)
        sum[first + r] = !finite[r] ? std::numeric_limits<T>::quiet_NaN()
                         : !wanted  ? T{1}
                                    : exp_row(padded, z + (first + r) * row_stride, n, maximum[r],
                                              after_block(z, first + r, row_stride), nullptr);
    }
  }
};

struct log_sum_exp_kernel {
  template <simd_level Level, class In>
  MOEROUTE_ALWAYS_INLINE static void run(In const* z, index_t rows, index_t n, index_t row_stride, double* out) {
    using T = compute_t<In>;
    constexpr int W = lane_count<Level, T>;
    T maximum[row_block], sum[row_block];
    padded_rows<W, In> padded(n);
    for (index_t first = 0; first < rows; first += row_block) {
      index_t const here = std::min(row_block, rows - first);
      row_maxima<Level>(z + first * row_stride, here, n, row_stride, maximum);
      for (index_t r = 0; r < here; ++r)
        sum[r] = exp_row(padded, z + (first + r) * row_stride, n, maximum[r], after_block(z, first + r, row_stride),
                         nullptr);
      for (index_t r = 0; r < here; ++r)
        out[first + r] = maximum[r] == maximum[r]
                             ? static_cast<double>(maximum[r]) + std::log(static_cast<double>(sum[r]))
                             : limit_of_log_sum(z + (first + r) * row_stride, n);
    }
  }

 private:
  // Only the infinities of one sign have a limit.
  template <class In>
  static double limit_of_log_sum(In const* z, index_t n) noexcept {
    double top = minus_infinity<double>;
    for (index_t i = 0; i < n; ++i) {
      double const x = static_cast<double>(to_compute(z[i]));
      if (std::isnan(x)) return quiet_nan;
      top = std::max(top, x);
    }
    return top;
  }
};

struct sigmoid_kernel {
  template <simd_level Level, class In, class Out>
  MOEROUTE_ALWAYS_INLINE static void run(In const* z, index_t rows, index_t n, index_t row_stride, Out* p,
                                         compute_t<In>* x) {
    using T = compute_t<In>;
    constexpr int W = lane_count<Level, T>;
    using real = lanes<T, W>;
    padded_rows<W, In> padded(n);
    for (index_t r = 0; r < rows; ++r) {
      padded.start(z + r * row_stride);
      for (index_t i = 0; i < n; i += 2 * W) {
        real v[2], e[2];
#pragma GCC unroll 2
        for (int k = 0; k < 2; ++k) {
          padded.read(i + k * W, v[k]);
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
      for (index_t i = 0; i < n; ++i) p[r * n + i] = static_cast<Out>(x[i]);
    }
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
    T maximum[row_block];
    bool finite[row_block];
    padded_rows<W, In> padded(n);
    for (index_t r = 0; r < rows; ++r) {
      if (r % row_block == 0)
        for (index_t i = 0; i < std::min(row_block, rows - r); ++i)
          maximum[i] = row_maximum<Level>(z + (r + i) * row_stride, n, finite[i]);
      if (!finite[r % row_block]) {
        ++skipped;
        continue;
      }
      T const inverse = T{1} / exp_row(padded, z + r * row_stride, n, maximum[r % row_block],
                                       after_block(z, r, row_stride), x);
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

/// Calls f(at most `most` rows of contiguous columns, first) until all of m is done; copies where columns are strided.
template <class T, class F>
void for_blocks(matrix_view<T> m, index_t most, F const& f) {
  bool const strided = m.col_stride() != 1 && m.cols() > 1;
  std::vector<T> copy(strided ? static_cast<std::size_t>(m.cols() * std::min(m.rows(), most)) : 0);
  for (index_t first = 0; first < m.rows(); first += most) {
    auto block = m.rows_from(first, std::min(most, m.rows() - first));
    if (strided) {
      for (index_t r = 0; r < block.rows(); ++r) gather(block.row(r), copy.data() + r * m.cols());
      block = {copy.data(), block.rows(), m.cols()};
    }
    f(block, first);
  }
}

// The type of the results: what the row is computed in, or wider.
template <class Out, class In>
concept holds_result_of = std::floating_point<Out> && sizeof(Out) >= sizeof(compute_t<In>);

}  // namespace detail

/// softmax_row of every row of z [T,E] into p [T,E], row-major.
template <real_scalar In, detail::holds_result_of<In> Out>
void softmax_rows(matrix_view<In> z, Out* p) {
  if (z.empty()) return;
  detail::scratch<compute_t<In>, detail::stack_row> x(detail::padded_size(z.cols()));
  detail::for_blocks(z, detail::exact_block_rows, [&](matrix_view<In> m, index_t first) {
    detail::dispatch<detail::softmax_kernel>(m.data(), m.rows(), m.cols(), m.row_stride(), p + first * m.cols(),
                                             x.data());
  });
}

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
  softmax_rows(matrix_view<In>(z, 1, n), p);
}

/// log_sum_exp_row of every row of z [T,E] into out [T].
template <real_scalar In>
void log_sum_exp_rows(matrix_view<In> z, double* out) {
  if (z.cols() <= 0) return std::fill(out, out + z.rows(), detail::minus_infinity<double>);
  detail::for_blocks(z, detail::exact_block_rows, [&](matrix_view<In> m, index_t first) {
    detail::dispatch<detail::log_sum_exp_kernel>(m.data(), m.rows(), m.cols(), m.row_stride(), out + first);
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
  double out;
  log_sum_exp_rows(matrix_view<In>(z, 1, n), &out);
  return out;
}

/// sigmoid_row of every row of z [T,E] into p [T,E], row-major.
template <real_scalar In, detail::holds_result_of<In> Out>
void sigmoid_rows(matrix_view<In> z, Out* p) {
  if (z.empty()) return;
  detail::scratch<compute_t<In>, detail::stack_row> x(detail::padded_size(z.cols()));
  detail::for_blocks(z, detail::exact_block_rows, [&](matrix_view<In> m, index_t first) {
    detail::dispatch<detail::sigmoid_kernel>(m.data(), m.rows(), m.cols(), m.row_stride(), p + first * m.cols(),
                                             x.data());
  });
}

/// 1 / (1 + exp(-z)) of one row of logits.
///
/// In     z [n].   Out  p [n] within 3 ulp, the same bits at every dispatch level; 0 below -87 (binary64: -708); NaN
///        for NaN.
/// Empty  nothing is written.   Cost  O(n).
template <real_scalar In, detail::holds_result_of<In> Out>
void sigmoid_row(In const* z, index_t n, Out* p) {
  sigmoid_rows(matrix_view<In>(z, 1, n), p);
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
  auto const bias = std::bit_cast<std::uint64_t>(sums.bound());
  std::uint64_t skipped = 0;
  for_blocks(logits, exact_block_rows, [&](matrix_view<In> block, index_t) {
    std::fill_n(cells.data(), padded, std::uint64_t{0});
    auto const left_out = dispatch<softmax_accumulate_kernel>(block.data(), block.rows(), n, block.row_stride(),
                                                              sums.bound(), x.data(), cells.data());
    auto const added = block.rows() - left_out;
    for (index_t i = 0; i < n; ++i) cells.data()[i] -= static_cast<std::uint64_t>(added) * bias;
    sums.add_units(cells.data(), added);
    skipped += static_cast<std::uint64_t>(left_out);
  });
  return skipped;
}

}  // namespace moeroute

#endif

// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_NUMERIC_TOP_K_HPP
#define MOEROUTE_NUMERIC_TOP_K_HPP

#include <moeroute/core/error.hpp>
#include <moeroute/core/scalar.hpp>
#include <moeroute/core/view.hpp>
#include <moeroute/numeric/simd.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <type_traits>
#include <utility>

namespace moeroute {
namespace detail {

__extension__ using wide_key = unsigned __int128;

// --- Any type, k and stride: keys that are integers. The value is in the high half, in an order in which NaN is lowest
// and -0 equals +0; the complement of the index is in the low half, so that no two keys are equal and the lower index
// wins a tie.

template <class T>
using row_key = std::conditional_t<std::is_same_v<T, double>, wide_key, std::uint64_t>;
template <class T>
inline constexpr int half_key_bits = static_cast<int>(sizeof(row_key<T>)) * 4;

template <real_scalar T>
row_key<T> make_row_key(T value, index_t index) noexcept {
  using real = compute_t<T>;
  using bits = std::conditional_t<sizeof(real) == 8, std::uint64_t, std::uint32_t>;
  constexpr bits sign = bits{1} << (sizeof(bits) * 8 - 1);
  real const x = to_compute(value) + real{0};
  bits const u = std::bit_cast<bits>(x);
  bits const order = x != x ? 0 : u & sign ? ~u : u | sign;
  return static_cast<row_key<T>>(order) << half_key_bits<T> | static_cast<bits>(~static_cast<bits>(index));
}

/// Moves the m largest of n keys to the front, in descending order.
template <class Key>
void sort_largest(Key* keys, index_t n, index_t m) {
  constexpr index_t insertion_limit = 24;  // beyond it, moving keys costs more than selecting and sorting
  if (m > insertion_limit) {
    if (m < n) std::nth_element(keys, keys + m - 1, keys + n, std::greater<>{});
    std::sort(keys, keys + m, std::greater<>{});
    return;
  }
  std::sort(keys, keys + m, std::greater<>{});
  for (index_t i = m; i < n; ++i) {
    Key const key = keys[i];
    if (key <= keys[m - 1]) continue;
    index_t j = m - 1;
    for (; j > 0 && keys[j - 1] < key; --j) keys[j] = keys[j - 1];
    keys[j] = key;
  }
}

template <real_scalar T, std::integral Id>
bool select_row(vector_view<T> scores, index_t k, Id* ids, T* values, row_key<T>* keys) {
  index_t const n = scores.size(), kept = std::min(n, k + 1);
  if (k == 0) return false;
  for (index_t i = 0; i < n; ++i) keys[i] = make_row_key(scores[i], i);
  sort_largest(keys, n, kept);
  using index_bits = std::conditional_t<half_key_bits<T> == 64, std::uint64_t, std::uint32_t>;
  for (index_t j = 0; j < k; ++j) {
    auto const index = static_cast<index_t>(static_cast<index_bits>(~static_cast<index_bits>(keys[j])));
    ids[j] = static_cast<Id>(index);
    if (values != nullptr) values[j] = scores[index];
  }
  return kept > k && keys[k - 1] >> half_key_bits<T> == keys[k] >> half_key_bits<T>;
}

// --- Float and narrower, small k: a sorting network. Every lane ranks its own columns, then the lanes are merged. Keys
// are doubles, because every instruction set has their minimum and maximum, with the 32 bits of the value on top of 29
// bits of index. They are built from integers so that each is a normal finite number and keeps the order above: the
// exponents of the floats end up between 256 and 511 of 2047.

inline constexpr int index_bits = 29;
inline constexpr std::int64_t index_mask = (std::int64_t{1} << index_bits) - 1;

// What the low bits of a key start as; counting the index down from it is one operation.
inline constexpr std::int64_t key_exponent = std::int64_t{1} << 60;
inline constexpr std::int64_t first_key_bits = key_exponent | index_mask;

/// Keys of four values in registers of R; `low` is first_key_bits minus the indices.
template <int R>
MOEROUTE_ALWAYS_INLINE void make_lane_keys(lanes<float, 4> const& value, lanes<std::int64_t, R> const& low,
                                           lanes<double, R>* key) {
  lanes<float, 4> const x = value + 0.0f;
  lanes<std::int32_t, 4> u;
  std::memcpy(&u, &x, sizeof u);
  u = x == x ? u : -1;
  lanes<std::uint64_t, R> wide[4 / R];
  if constexpr (R == 4) {
    auto const extended = __builtin_convertvector(u, lanes<std::int64_t, 4>);
    std::memcpy(wide, &extended, sizeof wide);
  } else {  // without the detour over 8-byte registers that GCC would take
    lanes<std::int32_t, 4> const sign = u >> 31;
    lanes<std::int32_t, 4> const half[2] = {__builtin_shufflevector(u, sign, 0, 4, 1, 5),
                                            __builtin_shufflevector(u, sign, 2, 6, 3, 7)};
    std::memcpy(wide, half, sizeof wide);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 4 / R; ++i) {
    // Rotating the sign-extended value brings the sign into every index bit: a negative key grows as its magnitude
    // shrinks.
    lanes<std::uint64_t, R> w = wide[i] << index_bits | wide[i] >> (64 - index_bits);
    constexpr std::uint64_t extra_signs = std::uint64_t{7} << 60;
    lanes<std::int64_t, R> const low_here = low - i * R;
    lanes<std::uint64_t, R> low_bits;
    std::memcpy(&low_bits, &low_here, sizeof low_bits);
    w = (w & ~extra_signs) ^ low_bits;
    std::memcpy(&key[i], &w, sizeof w);
  }
}

/// The index that make_lane_keys put into a key.
inline index_t index_of_key(std::int64_t key) noexcept {
  return static_cast<index_t>((key ^ ~(key >> 63)) & index_mask);
}

template <class V>
MOEROUTE_ALWAYS_INLINE void exchange(V& a, V& b) {
  V const larger = a > b ? a : b, smaller = a < b ? a : b;
  a = larger;
  b = smaller;
}

using comparator = std::array<std::uint8_t, 2>;

/// Batcher's odd-even merge sort of K places.
template <int K>
inline constexpr auto sorting_network = [] {
  constexpr auto each = [](auto const& f) {
    for (int p = 1; p < K; p *= 2)
      for (int q = p; q >= 1; q /= 2)
        for (int j = q % p; j + q < K; j += 2 * q)
          for (int i = 0; i < q; ++i)
            if ((i + j) / (2 * p) == (i + j + q) / (2 * p)) f(i + j, i + j + q);
  };
  constexpr auto size = [each] {
    std::size_t n = 0;
    each([&n](int, int) { ++n; });
    return n;
  }();
  std::array<comparator, size> network{};
  std::size_t n = 0;
  each([&](int a, int b) { network[n++] = {static_cast<std::uint8_t>(a), static_cast<std::uint8_t>(b)}; });
  return network;
}();

/// Sorts a bitonic sequence of K places.
template <int K>
inline constexpr auto bitonic_network = [] {
  constexpr int stages = std::countr_zero(static_cast<unsigned>(K));
  std::array<comparator, static_cast<std::size_t>(K / 2 * stages)> network{};
  std::size_t n = 0;
  for (int d = K / 2; d > 0; d /= 2)
    for (int i = 0; i < K; ++i)
      if ((i & d) == 0) network[n++] = {static_cast<std::uint8_t>(i), static_cast<std::uint8_t>(i + d)};
  return network;
}();

template <auto const& Network, class V, std::size_t... I>
MOEROUTE_ALWAYS_INLINE void run_network(V* v, std::index_sequence<I...>) {
  (exchange(v[Network[I][0]], v[Network[I][1]]), ...);
}
template <auto const& Network, class V>
MOEROUTE_ALWAYS_INLINE void run_network(V* v) {
  run_network<Network>(v, std::make_index_sequence<Network.size()>{});
}

/// The lanes of v with lane i and lane i ^ distance exchanged.
template <int Distance, int R, std::size_t... I>
MOEROUTE_ALWAYS_INLINE void swap_lanes(lanes<double, R> const& v, lanes<double, R>& swapped,
                                       std::index_sequence<I...>) {
  swapped = __builtin_shufflevector(v, v, (I ^ Distance)...);
}

/// best = the larger half of two sorted runs, sorted. The larger of best[i] and other[K - 1 - i] form a bitonic
/// sequence.
template <int K, class V>
MOEROUTE_ALWAYS_INLINE void merge_runs(V* best, V const* other) {
#pragma GCC unroll 16
  for (int i = 0; i < K; ++i) best[i] = best[i] > other[K - 1 - i] ? best[i] : other[K - 1 - i];
  run_network<bitonic_network<K>>(best);
}

/// Leaves the K best of all lanes in every lane.
template <int K, int Distance, int R>
MOEROUTE_ALWAYS_INLINE void merge_lanes(lanes<double, R>* best) {
  if constexpr (Distance > 0) {
    lanes<double, R> other[K];
#pragma GCC unroll 16
    for (int i = 0; i < K; ++i) swap_lanes<Distance, R>(best[i], other[i], std::make_index_sequence<R>{});
    merge_runs<K>(best, other);
    merge_lanes<K, Distance / 2, R>(best);
  }
}

template <real_scalar T>
inline constexpr T nan_of = std::numeric_limits<T>::quiet_NaN();
template <>
inline constexpr bf16 nan_of<bf16>{0x7fff};
template <>
inline constexpr f16 nan_of<f16>{0x7fff};

/// Number of the n contiguous values that are at least `least`, which is no NaN.
template <simd_level Level, class T>
MOEROUTE_ALWAYS_INLINE index_t count_at_least(T const* row, index_t n, float least) {
  constexpr int W = lane_count<Level, float>;
  lanes<std::int32_t, W> minus_count{};
  lanes<float, W> v;
  index_t i = 0;
  for (; i + W <= n; i += W) {
    load_widened<W>(row + i, v);
    minus_count += v >= least;
  }
  index_t count = -fold_lanes<std::int32_t, W>(minus_count, fold_sum{});
  for (; i < n; ++i) count += to_float(row[i]) >= least ? 1 : 0;
  return count;
}

/// The k <= K largest of every row of contiguous columns, K a power of two; returns the number of rows with a tie at
/// place k.
template <int K>
struct top_k_kernel {
  template <simd_level Level, class T, class Id>
  MOEROUTE_ALWAYS_INLINE static index_t run(T const* scores, index_t rows, index_t n, index_t row_stride, index_t k,
                                            Id* ids, T* values) {
    // Eight lanes would cost more in merging them than they save.
    constexpr int R = std::min(4, lane_count<Level, double>);
    index_t ties = 0;
    for (index_t row = 0; row < rows; ++row) {
      T const* const from = scores + row * row_stride;
      lanes<double, R> best[K];
      rank_columns<R>(from, n, 0, best);
      for (index_t c = K * R; c < n; c += K * R) {
        lanes<double, R> next[K];
        rank_columns<R>(from, n, c, next);
        merge_runs<K>(best, next);
      }
      merge_lanes<K, R / 2, R>(best);
      std::int64_t keys[K];
#pragma GCC unroll 16
      for (int i = 0; i < K; ++i) keys[i] = std::bit_cast<std::int64_t>(static_cast<double>(best[i][0]));
      for (index_t j = 0; j < k; ++j) {
        index_t const index = index_of_key(keys[j]);
        ids[row * k + j] = static_cast<Id>(index);
        if (values != nullptr) values[row * k + j] = from[index];
      }
      if (k == n) continue;
      if (k < K) {
        ties += (keys[k - 1] ^ keys[k]) >> index_bits == 0 ? 1 : 0;
      } else {
        // A NaN in the k-th place ties with what is left, all of it NaN.
        float const least = to_float(from[index_of_key(keys[k - 1])]);
        ties += least != least || count_at_least<Level>(from, n, least) > k ? 1 : 0;
      }
    }
    return ties;
  }

 private:
  // The K x R values from column c on, each lane sorted. NaN stands beyond the last column; its index ranks it below
  // all of the row.
  template <int R, class T>
  MOEROUTE_ALWAYS_INLINE static void rank_columns(T const* row, index_t n, index_t c, lanes<double, R>* key) {
    T padded[K * R];
    T const* from = row + c;
    if (c + K * R > n) {
      std::fill(padded, padded + K * R, nan_of<T>);
      std::memcpy(padded, from, static_cast<std::size_t>(n - c) * sizeof(T));
      from = padded;
    }
    lanes<std::int64_t, R> low{};
#pragma GCC unroll 4
    for (int lane = 0; lane < R; ++lane) low[lane] = first_key_bits - c - lane;
#pragma GCC unroll 16
    for (int i = 0; i < K; i += 4 / R) {
      lanes<float, 4> value;
      lanes<std::int64_t, R> const low_here = low - i * R;
      load_widened<4>(from + i * R, value);
      make_lane_keys<R>(value, low_here, key + i);
    }
    run_network<sorting_network<K>>(key);
  }
};

inline constexpr index_t widest_network = 16;

template <std::integral Id>
void check_top_k(index_t n, index_t k) {
  if (k < 0 || k > n) raise("moeroute::top_k: k = ", k, ", must be between 0 and the ", n, " scores of a row");
  if (n > 0 && std::cmp_greater(n - 1, std::numeric_limits<Id>::max()))
    raise("moeroute::top_k: ", n, " scores, but the type of the ids ends at ", +std::numeric_limits<Id>::max());
}

}  // namespace detail

/// The k largest scores of every row.
///
/// In     scores [T,E].   Out  ids [T,k] and values [T,k] as top_k_row, row-major; the number of rows with a tie at the
///        k-th place.
/// Cost   O(T E); by sorting networks where the columns are contiguous, k <= 16 and the type is not double, which is
///        several times as fast as otherwise.
/// Throws as top_k_row.
template <real_scalar T, std::integral Id>
index_t top_k_rows(matrix_view<T> scores, index_t k, Id* ids, T* values = nullptr) {
  index_t const rows = scores.rows(), n = scores.cols();
  detail::check_top_k<Id>(n, k);
  if (rows <= 0 || k == 0) return 0;
  if constexpr (!std::is_same_v<T, double>) {
    if (k <= detail::widest_network && scores.col_stride() == 1 && n < detail::index_mask) {
      auto const run = [&]<int K>(std::integral_constant<int, K>) {
        return detail::dispatch<detail::top_k_kernel<K>>(scores.data(), rows, n, scores.row_stride(), k, ids, values);
      };
      if (k <= 2) return run(std::integral_constant<int, 2>{});
      if (k <= 4) return run(std::integral_constant<int, 4>{});
      if (k <= 8) return run(std::integral_constant<int, 8>{});
      return run(std::integral_constant<int, 16>{});
    }
  }
  detail::scratch<detail::row_key<T>, 512> keys(n);
  index_t ties = 0;
  for (index_t r = 0; r < rows; ++r)
    ties += detail::select_row(scores.row(r), k, ids + r * k, values == nullptr ? nullptr : values + r * k, keys.data())
                ? 1
                : 0;
  return ties;
}

/// The k largest scores of one row.
///
/// In     scores [n]; -0 equals +0, NaN ranks below -inf and equals NaN.
/// Out    ids [k] in descending order of score, ties to the lowest index; values [k] the scores, bit for bit, unless it
///        is null; true if the scores in place k and k + 1 are equal, so that another choice of the set was as good.
/// Empty  k = 0 writes nothing and is no tie.   Cost  O(n) for small k, O(n + k log k) otherwise.
/// Throws argument_error if k is not in 0..n or an id does not fit its type; nothing is written then.
template <real_scalar T, std::integral Id>
bool top_k_row(vector_view<T> scores, index_t k, Id* ids, T* values = nullptr) {
  return top_k_rows(matrix_view<T>(scores.data(), 1, scores.size(), 0, scores.stride()), k, ids, values) != 0;
}
template <real_scalar T, std::integral Id>
bool top_k_row(T const* scores, index_t n, index_t k, Id* ids, T* values = nullptr) {
  return top_k_row(vector_view<T>(scores, n), k, ids, values);
}

}  // namespace moeroute

#endif

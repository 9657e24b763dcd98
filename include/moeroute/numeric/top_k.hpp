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

// --- Float and narrower, small k and n: sorting networks over a block of rows, one row to a lane. A key is one 32-bit
// integer: the value's leading bits in an order in which signed integers compare, then the complement of the column, so
// that the lower column wins a tie. 16-bit scores fit; of a float up to 12 bits give way to the column, so two
// keys that differ in the column only may be in the wrong order. Such rows are looked at again.

inline constexpr index_t widest_network_row = 4096;
inline constexpr std::int32_t lowest_key = std::numeric_limits<std::int32_t>::min();

template <class T>
inline constexpr bool exact_key = !std::is_same_v<T, float>;

/// The key of column `column` of one row a lane; column_mask is 2^b - 1 and at least the last column. -0 becomes +0;
/// NaN ends up above infinity or below minus infinity.
template <int W>
MOEROUTE_ALWAYS_INLINE void make_keys(lanes<float, W> const& value, std::int32_t column, std::int32_t column_mask,
                                      lanes<std::int32_t, W>& key) {
  lanes<float, W> const x = value + 0.0f;
  lanes<std::int32_t, W> u;
  std::memcpy(&u, &x, sizeof u);
  u ^= (u >> 31) & 0x7fffffff;
  key = (u & ~column_mask) | (column_mask - column);
}

/// In every block of four lanes: units of a and of b in turns, from the lower or the upper half of both.
template <int Unit, int Half, int W, std::size_t... I>
MOEROUTE_ALWAYS_INLINE void interleave(lanes<std::uint32_t, W> const& a, lanes<std::uint32_t, W> const& b,
                                       lanes<std::uint32_t, W>& out, std::index_sequence<I...>) {
  out = __builtin_shufflevector(a, b, (I / 4 * 4 + 2 * Half + I % 4 / Unit / 2 * Unit + I % Unit +
                                       I % 4 / Unit % 2 * W)...);
}
/// Transposes every 4 x 4 block of v, whose rows are blocks of four lanes.
template <int W>
MOEROUTE_ALWAYS_INLINE void transpose_4(lanes<std::uint32_t, W> (&v)[4]) {
  constexpr std::make_index_sequence<W> all;
  lanes<std::uint32_t, W> t[4];
  interleave<1, 0, W>(v[0], v[1], t[0], all);
  interleave<1, 1, W>(v[0], v[1], t[1], all);
  interleave<1, 0, W>(v[2], v[3], t[2], all);
  interleave<1, 1, W>(v[2], v[3], t[3], all);
  interleave<2, 0, W>(t[0], t[2], v[0], all);
  interleave<2, 1, W>(t[0], t[2], v[1], all);
  interleave<2, 0, W>(t[1], t[3], v[2], all);
  interleave<2, 1, W>(t[1], t[3], v[3], all);
}

/// Joins registers of 16 bytes.
template <int W, std::size_t... I>
MOEROUTE_ALWAYS_INLINE void join_halves(lanes<std::uint32_t, W / 2> const (&half)[2], lanes<std::uint32_t, W>& all,
                                        std::index_sequence<I...>) {
  all = __builtin_shufflevector(half[0], half[1], I...);
}
template <int W>
MOEROUTE_ALWAYS_INLINE void join(lanes<std::uint32_t, 4> const* part, lanes<std::uint32_t, W>& all) {
  if constexpr (W == 4) {
    all = part[0];
  } else {
    lanes<std::uint32_t, W / 2> half[2];
    join<W / 2>(part, half[0]);
    join<W / 2>(part + W / 8, half[1]);
    join_halves<W>(half, all, std::make_index_sequence<W>{});
  }
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

template <class V>
MOEROUTE_ALWAYS_INLINE void exchange(V& a, V& b) {
  V const larger = a > b ? a : b, smaller = a < b ? a : b;
  a = larger;
  b = smaller;
}
template <auto const& Network, class V, std::size_t... I>
MOEROUTE_ALWAYS_INLINE void run_network(V* v, std::index_sequence<I...>) {
  (exchange(v[Network[I][0]], v[Network[I][1]]), ...);
}
template <auto const& Network, class V>
MOEROUTE_ALWAYS_INLINE void run_network(V* v) {
  run_network<Network>(v, std::make_index_sequence<Network.size()>{});
}

/// best = the larger half of two sorted runs, sorted; next = the largest that was ever left out. The larger of best[i]
/// and other[K - 1 - i] form a bitonic sequence.
template <int K, class V>
MOEROUTE_ALWAYS_INLINE void merge_runs(V* best, V* other, V& next) {
#pragma GCC unroll 16
  for (int i = 0; i < K; ++i) {
    exchange(best[i], other[K - 1 - i]);
    next = next > other[K - 1 - i] ? next : other[K - 1 - i];
  }
  run_network<bitonic_network<K>>(best);
}

template <class T, class Id>
bool select_again(T const* row, index_t n, index_t k, Id* ids, T* values) {
  scratch<row_key<T>, 512> keys(n);
  return select_row(vector_view<T>(row, n), k, ids, values, keys.data());
}

/// A row whose ids follow from keys that do not tell all values apart: true for a tie at place k. `ids` may change.
template <class T, class Id>
bool settle_row(T const* row, index_t n, index_t k, Id* ids, T* values) {
  auto const at = [&](index_t j) { return to_float(row[static_cast<index_t>(ids[j])]); };
  float const least = at(k - 1);
  bool sorted = true;
  index_t above = 0, chosen_above = 0, reached = 0;
  for (index_t j = 0; j + 1 < k; ++j) {
    sorted = sorted && at(j) >= at(j + 1);
    chosen_above += at(j) > least ? 1 : 0;
  }
  for (index_t i = 0; i < n; ++i) {
    above += to_float(row[i]) > least ? 1 : 0;
    reached += to_float(row[i]) >= least ? 1 : 0;
  }
  if (sorted && above == chosen_above) return reached > k;
  return select_again(row, n, k, ids, values);
}

/// The k <= K largest of every row of contiguous columns, K a multiple of 8, by blocks of up to MostLanes rows; returns
/// the number of rows with a tie at place k.
template <int K, int MostLanes>
struct top_k_kernel {
  template <simd_level Level, class T, class Id>
  MOEROUTE_ALWAYS_INLINE static index_t run(T const* scores, index_t rows, index_t n, index_t row_stride, index_t k,
                                            Id* ids, T* values, bool* tied) {
    constexpr int W = std::min(MostLanes, lane_count<Level, std::int32_t>);
    using key = lanes<std::int32_t, W>;
    auto const mask = static_cast<std::int32_t>(std::bit_ceil(static_cast<std::uint32_t>(n)) - 1);
    index_t ties = 0;
    for (index_t first = 0; first < rows; first += W) {
      int const here = static_cast<int>(std::min<index_t>(W, rows - first));
      T const* from[W];
      for (int r = 0; r < W; ++r) from[r] = scores + (first + std::min(r, here - 1)) * row_stride;
      auto ahead = reinterpret_cast<std::uintptr_t>(from[0]) + static_cast<std::size_t>(W * row_stride) * sizeof(T);
      key best[K], next = key{} + lowest_key;
      rank_columns<W>(from, ahead, n, 0, mask, best);
      for (index_t c = K; c < n; c += K) {
        key other[K];
        rank_columns<W>(from, ahead += W * K * sizeof(T), n, c, mask, other);
        merge_runs<K>(best, other, next);
      }
      key look{};
      look_again<T>(best, next, mask, k, look);
      alignas(64) std::int32_t columns[K][W], again[W];
      store<W>(look, again);
#pragma GCC unroll 16
      for (int i = 0; i < K; ++i) store<W>(~best[i] & mask, columns[i]);
      for (int r = 0; r < here; ++r) {
        Id* const id = ids + (first + r) * k;
        T* const value = values == nullptr ? nullptr : values + (first + r) * k;
        bool tie = again[r] != 0;
        if (again[r] >= nan_decides) {
          tie = select_again(from[r], n, k, id, value);
        } else {
          for (index_t j = 0; j < k; ++j) {
            auto const column = columns[j][r];
            id[j] = static_cast<Id>(column);
            if (value != nullptr) value[j] = from[r][column];
          }
          if (tie && !exact_key<T>) tie = settle_row(from[r], n, k, id, value);
        }
        ties += tie ? 1 : 0;
        if (tied != nullptr) tied[first + r] = tie;
      }
    }
    return ties;
  }

 private:
  // Sets of reasons why keys alone do not decide a row. Two keys that differ in the column only mean a tie, or for a
  // float, where they matter at every place, perhaps a wrong order.
  static constexpr std::int32_t close_keys = 1, nan_decides = 2;

  template <class T, class V>
  MOEROUTE_ALWAYS_INLINE static void look_again(V const* best, V const& next, std::int32_t mask, index_t k, V& look) {
    constexpr std::int32_t infinity_bits = 0x7f800000;
    V close{}, nan = best[0] > (infinity_bits | mask);
#pragma GCC unroll 16
    for (int i = 0; i < K; ++i) {
      V const& after = i + 1 < K ? best[(i + 1) % K] : next;
      if (i + 1 == k) nan |= best[i] < (~infinity_bits & ~mask);
      if ((i + 1 < k && !exact_key<T>) || i + 1 == k) close |= ((best[i] ^ after) & ~mask) == 0;
    }
    look = (close & close_keys) | (nan & nan_decides);
  }

  // The K keys from column c on, sorted. Fetches as many values from `ahead` on: rows side by side are no pattern that
  // the hardware foresees, and a whole block asked for at once would stall.
  template <int W, class T>
  MOEROUTE_ALWAYS_INLINE static void rank_columns(T const* const* rows, std::uintptr_t ahead, index_t n, index_t c,
                                                  std::int32_t mask, lanes<std::int32_t, W>* key) {
    constexpr std::size_t cache_line = 64;
    for (std::size_t i = 0; i < W * K * sizeof(T); i += cache_line)
      __builtin_prefetch(reinterpret_cast<void const*>(ahead + i));
    T padded[W][K];
    T const* from[W];
    for (int r = 0; r < W; ++r) from[r] = rows[r] + c;
    bool const last = c + K > n;
    if (last)
      for (int r = 0; r < W; ++r) {
        std::fill(padded[r], padded[r] + K, T{});
        std::copy(from[r], rows[r] + n, padded[r]);
        from[r] = padded[r];
      }
    constexpr int N = 16 / static_cast<int>(sizeof(T));  // columns that 16 bytes hold
    auto const column = static_cast<std::int32_t>(c);
#pragma GCC unroll 16
    for (int i = 0; i < K; i += N) {
      lanes<std::uint32_t, W> v[4];
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        lanes<std::uint32_t, 4> part[W / 4];
#pragma GCC unroll 4
        for (int l = 0; l < W / 4; ++l) load<4>(part[l], reinterpret_cast<std::uint32_t const*>(from[4 * l + j] + i));
        join<W>(part, v[j]);
      }
      transpose_4<W>(v);
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        lanes<float, W> x;
        if constexpr (sizeof(T) == 4) {
          std::memcpy(&x, &v[j], sizeof x);
          make_keys<W>(x, column + i + j, mask, key[i + j]);
        } else {
          widen<T, W>(v[j] & 0xffffu, x);
          make_keys<W>(x, column + i + 2 * j, mask, key[i + 2 * j]);
          widen<T, W>(v[j] >> 16, x);
          make_keys<W>(x, column + i + 2 * j + 1, mask, key[i + 2 * j + 1]);
        }
      }
    }
    if (last)
#pragma GCC unroll 16
      for (int i = 0; i < K; ++i)
        if (c + i >= n) key[i] = lanes<std::int32_t, W>{} + lowest_key;
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
/// In     scores [T,E].   Out  ids [T,k] and values [T,k] as top_k_row, row-major; tied [T]: what top_k_row returns;
///        values and tied unless they are null; the number of tied rows.
/// Cost   O(T E); by sorting networks over blocks of rows where the columns are contiguous, k <= 16, E <= 4096 and the
///        type is not double, which is several times as fast as row by row. Rows whose k + 1 best floats agree in all
///        but their last bits take a second look at the row.
/// Throws as top_k_row.
template <real_scalar T, std::integral Id>
index_t top_k_rows(matrix_view<T> scores, index_t k, Id* ids, T* values = nullptr, bool* tied = nullptr) {
  index_t const rows = scores.rows(), n = scores.cols();
  detail::check_top_k<Id>(n, k);
  if (rows <= 0) return 0;
  if (k == 0) {
    if (tied != nullptr) std::fill(tied, tied + rows, false);
    return 0;
  }
  if constexpr (!std::is_same_v<T, double>) {
    if (k <= detail::widest_network && n <= detail::widest_network_row && scores.col_stride() == 1) {
      auto const run = [&]<int K, int MostLanes>(detail::top_k_kernel<K, MostLanes>) {
        return detail::dispatch<detail::top_k_kernel<K, MostLanes>>(scores.data(), rows, n, scores.row_stride(), k, ids,
                                                                    values, tied);
      };
      if (rows <= 4) return k <= 8 ? run(detail::top_k_kernel<8, 4>{}) : run(detail::top_k_kernel<16, 4>{});
      return k <= 8 ? run(detail::top_k_kernel<8, 16>{}) : run(detail::top_k_kernel<16, 16>{});
    }
  }
  detail::scratch<detail::row_key<T>, 512> keys(n);
  index_t ties = 0;
  for (index_t r = 0; r < rows; ++r) {
    bool const tie = detail::select_row(scores.row(r), k, ids + r * k, values == nullptr ? nullptr : values + r * k,
                                        keys.data());
    ties += tie ? 1 : 0;
    if (tied != nullptr) tied[r] = tie;
  }
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

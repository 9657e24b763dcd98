// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_NUMERIC_QUANTILE_HPP
#define MOEROUTE_NUMERIC_QUANTILE_HPP

#include <moeroute/core/adapt.hpp>
#include <moeroute/core/error.hpp>
#include <moeroute/core/scalar.hpp>
#include <moeroute/numeric/simd.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>
#include <vector>

namespace moeroute {
namespace detail {

/// Scalars as unsigned integers in the order of their values; every NaN is the largest.
template <real_scalar T>
struct ordered_bits {
  using word = std::conditional_t<sizeof(T) == 2, std::uint16_t,
                                  std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>>;
  static constexpr int size = 8 * static_cast<int>(sizeof(word));
  static constexpr word sign = static_cast<word>(word{1} << (size - 1));
  static constexpr word all = static_cast<word>(~word{0});
  static constexpr word infinite =
      std::is_same_v<T, bf16>    ? word{0x7f80}
      : std::is_same_v<T, f16>   ? word{0x7c00}
      : std::is_same_v<T, float> ? static_cast<word>(0x7f800000u)
                                 : static_cast<word>(0x7ff0000000000000u);

  MOEROUTE_ALWAYS_INLINE static word key(T x) noexcept {
    // Without a branch or a comparison, so that a loop becomes lanes.
    auto const bits = std::bit_cast<word>(x), magnitude = static_cast<word>(bits & static_cast<word>(~sign));
    auto const negative = static_cast<word>(word{0} - (bits >> (size - 1)));
    auto const nan = static_cast<word>(word{0} - (static_cast<word>(infinite - magnitude) >> (size - 1)));
    return static_cast<word>((bits ^ (negative | sign)) | nan);
  }
  static double value(word key) noexcept {
    auto const bits = static_cast<word>((key & sign) != 0 ? key ^ sign : ~key);
    return static_cast<double>(to_compute(std::bit_cast<T>(bits)));
  }
};

/// Does any of a block of numbers equal one of the targets? By minima of differences, not comparisons, which GCC 12
/// takes apart lane by lane for 64-byte registers.
struct any_equal_kernel {
  static constexpr int block = 64;

  template <simd_level Level>
  MOEROUTE_ALWAYS_INLINE static bool run(std::uint32_t const* x, std::uint32_t const* target, std::size_t targets) {
    constexpr int W = lane_count<Level, std::uint32_t>;
    using v = lanes<std::uint32_t, W>;
    v least = v{} + ~std::uint32_t{0};
    for (int i = 0; i < block; i += W) {
      v cell;
      load<W>(cell, x + i);
      for (std::size_t t = 0; t < targets; ++t) {
        v const difference = cell ^ target[t];
        least = difference < least ? difference : least;
      }
    }
    std::uint32_t lane[W], all = ~std::uint32_t{0};
    store<W>(least, lane);
    for (auto const l : lane) all = std::min(all, l);
    return all == 0;
  }
};

/// Keys in ascending order at `ranks`, which ascend; `keys` is reordered.
template <class Word>
std::vector<Word> keys_at(std::vector<Word>& keys, std::vector<std::uint64_t> const& ranks) {
  std::vector<Word> out;
  auto first = keys.begin();
  for (auto const rank : ranks) {
    auto const at = keys.begin() + static_cast<std::ptrdiff_t>(rank);
    if (at >= first) {
      std::nth_element(first, at, keys.end());
      first = at + 1;
    }
    out.push_back(*at);
  }
  return out;
}

/// The values at `ranks`, distinct and ascending, of the `count` values that are not NaN.
template <real_scalar T, class Ranks>
std::vector<double> order_statistics(vector_view<T> x, Ranks const& ranks_of) {
  using order = ordered_bits<T>;
  using word = typename order::word;
  constexpr index_t few = index_t{1} << 16;
  constexpr int block = any_equal_kernel::block;
  std::vector<double> out;
  if (x.size() < few) {
    std::vector<word> keys;
    for (index_t i = 0; i < x.size(); ++i)
      if (word const key = order::key(x[i]); key != order::all) keys.push_back(key);
    for (word const key : keys_at(keys, ranks_of(keys.size()))) out.push_back(order::value(key));
    return out;
  }

  // Cells of values with the same leading bits: 20 of them leave few values in each, and their counters in cache.
  constexpr int shift = sizeof(word) == 2 ? 0 : order::size - 20;
  std::vector<std::uint64_t> counts(std::size_t{1} << (order::size - shift));
  std::uint32_t cells[block];
  auto const read = [&](index_t first) {
    for (int i = 0; i < block; ++i) cells[i] = static_cast<std::uint32_t>(order::key(x[first + i]) >> shift);
  };
  index_t const whole = x.size() / block * block, part = index_t{1} << 31;
  std::vector<std::uint32_t> recent(counts.size());  // half the cache of 64-bit counters
  for (index_t first = 0; first < whole; first += part) {
    for (index_t i = first; i < std::min(whole, first + part); i += block) {
      read(i);
      for (auto const cell : cells) ++recent[cell];
    }
    for (std::size_t cell = 0; cell < counts.size(); ++cell) counts[cell] += std::exchange(recent[cell], 0);
  }
  for (index_t i = whole; i < x.size(); ++i) ++counts[static_cast<std::size_t>(order::key(x[i]) >> shift)];
  auto const ranks = ranks_of(static_cast<std::uint64_t>(x.size()) - counts.back());  // the last cell has the NaN

  std::vector<std::uint32_t> wanted;  // cells that hold a rank
  std::vector<std::uint64_t> among;   // the ranks among the values of those cells
  std::uint64_t below = 0, gathered = 0;
  auto rank = ranks.begin();
  for (std::size_t cell = 0; cell < counts.size() && rank != ranks.end(); below += counts[cell], ++cell) {
    if (*rank >= below + counts[cell]) continue;
    wanted.push_back(static_cast<std::uint32_t>(cell));
    for (; rank != ranks.end() && *rank < below + counts[cell]; ++rank) {
      among.push_back(gathered + (*rank - below));
      if constexpr (shift == 0) out.push_back(order::value(static_cast<word>(cell)));
    }
    gathered += counts[cell];
  }
  if constexpr (shift == 0) return out;

  std::vector<std::uint8_t> is_wanted(counts.size());
  for (auto const cell : wanted) is_wanted[cell] = 1;
  std::vector<word> keys;
  keys.reserve(static_cast<std::size_t>(gathered));
  auto const gather = [&](index_t first, index_t n) {
    for (index_t i = first; i < first + n; ++i)
      if (word const key = order::key(x[i]); is_wanted[static_cast<std::size_t>(key >> shift)] != 0)
        keys.push_back(key);
  };
  for (index_t i = 0; i < whole; i += block) {
    read(i);
    if (dispatch<any_equal_kernel>(static_cast<std::uint32_t const*>(cells),
                                   static_cast<std::uint32_t const*>(wanted.data()), wanted.size()))
      gather(i, block);
  }
  gather(whole, x.size() - whole);
  for (word const key : keys_at(keys, among)) out.push_back(order::value(key));
  return out;
}

}  // namespace detail

/// Quantiles of a sample, exactly, without sorting it.
///
/// In     x [n]: NaN is left out, infinities are values. p [m], each in [0, 1].
/// Out    [m]: linear between the two order statistics around p (n - 1).
/// Empty  NaN.
/// Cost   O(n m / lanes): a pass that counts leading bits and one that gathers the values beside an order statistic; bf16
///        and f16 need the first only. 13 MiB and what is gathered; a sample below 65,536 is copied.
/// Throws argument_error if a p is not in [0, 1].
/// Source Hyndman, Fan 1996, doi:10.2307/2684934, type 7, the default of numpy and R. Differs: as given.
template <real_vector X, real_vector P>
std::vector<double> quantiles_of(X const& x, P const& p) {
  auto const levels = detail::vector_of(p);
  for (index_t i = 0; i < levels.size(); ++i)
    if (double const v = static_cast<double>(to_compute(levels[i])); !(v >= 0 && v <= 1))
      detail::raise("moeroute::quantiles_of: p = ", v, ", must be in [0,1]");
  std::vector<std::uint64_t> ranks;
  std::uint64_t count = 0;
  auto const place = [&](index_t i) {
    return static_cast<double>(to_compute(levels[i])) * static_cast<double>(count - 1);
  };
  auto const ranks_of = [&](std::uint64_t n) {
    count = n;
    if (n == 0) return ranks;
    for (index_t i = 0; i < levels.size(); ++i) {
      auto const below = static_cast<std::uint64_t>(place(i));
      ranks.push_back(below);
      ranks.push_back(std::min(below + 1, n - 1));
    }
    std::sort(ranks.begin(), ranks.end());
    ranks.erase(std::unique(ranks.begin(), ranks.end()), ranks.end());
    return ranks;
  };
  auto const values = detail::order_statistics(detail::vector_of(x), ranks_of);
  std::vector<double> out(static_cast<std::size_t>(levels.size()), quiet_nan);
  if (count == 0) return out;
  auto const at = [&](std::uint64_t rank) {
    return values[static_cast<std::size_t>(std::lower_bound(ranks.begin(), ranks.end(), rank) - ranks.begin())];
  };
  for (index_t i = 0; i < levels.size(); ++i) {
    auto const below = static_cast<std::uint64_t>(place(i));
    double const a = at(below), b = at(std::min(below + 1, count - 1)), t = place(i) - static_cast<double>(below);
    double step = t * (b - a);
    detail::round_here(step);
    out[static_cast<std::size_t>(i)] = t == 0 || a == b ? a : a + step;
  }
  return out;
}

}  // namespace moeroute

#endif

// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_ROUTING_DETAIL_PAIR_COUNTS_HPP
#define MOEROUTE_ROUTING_DETAIL_PAIR_COUNTS_HPP

#include <moeroute/core/view.hpp>
#include <moeroute/numeric/simd.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <type_traits>
#include <utility>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace moeroute::detail {

/// What rows of ids say besides which experts they chose.
struct set_tally {
  std::uint64_t dropped = 0;   // slots with id -1
  std::uint64_t repeated = 0;  // slots with an expert that the row has already
};

/// The distinct experts of one row at a time, in ascending order.
class sorted_set {
 public:
  sorted_set(index_t experts, index_t slots) : words_{(experts + 63) / 64}, bits_(words_), chosen_(slots + 1) {
    std::fill_n(bits_.data(), words_, std::uint64_t{0});
  }

  template <class Id>
  std::size_t read(vector_view<Id> row, set_tally& tally) noexcept {
    std::uint64_t* const bits = bits_.data();
    std::uint64_t dropped = 0;
    for (index_t k = 0; k < row.size(); ++k) {
      if (std::cmp_less(row[k], 0))
        ++dropped;
      else
        bits[row[k] / 64] |= std::uint64_t{1} << (row[k] % 64);
    }
    std::size_t n = 0;
    for (index_t w = 0; w < words_; ++w) {
      for (std::uint64_t left = bits[w]; left != 0; left &= left - 1)
        chosen_.data()[n++] = w * 64 + std::countr_zero(left);
      bits[w] = 0;
    }
    tally.dropped += dropped;
    tally.repeated += static_cast<std::uint64_t>(row.size()) - dropped - n;
    return n;
  }
  index_t const* chosen() noexcept { return chosen_.data(); }

 private:
  index_t words_;
  scratch<std::uint64_t, 16> bits_;
  scratch<index_t, 64> chosen_;
};

/// Distinct experts of each of up to 512 rows, as one bit per row and expert.
class set_bitmaps {
 public:
  static constexpr index_t block_rows = 512;

  explicit set_bitmaps(index_t experts)
      : pitch_{(experts + 8) / 8 * 8}, lines_(static_cast<std::size_t>(1 + pitch_ * block_rows / 512)) {}

  template <class Id>
  void fill(matrix_view<Id> ids) noexcept {
    words_ = (ids.rows() + 63) / 64;
    std::fill(lines_.begin(), lines_.end(), line{});
    if (ids.col_stride() == 1 && ids.cols() == 8)  // so common that it is worth a copy without a loop
      set_bits(ids, std::integral_constant<index_t, 8>{}, std::integral_constant<index_t, 1>{});
    else
      set_bits(ids, ids.cols(), ids.col_stride());
  }

  index_t words() const noexcept { return words_; }
  /// Aligned to 64 bytes, as are all places at multiples of 8 experts; readable up to the next multiple of 8.
  std::uint64_t const* word(index_t w) const noexcept { return lines_[1].words + w * pitch_; }

 private:
  template <class Id, class Slots, class Step>
  void set_bits(matrix_view<Id> ids, Slots slots, Step step) noexcept {
    std::uint64_t* word = lines_[1].words;
    for (index_t first = 0; first < ids.rows(); first += 64, word += pitch_) {
      Id const* row = ids.data() + first * ids.row_stride();
      std::uint64_t bit = 1;
      // A dropped slot has id -1 and lands in the padding before expert 0, which every row of words has.
      for (index_t t = first; t < std::min(first + 64, ids.rows()); ++t, bit <<= 1, row += ids.row_stride()) {
        for (index_t k = 0; k < slots; ++k) word[row[k * step]] |= bit;
      }
    }
  }

  struct alignas(64) line {
    std::uint64_t words[8];
  };
  index_t pitch_, words_ = 0;
  std::vector<line> lines_;  // one of padding, then [8,pitch]
};

inline bool has_popcount_lanes() noexcept {
#if defined(__x86_64__)
  static bool const supported = [] {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512vpopcntdq") != 0;
  }();
  return supported && active_simd_level() == simd_level::avx512;
#else
  return false;
#endif
}

/// Pairs are counted by a sweep of bitmaps over all cells, or by an increment for each pair that occurs. Where the bits
/// of a register are counted at once the sweep wins up to some 150 experts at 8 slots.
inline bool by_bitmaps(index_t sweep_cells, index_t rows, index_t pairs_per_row) noexcept {
  constexpr index_t cells_per_increment = 6;  // of a sweep in the time of one increment, measured
  return has_popcount_lanes() && sweep_cells * ((rows + 63) / 64) < cells_per_increment * rows * pairs_per_row;
}

#if defined(__x86_64__)
#define MOEROUTE_TARGET_POPCOUNT __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vpopcntdq,popcnt")))

/// counts[j] += number of rows with expert i in a and j in b, for j in first..n-1; Words = words of both.
template <int Words>
MOEROUTE_TARGET_POPCOUNT void add_intersections(set_bitmaps const& a, index_t i, set_bitmaps const& b, index_t first,
                                                index_t n, std::uint64_t* counts) noexcept {
  __m512i mine[Words];
#pragma GCC unroll 8
  for (int w = 0; w < Words; ++w) mine[w] = _mm512_set1_epi64(static_cast<long long>(a.word(w)[i]));
  index_t const start = first / 8 * 8;
  for (index_t j = start; j < n; j += 8) {
    unsigned used = 0xff;
    if (j < first) used = used << (first - j) & 0xff;
    if (n - j < 8) used &= (1u << (n - j)) - 1;
    auto const mask = static_cast<__mmask8>(used);
    __m512i sum = _mm512_maskz_loadu_epi64(mask, counts + j);
#pragma GCC unroll 8
    for (int w = 0; w < Words; ++w)
      sum = _mm512_add_epi64(sum, _mm512_popcnt_epi64(_mm512_and_si512(mine[w], _mm512_load_si512(b.word(w) + j))));
    _mm512_mask_storeu_epi64(counts + j, mask, sum);
  }
}

/// Number of (row, expert) with the expert in the row's set.
MOEROUTE_TARGET_POPCOUNT inline std::uint64_t total_size(set_bitmaps const& a, index_t n) noexcept {
  __m512i sum = _mm512_setzero_si512();
  for (index_t w = 0; w < a.words(); ++w)
    for (index_t j = 0; j < n; j += 8) {
      auto const mask = static_cast<__mmask8>(n - j >= 8 ? 0xff : (1u << (n - j)) - 1);
      sum = _mm512_add_epi64(sum, _mm512_popcnt_epi64(_mm512_maskz_load_epi64(mask, a.word(w) + j)));
    }
  std::uint64_t lane[8];
  _mm512_storeu_si512(lane, sum);
  return std::accumulate(lane, lane + 8, std::uint64_t{0});
}

/// counts[e] += number of rows with expert e.
MOEROUTE_TARGET_POPCOUNT inline void add_loads(set_bitmaps const& a, index_t n, std::uint64_t* counts) noexcept {
  for (index_t e = 0; e < n; ++e)
    for (index_t w = 0; w < a.words(); ++w) counts[e] += static_cast<std::uint64_t>(__builtin_popcountll(a.word(w)[e]));
}

/// The copy of add_intersections for so many words.
inline auto add_intersections_of(index_t words) noexcept {
  constexpr auto copies = []<int... W>(std::integer_sequence<int, W...>) {
    return std::array{&add_intersections<W + 1>...};
  }
  (std::make_integer_sequence<int, set_bitmaps::block_rows / 64>{});
  return copies[static_cast<std::size_t>(words - 1)];
}
#endif

/// Place of the pair i <= j in a triangle of rows i, i..n-1, less j: triangle[triangle_row(n, i) + j].
inline index_t triangle_row(index_t n, index_t i) noexcept { return i * (2 * n - i - 1) / 2; }

/// count_pairs without looking whether rows are whole until all are counted. False, and nothing is added, if a slot was
/// dropped or an expert came twice: then the diagonal or the padding for id -1 gives it away.
template <class Id>
bool count_whole_rows(matrix_view<Id> ids, index_t n, std::uint64_t* triangle) {
  index_t const pitch = n + 1, slots = ids.cols(), step = ids.col_stride();
  std::vector<std::uint64_t> square(static_cast<std::size_t>(pitch * pitch));
  std::uint64_t* const origin = square.data() + pitch + 1;
  for (index_t t = 0; t < ids.rows(); ++t) {
    Id const* const row = ids.data() + t * ids.row_stride();
    for (index_t a = 0; a < slots; ++a) {
      std::uint64_t* const of_a = origin + row[a * step] * pitch;
      for (index_t b = 0; b <= a; ++b) ++of_a[row[b * step]];
    }
  }
  std::uint64_t chosen = 0;
  for (index_t e = 0; e < n; ++e) chosen += origin[e * pitch + e];
  if (chosen != static_cast<std::uint64_t>(ids.rows() * slots) || square[0] != 0) return false;
  for (index_t i = 0; i < n; ++i) {
    triangle[triangle_row(n, i) + i] += origin[i * pitch + i];
    for (index_t j = i + 1; j < n; ++j)
      triangle[triangle_row(n, i) + j] += origin[i * pitch + j] + origin[j * pitch + i];
  }
  return true;
}

/// Adds, for every pair i <= j, the number of rows that hold both to triangle [n(n+1)/2], and the row sizes to sizes
/// [n+1].
template <class Id>
set_tally count_pairs(matrix_view<Id> ids, index_t n, std::uint64_t* triangle, std::uint64_t* sizes) {
  set_tally tally;
  index_t const slots = ids.cols();
  sorted_set set(n, slots);
#if defined(__x86_64__)
  if (by_bitmaps(n * n / 2, std::min(ids.rows(), set_bitmaps::block_rows), slots * (slots + 1) / 2)) {
    set_bitmaps block(n);
    for (index_t first = 0; first < ids.rows(); first += set_bitmaps::block_rows) {
      auto const rows = ids.rows_from(first, std::min(set_bitmaps::block_rows, ids.rows() - first));
      block.fill(rows);
      auto const add = add_intersections_of(block.words());
      for (index_t i = 0; i < n; ++i) add(block, i, block, i, n, triangle + triangle_row(n, i));
      if (total_size(block, n) == static_cast<std::uint64_t>(rows.rows() * slots))
        sizes[slots] += static_cast<std::uint64_t>(rows.rows());
      else  // a dropped slot, or an expert twice
        for (index_t t = 0; t < rows.rows(); ++t) ++sizes[set.read(rows.row(t), tally)];
    }
    return tally;
  }
#endif
  if (ids.rows() * slots * slots > 4 * n * n && count_whole_rows(ids, n, triangle)) {
    sizes[slots] += static_cast<std::uint64_t>(ids.rows());
    return tally;
  }
  for (index_t t = 0; t < ids.rows(); ++t) {
    auto const size = static_cast<index_t>(set.read(ids.row(t), tally));
    auto const* const expert = set.chosen();
    ++sizes[size];
    for (index_t a = 0; a < size; ++a) {
      std::uint64_t* const row = triangle + triangle_row(n, expert[a]);
      for (index_t b = a; b < size; ++b) ++row[expert[b]];
    }
  }
  return tally;
}

/// Adds, for experts e of one layer and f of another, the number of rows t with e in a's set and f in b's to counts
/// [n,m], and the rows with each expert to of_a [n] and of_b [m].
template <class IdA, class IdB>
set_tally count_cross_pairs(matrix_view<IdA> a, index_t n, matrix_view<IdB> b, index_t m, std::uint64_t* counts,
                            std::uint64_t* of_a, std::uint64_t* of_b) {
  set_tally tally;
  sorted_set from(n, a.cols()), to(m, b.cols());
#if defined(__x86_64__)
  if (by_bitmaps(n * m, std::min(a.rows(), set_bitmaps::block_rows), a.cols() * b.cols())) {
    set_bitmaps sets_a(n), sets_b(m);
    for (index_t first = 0; first < a.rows(); first += set_bitmaps::block_rows) {
      index_t const rows = std::min(set_bitmaps::block_rows, a.rows() - first);
      sets_a.fill(a.rows_from(first, rows));
      sets_b.fill(b.rows_from(first, rows));
      auto const add = add_intersections_of(sets_a.words());
      for (index_t e = 0; e < n; ++e) add(sets_a, e, sets_b, 0, m, counts + e * m);
      add_loads(sets_a, n, of_a);
      add_loads(sets_b, m, of_b);
      if (total_size(sets_a, n) + total_size(sets_b, m) == static_cast<std::uint64_t>(rows * (a.cols() + b.cols())))
        continue;
      for (index_t t = first; t < first + rows; ++t) {  // a dropped slot, or an expert twice
        from.read(a.row(t), tally);
        to.read(b.row(t), tally);
      }
    }
    return tally;
  }
#endif
  for (index_t t = 0; t < a.rows(); ++t) {
    auto const size_a = from.read(a.row(t), tally), size_b = to.read(b.row(t), tally);
    for (std::size_t i = 0; i < size_a; ++i) {
      ++of_a[from.chosen()[i]];
      for (std::size_t j = 0; j < size_b; ++j) ++counts[from.chosen()[i] * m + to.chosen()[j]];
    }
    for (std::size_t j = 0; j < size_b; ++j) ++of_b[to.chosen()[j]];
  }
  return tally;
}

}  // namespace moeroute::detail

#endif

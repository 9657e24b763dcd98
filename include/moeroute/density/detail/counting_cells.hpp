// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_DENSITY_DETAIL_COUNTING_CELLS_HPP
#define MOEROUTE_DENSITY_DETAIL_COUNTING_CELLS_HPP

// What streaming_kde counts with: pages of cells, keys of values, extremes.
#include <moeroute/core/adapt.hpp>
#include <moeroute/numeric/simd.hpp>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <type_traits>
#include <vector>

namespace moeroute::detail {

// 65,536 cells in 256 pages that are made when a value falls into them.
template <class Cell>
class paged_cells {
 public:
  static constexpr std::uint32_t page_size = 256;

  paged_cells() = default;
  paged_cells(paged_cells&&) noexcept = default;
  paged_cells& operator=(paged_cells&&) noexcept = default;
  paged_cells(paged_cells const& other) : pages_(other.pages_.size()) {
    for (std::size_t p = 0; p < pages_.size(); ++p)
      if (other.pages_[p]) {
        pages_[p] = std::make_unique<Cell[]>(page_size);
        std::copy_n(other.pages_[p].get(), page_size, pages_[p].get());
      }
  }
  paged_cells& operator=(paged_cells const& other) {
    paged_cells copy(other);
    return *this = std::move(copy);
  }

  /// The directory that page() needs; empty accumulators do without.
  std::unique_ptr<Cell[]>* open() {
    if (pages_.empty()) pages_.resize(256);
    return pages_.data();
  }
  [[gnu::noinline]] static Cell* make(std::unique_ptr<Cell[]>& page) {
    return (page = std::make_unique<Cell[]>(page_size)).get();
  }

  Cell& at(std::uint32_t cell) {
    auto& page = open()[cell >> 8];
    return (page ? page.get() : make(page))[cell & 255];
  }
  Cell read(std::uint32_t cell) const noexcept {
    return pages_.empty() || !pages_[cell >> 8] ? Cell{} : pages_[cell >> 8][cell & 255];
  }
  bool has_page(std::uint32_t cell) const noexcept { return !pages_.empty() && pages_[cell >> 8]; }
  bool empty() const noexcept { return pages_.empty(); }
  std::size_t bytes() const noexcept {
    std::size_t n = pages_.capacity() * sizeof(pages_[0]);
    for (auto const& p : pages_) n += p ? page_size * sizeof(Cell) : 0;
    return n;
  }

 private:
  std::vector<std::unique_ptr<Cell[]>> pages_;
};

template <class X>
struct scalar_of_container {};
template <vector_like X>
struct scalar_of_container<X> {
  using type = vector_value_t<X>;
};
template <matrix_like X>
  requires(!vector_like<X>)
struct scalar_of_container<X> {
  using type = matrix_value_t<X>;
};
template <class X>
using scalar_of = typename scalar_of_container<X>::type;

struct wide_cell {
  std::uint64_t count = 0, sum = 0;
  friend bool operator==(wide_cell const&, wide_cell const&) = default;
};

// Keys floor(x 2^(q+16)) of a block of values, the sign bit turned over so that they ascend from 0, and whether all
// of them lie in [lo, hi]. Multiplication by a power of two is exact, so no level of vector registers rounds them
// differently. Sign bits of differences instead of comparisons, which GCC 12 takes apart lane by lane for 64-byte
// registers.
struct grid_keys {
  static constexpr int block = 256;
  struct fold_or {
    template <class V>
    MOEROUTE_ALWAYS_INLINE void operator()(V& a, V const& b) const {
      a |= b;
    }
  };

  template <simd_level Level, class T>
  static MOEROUTE_ALWAYS_INLINE bool run(T const* p, T lo, T hi, T scale, std::uint32_t* keys) {
    using word = std::conditional_t<std::is_same_v<T, double>, std::uint64_t, std::uint32_t>;
    constexpr int W = lane_count<Level, T>;
    constexpr word sign = word{1} << (8 * sizeof(word) - 1);
    constexpr word infinite = std::bit_cast<word>(std::numeric_limits<T>::infinity());
    lanes<word, W> bad{};
    lanes<T, W> const one = lanes<T, W>{} + 1, zero{};
    for (int i = 0; i < block; i += W) {
      lanes<T, W> x, below, above;
      lanes<word, W> bits, b, a;
      load<W>(x, p + i);
      below = x - lo;
      above = hi - x;
      std::memcpy(&bits, &x, sizeof x);
      std::memcpy(&b, &below, sizeof x);
      std::memcpy(&a, &above, sizeof x);
      bad |= b | a | (infinite - (bits & ~sign));  // the last is negative for NaN
      x *= scale;
      auto const towards_zero =
          __builtin_convertvector(__builtin_convertvector(x, lanes<std::int32_t, W>), lanes<T, W>);
      x = towards_zero - (towards_zero > x ? one : zero);
      lanes<std::int32_t, W> const key = __builtin_convertvector(x, lanes<std::int32_t, W>);
      lanes<std::uint32_t, W> unsigned_key;
      std::memcpy(&unsigned_key, &key, sizeof key);
      store<W>(unsigned_key ^ 0x80000000u, keys + i);
    }
    return fold_lanes<word, W>(bad, fold_or{}) < sign;
  }
};

// The k first values in the order `Before`. Up to twice as many are gathered before the rest is dropped: constant
// time per value, whatever their order.
template <class Before>
class kept_values {
 public:
  kept_values(std::size_t k, double bound) : k_{k}, bound_{bound} {}

  /// Values that are not before this one change nothing.
  double bound() const noexcept { return bound_; }
  void add(double x) {
    x += 0.0;  // one zero
    if (values_.size() >= k_ && !Before()(x, bound_)) return;
    values_.push_back(x);
    if (values_.size() == k_ || values_.size() == 2 * k_) select();
  }
  void add(kept_values const& other) {
    for (double const x : other.values_) add(x);
  }
  /// In order.
  std::vector<double> values() const {
    auto sorted = values_;
    std::sort(sorted.begin(), sorted.end(), Before());
    if (sorted.size() > k_) sorted.resize(k_);
    return sorted;
  }
  std::size_t bytes() const noexcept { return values_.capacity() * sizeof(double); }

 private:
  void select() {
    std::nth_element(values_.begin(), values_.begin() + static_cast<std::ptrdiff_t>(k_ - 1), values_.end(), Before());
    values_.resize(k_);
    bound_ = values_.back();
  }

  std::size_t k_;
  double bound_;
  std::vector<double> values_;
};

}  // namespace moeroute::detail

#endif

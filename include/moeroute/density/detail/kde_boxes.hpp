// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_DENSITY_DETAIL_KDE_BOXES_HPP
#define MOEROUTE_DENSITY_DETAIL_KDE_BOXES_HPP

#include <moeroute/numeric/simd.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <tuple>
#include <utility>
#include <vector>

namespace moeroute::detail {

// Ascending by value; with weights, pairs of equal value ascending by weight, so that the order is that of the
// multiset.
inline void sort_sample(std::vector<double>& values, std::vector<double>& weights) {
  if (!weights.empty()) {
    std::vector<std::pair<double, double>> pairs(values.size());
    for (std::size_t i = 0; i < values.size(); ++i) pairs[i] = {values[i], weights[i]};
    std::sort(pairs.begin(), pairs.end());
    for (std::size_t i = 0; i < values.size(); ++i) std::tie(values[i], weights[i]) = pairs[i];
    return;
  }
  if (values.size() < 4096) return std::sort(values.begin(), values.end());
  // Radix sort by the 33 highest bits that differ, 11 at a time; runs equal in all of them are short and sorted after
  // it.
  constexpr int digit_bits = 11, digits = 3;
  constexpr std::uint64_t mask = (1u << digit_bits) - 1, top = std::uint64_t{1} << 63;
  std::vector<std::uint64_t> keys(values.size()), other(values.size());
  std::uint64_t differ = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    auto const bits = std::bit_cast<std::uint64_t>(values[i]);
    keys[i] = bits ^ (static_cast<std::uint64_t>(static_cast<std::int64_t>(bits) >> 63) | top);
    differ |= keys[i] ^ keys[0];
  }
  int const shift = std::max(0, static_cast<int>(std::bit_width(differ)) - digits * digit_bits);
  std::vector<std::array<std::uint32_t, mask + 1>> counts(digits);
  for (auto const key : keys)
    for (int d = 0; d < digits; ++d) ++counts[static_cast<std::size_t>(d)][key >> (shift + d * digit_bits) & mask];
  for (int d = 0; d < digits; ++d) {
    auto& count = counts[static_cast<std::size_t>(d)];
    int const digit = shift + d * digit_bits;
    if (digit > 63 || count[keys[0] >> digit & mask] == values.size()) continue;
    std::uint32_t sum = 0;
    for (auto& c : count) sum += std::exchange(c, sum);
    for (auto const key : keys) other[count[key >> digit & mask]++] = key;
    keys.swap(other);
  }
  if (shift > 0)
    for (std::size_t i = 0, j; i < keys.size(); i = j) {
      for (j = i + 1; j < keys.size() && keys[j] >> shift == keys[i] >> shift;) ++j;
      if (j - i > 1)
        std::sort(keys.begin() + static_cast<std::ptrdiff_t>(i), keys.begin() + static_cast<std::ptrdiff_t>(j));
    }
  for (std::size_t i = 0; i < values.size(); ++i)
    values[i] = std::bit_cast<double>(keys[i] ^ ((keys[i] & top) != 0 ? top : ~std::uint64_t{0}));
}

// A sample that is not empty, and its extremes. No weights means that all are 1.
struct kde_sample {
  std::span<double const> values, weights;
  double low, high;
};

// Values gathered into boxes of one width on a grid through 0; empty boxes are left out. A box's values are followed by
// its centre, of weight 0, up to a multiple of 16.
struct kde_boxes {
  static constexpr std::size_t pad = 16;

  double width = 0, total = 0;
  std::vector<double> centre;           // ascending
  std::vector<double> mass;             // sum of the weights in box b
  std::vector<double> below, above;     // the same of all boxes before b, and from b on; B + 1 of them
  std::vector<std::uint8_t> neighbour;  // centre[b + 1] - centre[b] is exactly the width
  std::vector<std::size_t> start;       // box b owns values start[b] .. start[b + 1], padding included
  std::vector<double> values, weights;

  std::size_t size() const noexcept { return centre.size(); }
  double lower_edge(std::size_t b) const noexcept { return centre[b] - 0.5 * width; }
  double upper_edge(std::size_t b) const noexcept { return centre[b] + 0.5 * width; }
  // First box whose centre is not below y.
  std::size_t at_or_above(double y) const noexcept {
    return static_cast<std::size_t>(std::lower_bound(centre.begin(), centre.end(), y) - centre.begin());
  }
};

struct number_boxes {
  template <simd_level Level>
  static MOEROUTE_ALWAYS_INLINE void run(double const* x, std::size_t n, double origin, double inverse,
                                         std::int32_t* box) {
    constexpr int W = lane_count<Level, double>;
    std::size_t i = 0;
    for (; i + W <= n; i += W) {
      lanes<double, W> v;
      load<W>(v, x + i);
      auto const number = __builtin_convertvector((v - origin) * inverse, lanes<std::int32_t, W>);
      store<W>(number, box + i);
    }
    for (; i < n; ++i) box[i] = static_cast<std::int32_t>((x[i] - origin) * inverse);
  }
};

// `sorted` keeps the values of a box ascending.
inline kde_boxes make_kde_boxes(kde_sample sample, double width, bool sorted) {
  kde_boxes boxes;
  // 20 bits of width and 32 of a box's number make every edge and centre exact.
  int exponent;
  double const fraction = std::frexp(width, &exponent);
  boxes.width = width = std::ldexp(std::floor(std::ldexp(fraction, 20)), exponent - 20);
  std::size_t const n = sample.values.size();
  bool const weighted = !sample.weights.empty();
  double const inverse = 1 / width, first = std::floor(sample.low / width), last = std::floor(sample.high / width);
  bool const grid = std::abs(first) < 0x1p32 && std::abs(last) < 0x1p32 &&
                    last - first <= std::min(4.0 * static_cast<double>(n) + 4096, 0x1p30);
  std::vector<double> copy, copy_weights;
  if (sorted || !grid) {
    copy.assign(sample.values.begin(), sample.values.end());
    copy_weights.assign(sample.weights.begin(), sample.weights.end());
    sort_sample(copy, copy_weights);
    sample.values = copy;
    sample.weights = copy_weights;
  }
  std::vector<std::int32_t> number(n);  // of each value's cell
  std::vector<std::uint32_t> count;     // of each cell
  std::vector<double> cell_centre;
  if (grid) {
    dispatch<number_boxes>(sample.values.data(), n, first * width, inverse, number.data());
    auto const cells = static_cast<std::size_t>(last - first) + 2;  // rounding may reach one further
    count.resize(cells);
    for (auto const cell : number) ++count[static_cast<std::size_t>(cell)];
  } else {  // far too many cells: a box begins at the first value that the box before does not reach
    double begin = 0, end = 0;
    for (std::size_t i = 0; i < n; ++i) {
      double const x = sample.values[i];
      if (i == 0 || (x > begin && !(x < end))) {
        begin = x;
        end = x + width;
        cell_centre.push_back(x + 0.5 * width);
        count.push_back(0);
      }
      ++count.back();
      number[i] = static_cast<std::int32_t>(count.size() - 1);
    }
  }

  std::vector<std::size_t> next(count.size());  // where the cell's next value goes
  boxes.start.push_back(0);
  for (std::size_t cell = 0; cell < count.size(); ++cell) {
    if (count[cell] == 0) continue;
    boxes.centre.push_back(grid ? (first + static_cast<double>(cell) + 0.5) * width : cell_centre[cell]);
    boxes.neighbour.push_back(grid && cell + 1 < count.size() && count[cell + 1] > 0);
    boxes.mass.push_back(count[cell]);
    next[cell] = boxes.start.back();
    boxes.start.push_back(next[cell] + (count[cell] + kde_boxes::pad - 1) / kde_boxes::pad * kde_boxes::pad);
  }
  boxes.values.resize(boxes.start.back());
  boxes.weights.assign(boxes.start.back(), 1.0);
  // Only ratios of weights matter; with the largest near 1 no sum of them leaves the range of double. None becomes 0.
  int const unit = weighted ? std::ilogb(*std::max_element(sample.weights.begin(), sample.weights.end())) : 0;
  for (std::size_t i = 0; i < n; ++i) {
    auto const at = next[static_cast<std::size_t>(number[i])]++;
    boxes.values[at] = sample.values[i];
    if (weighted) boxes.weights[at] = std::max(std::ldexp(sample.weights[i], -unit), 0x1p-1074);
  }
  boxes.below.push_back(0);
  for (std::size_t b = 0; b < boxes.size(); ++b) {
    std::size_t const end = boxes.start[b] + static_cast<std::size_t>(boxes.mass[b]);
    for (std::size_t i = end; i < boxes.start[b + 1]; ++i) {
      boxes.values[i] = boxes.centre[b];
      boxes.weights[i] = 0;
    }
    if (weighted) {
      boxes.mass[b] = 0;
      for (std::size_t i = boxes.start[b]; i < end; ++i) boxes.mass[b] += boxes.weights[i];
    }
    boxes.below.push_back(boxes.below.back() + boxes.mass[b]);
  }
  boxes.above.assign(boxes.size() + 1, 0.0);  // summed from its end: total - below would cancel there
  for (std::size_t b = boxes.size(); b-- > 0;) boxes.above[b] = boxes.above[b + 1] + boxes.mass[b];
  boxes.total = boxes.below.back();
  return boxes;
}

// Ascending queries and what a sum over the sample gives at each: value * e^-scale.
struct kde_queries {
  std::span<double const> y;
  double* value;
  double* scale;
  std::uint8_t* upper;  // tails only: the mass above y was summed, not the one below
};

// Whatever a sum leaves out is below this share of what it keeps, as a logarithm.
inline constexpr double log_kept = 34.5;  // e^-34.5 = 1.04e-15

}  // namespace moeroute::detail

#endif

// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_DENSITY_DETAIL_KDE_EXPONENTIAL_HPP
#define MOEROUTE_DENSITY_DETAIL_KDE_EXPONENTIAL_HPP

#include <moeroute/density/detail/kde_boxes.hpp>
#include <moeroute/density/kernel.hpp>
#include <moeroute/numeric/exp.hpp>
#include <moeroute/numeric/simd.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>
#include <vector>

namespace moeroute::detail {

// Sums of the exponential kernel: e^-(y - x)/h factors, so all values below y are one number, carried from box to box
// by a recursion of positive terms; only the two boxes at y are summed value by value.
class exponential_sums {
 public:
  exponential_sums(kde_sample const& sample, double h)
      : h_{h},
        boxes_{make_kde_boxes(sample, box_width(sample, h), false)},
        left_(boxes_.size()),
        right_(boxes_.size()) {
    dispatch<build>(this);
    std::size_t const count = boxes_.size();
    for (std::size_t b = 1; b < count; ++b) {
      left_[b] += left_[b - 1] * std::exp((boxes_.centre[b - 1] - boxes_.centre[b]) / h_);
      auto const c = count - 1 - b;
      right_[c] += right_[c + 1] * std::exp((boxes_.centre[c] - boxes_.centre[c + 1]) / h_);
    }
  }

  kde_boxes const& boxes() const noexcept { return boxes_; }
  void density(kde_queries const& q) const { dispatch<evaluate<false>>(this, &q); }
  void tails(kde_queries const& q) const { dispatch<evaluate<true>>(this, &q); }

 private:
  // About 16 values in a box; not so wide that e^(x/h) varies much in it, nor so narrow that the recursion takes many
  // steps per bandwidth, each of which rounds.
  static double box_width(kde_sample const& sample, double h) {
    double const width = (sample.high - sample.low) * 16 / static_cast<double>(sample.values.size());
    return width > 0 ? std::clamp(width, h / 1024, 0.5 * h) : 0.5 * h;
  }

  struct build {
    template <simd_level Level>
    static MOEROUTE_ALWAYS_INLINE void run(exponential_sums* self) {
      constexpr int W = lane_count<Level, double>;
      using real = lanes<double, W>;
      auto const& boxes = self->boxes_;
      for (std::size_t b = 0; b < boxes.size(); ++b) {
        real up = {}, down = {};
        for (std::size_t i = boxes.start[b]; i < boxes.start[b + 1]; i += W) {
          real x, w, e[1];
          load<W>(x, &boxes.values[i]);
          load<W>(w, &boxes.weights[i]);
          e[0] = (x - boxes.centre[b]) / self->h_;
          exp_lanes<double, W>(e);
          up += e[0] * w;
          down += w / e[0];
        }
        self->left_[b] = fold_lanes<double, W>(up, fold_sum{});
        self->right_[b] = fold_lanes<double, W>(down, fold_sum{});
      }
    }
  };

  template <bool Tails>
  struct evaluate {
    template <simd_level Level>
    static MOEROUTE_ALWAYS_INLINE void run(exponential_sums const* self, kde_queries const* q) {
      constexpr int W = lane_count<Level, double>;
      using real = lanes<double, W>;
      auto const& boxes = self->boxes_;
      double const h = self->h_;
      std::size_t const count = boxes.size();
      std::size_t at = boxes.at_or_above(q->y.empty() ? 0.0 : q->y[0]);
      for (std::size_t j = 0; j < q->y.size(); ++j) {
        double const y = q->y[j];
        for (int step = 0; at < count && boxes.centre[at] < y; ++at)
          if (++step == 16) {
            at = boxes.at_or_above(y);
            break;
          }
        bool const upper = boxes.below[at] >= 0.5 * boxes.total;
        double distance = 0;  // to the nearest box, or for tails to all of them
        if constexpr (Tails)
          distance = upper ? y - boxes.upper_edge(count - 1) : boxes.lower_edge(0) - y;
        else
          distance = std::min(at > 0 ? y - boxes.upper_edge(at - 1) : infinity,
                              at < count ? boxes.lower_edge(at) - y : infinity);
        double const shift = std::max(0.0, distance / h);
        // Boxes at - 1 and at are summed here, so every other value is on one side of y for certain.
        std::size_t const b0 = at == 0 ? 0 : at - 1, b1 = std::min(at + 1, count);
        real sum = {};
        for (std::size_t i = boxes.start[b0]; i < boxes.start[b1]; i += W) {
          real x, w, e[1];
          load<W>(x, &boxes.values[i]);
          load<W>(w, &boxes.weights[i]);
          x = (x - y) / h;
          if constexpr (Tails) x = upper ? x : -x;
          e[0] = shift - (x < 0 ? -x : x);
          e[0] = e[0] > 1 ? real{} : e[0];  // padding may be nearer than any value
          exp_lanes<double, W>(e);
          if constexpr (Tails) e[0] = x > 0 ? 2 - e[0] : e[0];
          sum += e[0] * w;
        }
        double value = fold_lanes<double, W>(sum, fold_sum{});
        double const left = b0 > 0 ? self->left_[b0 - 1] * std::exp(shift - (y - boxes.centre[b0 - 1]) / h) : 0.0;
        double const right = b1 < count ? self->right_[b1] * std::exp(shift - (boxes.centre[b1] - y) / h) : 0.0;
        if constexpr (Tails) {
          double const beyond = upper ? boxes.above[b1] : boxes.below[b0];
          value += (upper ? left : right) + (2 * beyond - (upper ? right : left));
          q->upper[j] = upper;
        } else {
          value += left + right;
        }
        q->value[j] = 0.5 * value;
        q->scale[j] = shift;
      }
    }
  };

  double h_;
  kde_boxes boxes_;
  std::vector<double> left_, right_;  // sum of e^-|x - centre|/h over the boxes up to b, and from b on
};

}  // namespace moeroute::detail

#endif

// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_DENSITY_DETAIL_KDE_COMPACT_HPP
#define MOEROUTE_DENSITY_DETAIL_KDE_COMPACT_HPP

#include <moeroute/density/detail/kde_boxes.hpp>
#include <moeroute/density/kernel.hpp>
#include <moeroute/numeric/simd.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numbers>
#include <span>
#include <vector>

namespace moeroute::detail {

// A compact kernel as a polynomial. With u the distance from y to a box's centre and t that of a value, in bandwidths,
//   K(u - t) = sum_k q_k(u) t^k   and its integral from -1   F(u - t) = F(u) - sum_k q_k(u) t^(k + 1) / (k + 1).
// `inside` and `tail` give K and F from a = 1 - |u| and a = 1 + u, the distance to the edge, where neither cancels.
template <class Kernel>
struct compact_shape;

template <>
struct compact_shape<tophat_kernel> {
  static constexpr int degree = 0;
  template <class R>
  static MOEROUTE_ALWAYS_INLINE void inside(R const& a, R& k) {
    k = a * 0.0 + 0.5;
  }
  template <class R>
  static MOEROUTE_ALWAYS_INLINE void tail(R const& a, R& f) {
    f = a * 0.5;
  }
  template <class R>
  static MOEROUTE_ALWAYS_INLINE void series(R const& u, bool, R* q) {
    q[0] = u * 0.0 + 0.5;
  }
};

template <>
struct compact_shape<triangular_kernel> {
  static constexpr int degree = 1;
  template <class R>
  static MOEROUTE_ALWAYS_INLINE void inside(R const& a, R& k) {
    k = a;
  }
  template <class R>
  static MOEROUTE_ALWAYS_INLINE void tail(R const& a, R& f) {
    f = a * a * 0.5;
  }
  // The halves have a series each: u < 0 and u > 0.
  template <class R>
  static MOEROUTE_ALWAYS_INLINE void series(R const& u, bool below, R* q) {
    q[0] = below ? R(1 + u) : R(1 - u);
    q[1] = u * 0.0 + (below ? -1.0 : 1.0);
  }
};

template <>
struct compact_shape<epanechnikov_kernel> {
  static constexpr int degree = 2;
  template <class R>
  static MOEROUTE_ALWAYS_INLINE void inside(R const& a, R& k) {
    k = a * (2 - a) * 0.75;
  }
  template <class R>
  static MOEROUTE_ALWAYS_INLINE void tail(R const& a, R& f) {
    f = a * a * (3 - a) * 0.25;
  }
  template <class R>
  static MOEROUTE_ALWAYS_INLINE void series(R const& u, bool, R* q) {
    q[0] = (1 - u) * (1 + u) * 0.75;
    q[1] = u * 1.5;
    q[2] = u * 0.0 - 0.75;
  }
};

template <>
struct compact_shape<biweight_kernel> {
  static constexpr int degree = 4;
  template <class R>
  static MOEROUTE_ALWAYS_INLINE void inside(R const& a, R& k) {
    R const v = a * (2 - a);
    k = v * v * (15.0 / 16);
  }
  template <class R>
  static MOEROUTE_ALWAYS_INLINE void tail(R const& a, R& f) {
    f = a * a * a * (20 - a * (15 - a * 3)) * (1.0 / 16);
  }
  template <class R>
  static MOEROUTE_ALWAYS_INLINE void series(R const& u, bool, R* q) {
    constexpr double c = 15.0 / 16;
    R const v = (1 - u) * (1 + u);
    q[0] = v * v * c;
    q[1] = u * v * (4 * c);
    q[2] = (u * u * 4 - v * 2) * c;
    q[3] = u * (-4 * c);
    q[4] = u * 0.0 + c;
  }
};

template <>
struct compact_shape<triweight_kernel> {
  static constexpr int degree = 6;
  template <class R>
  static MOEROUTE_ALWAYS_INLINE void inside(R const& a, R& k) {
    R const v = a * (2 - a);
    k = v * v * v * (35.0 / 32);
  }
  template <class R>
  static MOEROUTE_ALWAYS_INLINE void tail(R const& a, R& f) {
    R const square = a * a;
    f = square * square * (70 - a * (84 - a * (35 - a * 5))) * (1.0 / 32);
  }
  template <class R>
  static MOEROUTE_ALWAYS_INLINE void series(R const& u, bool, R* q) {
    constexpr double c = 35.0 / 32;
    R const v = (1 - u) * (1 + u), square = u * u;
    q[0] = v * v * v * c;
    q[1] = u * v * v * (6 * c);
    q[2] = v * (square * 4 - v) * (3 * c);
    q[3] = u * (square * 2 - v * 3) * (4 * c);
    q[4] = (v - square * 4) * (3 * c);
    q[5] = u * (6 * c);
    q[6] = u * 0.0 - c;
  }
};

// sin x and cos x for |x| <= 1.8, Taylor: the terms left out are below 1e-19.
template <class R>
MOEROUTE_ALWAYS_INLINE void sine_cosine(R const& x, R& sine, R& cosine) {
  R const square = x * x;
  sine = x * 0.0 + 1;
  cosine = sine;
#pragma GCC unroll 16
  for (int k = 24; k >= 2; k -= 2) {
    sine = 1 - sine * square * (1.0 / (k * (k + 1)));
    cosine = 1 - cosine * square * (1.0 / ((k - 1) * k));
  }
  sine *= x;
}

template <>
struct compact_shape<cosine_kernel> {
  // Not a polynomial: instead of powers the sums of 1, sin^2, cos^2 and sin cos of pi t / 4.
  template <class R>
  static MOEROUTE_ALWAYS_INLINE void inside(R const& a, R& k) {
    R s, c;
    sine_cosine(R(a * (std::numbers::pi / 4)), s, c);
    k = s * c * (std::numbers::pi / 2);
  }
  template <class R>
  static MOEROUTE_ALWAYS_INLINE void tail(R const& a, R& f) {
    R s, c;
    sine_cosine(R(a * (std::numbers::pi / 4)), s, c);
    f = s * s;
  }
};

// Sums of a compact kernel over a sorted sample. The window y - h < x < y + h ends inside two chunks of 16 values,
// which are summed one by one; what lies between consists of whole boxes and of the parts of two, for which each chunk
// knows the moments of the chunks before it in its box.
template <class Kernel>
class compact_sums {
 public:
  compact_sums(kde_sample const& sample, double h) : h_{h}, boxes_{make_kde_boxes(sample, h / 3, true)} {
    std::size_t const chunks = boxes_.start.back() / chunk;
    last_.resize(chunks);
    box_.resize(chunks);
    below_.resize(chunks + 1);
    above_.resize(chunks + 1);
    before_.resize(chunks * row);
    moments_.resize(row * (boxes_.size() + lanes_wide));
    dispatch<build>(this);
    for (std::size_t c = chunks; c-- > 0;) above_[c] = above_[c + 1] + below_[c + 1];
    for (std::size_t c = 0; c < chunks; ++c) below_[c + 1] += below_[c];
  }

  kde_boxes const& boxes() const noexcept { return boxes_; }
  void density(kde_queries const& q) const { dispatch<evaluate<false>>(this, &q); }
  void tails(kde_queries const& q) const { dispatch<evaluate<true>>(this, &q); }

 private:
  using shape = compact_shape<Kernel>;
  static constexpr std::size_t chunk = kde_boxes::pad, row = 8;
  static constexpr int lanes_wide = 8;  // the window touches at most 7 boxes, or 8 where rounding moves an edge
  static constexpr bool is_cosine = Kernel::kind == kernel_kind::cosine;
  static constexpr bool has_kink = Kernel::kind == kernel_kind::triangular;
  using wide = lanes<double, lanes_wide>;

  struct build {
    template <simd_level Level>
    static MOEROUTE_ALWAYS_INLINE void run(compact_sums* self) {
      auto const& boxes = self->boxes_;
      for (std::size_t b = 0; b < boxes.size(); ++b) {
        wide sum = {}, rest = {};  // sum + rest is the sum without rounding of its additions
        for (std::size_t i = boxes.start[b]; i < boxes.start[b + 1]; i += chunk) {
          std::size_t const c = i / chunk;
          wide const now = sum + rest;
          store<lanes_wide>(now, &self->before_[c * row]);
          self->box_[c] = static_cast<std::uint32_t>(b);
          wide powers[row] = {};
          for (std::size_t j = i; j < i + chunk; j += lanes_wide) {
            wide x, p;
            load<lanes_wide>(x, &boxes.values[j]);
            load<lanes_wide>(p, &boxes.weights[j]);
            x = (x - boxes.centre[b]) / self->h_;
            if constexpr (is_cosine) {
              wide s, cosine;
              sine_cosine(wide(x * (std::numbers::pi / 4)), s, cosine);
              powers[0] += p;
              powers[1] += p * s * s;
              powers[2] += p * cosine * cosine;
              powers[3] += p * s * cosine;
            } else {
              for (int k = 0; k <= shape::degree + 1; ++k) {
                powers[k] += p;
                p *= x;
              }
            }
          }
          double folded[row];
          for (std::size_t k = 0; k < row; ++k) folded[k] = fold_lanes<double, lanes_wide>(powers[k], fold_sum{});
          self->below_[c + 1] = folded[0];
          double last = boxes.values[i];
          for (std::size_t j = i; j < i + chunk; ++j)
            if (boxes.weights[j] > 0) last = boxes.values[j];
          self->last_[c] = last;
          wide add;
          load<lanes_wide>(add, folded);
          wide const next = sum + add, part = next - sum;
          rest += (sum - (next - part)) + (add - part);
          sum = next;
        }
        wide const whole = sum + rest;
        for (std::size_t k = 0; k < row; ++k)
          self->moments_[k * (boxes.size() + lanes_wide) + b] = whole[static_cast<int>(k)];
      }
    }
  };

  // First chunk from c on with a value for which `reached` holds; it is monotone in the value.
  template <class Reached>
  std::size_t seek(std::size_t c, Reached const& reached) const {
    std::size_t step = 1;
    while (c + step < last_.size() && !reached(last_[c + step - 1])) {
      c += step;
      step *= 2;
    }
    auto const from = last_.begin() + static_cast<std::ptrdiff_t>(c);
    auto const to = last_.begin() + static_cast<std::ptrdiff_t>(std::min(c + step, last_.size()));
    return c + static_cast<std::size_t>(std::partition_point(from, to, [&](double x) { return !reached(x); }) - from);
  }

  template <bool Tails>
  struct evaluate {
    // Every value of one chunk by the kernel itself.
    template <simd_level Level>
    static MOEROUTE_ALWAYS_INLINE double direct(compact_sums const* self, std::size_t c, double y, double sign) {
      constexpr int W = lane_count<Level, double>;
      using real = lanes<double, W>;
      double const h = self->h_, inverse = 1 / h;
      real sum = {};
      for (std::size_t i = c * chunk; i < (c + 1) * chunk; i += W) {
        real x, w, k;
        load<W>(x, &self->boxes_.values[i]);
        load<W>(w, &self->boxes_.weights[i]);
        real const d = y - x;
        if constexpr (Tails) {  // mass on the chosen side: F(-u) above, F(u) below
          real const u = d * (inverse * -sign), size = u < 0 ? -u : u;
          real a = 1 - size;
          a = a < 0 ? real{} : a;
          shape::tail(a, k);
          sum += (u < 0 ? k : 1 - k) * w;
        } else {
          real const size = d < 0 ? -d : d;
          real a = 1 - size * inverse;
          a = a < 0 ? real{} : a;
          shape::inside(a, k);
          sum += (size < h ? k : real{}) * w;
        }
      }
      return fold_lanes<double, W>(sum, fold_sum{});
    }

    // Chunks first .. end - 1, all of whose values are in the window, on one side of y if the kernel has a kink.
    static MOEROUTE_ALWAYS_INLINE double between(compact_sums const* self, std::size_t first, std::size_t end, double y,
                                                 double sign, bool values_below) {
      if (first >= end) return 0;
      auto const& boxes = self->boxes_;
      std::size_t const b0 = self->box_[first], b1 = self->box_[end - 1], stride = boxes.size() + lanes_wide;
      double total = 0;
      for (std::size_t b = b0; b <= b1; b += lanes_wide) {
        wide m[row], u, q[row], sum = {};
        for (std::size_t k = 0; k < used; ++k) load<lanes_wide>(m[k], &self->moments_[k * stride + b]);
        bool const cut_end = end < self->box_.size() && self->box_[end] == b1 && b1 < b + lanes_wide;
        for (std::size_t k = 0; k < used; ++k) {
          if (cut_end) m[k][static_cast<int>(b1 - b)] = self->before_[end * row + k];
          if (b == b0) m[k][0] -= self->before_[first * row + k];
        }
        double centre[lanes_wide];
        for (std::size_t i = 0; i < lanes_wide; ++i) centre[i] = boxes.centre[std::min(b + i, b1)];
        load<lanes_wide>(u, centre);
        u = (y - u) / self->h_;
        if constexpr (Tails) u *= -sign;  // the mass above y is the mass below -y of the mirrored sample
        double const flip = Tails ? -sign : 1.0;
        if constexpr (is_cosine) {
          wide s, c;
          sine_cosine(wide((1 + u) * (std::numbers::pi / 4)), s, c);
          if constexpr (Tails)
            sum = s * s * m[2] + c * c * m[1] - s * c * m[3] * (2 * flip);
          else
            sum = (s * c * (m[2] - m[1]) - (c * c - s * s) * m[3]) * (std::numbers::pi / 2);
        } else {
          bool const below = Tails ? values_below == (sign > 0) : !values_below;
          shape::series(u, below, q);
          if constexpr (Tails) {
            wide f;
            if constexpr (has_kink) {
              shape::tail(wide(below ? wide(1 + u) : wide(1 - u)), f);
              if (!below) f = 1 - f;
            } else {
              shape::tail(wide(1 + u), f);
            }
            sum = f * m[0];
            double factor = -flip;
            for (int k = 0; k <= shape::degree; ++k, factor *= flip) sum += q[k] * m[k + 1] * (factor / (k + 1));
          } else {
            for (int k = shape::degree; k >= 0; --k) sum += q[k] * m[k];
          }
        }
        for (std::size_t i = 0; i < lanes_wide && b + i <= b1; ++i) total += sum[static_cast<int>(i)];
      }
      return total;
    }

    template <simd_level Level>
    static MOEROUTE_ALWAYS_INLINE void run(compact_sums const* self, kde_queries const* q) {
      auto const& boxes = self->boxes_;
      double const h = self->h_;
      std::size_t const count = self->last_.size();
      std::size_t low = 0, high = 0, middle = 0;
      for (std::size_t j = 0; j < q->y.size(); ++j) {
        double const y = q->y[j];
        low = self->seek(low, [=](double x) { return y - x < h; });
        high = self->seek(std::max(low, high), [=](double x) { return x - y >= h; });
        if constexpr (Tails || has_kink) middle = self->seek(std::max(low, middle), [=](double x) { return x >= y; });
        double sign = 1, value = 0;
        if constexpr (Tails) {
          bool const upper = self->below_[middle] >= 0.5 * boxes.total;
          q->upper[j] = upper;
          sign = upper ? 1 : -1;
          value = upper ? self->above_[std::min(high + 1, count)] : self->below_[low];
        }
        if (high - low <= 4) {  // few values: every one by itself, with full relative accuracy
          for (std::size_t c = low; c < std::min(high + 1, count); ++c) value += direct<Level>(self, c, y, sign);
        } else {
          value += direct<Level>(self, low, y, sign);
          if (high < count) value += direct<Level>(self, high, y, sign);
          if constexpr (has_kink) {
            if (middle > low && middle < high) value += direct<Level>(self, middle, y, sign);
            value += between(self, low + 1, std::min(middle, high), y, sign, true);
            value += between(self, std::max(middle, low) + 1, high, y, sign, false);
          } else {
            value += between(self, low + 1, high, y, sign, false);
          }
        }
        q->value[j] = std::max(0.0, value);
        q->scale[j] = 0;
      }
    }
    static constexpr std::size_t used = [] {
      if constexpr (is_cosine)
        return std::size_t{4};
      else
        return static_cast<std::size_t>(shape::degree + (Tails ? 2 : 1));
    }();
  };

  double h_;
  kde_boxes boxes_;
  std::vector<double> last_;           // largest value of each chunk
  std::vector<std::uint32_t> box_;     // of each chunk
  std::vector<double> below_, above_;  // weight of all chunks before, and from this one on
  std::vector<double> before_;         // per chunk a row of moments: the chunks before it in its box
  std::vector<double> moments_;        // per power, then per box
};

}  // namespace moeroute::detail

#endif

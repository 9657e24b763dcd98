// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_DENSITY_DETAIL_KDE_ANALYTIC_HPP
#define MOEROUTE_DENSITY_DETAIL_KDE_ANALYTIC_HPP

#include <moeroute/density/detail/kde_boxes.hpp>
#include <moeroute/density/detail/mills.hpp>
#include <moeroute/density/kernel.hpp>
#include <moeroute/numeric/exp.hpp>
#include <moeroute/numeric/simd.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numbers>
#include <span>
#include <vector>

namespace moeroute::detail {

template <class Real>
inline constexpr int width_of = static_cast<int>(sizeof(Real) / sizeof(double));

// What a kernel needs to be summed by boxes. With z = (y - centre) / h and s = (x - centre) / h there are a variable
// T(z) and a base b(s) so that
//   K(z - s) = K(z) sum_k A_k(s) T^k,   S(z - s) = S(z) + K(z) sum_k C_k(s) T^k,   S the survival function,
// and the sums of A_k and C_k over a box are linear in the sums of b^k, k = 0 .. terms.
struct gaussian_expansion {
  static constexpr int terms = 24;
  static constexpr double width = 0.5;  // of a box, in bandwidths
  static constexpr double far = 8;      // bandwidths from the nearest box, beyond which values are summed one by one
  static constexpr int steps = 8;       // K(z - r) = K(z) e^(zr - r^2/2): so many boxes share one exponential

  template <class Real>
  static MOEROUTE_ALWAYS_INLINE void base(Real&) {}
  // A_k = s^k e^(-s^2/2) / k!,  C_k = integral of u^k e^(-u^2/2) / k! from 0 to s.
  static void coefficients(double const* power, double* a, double* c) noexcept {
    double inverse_factorial = 1;
    for (int k = 0; k < terms; ++k) {
      double sum = 0, tail = 0, factor = 1;
      for (int j = 0; k + 2 * j <= terms; ++j) {
        sum += factor * power[k + 2 * j];
        if (k + 2 * j + 1 <= terms) tail += factor * power[k + 2 * j + 1] / (k + 2 * j + 1);
        factor *= -0.5 / (j + 1);
      }
      a[k] = sum * inverse_factorial;
      c[k] = tail * inverse_factorial;
      inverse_factorial /= k + 1;
    }
  }
  // Boxes farther than this from a query whose nearest box is d away and holds e^-log_share of all add nothing.
  static double reach(double d, double log_share) noexcept { return std::sqrt(d * d + 2 * (log_share + log_kept)); }
  static double shift(double) noexcept { return 0; }

  // k = K(z), near = S(|z|), away = S(-|z|), t = T(z), all but t times e^shift. z becomes T(z).
  template <bool Tails, class Real, std::size_t N>
  static MOEROUTE_ALWAYS_INLINE void at(Real (&z)[N], Real const (&)[N], Real const (&)[N], Real (&k)[N],
                                        Real (&near)[N], Real (&away)[N]) {
#pragma GCC unroll 4
    for (std::size_t i = 0; i < N; ++i) k[i] = z[i] * z[i] * -0.5;
    exp_lanes<double, width_of<Real>>(k);
#pragma GCC unroll 4
    for (std::size_t i = 0; i < N; ++i) {
      k[i] *= inv_sqrt_2pi;
      if constexpr (Tails) {
        mills_ratio(Real(z[i] < 0 ? -z[i] : z[i]), near[i]);
        near[i] *= k[i];
        away[i] = 1 - near[i];
      }
    }
  }
};

// K(u) = (1 - tanh^2(u/2)) / 4 and S(u) = (1 - tanh(u/2)) / 2. With T = tanh(z/2), b = tanh(s/2) the addition theorem
// tanh((z - s)/2) = (T - b) / (1 - T b) gives geometric series: A_k = (k + 1) b^k (1 - b^2), C_k = 2 b^(k+1).
struct logistic_expansion {
  static constexpr int terms = 28;
  static constexpr double width = 1;
  static constexpr double far = infinity;
  static constexpr int steps = 0;

  template <class Real>
  static MOEROUTE_ALWAYS_INLINE void base(Real& s) {
    Real e[1] = {Real(s < 0 ? s : -s)};
    exp_lanes<double, width_of<Real>>(e);
    Real const t = (1 - e[0]) / (1 + e[0]);
    s = s < 0 ? -t : t;
  }
  static void coefficients(double const* power, double* a, double* c) noexcept {
    for (int k = 0; k < terms; ++k) {
      a[k] = (k + 1) * (power[k] - (k + 2 <= terms ? power[k + 2] : 0.0));
      c[k] = 2 * power[k + 1];
    }
  }
  static double reach(double d, double log_share) noexcept { return d + log_share + log_kept + 2 * std::numbers::ln2; }
  static double shift(double d) noexcept { return d; }

  template <bool Tails, class Real, std::size_t N>
  static MOEROUTE_ALWAYS_INLINE void at(Real (&z)[N], Real const (&shift)[N], Real const (&unshift)[N], Real (&k)[N],
                                        Real (&near)[N], Real (&away)[N]) {
#pragma GCC unroll 4
    for (std::size_t i = 0; i < N; ++i) k[i] = shift[i] - (z[i] < 0 ? -z[i] : z[i]);
    exp_lanes<double, width_of<Real>>(k);
#pragma GCC unroll 4
    for (std::size_t i = 0; i < N; ++i) {
      Real const e = k[i] * unshift[i], inverse = 1 / (1 + e), t = (1 - e) * inverse;
      near[i] = k[i] * inverse;
      k[i] = near[i] * inverse;
      if constexpr (Tails) away[i] = inverse / unshift[i];
      z[i] = z[i] < 0 ? -t : t;
    }
  }
};

// Sums of an analytic kernel over a sample, by boxes.
template <class Expansion>
class analytic_sums {
 public:
  analytic_sums(kde_sample const& sample, double h)
      : h_{h}, boxes_{make_kde_boxes(sample, Expansion::width * h, false)} {
    coefficients_.resize(boxes_.size() * row);
    log_share_.resize(boxes_.size());
    for (std::size_t b = 0; b < boxes_.size(); ++b) log_share_[b] = std::log(boxes_.total / boxes_.mass[b]);
    dispatch<build>(this);
  }

  kde_boxes const& boxes() const noexcept { return boxes_; }
  void density(kde_queries const& q) const { dispatch<evaluate<false>>(this, &q); }
  void tails(kde_queries const& q) const { dispatch<evaluate<true>>(this, &q); }

 private:
  static constexpr int terms = Expansion::terms;
  static constexpr std::size_t row = 2 * terms, block = 1024;

  struct build {
    template <simd_level Level>
    static MOEROUTE_ALWAYS_INLINE void run(analytic_sums* self) {
      constexpr int W = lane_count<Level, double>;
      using real = lanes<double, W>;
      auto const& boxes = self->boxes_;
      double const inverse = 1 / self->h_;
      for (std::size_t b = 0; b < boxes.size(); ++b) {
        double power[terms + 1] = {}, rest[terms + 1] = {};  // power + rest is the sum of the blocks without rounding
        for (std::size_t from = boxes.start[b]; from < boxes.start[b + 1]; from += block) {
          real sum[terms + 1] = {};
          for (std::size_t i = from; i < std::min(from + block, boxes.start[b + 1]); i += W) {
            real s, p;
            load<W>(s, &boxes.values[i]);
            load<W>(p, &boxes.weights[i]);
            s = (s - boxes.centre[b]) * inverse;
            Expansion::base(s);
#pragma GCC unroll 32
            for (int k = 0; k <= terms; ++k) {
              sum[k] += p;
              p *= s;
            }
          }
          for (int k = 0; k <= terms; ++k) {
            double const add = fold_lanes<double, W>(sum[k], fold_sum{}), next = power[k] + add, part = next - power[k];
            rest[k] += (power[k] - (next - part)) + (add - part);
            power[k] = next;
          }
        }
        for (int k = 0; k <= terms; ++k) power[k] += rest[k];
        double* const a = &self->coefficients_[b * row];
        Expansion::coefficients(power, a, a + terms);
      }
    }
  };

  // What a query needs to know before it can share a loop over boxes.
  struct query {
    double low, high, shift;  // range of the boxes
    bool upper, far;
  };
  template <bool Tails>
  query prepare(double y, std::size_t& at) const {
    auto const& boxes = boxes_;
    std::size_t const count = boxes.size();
    for (int step = 0; at < count && boxes.centre[at] < y; ++at)
      if (++step == 16) {
        at = boxes.at_or_above(y);
        break;
      }
    query q{};
    double d, log_share;  // distance to a box and its share: what is kept is at least that box at its far edge
    if constexpr (Tails) {
      q.upper = boxes.below[at] >= 0.5 * boxes.total;
      std::size_t const edge = q.upper ? count - 1 : 0;
      d = std::max(0.0, q.upper ? y - boxes.lower_edge(edge) : boxes.upper_edge(edge) - y);
      log_share = log_share_[edge] + std::numbers::ln2;
      q.far = d > (Expansion::far + Expansion::width) * h_;
    } else {
      double const left = at > 0 ? y - boxes.upper_edge(at - 1) : infinity;
      double const right = at < count ? boxes.lower_edge(at) - y : infinity;
      d = std::max(0.0, std::min(left, right)) + boxes.width;
      log_share = log_share_[left < right ? at - 1 : at];
      q.far = d > (Expansion::far + Expansion::width) * h_;
    }
    q.shift = Expansion::shift(std::max(0.0, d / h_ - 2 * Expansion::width));
    double const reach = Expansion::reach(d / h_, log_share) * h_ + boxes.width;
    q.low = y - reach;
    q.high = y + reach;
    return q;
  }

  template <bool Tails>
  struct evaluate {
    template <simd_level Level>
    static MOEROUTE_ALWAYS_INLINE void run(analytic_sums const* self, kde_queries const* q) {
      constexpr int W = lane_count<Level, double>, registers = 2, group = registers * W;
      using real = lanes<double, W>;
      auto const& boxes = self->boxes_;
      double const inverse = 1 / self->h_;
      std::size_t at = boxes.at_or_above(q->y.empty() ? 0.0 : q->y[0]);
      for (std::size_t first = 0; first < q->y.size(); first += group) {
        double y_of[group], shift_of[group], sign_of[group];
        bool far_of[group];
        double low = infinity, high = -infinity;
        for (int i = 0; i < group; ++i) {
          double const y = q->y[std::min(first + static_cast<std::size_t>(i), q->y.size() - 1)];
          auto const p = self->template prepare<Tails>(y, at);
          far_of[i] = p.far;
          y_of[i] = y;
          shift_of[i] = p.shift;
          sign_of[i] = p.upper ? 1 : -1;
          if (p.far) continue;
          low = std::min(low, p.low);
          high = std::max(high, p.high);
        }
        std::size_t const b0 = boxes.at_or_above(low), b1 = std::max(b0, boxes.at_or_above(high));
        real y[registers], shift[registers], unshift[registers], sign[registers], sum[registers];
        for (int r = 0; r < registers; ++r) {
          load<W>(y[r], y_of + r * W);
          load<W>(shift[r], shift_of + r * W);
          load<W>(sign[r], sign_of + r * W);
          unshift[r] = -shift[r];
          real const right = real{} + boxes.above[b1], left = real{} + boxes.below[b0];
          sum[r] = Tails ? real(sign[r] > 0 ? right : left) : real{};
        }
        exp_lanes<double, W>(unshift);
        double const r_step = boxes.width * inverse, decay = std::exp(-r_step * r_step);
        real k[registers] = {}, ratio[registers] = {};
        int left_to_go = 0;
        for (std::size_t b = b0; b < b1; ++b) {
          real z[registers], near[registers], away[registers], p[registers], positive[registers];
          for (int r = 0; r < registers; ++r) {
            z[r] = (y[r] - boxes.centre[b]) * inverse;
            positive[r] = z[r] * sign[r];
            if constexpr (Expansion::steps > 0) {  // the gaussian is 0 long before; its series would overflow
              z[r] = z[r] > 60.0 ? real{} + 60.0 : z[r];
              z[r] = z[r] < -60.0 ? real{} - 60.0 : z[r];
            }
          }
          if constexpr (!Tails && Expansion::steps > 0) {
            // The grid is exact, so the gaussian at the next box follows from the one before.
            if (left_to_go == 0 || !boxes.neighbour[b - 1]) {
              Expansion::template at<Tails>(z, shift, unshift, k, near, away);
              for (int r = 0; r < registers; ++r) ratio[r] = (z[r] - 0.5 * r_step) * r_step;
              exp_lanes<double, W>(ratio);
              left_to_go = Expansion::steps;
            } else {
              for (int r = 0; r < registers; ++r) {
                k[r] *= ratio[r];
                ratio[r] *= decay;
              }
            }
            --left_to_go;
          } else {
            Expansion::template at<Tails>(z, shift, unshift, k, near, away);
          }
          double const* const a = &self->coefficients_[b * row + (Tails ? terms : 0)];
          for (int r = 0; r < registers; ++r) p[r] = z[r] * a[terms - 1] + a[terms - 2];
#pragma GCC unroll 32
          for (int j = terms - 3; j >= 0; --j)
#pragma GCC unroll 4
            for (int r = 0; r < registers; ++r) p[r] = p[r] * z[r] + a[j];
          for (int r = 0; r < registers; ++r) {
            if constexpr (Tails)
              sum[r] += (positive[r] > 0 ? near[r] : away[r]) * boxes.mass[b] + p[r] * k[r] * sign[r];
            else
              sum[r] += p[r] * k[r];
          }
        }
        double sum_of[group];
        for (int r = 0; r < registers; ++r) store<W>(sum[r], sum_of + r * W);
        for (std::size_t i = 0; i < group && first + i < q->y.size(); ++i) {
          q->value[first + i] = sum_of[i];
          q->scale[first + i] = shift_of[i];
          if constexpr (Tails) q->upper[first + i] = sign_of[i] > 0;
          if constexpr (Expansion::far < infinity)
            if (far_of[i])
              self->template sum_values<Level, Tails>(y_of[i], sign_of[i] > 0, q->value[first + i],
                                                      q->scale[first + i]);
        }
      }
    }
  };

  // The gaussian far from all boxes: there e^(z s) of a box is too steep for its series, so the values that count are
  // summed one by one, relative to the nearest of them.
  template <simd_level Level, bool Tails>
  MOEROUTE_ALWAYS_INLINE void sum_values(double y, bool upper, double& value, double& scale) const {
    constexpr int W = lane_count<Level, double>;
    using real = lanes<double, W>;
    auto const& boxes = boxes_;
    std::size_t const at = Tails ? (upper ? boxes.size() : 0) : boxes.at_or_above(y);
    double nearest = infinity, weight = 0;
    for (std::size_t b = at == 0 ? 0 : at - 1; b < std::min(at + 1, boxes.size()); ++b)
      for (std::size_t i = boxes.start[b]; i < boxes.start[b + 1]; ++i)
        if (double const z = std::abs(y - boxes.values[i]) / h_; boxes.weights[i] > 0 && z < nearest) {
          nearest = z;
          weight = boxes.weights[i];
        }
    double const slack = 2 * (std::log(boxes.total / weight) + log_kept);  // nearest^2 + slack is the reach squared
    double const reach = slack / (nearest + std::sqrt(nearest * nearest + slack)) * h_;
    real sum[1] = {};
    auto const add = [&](std::size_t b) __attribute__((always_inline)) {
      for (std::size_t i = boxes.start[b]; i < boxes.start[b + 1]; i += W) {
        real x, w, e[1];
        load<W>(x, &boxes.values[i]);
        load<W>(w, &boxes.weights[i]);
        x = (x - y) / h_;
        x = x < 0 ? -x : x;
        e[0] = (nearest - x) * (nearest + x) * 0.5;
        e[0] = e[0] > 0 ? real{} : e[0];  // padding may be nearer
        exp_lanes<double, W>(e);
        if constexpr (Tails) {
          real r;
          real const capped = x > 1e150 ? real{} + 1e150 : x;
          mills_ratio(capped, r);
          e[0] *= r;
        }
        sum[0] += e[0] * w;
      }
    };
    double const distance = nearest * h_;
    for (std::size_t b = at; b-- > 0 && y - boxes.upper_edge(b) <= distance + reach;) add(b);
    for (std::size_t b = at; b < boxes.size() && boxes.lower_edge(b) - y <= distance + reach; ++b) add(b);
    value = fold_lanes<double, W>(sum[0], fold_sum{}) * inv_sqrt_2pi;
    scale = 0.5 * nearest * nearest;
  }

  double h_;
  kde_boxes boxes_;
  std::vector<double> coefficients_;  // per box A, then C
  std::vector<double> log_share_;     // -ln of the box's share of all weight
};

}  // namespace moeroute::detail

#endif

// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_WEIGHTS_NEURON_MATCH_HPP
#define MOEROUTE_WEIGHTS_NEURON_MATCH_HPP

#include <moeroute/core/error.hpp>
#include <moeroute/core/scalar.hpp>
#include <moeroute/core/view.hpp>
#include <moeroute/numeric/assignment.hpp>
#include <moeroute/weights/detail/dot_products.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

namespace moeroute {

/// The three maps of one SwiGLU expert: down (silu(gate x) * (up x)).
template <real_scalar T>
struct swiglu_view {
  matrix_view<T> gate, up;  ///< [F,D]
  matrix_view<T> down;      ///< [D,F]
};

struct neuron_match_result {
  std::vector<index_t> neuron;    ///< [F]: hidden unit of the second expert that belongs to each of the first
  double similarity = quiet_nan;  ///< mean over the matched units
  double same_order = quiet_nan;  ///< mean over equal numbers, without matching
};

namespace detail {

// cosines [a.rows, b.rows] of the rows of a and b.
template <class T>
std::vector<double> row_cosines(matrix_view<T> a, matrix_view<T> b, char const* name) {
  auto const lengths = [&](matrix_view<T> m, char const* which) {
    std::vector<double> length;
    for (index_t r = 0; r < m.rows(); ++r) {
      double square = 0;
      for (index_t c = 0; c < m.cols(); ++c)
        square += static_cast<double>(to_compute(m(r, c))) * static_cast<double>(to_compute(m(r, c)));
      if (!(square > 0) || std::isinf(square))
        raise("moeroute::match_neurons: hidden unit ", r, " of the ", which, " expert has ", name,
              " weights of squared norm ", square, ", must be positive and finite");
      length.push_back(std::sqrt(square));
    }
    return length;
  };
  auto const x = lengths(a, "first"), y = lengths(b, "second");
  std::vector<double> out(x.size() * y.size());
  dot_products(a, b, out.data());
  for (std::size_t i = 0; i < x.size(); ++i)
    for (std::size_t j = 0; j < y.size(); ++j)
      out[i * y.size() + j] = std::clamp(out[i * y.size() + j] / (x[i] * y[j]), -1.0, 1.0);
  return out;
}

template <class T>
matrix_view<T> transposed(matrix_view<T> m) noexcept {
  return {m.data(), m.cols(), m.rows(), m.col_stride(), m.row_stride()};
}

}  // namespace detail

/// How alike two SwiGLU experts are once their hidden units stand in the best order.
///
/// In     two experts of one shape.
/// Out    similarity of unit i and unit j: (cos(gate_i, gate_j) + cos(up_i, up_j) cos(down_i, down_j)) / 2, between -1
///        and 1; it does not change under what leaves the expert's function alone: the order of units, and c up_i with
///        down_i / c, c < 0 too. The matching has the largest sum of similarities. Copies in any order have 1.
/// Empty  NaN without hidden units.
/// Cost   O(F^2 D + F^3) time, O(F^2 + F D / 1024) memory.
/// Throws shape_error if shapes do not fit, argument_error for a unit with weights that are all zero or not finite.
/// Bias   the best of F! orders is positive by chance: 0.04 for independent normal weights, F = 256, D = 1024, more for
///        anisotropic ones. Compare with pairs of other experts (diagonal_test), not with 0.
/// Source weight matching by assignment: Ainsworth, Hayase, Srinivasa 2022, arXiv:2209.04836, section 3. Differs:
///        cosines instead of dot products, and up with down as one rank-1 map, so that scale and sign do not matter;
///        one layer, so one assignment is exact.
template <real_scalar T>
neuron_match_result match_neurons(swiglu_view<T> const& a, swiglu_view<T> const& b) {
  index_t const hidden = a.gate.rows(), width = a.gate.cols();
  for (auto const* e : {&a, &b})
    for (auto const& m : {e->gate, e->up, detail::transposed(e->down)})
      if (m.rows() != hidden || m.cols() != width)
        detail::raise<shape_error>("moeroute::match_neurons: a map of ", m.rows(), " hidden units x ", m.cols(),
                                   ", but the first gate has ", hidden, " x ", width);
  neuron_match_result r;
  if (hidden == 0) return r;
  auto s = detail::row_cosines(a.gate, b.gate, "gate");
  {
    auto const up = detail::row_cosines(a.up, b.up, "up");
    auto const down = detail::row_cosines(detail::transposed(a.down), detail::transposed(b.down), "down");
    for (std::size_t i = 0; i < s.size(); ++i) s[i] = 0.5 * (s[i] + up[i] * down[i]);
  }
  auto const best = assign(matrix_view<double>(s.data(), hidden, hidden), assignment_goal::maximum);
  double same = 0;
  for (index_t i = 0; i < hidden; ++i) same += s[static_cast<std::size_t>(i * hidden + i)];
  r.neuron = best.column;
  r.similarity = best.total / static_cast<double>(hidden);
  r.same_order = same / static_cast<double>(hidden);
  return r;
}

}  // namespace moeroute

#endif

// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_WEIGHTS_NORMS_HPP
#define MOEROUTE_WEIGHTS_NORMS_HPP

#include <moeroute/core/adapt.hpp>
#include <moeroute/core/scalar.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <type_traits>
#include <vector>

#include <Eigen/Core>
#include <Eigen/Eigenvalues>

namespace moeroute {

namespace detail {

// The power of two by which doubles are divided so that their squares stay in range; narrower types need none.
template <class T>
double square_scale(matrix_view<T> m) {
  if constexpr (!std::is_same_v<T, double>) return 1;
  double largest = 0;
  for (index_t r = 0; r < m.rows(); ++r)
    for (index_t c = 0; c < m.cols(); ++c)
      largest = std::max(largest, std::abs(static_cast<double>(to_compute(m(r, c)))));
  if (!(largest > 0) || std::isinf(largest)) return 1;
  // Between these both the scale and its inverse are normal numbers.
  return std::ldexp(1.0, std::clamp(std::ilogb(largest), -1000, 1000));
}

// Sum over row r of ((x - mean) / scale)^2 in double; mean may be null.
template <class T>
double row_squares(vector_view<T> row, double scale, double const* mean) {
  double const inverse = 1 / scale;
  double lanes[8] = {};  // explicit lanes: a compiler may not reorder the sum by itself
  auto const square = [&](index_t c) {
    double const x = (static_cast<double>(to_compute(row[c])) - (mean ? mean[c] : 0)) * inverse;
    return x * x;
  };
  index_t c = 0;
  for (; c + 8 <= row.size(); c += 8)
    for (int i = 0; i < 8; ++i) lanes[i] += square(c + i);
  for (int i = 0; c < row.size(); ++i, ++c) lanes[i] += square(c);
  return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}

}  // namespace detail

/// Euclidean norm of every row.
///
/// In     m [R,C]: a router (one row per expert), a gate or up projection (one row per hidden unit), or one flattened
///        expert per row; centred: the mean row is subtracted first.
/// Out    [R], each to about 1e-15 sqrt(C) relative.
/// Empty  0 for rows without columns; NaN or infinite for a row with a weight that is not finite, centred for all rows.
/// Cost   O(R C) time, O(R + C) memory.
/// Bias   a softmax does not see what all router rows have in common; centre before rows are compared with loads.
/// Source the "column norms" of the expert-activation analysis proposed for transformers
///        (examples/research_projects/moe_expert_activation_analysis), which are norms of rows. Differs: centring is
///        offered.
template <real_matrix Matrix>
std::vector<double> row_norms(Matrix const& m, bool centred = false) {
  auto const view = detail::matrix_of(m);
  double const scale = detail::square_scale(view);
  std::vector<double> mean, norms;
  if (centred) {
    mean.resize(static_cast<std::size_t>(view.cols()));
    for (index_t r = 0; r < view.rows(); ++r)
      for (index_t c = 0; c < view.cols(); ++c)
        mean[static_cast<std::size_t>(c)] +=
            static_cast<double>(to_compute(view(r, c))) / static_cast<double>(view.rows());
  }
  for (index_t r = 0; r < view.rows(); ++r)
    norms.push_back(scale * std::sqrt(detail::row_squares(view.row(r), scale, centred ? mean.data() : nullptr)));
  return norms;
}

struct matrix_norms_result {
  double frobenius = quiet_nan;
  double spectral = quiet_nan;     ///< largest singular value
  double stable_rank = quiet_nan;  ///< (frobenius / spectral)^2, between 1 and the rank
};

/// Frobenius norm: the length of the matrix as a vector.
///
/// In     m [R,C].   Out  to about 1e-15 sqrt(R C) relative.
/// Empty  0; NaN or infinite for a weight that is not finite.
/// Cost   O(R C) time, no memory.
/// Source Golub, Van Loan 2013, Matrix Computations, section 2.3. Differs: as given.
template <real_matrix Matrix>
double frobenius_norm(Matrix const& m) {
  auto const view = detail::matrix_of(m);
  double const scale = detail::square_scale(view);
  double squares = 0;
  for (index_t r = 0; r < view.rows(); ++r) squares += detail::row_squares(view.row(r), scale, nullptr);
  return scale * std::sqrt(squares);
}

/// Frobenius norm, spectral norm and stable rank: how much of a matrix is one direction.
///
/// In     m [R,C].
/// Out    see matrix_norms_result; spectral to about 1e-14 relative.
/// Empty  norms 0 and stable_rank NaN if all is 0; all NaN for a weight that is not finite.
/// Cost   O(R C min(R, C) + min(R, C)^3) time, 8 (R C + min(R, C)^2) bytes.
/// Source stable rank: Rudelson, Vershynin 2007, doi:10.1145/1255443.1255449, there "numerical rank". Differs: as
///        given.
template <real_matrix Matrix>
matrix_norms_result matrix_norms(Matrix const& m) {
  auto const view = detail::matrix_of(m);
  matrix_norms_result r;
  double const frobenius = frobenius_norm(m);
  if (!std::isfinite(frobenius)) return r;
  r.frobenius = frobenius;
  r.spectral = 0;
  if (frobenius == 0) return r;
  // The largest eigenvalue of the smaller Gram matrix; squaring costs digits of the small singular values only.
  bool const wide = view.cols() > view.rows();
  Eigen::MatrixXd a(std::max(view.rows(), view.cols()), std::min(view.rows(), view.cols()));
  for (index_t i = 0; i < view.rows(); ++i)
    for (index_t j = 0; j < view.cols(); ++j)
      (wide ? a(j, i) : a(i, j)) = static_cast<double>(to_compute(view(i, j))) / frobenius;
  Eigen::MatrixXd gram = Eigen::MatrixXd::Zero(a.cols(), a.cols());
  gram.selfadjointView<Eigen::Lower>().rankUpdate(a.transpose());
  Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> const solver(gram, Eigen::EigenvaluesOnly);
  double const share = solver.eigenvalues()[a.cols() - 1];  // of the squared norm
  r.spectral = frobenius * std::sqrt(share);
  r.stable_rank = 1 / share;
  return r;
}

}  // namespace moeroute

#endif

// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_WEIGHTS_SUBSPACE_HPP
#define MOEROUTE_WEIGHTS_SUBSPACE_HPP

#include <moeroute/core/adapt.hpp>
#include <moeroute/core/error.hpp>
#include <moeroute/core/scalar.hpp>

#if __has_include(<xtensor/containers/xtensor.hpp>)
#include <xtensor/containers/xtensor.hpp>
#else
#include <xtensor/xtensor.hpp>
#endif

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

#include <Eigen/Core>
#include <Eigen/SVD>

namespace moeroute {

struct spectrum_result {
  std::vector<double> singular_values;             ///< [min(R,D)], decreasing
  std::vector<double> explained;                   ///< shares S^2 / sum S^2; after centring, shares of the variance
  index_t rank = 0;                                ///< singular values above max(R,D) 2^-52 S_1
  double effective_rank = quiet_nan;               ///< exp of the entropy of S^2 / sum S^2
  double effective_rank_roy_vetterli = quiet_nan;  ///< exp of the entropy of S / sum S; never smaller
  double participation_ratio = quiet_nan;          ///< (sum S^2)^2 / sum S^4; never larger than effective_rank
  index_t above_one_percent = 0;                   ///< #{explained > 0.01}, published as "effective rank"; 99 at most
  xt::xtensor<double, 2> directions;  ///< [min(R,D),D]: right singular vectors in rows, their largest entries positive
};

namespace detail {

// A copy in double, refused if a value is not finite; centred: minus the mean row.
template <class T>
Eigen::MatrixXd finite_matrix(matrix_view<T> view, bool centred, char const* function) {
  Eigen::MatrixXd m(view.rows(), view.cols());
  for (index_t i = 0; i < view.rows(); ++i)
    for (index_t j = 0; j < view.cols(); ++j) {
      auto const v = static_cast<double>(to_compute(view(i, j)));
      if (!std::isfinite(v)) raise(function, ": value ", v, " at row ", i, ", column ", j, ", must be finite");
      m(i, j) = v;
    }
  if (centred && m.rows() > 0) m.rowwise() -= m.colwise().mean().eval();
  return m;
}

// exp of the entropy of shares that sum to 1.
inline double perplexity(std::vector<double> const& share) {
  double entropy = 0;
  for (double const p : share)
    if (p > 0) entropy -= p * std::log(p);
  return std::exp(entropy);
}

}  // namespace detail

/// Singular values of a matrix, how many directions matter, and which.
///
/// In     m [R,D]: a router, an input map; centred: the mean row is subtracted first, which makes it a principal
///        component analysis (rows are observations; component variances are S^2 / (R - 1)).
/// Out    see spectrum_result.
/// Empty  no singular values if R or D is 0; explained, effective ranks and participation_ratio NaN if all are 0.
/// Cost   O(R D min(R, D)) time, about 8 (2 R D + D min(R, D)) bytes.
/// Throws argument_error for a value that is not finite.
/// Source Roy, Vetterli 2007, The effective rank, EUSIPCO, definition of erank on singular values
///        (effective_rank_roy_vetterli, as given). Differs: effective_rank takes squares, whose shares are explained
///        variance; above_one_percent as in d0rbu/moe-router-study, commit 2c2073c, core/router_analyzer.py, whose
///        "principal components" are rows of V, not right singular vectors.
template <real_matrix Matrix>
spectrum_result singular_spectrum(Matrix const& m, bool centred = false) {
  auto const view = detail::matrix_of(m);
  auto const a = detail::finite_matrix(view, centred, "moeroute::singular_spectrum");
  auto const count = static_cast<std::size_t>(std::min(a.rows(), a.cols()));
  spectrum_result r;
  r.directions = xt::xtensor<double, 2>::from_shape({count, static_cast<std::size_t>(a.cols())});
  if (count == 0) return r;
  Eigen::BDCSVD<Eigen::MatrixXd> const svd(a, Eigen::ComputeThinV);
  double const top = svd.singularValues()[0];
  double sum = 0, squares = 0, fourth = 0;
  for (std::size_t i = 0; i < count; ++i) {
    double const s = svd.singularValues()[static_cast<Eigen::Index>(i)], relative = top > 0 ? s / top : 0;
    r.singular_values.push_back(s);
    r.rank += relative > static_cast<double>(std::max(a.rows(), a.cols())) * std::numeric_limits<double>::epsilon();
    sum += relative;
    squares += relative * relative;
    fourth += relative * relative * relative * relative;
    auto const direction = svd.matrixV().col(static_cast<Eigen::Index>(i));
    Eigen::Index largest = 0;
    direction.cwiseAbs().maxCoeff(&largest);
    double const sign = direction[largest] < 0 ? -1 : 1;
    for (index_t j = 0; j < a.cols(); ++j) r.directions(i, static_cast<std::size_t>(j)) = sign * direction[j];
  }
  r.explained.assign(count, quiet_nan);
  if (!(top > 0)) return r;
  std::vector<double> share(count);
  for (std::size_t i = 0; i < count; ++i) {
    double const relative = r.singular_values[i] / top;
    share[i] = relative / sum;
    r.explained[i] = relative * relative / squares;
    r.above_one_percent += r.explained[i] > 0.01;
  }
  r.effective_rank = detail::perplexity(r.explained);
  r.effective_rank_roy_vetterli = detail::perplexity(share);
  r.participation_ratio = squares * squares / fourth;
  return r;
}

/// The space that the rows of a matrix span, or its leading directions.
///
/// In     m [R,D]; dimensions: that many leading right singular vectors, 0: as many as the rank; centred: the mean row
///        is subtracted first.
/// Cost   that of singular_spectrum once, 8 D rank bytes kept.
/// Throws argument_error for a value that is not finite, or if dimensions is negative or above the rank.
class subspace {
 public:
  template <real_matrix Matrix>
  explicit subspace(Matrix const& m, index_t dimensions = 0, bool centred = false) {
    auto const s = singular_spectrum(m, centred);
    if (dimensions < 0 || dimensions > s.rank)
      detail::raise("moeroute::subspace: dimensions = ", dimensions, ", must be 0 to the rank ", s.rank);
    index_t const kept = dimensions == 0 ? s.rank : dimensions;
    basis_.resize(detail::matrix_of(m).cols(), kept);
    for (index_t i = 0; i < kept; ++i)
      for (index_t j = 0; j < basis_.rows(); ++j)
        basis_(j, i) = s.directions(static_cast<std::size_t>(i), static_cast<std::size_t>(j));
  }

  index_t dimensions() const noexcept { return basis_.cols(); }
  /// D, of the space around it.
  index_t ambient() const noexcept { return basis_.rows(); }
  /// [D,dimensions], orthonormal columns.
  Eigen::MatrixXd const& basis() const noexcept { return basis_; }

 private:
  Eigen::MatrixXd basis_;
};

struct principal_angles_result {
  std::vector<double> angles;      ///< [min(p,q)] in radians, increasing, 0..pi/2
  double overlap = quiet_nan;      ///< sum cos^2 / min(p,q): 1 if one space holds the other, 0 if they are orthogonal
  double chance = quiet_nan;       ///< mean overlap of random spaces of these dimensions: max(p,q) / D
  double chance_sd = quiet_nan;    ///< its standard deviation, exact
  double mean_cosine = quiet_nan;  ///< published: mean of cos; its chance level is about sqrt(chance), not 0
};

/// How two subspaces lie to each other.
///
/// In     two subspaces of one D-space, of dimensions p and q.
/// Out    see principal_angles_result. Angles have absolute error about 1e-15 times the condition number of the
///        spanning matrices, small angles too: sines decide there, cosines near pi/2.
/// Empty  no angles and NaN if a subspace has dimension 0.
/// Cost   O(D p q) time, 8 D min(p,q) bytes.
/// Throws shape_error if the spaces around them differ.
/// Bias   chance is that of directions without preference. Real weights share dominant axes with everything that reads
///        the same activations; compare with other layers or other matrices of the model before calling an overlap
///        special.
/// Source Bjorck, Golub 1973, doi:10.1090/S0025-5718-1973-0348991-3: cosines and sines as singular values. Differs: the
///        angle is atan2(sine, cosine) instead of a choice between the two. chance_sd: trace inner product of two
///        traceless projections, one turned at random, has mean square |A|^2 |B|^2 / ((D-1)(D+2)/2). mean_cosine as in
///        d0rbu/moe-router-study, commit 2c2073c, core/router_analyzer.py.
inline principal_angles_result principal_angles(subspace const& a, subspace const& b) {
  if (a.ambient() != b.ambient())
    detail::raise<shape_error>("moeroute::principal_angles: subspaces of a space of ", a.ambient(), " and of one of ",
                               b.ambient(), " dimensions");
  auto const& large = a.dimensions() >= b.dimensions() ? a.basis() : b.basis();
  auto const& small = a.dimensions() >= b.dimensions() ? b.basis() : a.basis();
  principal_angles_result r;
  index_t const count = small.cols();
  if (count == 0) return r;
  Eigen::MatrixXd const product = large.transpose() * small;
  Eigen::VectorXd const cosines = Eigen::BDCSVD<Eigen::MatrixXd>(product).singularValues();
  // What of the smaller space lies outside the larger: its singular values are the sines, the largest first.
  Eigen::VectorXd const sines = Eigen::BDCSVD<Eigen::MatrixXd>(small - large * product).singularValues();
  double const p = static_cast<double>(large.cols()), q = static_cast<double>(count),
               d = static_cast<double>(large.rows());
  double sum = 0;
  for (index_t i = 0; i < count; ++i) {
    r.angles.push_back(std::atan2(sines[count - 1 - i], cosines[i]));
    sum += std::min(cosines[i], 1.0);
  }
  r.mean_cosine = sum / q;
  r.overlap = std::min(product.squaredNorm() / q, 1.0);
  r.chance = p / d;
  // A space that is everything overlaps with nothing by chance.
  r.chance_sd = p < d ? std::sqrt(2 * p * q * (d - p) * (d - q) / (d * d * (d - 1) * (d + 2))) / q : 0;
  return r;
}

}  // namespace moeroute

#endif

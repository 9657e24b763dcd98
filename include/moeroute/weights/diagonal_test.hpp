// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_WEIGHTS_DIAGONAL_TEST_HPP
#define MOEROUTE_WEIGHTS_DIAGONAL_TEST_HPP

#include <moeroute/core/adapt.hpp>
#include <moeroute/core/error.hpp>
#include <moeroute/core/parallel.hpp>
#include <moeroute/core/scalar.hpp>
#include <moeroute/inference/permutation.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace moeroute {

struct diagonal_test_options {
  index_t permutations = 1999;
  std::uint64_t seed = 1;
  int threads = 0;  ///< 0: all; the result does not depend on it
};

struct diagonal_test_result {
  double diagonal = quiet_nan;      ///< mean of the E values (e,e)
  double off_diagonal = quiet_nan;  ///< mean of the E(E-1) others
  double null_mean = quiet_nan;     ///< of the mean diagonal over all relabellings: the mean of all E^2 values
  double null_sd = quiet_nan;       ///< its standard deviation over all E! relabellings, exact
  double z = quiet_nan;             ///< (diagonal - null_mean) / null_sd
  double p_value = quiet_nan;       ///< two-sided
};

namespace detail {

// Mean and variance of mean_e m(e, s(e)) over all permutations s; the variance is NaN where no permutation changes it.
struct diagonal_null {
  double mean = quiet_nan, variance = quiet_nan;
};
inline diagonal_null null_of_diagonal(matrix_view<double> m) {
  index_t const n = m.rows();
  double const count = static_cast<double>(n);
  if (n < 2) return {};
  std::vector<double> row(static_cast<std::size_t>(n)), column(row);
  double mean = 0, scale = 0, squares = 0;
  for (index_t i = 0; i < n; ++i)
    for (index_t j = 0; j < n; ++j) {
      row[static_cast<std::size_t>(i)] += m(i, j) / count;
      column[static_cast<std::size_t>(j)] += m(i, j) / count;
      mean += m(i, j) / (count * count);
      scale = std::max(scale, std::abs(m(i, j)));
    }
  for (index_t i = 0; i < n; ++i)
    for (index_t j = 0; j < n; ++j) {
      double const d = m(i, j) - row[static_cast<std::size_t>(i)] - column[static_cast<std::size_t>(j)] + mean;
      squares += d * d;
    }
  // A matrix of row effects plus column effects leaves only a residue of rounding: its diagonal never changes.
  if (!(squares > 1e-26 * scale * scale * count * count)) return {mean, quiet_nan};
  return {mean, squares / (count * count * (count - 1))};
}

// Subtracts the means of rows and columns of g [n,n] and adds the mean of all; a mere residue of rounding becomes 0.
inline void centre_rows_and_columns(double* g, std::size_t n) {
  double const count = static_cast<double>(n);
  std::vector<double> row(n), column(n);
  double mean = 0, before = 0, after = 0;
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j < n; ++j) {
      before = std::max(before, std::abs(g[i * n + j]));
      row[i] += g[i * n + j] / count;
      column[j] += g[i * n + j] / count;
    }
  for (double const r : row) mean += r / count;
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j < n; ++j) after = std::max(after, std::abs(g[i * n + j] -= row[i] + column[j] - mean));
  if (std::isfinite(mean) && after <= 1e-14 * before) std::fill(g, g + n * n, 0.0);
}

inline double mean_diagonal(matrix_view<double> m, std::vector<index_t> const& rows,
                            std::vector<index_t> const& columns) {
  double sum = 0;
  for (std::size_t e = 0; e < rows.size(); ++e) sum += m(rows[e], columns[e]);
  return sum / static_cast<double>(rows.size());
}

}  // namespace detail

/// Are the values of equal numbers, the diagonal, larger or smaller than the others?
///
/// In     values [E,E]: any comparison of expert e (row) with expert f (column).
/// Out    see diagonal_test_result. The null is "the numbering of the columns means nothing": rows and columns that are
///        larger as a whole (anisotropic weights, unequal norms) are part of it and are not mistaken for a special
///        diagonal.
/// Empty  z and p NaN if E < 2, a value is not finite, or no relabelling changes the diagonal; off_diagonal NaN if E <
///        2.
/// Cost   O((E + permutations) E) time, O(permutations) memory.   Bias  none: the test is exact. p is at least 1 /
///        min(E!, permutations + 1).
/// Throws shape_error if the matrix is not square, argument_error if permutations is negative.
/// Source mean and variance over all permutations: Hoeffding 1951, A combinatorial central limit theorem, equation 8;
///        p-value as permutation_p_value. Differs: the variance is that of the mean instead of the sum.
template <real_matrix Values>
diagonal_test_result diagonal_test(Values const& values, diagonal_test_options const& options = {}) {
  auto const view = detail::matrix_of(values);
  index_t const n = view.rows();
  if (view.cols() != n)
    detail::raise<shape_error>("moeroute::diagonal_test: the matrix is ", n, " x ", view.cols(), ", must be square");
  if (options.permutations < 0)
    detail::raise("moeroute::diagonal_test: permutations = ", options.permutations, ", must not be negative");
  std::vector<double> copy;
  for (index_t i = 0; i < n; ++i)
    for (index_t j = 0; j < n; ++j) copy.push_back(static_cast<double>(to_compute(view(i, j))));
  matrix_view<double> const m(copy.data(), n, n);

  diagonal_test_result r;
  std::vector<index_t> identity;
  double all = 0, diagonal = 0;
  for (index_t i = 0; i < n; ++i) {
    identity.push_back(i);
    diagonal += m(i, i);
    for (index_t j = 0; j < n; ++j) all += i == j ? 0 : m(i, j);
  }
  double const count = static_cast<double>(n);
  if (n > 0) r.diagonal = diagonal / count;
  if (n > 1) r.off_diagonal = all / (count * (count - 1));
  auto const null = detail::null_of_diagonal(m);
  r.null_mean = null.mean;
  if (std::isnan(null.variance)) return r;
  r.null_sd = std::sqrt(null.variance);
  double const observed = detail::mean_diagonal(m, identity, identity) - null.mean;
  r.z = observed / r.null_sd;
  if (options.permutations == 0) return r;
  std::vector<double> replicates(static_cast<std::size_t>(options.permutations));
  parallel_for(options.permutations, options.threads, [&](index_t b) {
    auto const order = expert_permutation(options.seed, static_cast<std::uint32_t>(b), 0, n);
    replicates[static_cast<std::size_t>(b)] =
        std::abs(detail::mean_diagonal(m, identity, order) - null.mean) / r.null_sd;
  });
  r.p_value = permutation_p_value(std::abs(r.z), replicates);
  return r;
}

}  // namespace moeroute

#endif

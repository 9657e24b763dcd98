// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_NUMERIC_CONTINGENCY_HPP
#define MOEROUTE_NUMERIC_CONTINGENCY_HPP

#include <moeroute/numeric/divergence.hpp>
#include <moeroute/numeric/mass.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <vector>

#if __has_include(<xtensor/containers/xtensor.hpp>)
#include <xtensor/containers/xtensor.hpp>
#else
#include <xtensor/xtensor.hpp>
#endif

namespace moeroute {

namespace detail {

struct two_way {
  std::size_t rows = 0, columns = 0;
  std::vector<double> cell, row, column;
  double total = 0;

  double expected(std::size_t r, std::size_t c) const noexcept { return row[r] * column[c] / total; }
};

template <class T>
two_way margins(matrix_view<T> counts, char const* function) {
  two_way t;
  t.rows = static_cast<std::size_t>(counts.rows());
  t.columns = static_cast<std::size_t>(counts.cols());
  t.column.assign(t.columns, 0);
  for (index_t r = 0; r < counts.rows(); ++r) {
    auto const m = checked_masses(counts.row(r), function);
    for (std::size_t c = 0; c < t.columns; ++c) t.column[c] += m.values[c];
    t.cell.insert(t.cell.end(), m.values.begin(), m.values.end());
    t.row.push_back(m.total);
    t.total += m.total;
  }
  return t;
}

inline double mutual_information_of(two_way const& t) noexcept {
  if (t.total == 0) return quiet_nan;
  double sum = 0;
  for (std::size_t r = 0; r < t.rows; ++r)
    for (std::size_t c = 0; c < t.columns; ++c)
      sum += relative_surprise(t.cell[r * t.columns + c] / t.total, t.expected(r, c) / t.total);
  return sum;
}

}  // namespace detail

/// Mutual information of row and column, in nats.
///
/// In     counts [C,E], e.g. label by expert; or shares.
/// Out    plug-in, 0..log(min(C, E)); too large by about (C - 1)(E - 1)/(2 N) for N independent draws.
/// Empty  NaN if the sum is 0.
/// Cost   O(C E).
/// Throws argument_error for a negative or non-finite count.
/// Source Shannon 1948, doi:10.1002/j.1538-7305.1948.tb01338.x, section 12. Differs: natural logarithm.
template <mass_matrix Counts>
double mutual_information_nats(Counts const& counts) {
  return detail::mutual_information_of(detail::margins(detail::matrix_of(counts), "moeroute::mutual_information_nats"));
}

/// Counts expected if row and column were independent.
///
/// In     counts [C,E].
/// Out    row sum * column sum / total.
/// Empty  NaN everywhere if the sum is 0.
/// Cost   O(C E).
/// Throws argument_error for a negative or non-finite count.
/// Source Pearson 1900, doi:10.1080/14786440009463897. Differs: as given.
template <mass_matrix Counts>
xt::xtensor<double, 2> expected_counts(Counts const& counts) {
  auto const t = detail::margins(detail::matrix_of(counts), "moeroute::expected_counts");
  xt::xtensor<double, 2> e(std::array<std::size_t, 2>{t.rows, t.columns});
  for (std::size_t r = 0; r < t.rows; ++r)
    for (std::size_t c = 0; c < t.columns; ++c) e(r, c) = t.expected(r, c);
  return e;
}

struct contingency_result {
  double total = 0;
  double mutual_information_nats = quiet_nan;            ///< plug-in
  double mutual_information_corrected_nats = quiet_nan;  ///< first-order bias removed; may be negative
  double chi_square = quiet_nan;
  double degrees_of_freedom = quiet_nan;
  double cramers_v = quiet_nan;
  double cramers_v_corrected = quiet_nan;
  index_t occupied_rows = 0, occupied_columns = 0, occupied_cells = 0;
};

/// Association of row and column of a two-way table.
///
/// In     counts [C,E]: whole numbers. Rows and columns without counts are left out.
/// Out    mutual information, plug-in and Miller-Madow; chi-square (no p-value: tokens are not independent, use
///        permutation.hpp); Cramer's V, plain and bias-corrected.
/// Empty  NaN fields if the sum is 0; V is NaN below two occupied rows or columns.
/// Cost   O(C E).
/// Throws argument_error for a negative, fractional or non-finite count.
/// Source Bergsma 2013, doi:10.1016/j.jkss.2012.10.002 (corrected V); Miller 1955 on I = H(row) + H(column) - H(cell).
///        Differs: as given.
template <mass_matrix Counts>
contingency_result contingency(Counts const& counts) {
  auto const t = detail::margins(detail::matrix_of(counts), "moeroute::contingency");
  for (double const v : t.cell)
    if (v != std::floor(v)) detail::raise("moeroute::contingency: count ", v, " must be a whole number");
  auto const occupied = [](std::vector<double> const& v) {
    return std::count_if(v.begin(), v.end(), [](double x) { return x > 0; });
  };
  contingency_result s;
  s.total = t.total;
  s.occupied_rows = occupied(t.row);
  s.occupied_columns = occupied(t.column);
  s.occupied_cells = occupied(t.cell);
  if (t.total == 0) return s;
  double const r = static_cast<double>(s.occupied_rows), c = static_cast<double>(s.occupied_columns), n = t.total;
  s.mutual_information_nats = detail::mutual_information_of(t);
  // Each entropy gains (classes - 1)/(2 n); the row's and column's gains add, the cells' is subtracted.
  s.mutual_information_corrected_nats =
      s.mutual_information_nats + (r + c - static_cast<double>(s.occupied_cells) - 1) / (2 * n);
  s.degrees_of_freedom = (r - 1) * (c - 1);
  s.chi_square = 0;
  for (std::size_t i = 0; i < t.rows; ++i)
    for (std::size_t j = 0; j < t.columns; ++j)
      if (double const e = t.expected(i, j); e > 0) {
        double const d = t.cell[i * t.columns + j] - e;
        s.chi_square += d * d / e;
      }
  if (r < 2 || c < 2) return s;
  s.cramers_v = std::sqrt(s.chi_square / n / (std::min(r, c) - 1));
  double const phi_square = std::max(0.0, s.chi_square / n - s.degrees_of_freedom / (n - 1));
  double const rows = r - (r - 1) * (r - 1) / (n - 1), columns = c - (c - 1) * (c - 1) / (n - 1);
  // With as few draws as classes the corrected number of classes is 1 and V is undefined.
  if (std::min(rows, columns) > 1) s.cramers_v_corrected = std::sqrt(phi_square / (std::min(rows, columns) - 1));
  return s;
}

}  // namespace moeroute

#endif

// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_NUMERIC_ASSIGNMENT_HPP
#define MOEROUTE_NUMERIC_ASSIGNMENT_HPP

#include <moeroute/numeric/mass.hpp>

#include <cmath>
#include <cstddef>
#include <limits>
#include <utility>
#include <vector>

namespace moeroute {

enum class assignment_goal { minimum, maximum };

struct assignment_result {
  std::vector<index_t> column;  ///< [R]: column of each row, -1 for the rows left over where rows outnumber columns
  double total = 0;             ///< sum of the chosen values
};

/// One-to-one assignment of rows to columns with the smallest or largest total (linear sum assignment).
///
/// In     values [R,C], finite; min(R, C) pairs are chosen.
/// Out    column [R] and the total. Where several assignments have the best total, one of them, always the same.
/// Empty  no pairs and total 0 if R or C is 0.
/// Cost   O(m^2 n) time for m = min(R, C), n = max(R, C); O(R C) memory.
/// Throws argument_error if a value is NaN or infinite.
/// Source Kuhn 1955, doi:10.1002/nav.3800020109; shortest augmenting paths with dual prices as in Jonker, Volgenant
///        1987, doi:10.1007/BF02278710. Differs: no initial reduction of rows and columns.
template <numeric_matrix Values>
assignment_result assign(Values const& values, assignment_goal goal = assignment_goal::minimum) {
  auto const view = detail::matrix_of(values);
  assignment_result result;
  result.column.assign(static_cast<std::size_t>(view.rows()), -1);
  bool const turned = view.rows() > view.cols();
  auto const m = static_cast<std::size_t>(turned ? view.cols() : view.rows());
  auto const n = static_cast<std::size_t>(turned ? view.rows() : view.cols());
  auto const value = [&](std::size_t r, std::size_t c) {
    auto const i = static_cast<index_t>(r), j = static_cast<index_t>(c);
    return detail::as_double(turned ? view(j, i) : view(i, j));
  };
  std::vector<double> cost;
  cost.reserve(m * n);
  for (std::size_t r = 0; r < m; ++r)
    for (std::size_t c = 0; c < n; ++c) {
      double const v = value(r, c);
      if (!std::isfinite(v))
        detail::raise("moeroute::assign: value ", v, " at row ", turned ? c : r, ", column ", turned ? r : c,
                      " must be finite");
      cost.push_back(goal == assignment_goal::maximum ? -v : v);
    }

  // Rows enter one by one, each along the cheapest path of swaps. Reduced costs cost - row_price - column_price stay
  // >= 0 and are 0 on assigned pairs, which makes every stage optimal for the rows inside.
  auto const none = std::numeric_limits<std::size_t>::max();
  std::vector<double> row_price(m), column_price(n), distance(n);
  std::vector<std::size_t> row_of(n, none), before(n);
  std::vector<char> reached(n);
  for (std::size_t entering = 0; entering < m; ++entering) {
    distance.assign(n, std::numeric_limits<double>::infinity());
    reached.assign(n, 0);
    std::size_t row = entering, at = none;  // the row of the path's last column, and that column
    double length = 0;
    do {
      std::size_t next = none;
      for (std::size_t c = 0; c < n; ++c) {
        if (reached[c]) continue;
        double const d = length + (cost[row * n + c] - row_price[row] - column_price[c]);
        if (d < distance[c]) {
          distance[c] = d;
          before[c] = at;
        }
        // Among equals a free column ends the search.
        if (next == none || distance[c] < distance[next] || (distance[c] == distance[next] && row_of[c] == none))
          next = c;
      }
      length = distance[next];
      reached[next] = 1;
      at = next;
      row = row_of[at];
    } while (row != none);
    row_price[entering] += length;
    for (std::size_t c = 0; c < n; ++c)
      if (reached[c] && c != at) {
        row_price[row_of[c]] += length - distance[c];
        column_price[c] -= length - distance[c];
      }
    for (; before[at] != none; at = before[at]) row_of[at] = row_of[before[at]];
    row_of[at] = entering;
  }

  for (std::size_t c = 0; c < n; ++c) {
    if (row_of[c] == none) continue;
    auto const [r, k] = turned ? std::pair{c, row_of[c]} : std::pair{row_of[c], c};
    result.column[r] = static_cast<index_t>(k);
  }
  // By rows, so that the total does not depend on the path that found the assignment.
  for (index_t r = 0; r < view.rows(); ++r)
    if (auto const c = result.column[static_cast<std::size_t>(r)]; c >= 0)
      result.total += detail::as_double(view(r, c));
  return result;
}

}  // namespace moeroute

#endif

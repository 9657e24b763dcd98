// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_NUMERIC_CLUSTER_HPP
#define MOEROUTE_NUMERIC_CLUSTER_HPP

#include <moeroute/numeric/mass.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numeric>
#include <utility>
#include <vector>

namespace moeroute {

/// One union of two clusters. Items are 0..n-1, the cluster that row i makes is n + i.
struct cluster_union {
  index_t first = 0, second = 0;  ///< first < second
  double height = quiet_nan;      ///< mean distance between the members of the two
  index_t size = 0;               ///< items in both
};

struct cluster_result {
  std::vector<cluster_union> unions;  ///< [n-1], heights do not fall
  std::vector<index_t> order;         ///< [n]: items in the order of the tree's leaves; alike items are neighbours
};

/// Agglomerative clustering by average linkage (UPGMA), to bring rows of a heat map into an order.
///
/// In     distance [n,n]: symmetric, finite, not negative; the diagonal is not read.
/// Out    unions and order; a union whose heights tie with others comes in the order in which it was found.
/// Empty  no unions; the order of one item is itself.
/// Cost   O(n^2) time and memory.
/// Throws shape_error if the matrix is not square; argument_error for a value that is not finite, negative, or differs
///        from its mirror image by more than 1e-9 of the largest.
/// Source Sokal, Michener 1958 for the linkage; nearest-neighbour chains, Muellner 2011, arXiv:1109.2378.
///        Differs: as given; numbering of clusters and leaf order as scipy's.
template <numeric_matrix Distance>
cluster_result average_linkage(Distance const& distance) {
  auto const view = detail::matrix_of(distance);
  if (view.rows() != view.cols())
    detail::raise<shape_error>("moeroute::average_linkage: distances [", view.rows(), ",", view.cols(),
                               "] must be square");
  auto const n = static_cast<std::size_t>(view.rows());
  std::vector<double> d(n * n);
  double largest = 0;
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j < n; ++j) {
      if (i == j) continue;
      double const v = detail::as_double(view(static_cast<index_t>(i), static_cast<index_t>(j)));
      if (!(v >= 0) || std::isinf(v))
        detail::raise("moeroute::average_linkage: distance ", v, " of ", i, " and ", j,
                      " must be finite and not negative");
      d[i * n + j] = v;
      largest = std::max(largest, v);
    }
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j < i; ++j)
      if (std::abs(d[i * n + j] - d[j * n + i]) > 1e-9 * largest)
        detail::raise("moeroute::average_linkage: distance ", d[i * n + j], " of ", i, " and ", j, ", but ",
                      d[j * n + i], " back");

  // Average linkage never brings two clusters closer to a third than the nearer of them was, so two clusters that are
  // nearest to each other stay so, whatever is united elsewhere: unions may be found in any order and sorted later.
  struct pair {
    std::size_t a, b;
    double height;
  };
  std::vector<pair> found;
  std::vector<double> size(n, 1);
  std::vector<std::size_t> chain;
  for (std::size_t u = 0; u + 1 < n; ++u) {
    if (chain.empty())
      chain.push_back(static_cast<std::size_t>(std::find_if(size.begin(), size.end(), [](double s) { return s > 0; }) -
                                               size.begin()));
    for (;;) {
      auto const end = chain.back();
      // The one before in the chain wins ties: otherwise the chain could go round in a circle.
      std::size_t nearest = chain.size() > 1 ? chain[chain.size() - 2] : end;
      double least = chain.size() > 1 ? d[end * n + nearest] : std::numeric_limits<double>::infinity();
      for (std::size_t i = 0; i < n; ++i)
        if (size[i] > 0 && i != end && d[end * n + i] < least) {
          least = d[end * n + i];
          nearest = i;
        }
      if (chain.size() > 1 && nearest == chain[chain.size() - 2]) break;
      chain.push_back(nearest);
    }
    auto const [a, b] = std::minmax({chain[chain.size() - 1], chain[chain.size() - 2]});
    chain.resize(chain.size() - 2);
    found.push_back({a, b, d[a * n + b]});
    for (std::size_t i = 0; i < n; ++i)
      if (size[i] > 0 && i != a && i != b)
        d[i * n + b] = d[b * n + i] = (size[a] * d[a * n + i] + size[b] * d[b * n + i]) / (size[a] + size[b]);
    size[b] += size[a];
    size[a] = 0;
  }

  std::stable_sort(found.begin(), found.end(), [](auto const& x, auto const& y) { return x.height < y.height; });
  cluster_result result;
  std::vector<std::size_t> parent(n), id(n);
  std::iota(parent.begin(), parent.end(), std::size_t{0});
  std::iota(id.begin(), id.end(), std::size_t{0});
  std::vector<index_t> items(n, 1);
  auto const root = [&](std::size_t i) {
    for (; parent[i] != i; i = parent[i]) parent[i] = parent[parent[i]];
    return i;
  };
  for (std::size_t u = 0; u < found.size(); ++u) {
    auto const a = root(found[u].a), b = root(found[u].b);
    auto const [first, second] = std::minmax({id[a], id[b]});
    parent[a] = b;
    items[b] += items[a];
    id[b] = n + u;
    result.unions.push_back({static_cast<index_t>(first), static_cast<index_t>(second), found[u].height, items[b]});
  }
  std::vector<std::size_t> open;
  if (n > 0) open.push_back(n == 1 ? 0 : 2 * n - 2);
  while (!open.empty()) {
    auto const c = open.back();
    open.pop_back();
    if (c < n) {
      result.order.push_back(static_cast<index_t>(c));
    } else {
      open.push_back(static_cast<std::size_t>(result.unions[c - n].second));
      open.push_back(static_cast<std::size_t>(result.unions[c - n].first));
    }
  }
  return result;
}

}  // namespace moeroute

#endif

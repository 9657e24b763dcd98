// SPDX-License-Identifier: Apache-2.0
// A lazy expression has no memory to look at.
// Words: index_matrix
#include <moeroute/core/adapt.hpp>

#include <Eigen/Core>

moeroute::index_t count(moeroute::index_matrix auto const& ids) { return moeroute::as_matrix(ids).rows(); }

moeroute::index_t use(Eigen::MatrixXi const& ids) {
#if MOEROUTE_BAD
  return count(ids + ids);
#else
  return count((ids + ids).eval());
#endif
}

// SPDX-License-Identifier: Apache-2.0
// Ids are integers.
// Words: index_matrix
#include <moeroute/core/adapt.hpp>

#include <Eigen/Core>

moeroute::index_t count(moeroute::index_matrix auto const& ids) { return moeroute::as_matrix(ids).rows(); }

#if MOEROUTE_BAD
moeroute::index_t use(Eigen::MatrixXf const& ids) { return count(ids); }
#else
moeroute::index_t use(Eigen::MatrixXi const& ids) { return count(ids); }
#endif

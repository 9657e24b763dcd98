// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_ROUTING_DESIGN_EFFECT_HPP
#define MOEROUTE_ROUTING_DESIGN_EFFECT_HPP

#include <moeroute/core/adapt.hpp>
#include <moeroute/core/scalar.hpp>
#include <moeroute/inference/bootstrap.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace moeroute {

/// How many dependent slots one independent slot is worth: the factor by which tokens of one document being alike inflates variances.
///
/// In     counts [D,E]: slots of document d at expert e; blocks [D]: documents of one id are one cluster.
/// Out    mean over experts of the design effect of their share, weighted by p (1 - p); 1 at least, since a finite sample can look more even than
///        independent tokens by chance alone.   Empty  NaN below two clusters or without slots.   Cost  O(D E log D).
/// Throws shape_error if the lengths differ.
/// Source Kish 1965, Survey Sampling, section 8.2, per expert (ratio_of_totals). Differs: the average over experts is ours.
template <index_matrix Counts, index_vector Blocks>
double design_effect(Counts const& counts, Blocks const& blocks) {
  auto const m = detail::matrix_of(counts);
  std::vector<std::uint64_t> slots(static_cast<std::size_t>(m.rows())), x(slots.size());
  for (index_t r = 0; r < m.rows(); ++r)
    for (index_t e = 0; e < m.cols(); ++e) slots[static_cast<std::size_t>(r)] += static_cast<std::uint64_t>(m(r, e));
  double weighted = 0, weight = 0;
  for (index_t e = 0; e < m.cols(); ++e) {
    for (index_t r = 0; r < m.rows(); ++r) x[static_cast<std::size_t>(r)] = static_cast<std::uint64_t>(m(r, e));
    auto const ratio = ratio_of_totals(x, slots, blocks);
    if (std::isnan(ratio.design_effect)) continue;
    double const variance = ratio.value * (1 - ratio.value);
    weighted += variance * ratio.design_effect;
    weight += variance;
  }
  return weight > 0 ? std::max(1.0, weighted / weight) : quiet_nan;
}

}  // namespace moeroute

#endif

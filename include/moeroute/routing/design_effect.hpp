// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_ROUTING_DESIGN_EFFECT_HPP
#define MOEROUTE_ROUTING_DESIGN_EFFECT_HPP

#include <moeroute/core/adapt.hpp>
#include <moeroute/core/error.hpp>
#include <moeroute/core/scalar.hpp>
#include <moeroute/inference/bootstrap.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace moeroute {

/// How many dependent slots one independent slot is worth: the factor by which tokens of one document being alike
/// inflates variances.
///
/// In     counts [D,E]: slots of document d at expert e; blocks [D]: documents of one id are one cluster. top_k: 1
///        compares with independent slots; K with independent tokens of K distinct experts, whose counts vary only
///        (E - K)/(E - 1) times as much: uniform_balance wants tokens / design_effect(counts, blocks, K).
/// Out    mean over experts of the design effect of their share, weighted by p (1 - p); 1 at least, since a finite
///        sample can look more even than independent tokens by chance alone.
/// Empty  NaN below two clusters, without slots, or at K = E.   Cost  O(D E log D).
/// Throws shape_error if the lengths differ, argument_error unless 1 <= top_k <= E (with E > 0).
/// Source Kish 1965, Survey Sampling, section 8.2, per expert (ratio_of_totals). Differs: the average over experts is
///        ours; the factor for K is the variance of a hypergeometric draw (sampling without replacement within a
///        token).
template <index_matrix Counts, index_vector Blocks>
double design_effect(Counts const& counts, Blocks const& blocks, index_t top_k = 1) {
  auto const m = detail::matrix_of(counts);
  if (top_k < 1 || (m.cols() > 0 && top_k > m.cols()))
    detail::raise("moeroute::design_effect: top_k = ", top_k, ", need 1 <= top_k <= ", m.cols(), " experts");
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
  double const e = static_cast<double>(m.cols()), k = static_cast<double>(top_k),
               distinct = k == 1 ? 1 : (e - k) / (e - 1);
  return weight > 0 && distinct > 0 ? std::max(1.0, weighted / weight / distinct) : quiet_nan;
}

}  // namespace moeroute

#endif

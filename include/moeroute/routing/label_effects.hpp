// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_ROUTING_LABEL_EFFECTS_HPP
#define MOEROUTE_ROUTING_LABEL_EFFECTS_HPP

#include <moeroute/core/adapt.hpp>
#include <moeroute/core/error.hpp>
#include <moeroute/core/scalar.hpp>
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

/// NaN where undefined.
struct label_effects_result {
  xt::xtensor<double, 2> log_odds;        ///< [C,E] of the expert, label against all others, shrunken; 0: no difference
  xt::xtensor<double, 2> log_odds_error;  ///< [C,E] its standard error
  xt::xtensor<double, 2> jensen_shannon;  ///< [C,C] of two labels, nats, plug-in
  xt::xtensor<double, 2> jensen_shannon_floor;  ///< [C,C] its mean for two samples of these sizes of one distribution
};

/// How far apart the labels are: log-odds per label and expert, Jensen-Shannon divergence per pair of labels.
///
/// In     counts [C,E] in slots; design_effects [C]: how many slots are worth one independent slot (design_effect.hpp),
///        at least 1; prior_slots: weight of the pooled distribution in independent slots, 0: one per expert.
/// Out    label_effects_result. A count enters the log-odds divided by its label's design effect, plus prior_slots
///        times the pooled share.
/// Empty  NaN for a label without slots, an expert that nothing chose, a single label; a label without design effect
///        (NaN) has a jensen_shannon alone and is nobody's other.
/// Bias   log-odds are pulled towards 0, the more the rarer the expert. The floor is of first order in 1/n and takes
///        one design effect for all experts: subtract it to compare pairs, do not test with it (specialization.hpp
///        tests by documents).   Cost  O(C E + C^2 E).
/// Throws shape_error or argument_error for lengths that differ, a negative count, a design effect below 1, a negative
///        prior.
/// Source Monroe, Colaresi, Quinn 2008, doi:10.1093/pan/mpn018, log-odds-ratio with informative Dirichlet prior and its
///        approximate variance. Differs: counts in independent slots, since slots of a document are alike; the floor is
///        jensen_shannon_bias_nats.
template <mass_matrix Counts, real_vector DesignEffects>
label_effects_result label_effects(Counts const& counts, DesignEffects const& design_effects, double prior_slots = 0) {
  auto const view = detail::matrix_of(counts);
  auto const deff = detail::vector_of(design_effects);
  auto const labels = static_cast<std::size_t>(view.rows()), experts = static_cast<std::size_t>(view.cols());
  if (deff.size() != view.rows())
    detail::raise<shape_error>("moeroute::label_effects: ", view.rows(), " labels, ", deff.size(), " design effects");
  if (!(prior_slots >= 0) || std::isinf(prior_slots))
    detail::raise("moeroute::label_effects: prior_slots = ", prior_slots, ", must be finite and not negative");
  if (prior_slots == 0) prior_slots = static_cast<double>(experts);
  std::vector<detail::masses> slots;
  std::vector<double> worth(labels), pooled(experts),
      independent(experts);  // independent: sums over labels of slots / design effect
  double total = 0, independent_total = 0;
  for (std::size_t c = 0; c < labels; ++c) {
    auto const at = static_cast<index_t>(c);
    worth[c] = detail::as_double(deff[at]);
    if (worth[c] < 1 || std::isinf(worth[c]))
      detail::raise("moeroute::label_effects: design effect ", worth[c], " of label ", c, ", must be at least 1");
    slots.push_back(detail::checked_masses(view.row(at), "moeroute::label_effects"));
    total += slots[c].total;
    for (std::size_t e = 0; e < experts; ++e) pooled[e] += slots[c].values[e];
    if (std::isnan(worth[c])) continue;
    independent_total += slots[c].total / worth[c];
    for (std::size_t e = 0; e < experts; ++e) independent[e] += slots[c].values[e] / worth[c];
  }

  label_effects_result r;
  r.log_odds = r.log_odds_error = xt::xtensor<double, 2>(std::array<std::size_t, 2>{labels, experts}, quiet_nan);
  r.jensen_shannon = r.jensen_shannon_floor =
      xt::xtensor<double, 2>(std::array<std::size_t, 2>{labels, labels}, quiet_nan);
  for (std::size_t c = 0; c < labels; ++c) {
    double const n = slots[c].total / worth[c], others = independent_total - n;
    for (std::size_t e = 0; e < experts && n > 0 && others > 1e-12 * independent_total; ++e) {
      double const prior = prior_slots * pooled[e] / total;
      double const x = slots[c].values[e] / worth[c] + prior,
                   y = std::max(0.0, independent[e] - slots[c].values[e] / worth[c]) + prior;
      double const not_x = n + prior_slots - x, not_y = others + prior_slots - y;
      if (!(prior > 0 && prior < prior_slots)) continue;
      r.log_odds(c, e) = std::log(x / not_x) - std::log(y / not_y);
      r.log_odds_error(c, e) = std::sqrt(1 / x + 1 / y);
    }
    for (std::size_t d = 0; d < labels; ++d) {
      if (slots[c].total == 0 || slots[d].total == 0) continue;
      r.jensen_shannon(c, d) = jensen_shannon_nats(slots[c].values, slots[d].values);
      index_t occupied = 0;
      for (std::size_t e = 0; e < experts; ++e) occupied += slots[c].values[e] + slots[d].values[e] > 0 ? 1 : 0;
      if (c == d)
        r.jensen_shannon_floor(c, d) = 0;
      else
        r.jensen_shannon_floor(c, d) = jensen_shannon_bias_nats(occupied, n, slots[d].total / worth[d]);
    }
  }
  return r;
}

}  // namespace moeroute

#endif

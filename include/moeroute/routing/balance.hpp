// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_ROUTING_BALANCE_HPP
#define MOEROUTE_ROUTING_BALANCE_HPP

#include <moeroute/core/adapt.hpp>
#include <moeroute/core/error.hpp>
#include <moeroute/core/scalar.hpp>
#include <moeroute/inference/interval.hpp>
#include <moeroute/numeric/entropy.hpp>
#include <moeroute/numeric/inequality.hpp>
#include <moeroute/numeric/random.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <iterator>
#include <numbers>
#include <utility>
#include <vector>

namespace moeroute {

/// Balance measures of one vector of loads. NaN where undefined (no slots at all).
struct balance_measures {
  double max_violation = quiet_nan;             ///< max N / mean N - 1; 0 when balanced
  double min_violation = quiet_nan;             ///< 1 - min N / mean N
  double coefficient_of_variation = quiet_nan;  ///< population sd / mean
  double gini = quiet_nan;                      ///< 0 when balanced, (E-1)/E when one expert has all
  double normalized_entropy = quiet_nan;        ///< entropy / ln E; 1 when balanced
  double effective_experts = quiet_nan;         ///< exp(entropy); E when balanced
};

inline constexpr double balance_measures::* balance_fields[] = {
    &balance_measures::max_violation,      &balance_measures::min_violation,      &balance_measures::coefficient_of_variation,
    &balance_measures::gini,               &balance_measures::normalized_entropy, &balance_measures::effective_experts};
inline constexpr char const* balance_field_names[] = {"max_violation", "min_violation",      "coefficient_of_variation",
                                                      "gini",          "normalized_entropy", "effective_experts"};

/// How even a load is.
///
/// In     loads [E]: slots or mean probability per expert, not negative.   Out  balance_measures.   Empty  NaN when the loads sum to 0.
/// Cost   O(E log E).   Bias  finite samples look unbalanced: compare with uniform_balance. Throws argument_error on a negative load.
/// Source MaxVio: Wang et al. 2024, arXiv:2408.15664, section 4.1, as given; the others are the textbook definitions of numeric/.
template <class Loads>
balance_measures balance_of(Loads const& loads) {
  balance_measures b;
  b.max_violation = max_violation(loads);
  b.min_violation = min_violation(loads);
  b.coefficient_of_variation = coefficient_of_variation(loads);
  b.gini = gini(loads);
  b.normalized_entropy = normalized_entropy(loads);
  b.effective_experts = effective_number(loads);
  return b;
}

/// What a measure comes to when routing is exactly uniform: mean, and the bound that 95 % of such routings stay on the balanced side of.
struct balance_reference {
  balance_measures mean;
  balance_measures bound_95;  ///< 95 % quantile of the violations, CV and Gini; 5 % quantile of entropy and effective number
};

/// Balance of uniform random routing of the same size.
///
/// In     tokens T (or the number of independent tokens that T dependent ones are worth, T / design effect), experts E, K distinct experts per
///        token, each K-subset equally likely, tokens independent; seed and replicates of the simulation.
/// Out    mean and 95 % bound of every measure. Up to 2048 tokens or 64 slots per expert routing is drawn; beyond, counts are drawn from their normal
///        limit, corrected for skewness, with covariance T p (1-p) (1 on the diagonal, -1/(E-1) elsewhere), p = K/E.
/// Empty  T = 0: NaN.   Cost  O(replicates E), where routing is drawn O(replicates T K).
/// Throws argument_error unless 0 < K <= E, or if tokens is infinite.
/// Source ours: Monte Carlo of the stated null. A MaxVio of 0.2 can be pure noise, and no published figure shows this level.
inline balance_reference uniform_balance(double tokens, index_t experts, index_t top_k, std::uint64_t seed = 1, index_t replicates = 999) {
  if (experts <= 0 || top_k <= 0 || top_k > experts)
    detail::raise("moeroute::uniform_balance: experts = ", experts, ", top_k = ", top_k, "; need 0 < top_k <= experts");
  if (std::isinf(tokens) && tokens > 0) detail::raise("moeroute::uniform_balance: tokens = ", tokens, ", must be finite");
  balance_reference out;
  if (!(tokens >= 1) || replicates <= 0) return out;
  auto const e_count = static_cast<std::size_t>(experts);
  double const e = static_cast<double>(experts), p = static_cast<double>(top_k) / e;
  bool const drawn = tokens <= 2048 || tokens * p <= 64;
  constexpr std::uint64_t purpose = 0x62616c616e636575;  // "balanceu"
  std::vector<std::vector<double>> draws(std::size(balance_fields));
  std::vector<double> counts(e_count);
  std::vector<index_t> deck(e_count);
  for (index_t b = 0; b < replicates; ++b) {
    random_stream random(seed, purpose, static_cast<std::uint64_t>(b));
    if (drawn) {
      std::fill(counts.begin(), counts.end(), 0.0);
      for (std::size_t i = 0; i < e_count; ++i) deck[i] = static_cast<index_t>(i);
      for (index_t t = 0; t < static_cast<index_t>(tokens); ++t)
        for (index_t k = 0; k < top_k; ++k) {  // the first K places of a Fisher-Yates shuffle; any start order will do
          auto const j = static_cast<std::size_t>(k) + random.index(static_cast<std::uint64_t>(experts - k));
          std::swap(deck[static_cast<std::size_t>(k)], deck[j]);
          counts[static_cast<std::size_t>(deck[static_cast<std::size_t>(k)])] += 1;
        }
    } else {
      double mean = 0;
      for (auto& g : counts) {
        // Box and Muller; 1 - u is never 0.
        double const radius = std::sqrt(-2 * std::log(1 - random.uniform()));
        g = radius * std::cos(2 * std::numbers::pi * random.uniform());
        mean += g / e;
      }
      // A count is binomial: its skewness (1 - 2p)/sd moves the largest of many counts further than the smallest (Cornish and Fisher).
      double const sd = std::sqrt(tokens * p * (1 - p)), skewed = sd > 0 ? (1 - 2 * p) / 6 : 0;
      for (auto& g : counts) {
        double const z = experts > 1 ? (g - mean) * std::sqrt(e / (e - 1)) : 0;
        g = std::max(0.0, tokens * p + sd * z + skewed * (z * z - 1));
      }
    }
    auto const measures = balance_of(counts);
    for (std::size_t f = 0; f < draws.size(); ++f) draws[f].push_back(measures.*balance_fields[f]);
  }
  for (std::size_t f = 0; f < draws.size(); ++f) {
    auto& d = draws[f];
    std::sort(d.begin(), d.end());
    double sum = 0;
    for (double const x : d) sum += x;
    out.mean.*balance_fields[f] = sum / static_cast<double>(d.size());
    bool const high_is_balanced = f >= 4;  // entropy and effective number
    double const q = high_is_balanced ? 0.05 : 0.95;
    auto const rank = static_cast<std::size_t>(std::ceil(q * static_cast<double>(d.size()))) - 1;
    out.bound_95.*balance_fields[f] = d[std::min(rank, d.size() - 1)];
  }
  return out;
}

/// The auxiliary loss that training keeps small, in its two normalisations.
struct load_balancing_losses {
  double switch_form = quiet_nan;  ///< E sum_e f_e P_e with f the share of slots (sums to 1): 1 when balanced
  double olmoe_form = quiet_nan;   ///< the same with f_e = slots per token (sums to K): K when balanced
};

/// Load-balancing loss of one layer.
///
/// In     counts [E] in slots over kept slots; probability [E], mean soft probability; tokens.   Empty  NaN for 0 slots or tokens.
/// Cost   O(E).   Bias  the product of two estimates from the same tokens; at T tokens its excess over the limit is O(1/T).
/// Throws shape_error if the lengths differ.
/// Source Fedus et al. 2022, arXiv:2101.03961, equations 4 to 6 (top-1 there; f over slots here); OLMoE, arXiv:2409.02060, equation 3, and
///        load_balancing_loss_func of its code. Differs: layers are never pooled, since pooling hides a layer's imbalance.
template <class Counts, class Probability>
load_balancing_losses load_balancing_loss(Counts const& counts, Probability const& probability, std::uint64_t tokens) {
  auto const n = detail::vector_of(counts);
  auto const p = detail::vector_of(probability);
  if (n.size() != p.size())
    detail::raise<shape_error>("moeroute::load_balancing_loss: ", n.size(), " counts, ", p.size(), " probabilities");
  double slots = 0, product = 0;
  for (index_t e = 0; e < n.size(); ++e) {
    slots += static_cast<double>(n[e]);
    product += static_cast<double>(n[e]) * static_cast<double>(p[e]);
  }
  product *= static_cast<double>(n.size());
  load_balancing_losses out;
  if (slots > 0) out.switch_form = product / slots;
  if (tokens > 0) out.olmoe_form = product / static_cast<double>(tokens);
  return out;
}

struct unseen_result {
  std::vector<index_t> experts;    ///< no slot chose them
  double upper_95 = quiet_nan;     ///< 95 % bound for the share of documents in which such an expert would be chosen
};

/// Experts that nothing chose, and how often they could still be chosen.
///
/// In     counts [E] in slots; documents: the independent units behind them.   Out  ids of the unseen; one bound for each of them.
/// Empty  no documents: every expert is unseen, the bound is 1.   Cost  O(E).
/// Source the exact binomial bound 1 - 0.05^(1/n) (rule of three), with documents as units: tokens of one document are not independent, and
///        published "dead expert" counts give no bound at all.
template <class Counts>
unseen_result unseen_experts(Counts const& counts, std::uint64_t documents) {
  auto const n = detail::vector_of(counts);
  unseen_result r;
  for (index_t e = 0; e < n.size(); ++e)
    if (n[e] == 0) r.experts.push_back(e);
  r.upper_95 = documents == 0 ? 1.0 : unseen_upper_bound(documents, 0.95);
  return r;
}

}  // namespace moeroute

#endif

// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_CORE_ROUTER_SPEC_HPP
#define MOEROUTE_CORE_ROUTER_SPEC_HPP

#include <moeroute/core/error.hpp>
#include <moeroute/core/view.hpp>

#include <cmath>
#include <vector>

namespace moeroute {

/// How raw logits become scores.
enum class score_function {
  softmax,              ///< softmax over all experts, then top-k (OLMoE, Qwen, Mixtral, DeepSeek-V2)
  sigmoid,              ///< each expert by itself (DeepSeek-V3, GLM-4.5, MiniMax-M2)
  softmax_after_top_k,  ///< top-k of the logits, then softmax over the chosen (gpt-oss, Granite)
  sparsemixer,          ///< top-k of the logits, each weighed against those that are nearly as large (Phi-3.5-MoE)
};

/// How a group of experts is scored in group-limited routing.
enum class group_score {
  maximum,     ///< best member (DeepSeek-V2)
  top_two_sum  ///< sum of the two best members (DeepSeek-V3)
};

/// Everything that turns logits [T,E] into ids and weights [T,K]. Data only; routing/selection.hpp applies it.
struct router_spec {
  index_t experts = 0;
  index_t top_k = 0;
  score_function score = score_function::softmax;
  bool renormalize = false;              ///< divide the chosen scores by their sum
  double renormalize_epsilon = 0;        ///< added to that sum
  double jitter_eps = 0;                 ///< of sparsemixer alone: half the relative distance within which a logit is nearly as large
  double scale = 1;                      ///< multiplies the weights, after renormalisation
  std::vector<double> selection_bias;    ///< [E] or empty: added to the score for ranking, never to the weight
  index_t groups = 1;                    ///< consecutive groups of equal size; 1 = no group limit
  index_t groups_kept = 1;               ///< only experts of this many best groups can be chosen
  group_score group_rule = group_score::top_two_sum;
  index_t shared_experts = 0;            ///< always active, outside the top-k; recorded, not counted

  friend bool operator==(router_spec const&, router_spec const&) = default;
};

/// Throws argument_error naming the first field that makes no sense.
inline void validate(router_spec const& spec) {
  auto const require = [](bool condition, auto const&... text) {
    if (!condition) detail::raise("moeroute::router_spec: ", text...);
  };
  require(spec.experts > 0, "experts = ", spec.experts, ", must be positive");
  require(spec.top_k > 0 && spec.top_k <= spec.experts, "top_k = ", spec.top_k, ", must be in 1..experts = ", spec.experts);
  require(spec.groups > 0 && spec.experts % spec.groups == 0, "groups = ", spec.groups, " does not divide experts = ", spec.experts);
  require(spec.groups_kept > 0 && spec.groups_kept <= spec.groups, "groups_kept = ", spec.groups_kept, ", must be in 1..groups = ",
          spec.groups);
  require(spec.top_k <= spec.groups_kept * (spec.experts / spec.groups), "top_k = ", spec.top_k,
          " exceeds the experts of the kept groups");
  require(spec.groups == 1 || spec.group_rule != group_score::top_two_sum || spec.experts / spec.groups >= 2,
          "top_two_sum needs groups of at least two experts");
  require(spec.selection_bias.empty() || static_cast<index_t>(spec.selection_bias.size()) == spec.experts, "selection_bias has ",
          spec.selection_bias.size(), " values, experts = ", spec.experts);
  require(spec.shared_experts >= 0, "shared_experts = ", spec.shared_experts, ", must not be negative");
  for (double const b : spec.selection_bias) require(std::isfinite(b), "selection_bias holds ", b);
  bool const mixes = spec.score == score_function::sparsemixer;
  require(std::isfinite(spec.jitter_eps) && spec.jitter_eps >= 0 && (mixes || spec.jitter_eps == 0), "jitter_eps = ", spec.jitter_eps,
          mixes ? ", must be finite and not negative" : ", belongs to sparsemixer");
  require(!mixes || (spec.groups == 1 && spec.selection_bias.empty()), "sparsemixer has neither groups nor selection_bias");
  require(std::isfinite(spec.scale) && spec.scale > 0, "scale = ", spec.scale, ", must be positive and finite");
  require(std::isfinite(spec.renormalize_epsilon) && spec.renormalize_epsilon >= 0, "renormalize_epsilon = ", spec.renormalize_epsilon,
          ", must be finite and not negative");
}

}  // namespace moeroute

#endif

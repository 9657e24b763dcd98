// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_WEIGHTS_EXPERT_SIMILARITY_HPP
#define MOEROUTE_WEIGHTS_EXPERT_SIMILARITY_HPP

#include <moeroute/core/error.hpp>
#include <moeroute/core/parallel.hpp>
#include <moeroute/core/scalar.hpp>
#include <moeroute/core/view.hpp>
#include <moeroute/inference/permutation.hpp>
#include <moeroute/weights/diagonal_test.hpp>
#include <moeroute/weights/expert_gram.hpp>

#if __has_include(<xtensor/containers/xtensor.hpp>)
#include <xtensor/containers/xtensor.hpp>
#else
#include <xtensor/xtensor.hpp>
#endif

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace moeroute {

/// Cosines of all pairs of experts.
///
/// In     gram; centred: the mean expert of each layer is subtracted first, so that what all experts of a layer share
///        does not count.
/// Out    [P,E,E] as gram.dots, between -1 and 1.
/// Empty  NaN where an expert has no weights, only zeros, one that is not finite, or, centred, does not differ from the
///        mean.
/// Cost   O(P E^2).   Bias  centring subtracts nearly equal numbers where experts are nearly equal: the error bound of
///        the dot products grows by 1 / (share of the squared norm that centring leaves).
/// Throws argument_error if gram is not one of expert_gram.
/// Source d0rbu/moe-router-study, commit 2c2073c, core/expert_analyzer.py, of one tensor. Differs: layers and experts
///        in the order of their numbers (theirs: of their names as text), a zero norm gives NaN (theirs: 0).
inline xt::xtensor<double, 3> expert_cosines(expert_gram_result const& gram, bool centred = false) {
  auto const layers = static_cast<std::size_t>(gram.layers), experts = gram.dots.shape()[1];
  if (gram.pairs.size() < layers || gram.dots.shape()[0] != gram.pairs.size() || gram.dots.shape()[2] != experts)
    detail::raise("moeroute::expert_cosines: ", gram.pairs.size(), " pairs for ", layers, " layers and ",
                  gram.dots.shape()[0], " x ", experts, " x ", gram.dots.shape()[2], " dot products");
  auto out = gram.dots;
  if (centred)
    for (std::size_t p = 0; p < gram.pairs.size(); ++p)
      detail::centre_rows_and_columns(out.data() + p * experts * experts, experts);
  std::vector<double> length(layers * experts);
  for (std::size_t l = 0; l < layers; ++l)
    for (std::size_t e = 0; e < experts; ++e) {
      double const square = out(l, e, e), before = gram.dots(l, e, e);
      length[l * experts + e] = std::isfinite(before) && square > 1e-12 * before ? std::sqrt(square) : quiet_nan;
    }
  for (std::size_t p = 0; p < gram.pairs.size(); ++p)
    for (std::size_t i = 0; i < experts; ++i)
      for (std::size_t j = 0; j < experts; ++j) {
        double const c = out(p, i, j) / (length[static_cast<std::size_t>(gram.pairs[p].first) * experts + i] *
                                         length[static_cast<std::size_t>(gram.pairs[p].second) * experts + j]);
        out(p, i, j) = std::isnan(c) ? c : std::clamp(c, -1.0, 1.0);
      }
  return out;
}

struct expert_similarity_options {
  bool centred = false;
  index_t permutations = 1999;
  std::uint64_t seed = 1;
  int threads = 0;  ///< 0: all; the result does not depend on it
};

/// Layers Δ apart, over the layer pairs whose cosines are all defined.
struct expert_similarity_lag {
  index_t delta = 0;
  index_t pairs = 0;               ///< of layers
  double same_index = quiet_nan;   ///< mean cosine of (l,e) with (l+Δ,e)
  double sd = quiet_nan;           ///< of these E * pairs cosines, n-1
  double median = quiet_nan;       ///< of these
  double other_index = quiet_nan;  ///< mean cosine of (l,e) with (l+Δ,f), f != e
  double z = quiet_nan;        ///< mean same-index cosine under relabelling: deviation in its exact standard deviations
  double p_value = quiet_nan;  ///< this Δ alone, two-sided
  double p_adjusted = quiet_nan;  ///< family-wise over all Δ
};

struct expert_similarity_result {
  std::vector<expert_layer_pair> pairs;  ///< [P]
  xt::xtensor<double, 3> cosines;        ///< [P,E,E]
  std::vector<double> within;  ///< [L]: mean cosine of two experts of the layer; NaN if one is undefined or E < 2
  std::vector<expert_similarity_lag> lags;  ///< one per Δ of the gram
  double isotropic_sd =
      quiet_nan;  ///< 1/sqrt(columns): sd of one cosine of independent directions without a preferred one
};

/// Are experts of the same number in layers Δ apart more alike than experts of different numbers? Copied weights are.
///
/// In     gram of the flattened weights, or of what is derived from them (model_space_gram.hpp).
/// Out    see expert_similarity_result. p_value: experts are relabelled within each layer independently; the statistic
///        is the mean same-index cosine, in deviations from the mean over all relabellings; p_adjusted compares with
///        the maximum over all Δ. Real weights are anisotropic, so isotropic_sd is for reference only: the other
///        indices are the yardstick.
/// Empty  Δ without defined layer pairs, or E < 2: NaN. A layer pair with an undefined cosine is left out and counted
///        by `pairs`.
/// Cost   O(permutations P E + P E^2).   Bias  none of the test. Flattened weights see copies only: two experts that
///        compute the same with their hidden units in another order have a cosine near 0.
/// Throws argument_error if permutations is negative or the gram is malformed.
/// Source the expert-activation analysis proposed for transformers
///        (examples/research_projects/moe_expert_activation_analysis): same index at Δ over up, down and gate. Differs:
///        sd with n-1 (theirs n), no 1e-8 in the denominator; it gives no test. Variance over relabellings: Hoeffding
///        1951, A combinatorial central limit theorem; pairs of one Δ form chains, so their relative permutations are
///        independent and variances add. Max-statistic after Westfall and Young 1993.
inline expert_similarity_result expert_similarity(expert_gram_result const& gram,
                                                  expert_similarity_options const& options = {}) {
  if (options.permutations < 0)
    detail::raise("moeroute::expert_similarity: permutations = ", options.permutations, ", must not be negative");
  expert_similarity_result r;
  r.pairs = gram.pairs;
  r.cosines = expert_cosines(gram, options.centred);
  if (gram.columns > 0) r.isotropic_sd = 1 / std::sqrt(static_cast<double>(gram.columns));
  auto const experts = static_cast<index_t>(r.cosines.shape()[1]);
  double const n = static_cast<double>(experts);
  auto const block = [&](std::size_t p) {
    return matrix_view<double>(r.cosines.data() + p * static_cast<std::size_t>(experts * experts), experts, experts);
  };
  diagonal_test_options const no_test{.permutations = 0};
  for (std::size_t l = 0; l < static_cast<std::size_t>(gram.layers); ++l)
    r.within.push_back(diagonal_test(block(l), no_test).off_diagonal);

  struct member {
    std::size_t pair;
    detail::diagonal_null null;
  };
  std::vector<std::vector<member>> members;
  std::vector<double> spread;
  for (std::size_t p = static_cast<std::size_t>(gram.layers); p < gram.pairs.size();) {
    expert_similarity_lag lag;
    lag.delta = gram.pairs[p].second - gram.pairs[p].first;
    auto& family = members.emplace_back();
    std::vector<double> same;
    double other = 0, sum = 0, squares = 0, variance = 0, expected = 0;
    for (; p < gram.pairs.size() && gram.pairs[p].second - gram.pairs[p].first == lag.delta; ++p) {
      auto const m = block(p);
      auto const tested = diagonal_test(m, no_test);
      if (std::isnan(tested.diagonal) || (experts > 1 && std::isnan(tested.off_diagonal))) continue;
      ++lag.pairs;
      other += tested.off_diagonal;
      for (index_t e = 0; e < experts; ++e) same.push_back(m(e, e));
      auto const null = detail::null_of_diagonal(m);
      if (std::isnan(null.variance)) continue;  // no relabelling changes its diagonal
      family.push_back({p, null});
      expected += null.mean;
      variance += null.variance;
    }
    if (lag.pairs > 0) {
      for (double const c : same) sum += c;
      double const count = static_cast<double>(same.size());
      lag.same_index = sum / count;
      lag.other_index = other / static_cast<double>(lag.pairs);
      for (double const c : same) squares += (c - lag.same_index) * (c - lag.same_index);
      if (same.size() > 1) lag.sd = std::sqrt(squares / (count - 1));
      std::sort(same.begin(), same.end());
      lag.median = 0.5 * (same[(same.size() - 1) / 2] + same[same.size() / 2]);
    }
    spread.push_back(family.empty() ? quiet_nan : std::sqrt(variance));
    double observed = 0;
    for (auto const& f : family)
      for (index_t e = 0; e < experts; ++e) observed += block(f.pair)(e, e) / n;
    lag.z = (observed - expected) / spread.back();
    r.lags.push_back(lag);
  }
  if (options.permutations == 0 || r.lags.empty()) return r;

  auto const lags = r.lags.size();
  std::vector<double> null(static_cast<std::size_t>(options.permutations) * lags), observed;
  parallel_for(options.permutations, options.threads, [&](index_t b) {
    std::vector<std::vector<index_t>> order;
    for (index_t l = 0; l < gram.layers; ++l)
      order.push_back(
          expert_permutation(options.seed, static_cast<std::uint32_t>(b), static_cast<std::uint32_t>(l), experts));
    for (std::size_t d = 0; d < lags; ++d) {
      double sum = 0;
      for (auto const& f : members[d])
        sum += detail::mean_diagonal(block(f.pair), order[static_cast<std::size_t>(gram.pairs[f.pair].first)],
                                     order[static_cast<std::size_t>(gram.pairs[f.pair].second)]) -
               f.null.mean;
      null[static_cast<std::size_t>(b) * lags + d] = std::abs(sum / spread[d]);
    }
  });
  for (auto const& lag : r.lags) observed.push_back(std::abs(lag.z));
  max_statistic family(observed);
  for (index_t b = 0; b < options.permutations; ++b)
    family.update(vector_view<double>(null.data() + static_cast<std::size_t>(b) * lags, static_cast<index_t>(lags)));
  auto const tested = family.result();
  for (std::size_t d = 0; d < lags; ++d) {
    r.lags[d].p_value = tested.p_value[d];
    r.lags[d].p_adjusted = tested.p_adjusted[d];
  }
  return r;
}

}  // namespace moeroute

#endif

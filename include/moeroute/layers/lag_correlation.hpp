// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_LAYERS_LAG_CORRELATION_HPP
#define MOEROUTE_LAYERS_LAG_CORRELATION_HPP

#include <moeroute/core/adapt.hpp>
#include <moeroute/core/error.hpp>
#include <moeroute/core/parallel.hpp>
#include <moeroute/core/scalar.hpp>
#include <moeroute/inference/permutation.hpp>

#if __has_include(<xtensor/containers/xtensor.hpp>)
#include <xtensor/containers/xtensor.hpp>
#else
#include <xtensor/xtensor.hpp>
#endif

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace moeroute {

struct lag_correlation_options {
  index_t delta_max = 30;     ///< lags 1..min(delta_max, L-1)
  index_t permutations = 1999;
  std::uint64_t seed = 1;
  int threads = 0;            ///< 0: all; the result does not depend on it
};

/// One lag Δ, over the layer pairs (l, l+Δ) that have a defined correlation.
struct lag_summary {
  index_t delta = 0;
  index_t pairs = 0;
  double mean = quiet_nan;        ///< of the correlations
  double sd = quiet_nan;          ///< of the correlations, n-1; the pairs share layers, so it is no standard error
  double p_value = quiet_nan;     ///< this lag alone, two-sided
  double p_adjusted = quiet_nan;  ///< family-wise over all lags
};

struct lag_correlation_result {
  xt::xtensor<double, 2> matrix;   ///< [L,Δmax]: Pearson of profile l with profile l+Δ, column Δ-1; NaN where l+Δ >= L or a profile is constant
  std::vector<lag_summary> lags;   ///< Δ = 1..Δmax
  double null_sd = quiet_nan;      ///< 1/sqrt(E-1): sd of one correlation when expert numbers mean nothing
};

/// Correlation of expert profiles between layers Δ apart: do equal expert numbers mean anything across depth?
///
/// In     profiles [L,E]: per MoE layer the load share or mean probability of each expert.
/// Out    matrix [L,Δmax]; per lag mean, sd, p-values of the permutation test: expert labels are permuted within each layer independently,
///        which is an exact null for "the same index matters"; the statistic is the mean Fisher z at Δ, studentised by its permutation sd,
///        and p_adjusted compares with the maximum over all lags (single step).
/// Empty  fewer than 2 layers: no lags. A constant profile gives NaN for its pairs; they are left out and counted by `pairs`.
/// Cost   O(permutations L Δmax E).   Bias  Δ counts MoE layers. A smooth drift with depth also makes small lags significant: a period
///        shows as a Δ that stands out from Δ-1 and Δ+1. p_adjusted keeps its level when no lag has structure; beside a strong
///        period chance correlations repeat through the related layers, and 5 % tests of the other lags reject in about 15 %.
/// Throws argument_error if there are no experts or options are not positive.
/// Source the expert-activation analysis proposed for transformers (examples/research_projects/moe_expert_activation_analysis) for the
///        matrix, as given. Differs: it gives no test; max-statistic after Westfall and Young 1993, section 2.3.
template <real_matrix Profiles>
lag_correlation_result lag_correlation(Profiles const& profiles, lag_correlation_options const& options = {}) {
  auto const view = detail::matrix_of(profiles);
  index_t const layers = view.rows(), experts = view.cols();
  if (experts <= 0 || options.delta_max <= 0 || options.permutations < 0)
    detail::raise("moeroute::lag_correlation: experts = ", experts, ", delta_max = ", options.delta_max, ", permutations = ", options.permutations);
  index_t const delta_max = std::max<index_t>(0, std::min(options.delta_max, layers - 1));

  // Each profile centred and scaled to length 1, so that a correlation is a dot product. A constant profile becomes NaN.
  std::vector<double> unit(static_cast<std::size_t>(layers * experts));
  for (index_t l = 0; l < layers; ++l) {
    double* const u = unit.data() + l * experts;
    double mean = 0, length = 0, scale = 0;
    for (index_t e = 0; e < experts; ++e) mean += (u[e] = static_cast<double>(to_compute(view(l, e))));
    mean /= static_cast<double>(experts);
    for (index_t e = 0; e < experts; ++e) {
      scale = std::max(scale, std::abs(u[e]));
      u[e] -= mean;
      length += u[e] * u[e];
    }
    length = std::sqrt(length);
    // Rounding leaves a residue in a constant profile; it is no variation.
    if (!(length > 1e-14 * scale * std::sqrt(static_cast<double>(experts)))) length = quiet_nan;
    for (index_t e = 0; e < experts; ++e) u[e] /= length;
  }
  auto const dot = [experts](double const* a, double const* b) {
    double lanes[4] = {0, 0, 0, 0};  // explicit lanes: a compiler may not reorder the sum by itself
    index_t e = 0;
    for (; e + 4 <= experts; e += 4)
      for (int i = 0; i < 4; ++i) lanes[i] += a[e + i] * b[e + i];
    for (; e < experts; ++e) lanes[0] += a[e] * b[e];
    return std::clamp((lanes[0] + lanes[2]) + (lanes[1] + lanes[3]), -1.0, 1.0);
  };
  // Copies of a profile have r = 1; the cap keeps their Fisher z finite.
  auto const fisher_z = [](double r) { return std::atanh(std::clamp(r, -1 + 1e-15, 1 - 1e-15)); };
  // Mean Fisher z at every lag over the defined pairs.
  auto const statistics = [&](double const* rows, double* z) {
    for (index_t delta = 1; delta <= delta_max; ++delta) {
      double sum = 0;
      index_t pairs = 0;
      for (index_t l = 0; l + delta < layers; ++l) {
        double const r = dot(rows + l * experts, rows + (l + delta) * experts);
        if (std::isnan(r)) continue;
        sum += fisher_z(r);
        ++pairs;
      }
      z[delta - 1] = sum / static_cast<double>(pairs);
    }
  };

  lag_correlation_result result;
  if (experts > 1) result.null_sd = 1 / std::sqrt(static_cast<double>(experts - 1));
  result.matrix = xt::xtensor<double, 2>::from_shape({static_cast<std::size_t>(layers), static_cast<std::size_t>(delta_max)});
  std::fill(result.matrix.begin(), result.matrix.end(), quiet_nan);
  for (index_t delta = 1; delta <= delta_max; ++delta) {
    lag_summary s;
    s.delta = delta;
    double sum = 0, squares = 0;
    for (index_t l = 0; l + delta < layers; ++l) {
      double const r = dot(unit.data() + l * experts, unit.data() + (l + delta) * experts);
      result.matrix(static_cast<std::size_t>(l), static_cast<std::size_t>(delta - 1)) = r;
      if (std::isnan(r)) continue;
      sum += r;
      ++s.pairs;
    }
    s.mean = sum / static_cast<double>(s.pairs);
    for (index_t l = 0; l + delta < layers; ++l) {
      double const r = result.matrix(static_cast<std::size_t>(l), static_cast<std::size_t>(delta - 1));
      if (!std::isnan(r)) squares += (r - s.mean) * (r - s.mean);
    }
    if (s.pairs > 1) s.sd = std::sqrt(squares / static_cast<double>(s.pairs - 1));
    result.lags.push_back(s);
  }
  if (delta_max == 0 || options.permutations == 0) return result;

  auto const lags = static_cast<std::size_t>(delta_max);
  std::vector<double> observed(lags), null(static_cast<std::size_t>(options.permutations) * lags);
  statistics(unit.data(), observed.data());
  parallel_for(options.permutations, options.threads, [&](index_t b) {
    std::vector<double> shuffled(unit.size());
    for (index_t l = 0; l < layers; ++l) {
      auto const order = expert_permutation(options.seed, static_cast<std::uint32_t>(b), static_cast<std::uint32_t>(l), experts);
      for (index_t e = 0; e < experts; ++e)
        shuffled[static_cast<std::size_t>(l * experts + e)] = unit[static_cast<std::size_t>(l * experts + order[static_cast<std::size_t>(e)])];
    }
    statistics(shuffled.data(), null.data() + static_cast<std::size_t>(b) * lags);
  });

  // Few pairs make a lag noisy; divided by its own null sd every lag has the same chance to be the maximum.
  for (std::size_t j = 0; j < lags; ++j) {
    double squares = 0;
    for (index_t b = 0; b < options.permutations; ++b) {
      double const z = null[static_cast<std::size_t>(b) * lags + j];
      squares += z * z;  // the null mean is 0: a permuted profile is uncorrelated with the other
    }
    double const sd = std::sqrt(squares / static_cast<double>(options.permutations));
    observed[j] = std::abs(observed[j] / sd);
    for (index_t b = 0; b < options.permutations; ++b) {
      double& z = null[static_cast<std::size_t>(b) * lags + j];
      z = std::abs(z / sd);
    }
  }
  max_statistic family(observed);
  for (index_t b = 0; b < options.permutations; ++b)
    family.update(vector_view<double>(null.data() + static_cast<std::size_t>(b) * lags, delta_max));
  auto const tested = family.result();
  for (std::size_t j = 0; j < lags; ++j) {
    result.lags[j].p_value = tested.p_value[j];
    result.lags[j].p_adjusted = tested.p_adjusted[j];
  }
  return result;
}

}  // namespace moeroute

#endif

// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_INFERENCE_ORDER_STATISTIC_HPP
#define MOEROUTE_INFERENCE_ORDER_STATISTIC_HPP

#include <moeroute/core/adapt.hpp>
#include <moeroute/core/batch.hpp>
#include <moeroute/core/estimate.hpp>
#include <moeroute/inference/bootstrap.hpp>
#include <moeroute/inference/detail/normal.hpp>
#include <moeroute/inference/multiplicity.hpp>
#include <moeroute/inference/permutation.hpp>
#include <moeroute/numeric/mass.hpp>

#if __has_include(<xtensor/containers/xtensor.hpp>)
#include <xtensor/containers/xtensor.hpp>
#else
#include <xtensor/xtensor.hpp>
#endif

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <vector>

#include <boost/math/special_functions/beta.hpp>

namespace moeroute {

/// Distribution function of the k-th smallest of E independent uniform p-values: Beta(k, E + 1 - k).
///
/// In     p in [0, 1], NaN gives NaN; 1 <= k <= E.
/// Out    P(p_(k) <= p); of a p_(k) that follows the law it is uniform. The mean of p_(k) is k / (E + 1).
/// Cost   O(1).
/// Throws argument_error if p or k is outside its range.
/// Source David, Nagaraja 2003, Order Statistics, section 2.1. Differs: as given.
inline double order_statistic_cdf(double p, index_t k, index_t experts) {
  if (k < 1 || k > experts || p < 0 || p > 1)
    detail::raise("moeroute::order_statistic_cdf: p = ", p, ", k = ", k, ", experts = ", experts,
                  "; need p in [0, 1], 1 <= k <= experts");
  if (std::isnan(p)) return quiet_nan;
  return boost::math::ibeta(static_cast<double>(k), static_cast<double>(experts + 1 - k), p);
}

/// p_values [T,E] with every row ascending: column k-1 holds the k-th best expert. NaN goes to the end.
/// Cost   O(T E log E).
template <real_matrix P>
xt::xtensor<double, 2> sorted_p_values(P const& p_values) {
  auto const view = detail::matrix_of(p_values);
  xt::xtensor<double, 2> out(
      std::array<std::size_t, 2>{static_cast<std::size_t>(view.rows()), static_cast<std::size_t>(view.cols())});
  for (index_t t = 0; t < view.rows(); ++t) {
    double* const row = out.data() + t * view.cols();
    for (index_t e = 0; e < view.cols(); ++e) row[e] = detail::as_double(view(t, e));
    std::sort(row, row + view.cols(), [](double a, double b) { return a < b || (std::isnan(b) && !std::isnan(a)); });
  }
  return out;
}

struct order_statistic_options {
  index_t grid = 32;  ///< probabilities 1/grid .. (grid - 1)/grid at which curves are compared
  index_t replicates = 1999;
  std::uint64_t seed = 1;
  double level = 0.95;  ///< of the envelope, over the whole grid at once
  int threads = 1;      ///< 0: all; the result does not depend on it
};

struct order_statistic_result {
  std::vector<double> probability;  ///< [G]
  std::vector<double> expected;     ///< [G] P(p_(k) <= q) under the null; q: Beta quantile of `probability`
  std::vector<double> observed;     ///< [G] share of tokens with p_(k) <= q
  std::vector<double> lower,
      upper;                ///< [G] envelope around `expected`: where `observed` leaves it, the null is rejected
  double mean = quiet_nan;  ///< of p_(k) over tokens
  double expected_mean = quiet_nan;
  double statistic = quiet_nan;  ///< largest |observed - expected| in standard errors
  double p_value = quiet_nan;
  index_t tokens = 0, documents = 0;  ///< that entered; NaN is left out
};

namespace detail {

// Per document: tokens with Beta CDF <= each grid probability, tokens, sum of p.
template <class T>
std::vector<double> order_statistic_sums(vector_view<T> p, index_t k, index_t experts, document_spans const& documents,
                                         index_t grid, char const* function) {
  if (p.size() != documents.tokens())
    raise<shape_error>(function, ": ", p.size(), " p-values but documents have ", documents.tokens(), " tokens");
  auto const width = static_cast<std::size_t>(grid + 1);
  std::vector<double> sums;
  for (index_t d = 0; d < documents.documents(); ++d) {
    std::vector<double> row(width);
    for (index_t t = documents.first(d); t < documents.first(d) + documents.size(d); ++t) {
      double const v = as_double(p[t]), u = order_statistic_cdf(v, k, experts);
      if (std::isnan(u)) continue;
      for (index_t g = 1; g < grid; ++g)
        row[static_cast<std::size_t>(g - 1)] += u * static_cast<double>(grid) <= static_cast<double>(g) ? 1 : 0;
      row[width - 2] += 1;
      row[width - 1] += v;
    }
    sums.insert(sums.end(), row.begin(), row.end());
  }
  return sums;
}

struct order_statistic_curve {
  std::vector<double> value;          // [G] shares, then the mean
  xt::xtensor<double, 2> replicates;  // [B,G+2] totals of resampled documents
  index_t tokens = 0, documents = 0;
};

inline order_statistic_curve resample_curve(std::vector<double> const& sums, order_statistic_options const& options,
                                            std::uint64_t seed) {
  auto const width = static_cast<std::size_t>(options.grid + 1);
  order_statistic_curve c;
  std::vector<double> total(width);
  std::vector<index_t> ids;
  for (std::size_t d = 0; d * width < sums.size(); ++d) {
    if (sums[d * width + width - 2] > 0) ++c.documents;
    for (std::size_t g = 0; g < width; ++g) total[g] += sums[d * width + g];
    ids.push_back(static_cast<index_t>(d));
  }
  c.tokens = static_cast<index_t>(total[width - 2]);
  for (std::size_t g = 0; g < width; ++g)
    if (g != width - 2) c.value.push_back(total[g] / total[width - 2]);
  matrix_view<double> const table(sums.data(), static_cast<index_t>(ids.size()), options.grid + 1);
  c.replicates = replicate_totals(
      table, ids, {.seed = seed, .replicates = options.replicates, .scheme = resampling::multinomial}, options.threads);
  return c;
}

inline order_statistic_result compare_curves(order_statistic_curve const& observed,
                                             order_statistic_curve const* reference, index_t k, index_t experts,
                                             order_statistic_options const& options) {
  order_statistic_result r;
  auto const points = static_cast<std::size_t>(options.grid - 1);
  r.tokens = observed.tokens;
  r.documents = observed.documents;
  for (std::size_t g = 0; g < points; ++g) {
    r.probability.push_back(static_cast<double>(g + 1) / static_cast<double>(options.grid));
    r.observed.push_back(observed.value[g]);
    r.expected.push_back(reference ? reference->value[g] : r.probability[g]);
  }
  r.lower = r.upper = std::vector<double>(points, quiet_nan);
  r.mean = observed.value[points];
  r.expected_mean = reference ? reference->value[points] : static_cast<double>(k) / static_cast<double>(experts + 1);
  if (observed.documents < 2 || (reference && reference->documents < 2)) return r;
  // Deviations of resampled curves from their own centre: what chance does to the difference when documents are drawn
  // anew.
  auto const replicates = static_cast<std::size_t>(options.replicates);
  std::vector<double> deviation(replicates * points), error(points), largest(replicates, 0.0);
  auto const share = [&](order_statistic_curve const& c, std::size_t b, std::size_t g) {
    return c.replicates(b, g) / c.replicates(b, points) - c.value[g];
  };
  for (std::size_t b = 0; b < replicates; ++b)
    for (std::size_t g = 0; g < points; ++g) {
      double const d = share(observed, b, g) - (reference ? share(*reference, b, g) : 0);
      deviation[b * points + g] = d;
      error[g] += std::isnan(d) ? 0 : d * d / static_cast<double>(replicates);
    }
  // In the tails a few documents may all agree and resample to no variance: no error is taken for smaller than the
  // grid's mean design
  // effect makes that of independent tokens.
  auto const binomial = [&](std::size_t g) {
    double const q = r.expected[g], n = static_cast<double>(observed.tokens);
    return q * (1 - q) * (1 / n + (reference ? 1 / static_cast<double>(reference->tokens) : 0));
  };
  double variance = 0, independent = 0;
  for (std::size_t g = 0; g < points; ++g) {
    variance += error[g];
    independent += binomial(g);
  }
  if (variance == 0) return r;  // documents that all agree say nothing about how much documents differ
  r.statistic = 0;
  for (std::size_t g = 0; g < points; ++g) {
    error[g] = std::sqrt(std::max(error[g], independent > 0 ? binomial(g) * variance / independent : 0));
    if (r.observed[g] != r.expected[g])
      r.statistic = std::max(r.statistic, std::abs(r.observed[g] - r.expected[g]) / error[g]);
    for (std::size_t b = 0; b < replicates; ++b)
      if (error[g] > 0) largest[b] = std::max(largest[b], std::abs(deviation[b * points + g]) / error[g]);
  }
  r.p_value = permutation_p_value(r.statistic, largest);
  std::sort(largest.begin(), largest.end());
  if (largest.empty()) return r;
  double const reach = quantile_of_sorted(largest, options.level);
  for (std::size_t g = 0; g < points; ++g) {
    r.lower[g] = std::max(0.0, r.expected[g] - reach * error[g]);
    r.upper[g] = std::min(1.0, r.expected[g] + reach * error[g]);
  }
  return r;
}

inline void check_order_statistic(order_statistic_options const& options) {
  check_level(options.level, "moeroute::order_statistic_test");
  if (options.grid < 2) raise("moeroute::order_statistic_test: grid = ", options.grid, " must be at least 2");
}

inline constexpr std::uint64_t purpose_order_reference = 0x6f72647265666572u;

}  // namespace detail

/// Does the k-th best expert follow its Beta law? With documents as units, so that dependent tokens claim no more than
/// they hold.
///
/// In     p [T]: the k-th smallest of a token's E p-values (a column of sorted_p_values); k, E; document_spans. k = E =
///        1 tests one expert's
///        p-values for uniformity.
/// Out    curves on a grid, envelope and p-value from resampled documents (studentised maximum over the grid).
/// Empty  NaN for fewer than two documents with p-values, or where all documents have one curve.
/// Cost   O(T G + B D G) time, O((D + B) G) memory.
/// Bias   the Beta law is that of independent experts. Those of a token are not: logits are maps of one hidden vector,
///        so that a rejection may
///        mean no more than that. Compare with a reference instead (below). Below about 40 documents p is too small; so
///        it is if the p-values
///        themselves come from a reference of fewer than about ten times as many documents, whose error they share.
/// Throws shape_error or argument_error if sizes or options do not fit.
/// Source law: David, Nagaraja 2003; band: sup-t of the bootstrap, Montiel Olea, Plagborg-Moller 2019,
///        doi:10.1002/jae.2656.
///        Differs: documents are drawn.
template <real_vector P>
order_statistic_result order_statistic_test(P const& p, index_t k, index_t experts, document_spans const& documents,
                                            order_statistic_options const& options = {}) {
  detail::check_order_statistic(options);
  auto const sums = detail::order_statistic_sums(detail::vector_of(p), k, experts, documents, options.grid,
                                                 "moeroute::order_statistic_test");
  return detail::compare_curves(detail::resample_curve(sums, options, options.seed), nullptr, k, experts, options);
}

/// The same against reference tokens: whole logit vectors are resampled with their documents, so that the dependence of
/// experts is in the null.
///
/// In     p and reference_p: k-th smallest p-values of the tested and of other tokens, both against a third sample (or
///        each left out of its own).
/// Out    `expected` is the reference's curve. Otherwise as above.
template <real_vector P, real_vector R>
order_statistic_result order_statistic_test(P const& p, document_spans const& documents, R const& reference_p,
                                            document_spans const& reference_documents, index_t k, index_t experts,
                                            order_statistic_options const& options = {}) {
  detail::check_order_statistic(options);
  char const* const function = "moeroute::order_statistic_test";
  auto const sums = detail::order_statistic_sums(detail::vector_of(p), k, experts, documents, options.grid, function);
  auto const other = detail::order_statistic_sums(detail::vector_of(reference_p), k, experts, reference_documents,
                                                  options.grid, function);
  auto const reference = detail::resample_curve(other, options, options.seed ^ detail::purpose_order_reference);
  return detail::compare_curves(detail::resample_curve(sums, options, options.seed), &reference, k, experts, options);
}

/// One expert of the list by popularity.
struct popularity_row {
  index_t expert = 0;
  std::uint64_t count = 0;
  double mean = quiet_nan;        ///< of its p-values; 1/2 under the null
  double p_value = quiet_nan;     ///< that its p-values are uniform, documents as units
  double p_adjusted = quiet_nan;  ///< Benjamini-Yekutieli over experts
};

/// p-values by popularity: are popular experts' logits unlike what those experts' logits were in the reference?
///
/// In     p_values [T,E] under a null per expert (expert_null): under the pooled null "popular experts have small p" is
///        a tautology. counts [E]
///        of choices in the reference; document_spans.
/// Out    one row per expert, by falling count, ties by index.
/// Empty  p NaN for fewer than two documents.
/// Cost   that of order_statistic_test for each expert.
/// Throws shape_error or argument_error if sizes or options do not fit.
/// Source the published plot by popularity. Differs: null per expert, uniform reference on the same grid, a test with
///        documents as units.
template <real_matrix P, index_vector Counts>
std::vector<popularity_row> by_popularity(P const& p_values, Counts const& counts, document_spans const& documents,
                                          order_statistic_options const& options = {}) {
  auto const view = detail::matrix_of(p_values);
  auto const n = detail::vector_of(counts);
  if (n.size() != view.cols())
    detail::raise<shape_error>("moeroute::by_popularity: ", n.size(), " counts but ", view.cols(), " experts");
  std::vector<index_t> order(static_cast<std::size_t>(n.size()));
  std::iota(order.begin(), order.end(), index_t{0});
  std::stable_sort(order.begin(), order.end(), [&](index_t a, index_t b) { return n[a] > n[b]; });
  std::vector<popularity_row> rows;
  std::vector<double> p, column(static_cast<std::size_t>(view.rows()));
  for (index_t const e : order) {
    for (index_t t = 0; t < view.rows(); ++t) column[static_cast<std::size_t>(t)] = detail::as_double(view(t, e));
    auto const test = order_statistic_test(column, 1, 1, documents, options);
    rows.push_back({e, static_cast<std::uint64_t>(n[e]), test.mean, test.p_value, quiet_nan});
    p.push_back(test.p_value);
  }
  auto const adjusted = benjamini_yekutieli(p);
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i].p_adjusted = adjusted[i];
  return rows;
}

}  // namespace moeroute

#endif

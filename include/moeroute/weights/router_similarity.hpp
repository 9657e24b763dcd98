// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_WEIGHTS_ROUTER_SIMILARITY_HPP
#define MOEROUTE_WEIGHTS_ROUTER_SIMILARITY_HPP

#include <moeroute/core/adapt.hpp>
#include <moeroute/core/error.hpp>
#include <moeroute/core/parallel.hpp>
#include <moeroute/core/scalar.hpp>
#include <moeroute/inference/multiplicity.hpp>
#include <moeroute/layers/lag_correlation.hpp>
#include <moeroute/layers/layer_order.hpp>
#include <moeroute/numeric/assignment.hpp>
#include <moeroute/weights/detail/dot_products.hpp>
#include <moeroute/weights/diagonal_test.hpp>

#include <Eigen/Core>
#include <Eigen/Eigenvalues>
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
#include <ranges>
#include <utility>
#include <vector>

namespace moeroute {

struct router_similarity_options {
  bool centred = true;          ///< take the mean row off: softmax does not see it. false: as published
  index_t delta_max = 30;       ///< lags 1..min(delta_max, L-1)
  index_t permutations = 1999;  ///< of expert labels (norms) and of the order of layers (matched, spectrum)
  std::uint64_t seed = 1;
  int threads = 0;  ///< 0: all; the result does not depend on it
};

/// Mean flattened cosine of layers Δ apart.
struct router_lag {
  index_t delta = 0;
  index_t pairs = 0;
  double mean = quiet_nan;
  double z = quiet_nan;           ///< distance from its mean over all expert labels of every layer, in exact sds
  double p_value = quiet_nan;     ///< this lag alone, two-sided, by the normal law
  double p_adjusted = quiet_nan;  ///< Holm over all lags
};

struct router_similarity_result {
  xt::xtensor<double, 2> cosine;            ///< [L,L] of the flattened routers: equal expert numbers meet
  xt::xtensor<double, 2> cosine_null_mean;  ///< [L,L] over all relabellings of one layer; NaN on the diagonal
  xt::xtensor<double, 2> cosine_null_sd;    ///< [L,L], exact
  xt::xtensor<double, 2>
      matched;  ///< [L,L] mean cosine of paired rows; paired on one half of the columns, read off on the other
  xt::xtensor<double, 2> matched_null_mean;  ///< [L,L] for a pairing that knows nothing; NaN on the diagonal
  xt::xtensor<double, 2> matched_null_sd;    ///< [L,L], at most
  xt::xtensor<double, 2> matched_fit;        ///< [L,L] paired and read off on the same columns: high even for noise
  xt::xtensor<double, 2> spectrum;           ///< [L,E] eigenvalues of W W^T over their sum, falling
  xt::xtensor<double, 2> spectrum_overlap;   ///< [L,L] sum of the smaller one of two spectra; 1 = equal
  xt::xtensor<double, 2> norm;               ///< [L,E] lengths of the rows
  std::vector<router_lag> cosine_lags;
  layer_order_result matched_lags, spectrum_lags;
  lag_correlation_result norm_lags;
  double reference_sd = quiet_nan;  ///< 1/sqrt(E H): of a cosine of isotropic noise, for reference only
};

namespace detail {

/// W_i W_j^T over the first and the second half of the columns; rows and columns centred if asked, which is what
/// centring the rows of both W does.
struct split_gram {
  std::array<std::vector<double>, 2> half;
  std::vector<double> whole;
  index_t experts;

  template <class T>
  split_gram(matrix_view<T> a, matrix_view<T> b, bool centred) : experts{a.rows()} {
    whole.resize(static_cast<std::size_t>(experts * experts));
    index_t const middle = a.cols() / 2;
    auto const part = [middle](matrix_view<T> m, std::size_t h) {
      return h == 0 ? matrix_view<T>(m.data(), m.rows(), middle, m.row_stride(), m.col_stride())
                    : matrix_view<T>(m.data() + middle * m.col_stride(), m.rows(), m.cols() - middle, m.row_stride(),
                                     m.col_stride());
    };
    for (std::size_t h = 0; h < 2; ++h) {
      half[h].resize(whole.size());
      dot_products(part(a, h), part(b, h), half[h].data());
      if (centred) centre_rows_and_columns(half[h].data(), static_cast<std::size_t>(experts));
      for (std::size_t i = 0; i < whole.size(); ++i) whole[i] += half[h][i];
    }
  }
  matrix_view<double> view(std::vector<double> const& g) const noexcept { return {g.data(), experts, experts}; }
};

inline std::vector<double> root_of_diagonal(std::vector<double> const& g, index_t experts) {
  std::vector<double> d;
  for (index_t e = 0; e < experts; ++e) d.push_back(std::sqrt(g[static_cast<std::size_t>(e * (experts + 1))]));
  return d;
}

/// Falling eigenvalues of a Gram matrix over their sum; NaN if it is not finite or has none.
inline std::vector<double> spectrum_of(std::vector<double> const& g, index_t experts) {
  std::vector<double> values(static_cast<std::size_t>(experts), quiet_nan);
  if (!std::all_of(g.begin(), g.end(), [](double v) { return std::isfinite(v); })) return values;
  Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> const solver(
      Eigen::Map<Eigen::MatrixXd const>(g.data(), experts, experts), Eigen::EigenvaluesOnly);
  double sum = 0;
  for (index_t e = 0; e < experts; ++e) sum += std::max(0.0, solver.eigenvalues()[e]);
  for (index_t e = 0; e < experts && sum > 0; ++e)
    values[static_cast<std::size_t>(e)] = std::max(0.0, solver.eigenvalues()[experts - 1 - e]) / sum;
  return values;
}

struct matched_rows {
  double value = 0, mean = 0, variance = 0;
};

/// Pairs rows by the cosines `by` and reads the pairs off in the cosines `read`; NaN if they are not all finite.
inline matched_rows match_rows(matrix_view<double> by, matrix_view<double> read) {
  for (auto const m : {by, read})
    for (index_t i = 0; i < m.rows(); ++i)
      for (index_t j = 0; j < m.cols(); ++j)
        if (!std::isfinite(m(i, j))) return {quiet_nan, quiet_nan, quiet_nan};
  auto const pairs = assign(by, assignment_goal::maximum).column;
  auto const null = null_of_diagonal(read);
  matched_rows r{0, null.mean, null.variance};
  for (index_t e = 0; e < read.rows(); ++e)
    r.value += read(e, pairs[static_cast<std::size_t>(e)]) / static_cast<double>(read.rows());
  return r;
}

}  // namespace detail

/// Are the routers of layers alike: with their expert numbers, with experts paired, or in shape alone? Each measure
/// beside what it would be without that likeness.
///
/// In     routers: L matrices [E,H] of one shape, float, double, bf16 or f16; row e is what expert e is recognised by.
/// Out    see router_similarity_result. cosine: null over all expert labels, exact, so rows of unequal length and one
///        common direction are part of it. matched: the columns that decide the pairing are not those that are read, so
///        chance gives matched_null_mean. spectrum: no labels, no directions; its spread is that over layers
///        (spectrum_lags). norm_lags: lag_correlation of the norms.
/// Empty  no layers: empty. NaN: cosines of a router of zeros, matched with a row of zeros in a half or H < 2,
///        everything of a layer with a value that is not finite; matched_lags and spectrum_lags are NaN as a whole
///        then.
/// Cost   O(L^2 (E^2 H + E^3)) time over all threads; memory O(L E + L^2) and, per thread, 2 E^2 doubles and 8 E KiB
///        (double: 16).
/// Bias   products are added in float unless the weights are double; a mean row much longer than the rest costs digits
///        of centred values. Rows that spread along one strong direction can be paired by their place on it: matched is
///        then above its null for any two.
/// Throws shape_error if shapes differ, argument_error if E is 0 or options are not positive.
/// Source flattened cosine and the norms (there called column norms) as in the weight analysis proposed for
///        transformers (examples/research_projects/moe_expert_activation_analysis). Differs: it adds 1e-8 to the
///        denominator, does not centre, and has no null; variance over labels Hoeffding 1951, A combinatorial central
///        limit theorem; pairing Kuhn 1955, doi:10.1002/nav.3800020109.
template <std::ranges::sized_range Routers>
  requires real_matrix<std::ranges::range_value_t<Routers const>> router_similarity_result
  router_similarity(Routers const& routers, router_similarity_options const& options = {}) {
    using T = matrix_value_t<std::ranges::range_value_t<Routers const>>;
    std::vector<matrix_view<T>> w;
    for (auto const& m : routers) w.push_back(detail::matrix_of(m));
    if (options.delta_max <= 0 || options.permutations < 0)
      detail::raise("moeroute::router_similarity: delta_max = ", options.delta_max,
                    ", permutations = ", options.permutations);
    router_similarity_result r;
    if (w.empty()) return r;
    index_t const experts = w[0].rows(), width = w[0].cols();
    if (experts == 0) detail::raise("moeroute::router_similarity: routers have no experts");
    for (std::size_t l = 1; l < w.size(); ++l)
      if (w[l].rows() != experts || w[l].cols() != width)
        detail::raise<shape_error>("moeroute::router_similarity: router ", l, " is [", w[l].rows(), ",", w[l].cols(),
                                   "], router 0 is [", experts, ",", width, "]");
    auto const layers = w.size();
    std::array<std::size_t, 2> const square{layers, layers}, rows{layers, static_cast<std::size_t>(experts)};
    for (auto* m : {&r.cosine, &r.cosine_null_mean, &r.cosine_null_sd, &r.matched, &r.matched_null_mean,
                    &r.matched_null_sd, &r.matched_fit, &r.spectrum_overlap})
      *m = xt::xtensor<double, 2>(square, quiet_nan);
    r.spectrum = r.norm = xt::xtensor<double, 2>(rows, quiet_nan);
    if (width > 0) r.reference_sd = 1 / std::sqrt(static_cast<double>(experts) * static_cast<double>(width));

    std::vector<std::array<std::vector<double>, 3>> length(layers);  // of the rows: first half, second half, whole
    std::vector<double> size(layers);                                // |W|
    parallel_for(static_cast<index_t>(layers), options.threads, [&](index_t at) {
      auto const l = static_cast<std::size_t>(at);
      detail::split_gram const g(w[l], w[l], options.centred);
      length[l] = {detail::root_of_diagonal(g.half[0], experts), detail::root_of_diagonal(g.half[1], experts),
                   detail::root_of_diagonal(g.whole, experts)};
      auto const spectrum = detail::spectrum_of(g.whole, experts);
      for (std::size_t e = 0; e < spectrum.size(); ++e) {
        r.spectrum(l, e) = spectrum[e];
        r.norm(l, e) = length[l][2][e];
        size[l] += r.norm(l, e) * r.norm(l, e);
      }
      size[l] = std::sqrt(size[l]);
      bool const rows_defined = [&] {
        for (auto const& x : length[l])
          if (!std::all_of(x.begin(), x.end(), [](double v) { return v > 0 && std::isfinite(v); })) return false;
        return true;
      }();
      if (size[l] > 0 && std::isfinite(size[l])) r.cosine(l, l) = r.spectrum_overlap(l, l) = 1;
      if (rows_defined) r.matched(l, l) = r.matched_fit(l, l) = 1;
    });

    std::vector<std::pair<std::size_t, std::size_t>> pairs;
    for (std::size_t i = 0; i < layers; ++i)
      for (std::size_t j = i + 1; j < layers; ++j) pairs.emplace_back(i, j);
    parallel_for(static_cast<index_t>(pairs.size()), options.threads, [&](index_t at) {
      auto const [i, j] = pairs[static_cast<std::size_t>(at)];
      detail::split_gram g(w[i], w[j], options.centred);
      auto const both = [&, i = i, j = j](xt::xtensor<double, 2>& m, double v) { m(i, j) = m(j, i) = v; };
      double const scale = static_cast<double>(experts) / (size[i] * size[j]);
      auto const null = detail::null_of_diagonal(g.view(g.whole));
      double trace = 0, overlap = 0;
      for (index_t e = 0; e < experts; ++e) {
        trace += g.view(g.whole)(e, e);
        overlap += std::min(r.spectrum(i, static_cast<std::size_t>(e)), r.spectrum(j, static_cast<std::size_t>(e)));
      }
      if (std::isfinite(scale)) {
        both(r.cosine, trace * scale / static_cast<double>(experts));
        both(r.cosine_null_mean, null.mean * scale);
        both(r.cosine_null_sd, std::sqrt(null.variance) * scale);
        both(r.spectrum_overlap, std::min(1.0, overlap));
      }
      for (index_t a = 0; a < experts; ++a)
        for (index_t b = 0; b < experts; ++b) {
          auto const e = static_cast<std::size_t>(a), f = static_cast<std::size_t>(b),
                     cell = static_cast<std::size_t>(a * experts + b);
          for (std::size_t h = 0; h < 2; ++h) g.half[h][cell] /= length[i][h][e] * length[j][h][f];
          g.whole[cell] /= length[i][2][e] * length[j][2][f];
        }
      auto const first = detail::match_rows(g.view(g.half[0]), g.view(g.half[1])),
                 second = detail::match_rows(g.view(g.half[1]), g.view(g.half[0]));
      both(r.matched, (first.value + second.value) / 2);
      both(r.matched_null_mean, (first.mean + second.mean) / 2);
      // Both readings see the same labels and may go together: the sd of their mean is at most the mean of their sds.
      both(r.matched_null_sd, (std::sqrt(first.variance) + std::sqrt(second.variance)) / 2);
      both(r.matched_fit, detail::match_rows(g.view(g.whole), g.view(g.whole)).value);
    });

    // Relabelling every layer on its own leaves the cosines of two pairs that share a layer uncorrelated: given the
    // shared labels, the mean of either over the other labels is a constant. So the variances of a lag add.
    std::vector<double> p;
    for (index_t delta = 1; delta <= std::min(options.delta_max, static_cast<index_t>(layers) - 1); ++delta) {
      router_lag lag;
      lag.delta = delta;
      double sum = 0, mean = 0, variance = 0;
      for (std::size_t i = 0, j = static_cast<std::size_t>(delta); j < layers; ++i, ++j) {
        if (std::isnan(r.cosine(i, j))) continue;
        ++lag.pairs;
        sum += r.cosine(i, j);
        mean += r.cosine_null_mean(i, j);
        variance += r.cosine_null_sd(i, j) * r.cosine_null_sd(i, j);
      }
      lag.mean = sum / static_cast<double>(lag.pairs);
      lag.z = (sum - mean) / std::sqrt(variance);
      lag.p_value = std::erfc(std::abs(lag.z) / std::sqrt(2.0));
      p.push_back(lag.p_value);
      r.cosine_lags.push_back(lag);
    }
    auto const adjusted = holm(p);
    for (std::size_t i = 0; i < adjusted.size(); ++i) r.cosine_lags[i].p_adjusted = adjusted[i];
    layer_order_options const order{options.delta_max, options.permutations, options.seed, options.threads};
    r.matched_lags = layer_order_test(r.matched, order);
    r.spectrum_lags = layer_order_test(r.spectrum_overlap, order);
    lag_correlation_options norms;
    norms.delta_max = options.delta_max;
    norms.permutations = options.permutations;
    norms.seed = options.seed;
    norms.threads = options.threads;
    r.norm_lags = lag_correlation(r.norm, norms);
    return r;
  }

}  // namespace moeroute

#endif

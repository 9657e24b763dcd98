// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_WEIGHTS_ALIGNMENT_HPP
#define MOEROUTE_WEIGHTS_ALIGNMENT_HPP

#include <moeroute/core/adapt.hpp>
#include <moeroute/core/error.hpp>
#include <moeroute/core/parallel.hpp>
#include <moeroute/core/scalar.hpp>
#include <moeroute/weights/detail/dot_products.hpp>
#include <moeroute/weights/diagonal_test.hpp>
#include <moeroute/weights/norms.hpp>

#if __has_include(<xtensor/containers/xtensor.hpp>)
#include <xtensor/containers/xtensor.hpp>
#else
#include <xtensor/xtensor.hpp>
#endif

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <ranges>
#include <vector>

namespace moeroute {

struct alignment_options {
  bool centred = false;  ///< subtract the mean router row first: a softmax does not see it
  index_t permutations = 1999;
  std::uint64_t seed = 1;
  int threads = 0;  ///< 0: all; the result does not depend on it
};

struct alignment_result {
  xt::xtensor<double, 2>
      ratio;  ///< [E,E]: router row e (row) in expert f's map (column); 1 = a direction of average gain
  std::vector<double> published_norms;  ///< [E]: |W_e r_e|, not normalised, router row as given
  diagonal_test_result own;  ///< of ratio: does a router row meet its own expert's map more than the others'?
};

/// Does a router row point where its own expert's map is large?
///
/// In     router [E,D]; maps: E matrices [F,D] that read the model dimension (gate or up; down transposed for what an
///        expert writes).
/// Out    ratio(e,f) = |W_f r_e / |r_e||^2 D / |W_f|_F^2; see alignment_result. A direction drawn evenly from the
///        sphere has ratio 1 on average, but directions of real weights share dominant axes: the other experts' maps
///        are the yardstick, by permutation.
/// Empty  NaN for a router row or a map that is zero or not finite, and then for the test.
/// Cost   O(E^2 F D) time; per thread 4 (E + 64) KiB (double input: 8) and O(E) memory.
/// Throws shape_error unless there are E maps of D columns, argument_error if permutations is negative.
/// Bias   dot products as in expert_gram: within 4e-6 |W| |r|, in practice 1e-8.
/// Source d0rbu/moe-router-study, commit 2c2073c, core/expert_analyzer.py, for |W_e r_e| (published_norms, as given).
///        Differs: ratio divides both norms out and covers all pairs. With more than 10 experts theirs meets router
///        rows in the order of numbers with experts in the order of text: 0, 1, 10, 11, 2.
template <real_matrix Router, std::ranges::sized_range Maps>
  requires real_matrix<std::ranges::range_value_t<Maps const>> alignment_result
  router_alignment(Router const& router, Maps const& maps, alignment_options const& options = {}) {
    auto const rows = detail::matrix_of(router);
    index_t const experts = rows.rows(), width = rows.cols(), slice = 64;
    std::vector<matrix_view<matrix_value_t<std::ranges::range_value_t<Maps const>>>> w;
    for (auto const& m : maps) w.push_back(detail::matrix_of(m));
    if (static_cast<index_t>(w.size()) != experts)
      detail::raise<shape_error>("moeroute::router_alignment: ", w.size(), " maps for ", experts, " router rows");
    for (std::size_t f = 0; f < w.size(); ++f)
      if (w[f].cols() != width)
        detail::raise<shape_error>("moeroute::router_alignment: map ", f, " has ", w[f].cols(),
                                   " columns, router rows have ", width,
                                   "; the model dimension belongs in the columns");
    diagonal_test_options const test{
        .permutations = options.permutations, .seed = options.seed, .threads = options.threads};
    if (test.permutations < 0)
      detail::raise("moeroute::router_alignment: permutations = ", test.permutations, ", must not be negative");

    auto const count = static_cast<std::size_t>(experts);
    alignment_result r;
    r.ratio = xt::xtensor<double, 2>::from_shape({count, count});
    r.published_norms.assign(count, quiet_nan);
    auto const lengths = row_norms(rows, options.centred), whole = row_norms(rows);
    parallel_for(experts, options.threads, [&](index_t f) {
      auto const& m = w[static_cast<std::size_t>(f)];
      std::vector<double> products(static_cast<std::size_t>(slice * experts)), gain(count);
      double own = 0;
      for (index_t first = 0; first < m.rows(); first += slice) {
        index_t const units = std::min(slice, m.rows() - first);
        detail::dot_products(m.rows_from(first, units), rows, products.data());
        for (index_t i = 0; i < units; ++i) {
          double* const p = products.data() + i * experts;
          own += p[f] * p[f];
          double mean = 0;  // what the mean router row gives
          if (options.centred)
            for (index_t e = 0; e < experts; ++e) mean += p[e] / static_cast<double>(experts);
          for (index_t e = 0; e < experts; ++e) gain[static_cast<std::size_t>(e)] += (p[e] - mean) * (p[e] - mean);
        }
      }
      r.published_norms[static_cast<std::size_t>(f)] = std::sqrt(own);
      double const norm = frobenius_norm(m);
      for (std::size_t e = 0; e < count; ++e) {
        // Where all router rows are equal, centring leaves rounding and no direction.
        bool const direction =
            lengths[e] > 1e-12 * whole[e] && std::isfinite(lengths[e]) && norm > 0 && std::isfinite(norm);
        r.ratio(e, static_cast<std::size_t>(f)) =
            direction ? gain[e] / (lengths[e] * lengths[e]) * static_cast<double>(width) / (norm * norm) : quiet_nan;
      }
    });
    r.own = diagonal_test(matrix_view<double>(r.ratio.data(), experts, experts), test);
    return r;
  }

}  // namespace moeroute

#endif

// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_LAYERS_LAYER_ORDER_HPP
#define MOEROUTE_LAYERS_LAYER_ORDER_HPP

#include <moeroute/core/adapt.hpp>
#include <moeroute/core/error.hpp>
#include <moeroute/core/parallel.hpp>
#include <moeroute/core/scalar.hpp>
#include <moeroute/inference/permutation.hpp>
#include <moeroute/layers/lag_correlation.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

namespace moeroute {

struct layer_order_options {
  index_t delta_max = 30;  ///< lags 1..min(delta_max, L-1)
  index_t permutations = 9999;
  std::uint64_t seed = 1;
  int threads = 0;  ///< 0: all; the result does not depend on it
};

struct layer_order_lag {
  index_t delta = 0;
  index_t pairs = 0;
  double mean = quiet_nan;        ///< similarity of layers Δ apart
  double z = quiet_nan;           ///< (mean - mean over all pairs) / its sd over all orders of the layers, exactly
  double p_value = quiet_nan;     ///< this lag alone, large similarity is extreme
  double p_adjusted = quiet_nan;  ///< family-wise over all lags
};

struct layer_order_result {
  double mean = quiet_nan;  ///< similarity over all pairs of layers
  std::vector<layer_order_lag> lags;
};

namespace detail {

/// A similarity matrix for the sum over each lag under permuted layers. A column of zeros follows each row, and places
/// beyond the last layer point to it, so that no sum has an end to look after.
class order_sums {
 public:
  static constexpr index_t together = 8;  // lags that share the fetch of a row

  template <class T>
  order_sums(matrix_view<T> similarity, index_t lags) : layers_{similarity.rows()}, lags_{lags} {
    centred_.assign(static_cast<std::size_t>(layers_ * (layers_ + 1)), 0.0);
    double sum = 0;
    for (index_t i = 0; i < layers_; ++i)
      for (index_t j = i + 1; j < layers_; ++j) sum += at(i, j) = as_double(similarity(i, j));
    mean_ = sum / (0.5 * static_cast<double>(layers_ * (layers_ - 1)));
    double scale = std::abs(mean_), most = 0;
    for (index_t i = 0; i < layers_; ++i)
      for (index_t j = i + 1; j < layers_; ++j) {
        scale = std::max(scale, std::abs(at(i, j)));
        at(j, i) = at(i, j) -= mean_;
        most = std::max(most, std::abs(at(i, j)));
      }
    // Equal similarities leave a residue of rounding, which no order should be judged by.
    if (most <= 1e-14 * scale) std::fill(centred_.begin(), centred_.end(), 0.0);
  }

  double mean() const noexcept { return mean_; }
  index_t layers() const noexcept { return layers_; }
  std::size_t places() const noexcept { return static_cast<std::size_t>(layers_ + lags_ + together); }

  /// Sums of similarity - mean at each lag, rounded up to `together` lags; `order` [places].
  void operator()(std::vector<std::uint32_t> const& order, double* out) const noexcept {
    for (index_t lag = 0; lag < lags_; lag += together) {
      double sum[together] = {};
      for (index_t i = 0; i + lag + 1 < layers_; ++i) {
        double const* const row = centred_.data() + order[static_cast<std::size_t>(i)] * (layers_ + 1);
        std::uint32_t const* const partner = order.data() + i + lag + 1;
        for (index_t k = 0; k < together; ++k) sum[k] += row[partner[k]];
      }
      std::copy(sum, sum + together, out + lag);
    }
  }

  /// Sd of the sum at lag Δ over all orders of the layers. Pairs of positions share a layer or do not, and each kind
  /// has the mean product of the matrix.
  double sd(index_t delta) const {
    double total = 0, squares = 0, rows = 0, n = static_cast<double>(layers_);
    for (index_t i = 0; i < layers_; ++i) {
      double row = 0;
      for (index_t j = 0; j < layers_; ++j) {
        double const c = centred_[static_cast<std::size_t>(i * (layers_ + 1) + j)];
        row += c;
        squares += c * c;
      }
      rows += row * row;
      total += row;
    }
    double const pairs = n - static_cast<double>(delta), chained = std::max(0.0, n - 2 * static_cast<double>(delta));
    double variance = pairs * squares / (n * (n - 1));
    if (layers_ > 2) variance += 2 * chained * (rows - squares) / (n * (n - 1) * (n - 2));
    if (layers_ > 3)
      variance += (pairs * (pairs - 1) - 2 * chained) * (total * total - 4 * rows + 2 * squares) /
                  (n * (n - 1) * (n - 2) * (n - 3));
    return variance > 1e-24 * squares ? std::sqrt(variance) : quiet_nan;
  }

 private:
  double& at(index_t i, index_t j) { return centred_[static_cast<std::size_t>(i * (layers_ + 1) + j)]; }

  index_t layers_, lags_;
  double mean_ = quiet_nan;
  std::vector<double> centred_;
};

}  // namespace detail

/// Does the similarity of two layers depend on how far apart they are? For any measure of similarity, also one that
/// knows no expert numbers.
///
/// In     similarity [L,L] between layers in the order of depth; the upper triangle is read.
/// Out    per lag the mean, its distance from the mean over all pairs in exact permutation sds, and one-sided p-values
///        of the test that permutes the order of the layers; p_adjusted against the maximum over all lags.
/// Empty  fewer than 2 layers: no lags. NaN where every order of the layers gives the same mean, and everywhere if a
///        similarity is not finite.
/// Cost   O(permutations L Δmax) time over all threads, O(L^2 + L Δmax) memory.
/// Bias   the null is "no lag matters": a smooth decay with distance rejects it at small lags, rightly, and is no
///        period. Layers that differ from all others do not disturb it.
/// Throws shape_error if the matrix is not square; argument_error if options are not positive.
/// Source Mantel 1967, Cancer Research 27, 209-220 (permuting the order of a matrix of similarities, and the variance);
///        maximum statistic Westfall and Young 1993, section 2.3. Differs: one statistic per lag.
template <real_matrix Similarity>
layer_order_result layer_order_test(Similarity const& similarity, layer_order_options const& options = {}) {
  auto const view = detail::matrix_of(similarity);
  if (view.rows() != view.cols())
    detail::raise<shape_error>("moeroute::layer_order_test: similarity [", view.rows(), ",", view.cols(),
                               "] must be square");
  if (options.delta_max <= 0 || options.permutations < 0 ||
      options.permutations > index_t{std::numeric_limits<std::uint32_t>::max()})
    detail::raise("moeroute::layer_order_test: delta_max = ", options.delta_max,
                  ", permutations = ", options.permutations);
  layer_order_result result;
  index_t const layers = view.rows(), lags = std::max<index_t>(0, std::min(options.delta_max, layers - 1));
  if (lags == 0) return result;
  detail::order_sums const sums(view, lags);
  result.mean = sums.mean();
  auto const room = static_cast<std::size_t>(lags + detail::order_sums::together);
  std::vector<std::uint32_t> order(sums.places(), static_cast<std::uint32_t>(layers));
  std::iota(order.begin(), order.begin() + layers, 0u);
  std::vector<double> scale, observed, t(room);
  sums(order, t.data());
  for (index_t lag = 0; lag < lags; ++lag) {
    layer_order_lag s;
    s.delta = lag + 1;
    s.pairs = layers - s.delta;
    scale.push_back(1 / sums.sd(s.delta));
    s.mean = sums.mean() + t[static_cast<std::size_t>(lag)] / static_cast<double>(s.pairs);
    s.z = t[static_cast<std::size_t>(lag)] * scale.back();
    observed.push_back(s.z);
    result.lags.push_back(s);
  }
  if (options.permutations == 0) return result;

  max_statistic const empty(observed);
  index_t const part = 256, parts = (options.permutations + part - 1) / part;
  std::vector<max_statistic> families(static_cast<std::size_t>(parts), empty);
  parallel_for(parts, options.threads, [&](index_t i) {
    std::vector<std::uint32_t> permuted, words;
    std::vector<double> replicate(room);
    vector_view<double> const z(replicate.data(), lags);
    for (index_t b = i * part; b < std::min(options.permutations, (i + 1) * part); ++b) {
      permuted = order;
      detail::shuffle_values(permuted.data(), layers, options.seed, static_cast<std::uint32_t>(b), 0, words);
      sums(permuted, replicate.data());
      for (std::size_t lag = 0; lag < scale.size(); ++lag) replicate[lag] *= scale[lag];
      families[static_cast<std::size_t>(i)].update(z);
    }
  });
  max_statistic family = empty;
  for (auto const& f : families) family.merge(f);
  auto const tested = family.result();
  for (std::size_t lag = 0; lag < result.lags.size(); ++lag) {
    result.lags[lag].p_value = tested.p_value[lag];
    result.lags[lag].p_adjusted = tested.p_adjusted[lag];
  }
  return result;
}

}  // namespace moeroute

#endif

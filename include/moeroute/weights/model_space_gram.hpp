// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_WEIGHTS_MODEL_SPACE_GRAM_HPP
#define MOEROUTE_WEIGHTS_MODEL_SPACE_GRAM_HPP

#include <moeroute/core/adapt.hpp>
#include <moeroute/core/error.hpp>
#include <moeroute/core/parallel.hpp>
#include <moeroute/core/scalar.hpp>
#include <moeroute/weights/detail/dot_products.hpp>
#include <moeroute/weights/expert_gram.hpp>

#include <algorithm>
#include <cstddef>
#include <ranges>
#include <vector>

namespace moeroute {

/// Adds W^T W - (|W|^2 / D) I of every expert, flattened, to `gram`: experts then compare by what they read from (or
/// write to) the model dimension, whatever the order of their hidden units.
///
/// In     weights: L E matrices [F,D] in the order of expert_gram, hidden units in rows, model dimension in columns;
///        give a down projection [D,F] transposed. Gate, up and down may follow one another: their squared norms are
///        then their weights.
/// Out    gram has D^2 columns more. W^T W does not change if hidden units are permuted, rotated or change sign;
///        without its trace, which all experts have, unrelated isotropic experts have cosine 0 +- sqrt(2)/D (with it, F
///        / (F + D + 1)).
/// Empty  as expert_gram; an expert whose W^T W is a multiple of the identity has no direction and gets NaN cosines.
/// Cost   O(L E F D^2 + P D^2 E^2) time. Memory  64 KiB (double input: 128) per expert and 1 MiB (2) per thread.
/// Throws shape_error unless there are L E matrices of one width D, before anything is added.
/// Bias   the function of a SwiGLU expert fixes W_gate^T W_gate, but not the scale of up against down, unit by unit.
/// Source cos of W_a^T W_a and W_b^T W_b is |W_a W_b^T|^2 / (|W_a W_a^T| |W_b W_b^T|), linear CKA of Kornblith et al.
///        2019, arXiv:1905.00414, section 3. Differs: of weights instead of activations, the trace is removed instead
///        of the mean.
template <std::ranges::sized_range Weights>
  requires real_matrix<std::ranges::range_value_t<Weights const>>
void add_model_space_gram(expert_gram& gram, Weights const& weights, int threads = 1) {
  using T = matrix_value_t<std::ranges::range_value_t<Weights const>>;
  using real = compute_t<T>;
  constexpr index_t side = 128;  // of the blocks of W^T W that one tile holds
  std::vector<matrix_view<T>> w;
  for (auto const& m : weights) w.push_back(detail::matrix_of(m));
  auto const options = gram.options();
  auto const experts = static_cast<index_t>(w.size());
  if (experts != options.layers * options.experts)
    detail::raise<shape_error>("moeroute::add_model_space_gram: ", experts, " matrices for ", options.layers, " x ",
                               options.experts, " experts");
  index_t const width = w[0].cols();
  for (index_t r = 0; r < experts; ++r)
    if (w[static_cast<std::size_t>(r)].cols() != width)
      detail::raise<shape_error>("moeroute::add_model_space_gram: matrix ", r, " has ",
                                 w[static_cast<std::size_t>(r)].cols(), " columns, matrix 0 has ", width,
                                 "; the model dimension belongs in the columns");

  std::vector<double> mean_diagonal(w.size());
  parallel_for(experts, threads, [&](index_t r) {
    auto const& m = w[static_cast<std::size_t>(r)];
    double squares = 0;
    for (index_t i = 0; i < m.rows(); ++i)
      for (index_t j = 0; j < width; ++j) {
        auto const v = static_cast<double>(to_compute(m(i, j)));
        squares += v * v;
      }
    mean_diagonal[static_cast<std::size_t>(r)] = squares / static_cast<double>(width);
  });
  std::vector<real> tile(w.size() * static_cast<std::size_t>(side * side));
  for (index_t first = 0; first < width; first += side)
    for (index_t second = first; second < width; second += side) {
      index_t const rows = std::min(side, width - first), columns = std::min(side, width - second);
      parallel_for(experts, threads, [&](index_t r) {
        auto const& m = w[static_cast<std::size_t>(r)];
        std::vector<double> block(static_cast<std::size_t>(rows * columns));
        detail::panel<real> a(rows), b(columns);
        for (index_t f = 0; f < m.rows(); f += detail::dot_block) {
          index_t const n = std::min(detail::dot_block, m.rows() - f);
          a.set_columns(m, first, f, n);
          b.set_columns(m, second, f, n);
          detail::add_dot_products(a, b, block.data(), columns);
        }
        if (first == second)
          for (index_t i = 0; i < rows; ++i)
            block[static_cast<std::size_t>(i * columns + i)] -= mean_diagonal[static_cast<std::size_t>(r)];
        std::transform(block.begin(), block.end(), tile.begin() + r * rows * columns,
                       [](double v) { return static_cast<real>(v); });
      });
      // W^T W is symmetric: a block beside the diagonal stands for two.
      gram.update(matrix_view<real>(tile.data(), experts, rows * columns), threads, first == second ? 1 : 2);
    }
}

}  // namespace moeroute

#endif

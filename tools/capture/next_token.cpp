// SPDX-License-Identifier: Apache-2.0
#include "next_token.hpp"

#include <moeroute/numeric/softmax.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/amax.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/logsumexp.h>

#include "row_kernels.hpp"

namespace moeroute::capture {
namespace {

// log(e^a + e^b).
double log_of_sum(double a, double b) {
  if (std::isnan(a) || std::isnan(b)) return a + b;
  auto const top = std::max(a, b);
  return std::isinf(top) ? top : top + std::log1p(std::exp(std::min(a, b) - top));
}

}  // namespace

next_token score(at::Tensor const& logits, at::Tensor const& next) {
  if (!logits.is_cpu())
    return {logits.gather(1, next.unsqueeze(1)).squeeze(1) - at::logsumexp(logits, {1}), at::argmax(logits, 1)};
  // libtorch's logsumexp writes the exponentials out and its argmax is not vectorised: for a small model with a large
  // vocabulary that was a tenth of the whole pass.
  auto const n = logits.size(0), width = logits.size(1);
  next_token out{at::empty({n}, logits.options()), at::empty_like(next)};
  auto const maximum = at::amax(logits, {1});
  auto const* const rows = logits.const_data_ptr<float>();
  auto const* const top = maximum.const_data_ptr<float>();
  auto const* const ids = next.const_data_ptr<std::int64_t>();
  auto* const logprob = out.logprob.mutable_data_ptr<float>();
  auto* const best = out.best.mutable_data_ptr<std::int64_t>();
  at::parallel_for(0, n, 16, [&](std::int64_t begin, std::int64_t end) {
    for (auto t = begin; t < end; ++t) {
      auto const* const row = rows + t * width;
      logprob[t] = static_cast<float>(static_cast<double>(row[ids[t]]) - log_sum_exp_row(row, width));
      auto const is_best = [m = top[t]](float x) { return x == m || x != x; };
      best[t] = std::find_if(row, row + width, is_best) - row;
    }
  });
  return out;
}

next_token score_by_pieces(at::Tensor const& x, at::Tensor const& next, std::int64_t vocabulary,
                           std::function<at::Tensor(at::Tensor const&, std::int64_t, std::int64_t)> const& logits_of) {
  constexpr std::int64_t most_rows = 256, piece = 1024;
  auto const n = x.size(0);
  next_token out{at::empty({n}, x.options().dtype(at::kFloat)), at::empty_like(next)};
  auto const* const ids = next.const_data_ptr<std::int64_t>();
  auto* const logprob = out.logprob.mutable_data_ptr<float>();
  auto* const best = out.best.mutable_data_ptr<std::int64_t>();
  for_each_task((n + most_rows - 1) / most_rows, [&](std::int64_t task) {
    auto const begin = task * most_rows, rows = std::min(most_rows, n - begin), padded = product_rows(x.scalar_type(), rows);
    auto in = x.narrow(0, begin, rows);
    if (padded > rows) in = at::constant_pad_nd(in, {0, 0, 0, padded - rows});
    std::vector<double> sums(static_cast<std::size_t>(rows), -std::numeric_limits<double>::infinity());
    auto of_next = sums, of_piece = sums;
    std::vector<float> top(static_cast<std::size_t>(rows));
    for (std::int64_t first = 0; first < vocabulary; first += piece) {
      auto const count = std::min(piece, vocabulary - first);
      auto const logits = logits_of(in, first, count).contiguous();
      auto const maximum = at::amax(logits, {1});
      auto const* const largest = maximum.const_data_ptr<float>();
      auto const* const z = logits.const_data_ptr<float>();
      log_sum_exp_rows(matrix_view<float>(z, rows, count), of_piece.data());
      for (std::int64_t r = 0; r < rows; ++r) {
        auto const i = static_cast<std::size_t>(r);
        auto const* const row = z + r * count;
        sums[i] = log_of_sum(sums[i], of_piece[i]);
        if (auto const id = ids[begin + r] - first; id >= 0 && id < count) of_next[i] = static_cast<double>(row[id]);
        // The first NaN counts as the largest, as it does for argmax.
        if (first > 0 && !(largest[r] > top[i] || (largest[r] != largest[r] && top[i] == top[i]))) continue;
        top[i] = largest[r];
        auto const is_best = [m = top[i]](float v) { return v == m || v != v; };
        best[begin + r] = first + (std::find_if(row, row + count, is_best) - row);
      }
    }
    for (std::size_t i = 0; i < sums.size(); ++i)
      logprob[begin + static_cast<std::int64_t>(i)] = static_cast<float>(of_next[i] - sums[i]);
  });
  return out;
}

}  // namespace moeroute::capture

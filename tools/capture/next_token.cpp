// SPDX-License-Identifier: Apache-2.0
#include "next_token.hpp"

#include <moeroute/numeric/softmax.hpp>

#include <algorithm>
#include <cstdint>

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/amax.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/logsumexp.h>

namespace moeroute::capture {

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

}  // namespace moeroute::capture

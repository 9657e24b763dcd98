// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_CAPTURE_NEXT_TOKEN_HPP
#define MOEROUTE_CAPTURE_NEXT_TOKEN_HPP

#include <cstdint>
#include <functional>

#include <ATen/core/Tensor.h>

namespace moeroute::capture {

struct next_token {
  at::Tensor logprob;  ///< [n] nats of the token that follows; not finite if a logit of the row is NaN or +inf
  at::Tensor best;     ///< [n] the most probable one, the first of several
};

/// What the logits [n, V], float32, say about the tokens `next` [n] that follow.
next_token score(at::Tensor const& logits, at::Tensor const& next);

/// The same of logits that are made as they are needed, for pieces of the vocabulary that stay in the cache of a processor:
/// `logits_of(rows, first, count)`, [n, count] in float32, of rows of the hidden states x [n, H], which may have got some more
/// rows of zeros behind them. On the CPU.
next_token score_by_pieces(at::Tensor const& x, at::Tensor const& next, std::int64_t vocabulary,
                           std::function<at::Tensor(at::Tensor const&, std::int64_t, std::int64_t)> const& logits_of);

}  // namespace moeroute::capture

#endif

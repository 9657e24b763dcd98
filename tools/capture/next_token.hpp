// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_CAPTURE_NEXT_TOKEN_HPP
#define MOEROUTE_CAPTURE_NEXT_TOKEN_HPP

#include <ATen/core/Tensor.h>

namespace moeroute::capture {

struct next_token {
  at::Tensor logprob;  ///< [n] nats of the token that follows; not finite if a logit of the row is NaN or +inf
  at::Tensor best;     ///< [n] the most probable one, the first of several
};

/// What the logits [n, V], float32, say about the tokens `next` [n] that follow.
next_token score(at::Tensor const& logits, at::Tensor const& next);

}  // namespace moeroute::capture

#endif

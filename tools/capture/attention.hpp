// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_CAPTURE_ATTENTION_HPP
#define MOEROUTE_CAPTURE_ATTENTION_HPP

#include <cstdint>

#include <ATen/core/Tensor.h>

#include "execution.hpp"

namespace moeroute::capture {

/// Which keys a query sees, and how the logits are scaled.
struct attention_rule {
  double scale = 1;
  std::int64_t window = 0;  ///< a query sees only this many keys, itself included; 0: all before it
  at::Tensor sinks;         ///< [heads] logits that take part of the probability and give nothing; may be undefined
};

/// Causal attention of q, k and v [G, heads, n, width]; v may have another width.
at::Tensor attend(at::Tensor const& q, at::Tensor const& k, at::Tensor const& v, attention_rule const& rule,
                  attention_kind kind);

/// Makes libtorch use its flash kernel or nothing from here on. False if it has none for heads of this width.
bool require_flash(at::Device device, at::ScalarType type, std::int64_t width);

}  // namespace moeroute::capture

#endif

// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_CAPTURE_ATTENTION_PLAN_HPP
#define MOEROUTE_CAPTURE_ATTENTION_PLAN_HPP

#include <cstdint>
#include <span>
#include <vector>

#include <ATen/core/Tensor.h>

#include "kv_cache.hpp"

namespace moeroute::capture {

/// Documents of similar length, padded to one rectangle for the attention alone. Padding stands behind the document,
/// where no real query looks under a causal mask; it repeats the document's own last token, so that nothing of another
/// document is ever near.
struct attention_group {
  at::Tensor rows;  ///< [G * length] into the batch; undefined if they are all of it, in order
  std::int64_t count, length;
};

struct attention_plan {
  std::vector<attention_group> groups;  ///< none: every token is the next one of a document in the cache
  at::Tensor back;  ///< [T] into the padded rows of all groups, one after another; undefined if they are the same
  kv_cache* cache = nullptr;  ///< where keys and values are kept, if they are needed again
};

/// The rectangles of packed documents that offsets [D+1] cut.
attention_plan plan_attention(std::span<std::int64_t const> offsets, at::Device device);

}  // namespace moeroute::capture

#endif

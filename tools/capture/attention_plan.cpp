// SPDX-License-Identifier: Apache-2.0
#include "attention_plan.hpp"

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <utility>

#include <ATen/ops/tensor.h>

namespace moeroute::capture {

attention_plan plan_attention(std::span<std::int64_t const> offsets, at::Device device) {
  auto const documents = offsets.size() - 1;
  auto const length = [&](std::size_t d) { return offsets[d + 1] - offsets[d]; };
  std::vector<std::size_t> order(documents);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return length(a) < length(b); });

  attention_plan plan;
  std::vector<std::int64_t> back(static_cast<std::size_t>(offsets[documents]));
  std::int64_t padded = 0;
  auto const upload = [device](std::vector<std::int64_t> const& values) {
    return at::tensor(values, at::TensorOptions().dtype(at::kLong)).to(device);
  };
  for (std::size_t first = 0; first < documents;) {
    // Grow while padding stays below a quarter.
    std::size_t last = first;
    std::int64_t real = 0;
    while (last < documents) {
      auto const rectangle = length(order[last]) * static_cast<std::int64_t>(last - first + 1);
      if (last > first && 4 * rectangle > 5 * (real + length(order[last]))) break;
      real += length(order[last++]);
    }
    attention_group group{{}, static_cast<std::int64_t>(last - first), length(order[last - 1])};
    std::vector<std::int64_t> rows;
    for (std::size_t i = first; i < last; ++i) {
      auto const d = order[i];
      for (std::int64_t p = 0; p < group.length; ++p) {
        rows.push_back(offsets[d] + std::min(p, length(d) - 1));
        if (p < length(d)) back[static_cast<std::size_t>(offsets[d] + p)] = padded + p;
      }
      padded += group.length;
    }
    // Documents of one length, as a benchmark or a corpus cut into windows has them, need not be moved.
    bool const all = first == 0 && last == documents && rows.size() == back.size();
    if (all && std::is_sorted(rows.begin(), rows.end())) return {{std::move(group)}, {}};
    group.rows = upload(rows);
    plan.groups.push_back(std::move(group));
    first = last;
  }
  plan.back = upload(back);
  return plan;
}

}  // namespace moeroute::capture

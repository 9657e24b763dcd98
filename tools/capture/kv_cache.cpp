// SPDX-License-Identifier: Apache-2.0
#include "kv_cache.hpp"

#include <algorithm>
#include <limits>
#include <utility>

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

namespace moeroute::capture {

using at::Tensor;

namespace {

// Row of [documents * heads * slots] for every kept token and head, tokens outermost, as the keys of tokens lie.
Tensor rows_of(Tensor const& place, std::int64_t heads, std::int64_t slots) {
  auto const document = place.div(slots, "floor").unsqueeze(1), slot = place.remainder(slots).unsqueeze(1);
  auto const head = at::arange(heads, place.options());
  return ((document * heads + head) * slots + slot).flatten();
}

}  // namespace

kv_cache::kv_cache(std::vector<std::int64_t> const& windows, std::int64_t documents, std::int64_t longest,
                   at::Device device)
    : lengths_(static_cast<std::size_t>(documents)), device_{device} {
  for (auto const window : windows) {
    auto const slots = window == 0 ? longest : std::min(window, longest);
    layers_.push_back({{}, {}, slots});
    placements_.try_emplace(slots);
  }
}

Tensor kv_cache::upload(std::vector<std::int64_t> const& values) const {
  return at::tensor(values, at::TensorOptions().dtype(at::kLong)).to(device_);
}

void kv_cache::expect_documents(std::span<std::int64_t const> offsets) {
  for (std::size_t d = 0; d < lengths_.size(); ++d) lengths_[d] = offsets[d + 1] - offsets[d];
  for (auto& [slots, place] : placements_) {
    std::vector<std::int64_t> rows, to;
    for (std::size_t d = 0; d < lengths_.size(); ++d)
      for (auto p = std::max<std::int64_t>(0, lengths_[d] - slots); p < lengths_[d]; ++p) {
        rows.push_back(offsets[d] + p);
        to.push_back(static_cast<std::int64_t>(d) * slots + p % slots);
      }
    place = {{}, upload(to), {}, 0};
    if (static_cast<std::int64_t>(rows.size()) < offsets.back()) place.rows = upload(rows);
  }
}

void kv_cache::expect_step() {
  for (auto& length : lengths_) ++length;
  auto const documents = static_cast<std::int64_t>(lengths_.size());
  auto const [shortest, longest] = std::minmax_element(lengths_.begin(), lengths_.end());
  for (auto& [slots, place] : placements_) {
    std::vector<std::int64_t> to;
    for (std::size_t d = 0; d < lengths_.size(); ++d)
      to.push_back(static_cast<std::int64_t>(d) * slots + (lengths_[d] - 1) % slots);
    place = {{}, upload(to), {}, std::min(slots, *longest)};
    if (*shortest < place.used)
      place.hidden = (at::arange(place.used, place.slots.options()) >= upload(lengths_).unsqueeze(1))
                         .view({documents, 1, 1, place.used});
  }
}

void kv_cache::store(std::size_t number, Tensor const& keys, Tensor const& values) {
  auto& at = layers_[number];
  auto const& place = placements_.at(at.slots);
  auto const documents = static_cast<std::int64_t>(lengths_.size()), heads = keys.size(1);
  auto const rows = rows_of(place.slots, heads, at.slots);
  for (auto const& [from, to] : {std::pair(&keys, &at.keys), std::pair(&values, &at.values)}) {
    auto const width = from->size(2);
    // Zeros: a slot without a key has no probability, but what it holds is multiplied by that all the same.
    if (!to->defined()) *to = at::zeros({documents, heads, at.slots, width}, from->options());
    auto const kept = place.rows.defined() ? from->index_select(0, place.rows) : *from;
    to->view({documents * heads * at.slots, width}).index_copy_(0, rows, kept.reshape({-1, width}));
  }
}

Tensor kv_cache::attend(std::size_t number, Tensor const& queries, double scale, Tensor const& sinks) const {
  auto const& from = layers_[number];
  auto const& place = placements_.at(from.slots);
  auto const documents = from.keys.size(0), heads = from.keys.size(1);
  auto const group = queries.size(1) / heads;
  // Query heads share a key head in consecutive blocks.
  auto const q = queries.reshape({documents, heads, group, queries.size(2)});
  auto logits = at::matmul(q, from.keys.narrow(2, 0, place.used).transpose(2, 3)) * scale;
  if (place.hidden.defined()) logits = logits.masked_fill(place.hidden, -std::numeric_limits<double>::infinity());
  if (sinks.defined())
    logits = at::cat(std::vector<Tensor>{logits, sinks.view({1, heads, group, 1}).expand({documents, -1, -1, 1})}, -1);
  auto const p = at::softmax(logits, -1, at::kFloat).narrow(-1, 0, place.used).to(from.values.scalar_type());
  return at::matmul(p, from.values.narrow(2, 0, place.used)).reshape({documents, -1});
}

void kv_cache::keep(std::span<std::int64_t const> documents) {
  auto const rows = upload({documents.begin(), documents.end()});
  std::vector<std::int64_t> lengths;
  for (auto const d : documents) lengths.push_back(lengths_[static_cast<std::size_t>(d)]);
  lengths_ = std::move(lengths);
  for (auto& l : layers_) {
    l.keys = l.keys.index_select(0, rows);
    l.values = l.values.index_select(0, rows);
  }
}

}  // namespace moeroute::capture

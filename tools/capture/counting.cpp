// SPDX-License-Identifier: Apache-2.0
#include "counting.hpp"

#include <moeroute/core/parallel.hpp>

#include <algorithm>

namespace moeroute::capture {
namespace {

template <class T>
matrix_view<T> view(tensor_data const& t) {
  return {reinterpret_cast<T const*>(t.data.data()), t.shape[0], t.shape[1]};
}

template <class Logit>
void add_layer(cli::layer_statistics& statistics, index_t experts, trace_layer_data const& layer,
               document_spans const& spans, std::vector<std::int32_t> const& rows, std::vector<std::size_t> const& labels) {
  routing_batch<Logit> const batch(experts, view<std::int16_t>(layer.ids), view<float>(layer.weights), view<Logit>(layer.logits));
  cli::update(statistics, batch, spans, rows, labels);
}

}  // namespace

cli::trace_counts empty_counts(std::vector<cli::document_entry> entries, std::vector<trace_layer_info> const& layers, bool scored) {
  bool const grouped = entries.size() > counted_documents;
  return cli::empty_counts(cli::make_table(entries, grouped), layers, scored);
}

void add_shard(cli::trace_counts& counts, std::vector<trace_layer_info> const& layers, trace_shard_data const& shard,
               std::vector<double> const& losses, int threads) {
  document_spans const spans(
      vector_view<std::int64_t>(shard.offsets.data(), static_cast<index_t>(shard.offsets.size())),
      vector_view<std::int64_t>(shard.document.data(), static_cast<index_t>(shard.document.size())));
  std::vector<std::int32_t> rows;
  std::vector<std::size_t> labels;
  for (index_t d = 0; d < spans.documents(); ++d) {
    auto const i = counts.table.index_of(spans.id(d));
    rows.push_back(counts.table.rows[i]);
    labels.push_back(static_cast<std::size_t>(counts.table.labels[i]));
    counts.losses[labels.back()].add(losses[static_cast<std::size_t>(d)],
                                     static_cast<std::uint64_t>(std::max<index_t>(spans.size(d), 1) - 1));
  }
  parallel_for(static_cast<index_t>(layers.size()), threads, [&](index_t i) {
    auto const l = static_cast<std::size_t>(i);
    auto& statistics = counts.layers[l];
    auto const experts = layers[l].router.experts;
    auto const& layer = shard.layers[l];
    switch (layer.logits.type) {
      case dtype::bf16: return add_layer<bf16>(statistics, experts, layer, spans, rows, labels);
      case dtype::f16: return add_layer<f16>(statistics, experts, layer, spans, rows, labels);
      default: return add_layer<float>(statistics, experts, layer, spans, rows, labels);
    }
  });
  ++counts.parts;
}

std::uint64_t counts_bytes(std::vector<trace_layer_info> const& layers, std::size_t documents, std::size_t labels) {
  auto const rows = documents > counted_documents ? labels * static_cast<std::size_t>(cli::hash_groups) : documents;
  std::uint64_t bytes = rows * 12;
  // Counts and tokens of every row; per label two sums of 128 bits; names and lengths.
  for (auto const& l : layers) {
    auto const experts = static_cast<std::uint64_t>(l.router.experts);
    bytes += rows * (experts + 1) * 8 + labels * (experts * 32 + 256) + experts * 16 + 1024;
  }
  return bytes;
}

}  // namespace moeroute::capture

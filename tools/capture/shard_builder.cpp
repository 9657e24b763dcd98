// SPDX-License-Identifier: Apache-2.0
#include "shard_builder.hpp"

#include <limits>

#include "scoring.hpp"

namespace moeroute::capture {

void shard_builder::add(std::vector<tokenized> const& documents, range batch, batch_output const& result) {
  for (auto d = batch.first; d < batch.second; ++d) {
    columns_.offsets.push_back(static_cast<std::int64_t>(columns_.token_ids.size()));
    columns_.document.push_back(static_cast<std::int64_t>(d));
    auto const& ids = documents[d].ids;
    columns_.token_ids.insert(columns_.token_ids.end(), ids.begin(), ids.end());
    for (std::size_t p = 0; p < ids.size(); ++p) {
      columns_.position.push_back(static_cast<std::int32_t>(p));
      columns_.phase.push_back(p < documents[d].prompt_tokens() ? trace_prefill : trace_decode);
    }
  }
  columns_.logprob.insert(columns_.logprob.end(), result.logprob.begin(), result.logprob.end());
  columns_.predicted.insert(columns_.predicted.end(), result.predicted.begin(), result.predicted.end());
  for (std::size_t l = 0; l < layers_.size(); ++l) {
    auto const& from = result.layers[l];
    if (has_logits_) layers_[l].logits.insert(layers_[l].logits.end(), from.logits.begin(), from.logits.end());
    layers_[l].ids.insert(layers_[l].ids.end(), from.ids.begin(), from.ids.end());
    layers_[l].weights.insert(layers_[l].weights.end(), from.weights.begin(), from.weights.end());
    layers_[l].nonfinite += from.nonfinite;
  }
  nonfinite_ += result.nonfinite;
}

void shard_builder::write(std::filesystem::path const& folder, std::size_t index, std::vector<tokenized> const& documents,
                          tokenizer const& words, std::function<std::string(std::span<std::int32_t const>)> const& text_of,
                          trace_manifest& manifest) {
  close();
  std::vector<trace_document> lines;
  for (std::size_t i = 0; i < columns_.document.size(); ++i) {
    auto const d = columns_.document[i];
    auto const& from = documents[static_cast<std::size_t>(d)];
    trace_document line{d, from.id, from.labels, from.source, from.ids.size(), loss(i), {}, {}};
    if (auto const& g = from.generated) line.generated = {g->ids, text_of(g->ids), g->ended};
    for (auto const id : from.ids) line.pieces.push_back(words.piece(id));
    lines.push_back(std::move(line));
  }
  manifest.shards.push_back(write_trace_shard(folder, index, columns_, lines));
  add_totals(manifest);
}

void shard_builder::count(std::vector<tokenized> const& documents, cli::trace_counts& counts, int threads,
                          trace_manifest& manifest) {
  close();
  std::vector<double> losses;
  for (std::size_t i = 0; i < columns_.document.size(); ++i) {
    losses.push_back(loss(i));
    auto const d = static_cast<std::size_t>(columns_.document[i]);
    if (!documents[d].scored) continue;
    auto const first = static_cast<std::size_t>(columns_.offsets[i]), n = documents[d].ids.size();
    auto const score = score_of({&columns_.token_ids[first], n}, {&columns_.logprob[first], n},
                                {&columns_.predicted[first], n}, documents[d].scored_from);
    counts.score_nats[d] = score.nats;
    counts.score_greedy[d] = score.greedy ? 1 : 0;
  }
  add_shard(counts, manifest.layers, columns_, losses, threads);
  add_totals(manifest);
}

double shard_builder::loss(std::size_t i) const {
  auto const begin = static_cast<std::size_t>(columns_.offsets[i]),
             end = static_cast<std::size_t>(columns_.offsets[i + 1]);
  double sum = 0;
  for (auto t = begin + 1; t < end; ++t) sum -= static_cast<double>(columns_.logprob[t]);
  return end - begin > 1 ? sum / static_cast<double>(end - begin - 1) : std::numeric_limits<double>::quiet_NaN();
}

void shard_builder::close() {
  auto const tokens = static_cast<index_t>(columns_.token_ids.size());
  columns_.offsets.push_back(tokens);
  for (std::size_t l = 0; l < layers_.size(); ++l) {
    auto const& layer = layers_[l];
    columns_.layers.push_back(
        {numbers_[l],
         has_logits_ ? tensor_data{"", type_, {tokens, spec_.router.experts}, layer.logits} : tensor_data{},
         make_tensor("", {tokens, spec_.router.top_k}, std::span<std::int16_t const>(layer.ids)),
         make_tensor("", {tokens, spec_.router.top_k}, std::span<float const>(layer.weights))});
  }
}

void shard_builder::add_totals(trace_manifest& manifest) const {
  manifest.documents += columns_.document.size();
  manifest.tokens += columns_.token_ids.size();
  auto& counts = manifest.run["nonfinite"];
  for (std::size_t l = 0; l < layers_.size(); ++l)
    counts["router_logits"][l] = counts["router_logits"][l].get<std::uint64_t>() + layers_[l].nonfinite;
  counts["next_token"] = counts["next_token"].get<std::uint64_t>() + nonfinite_;
}

}  // namespace moeroute::capture

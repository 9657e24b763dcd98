// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_CAPTURE_SHARD_BUILDER_HPP
#define MOEROUTE_CAPTURE_SHARD_BUILDER_HPP

#include <moeroute/io/trace.hpp>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "counting.hpp"
#include "model.hpp"
#include "tokenized_inputs.hpp"

namespace moeroute::capture {

/// One shard's worth of output, batch by batch.
class shard_builder {
 public:
  shard_builder(model_spec const& spec, dtype type, bool has_logits)
      : spec_{spec}, type_{logits_type(spec, type)}, has_logits_{has_logits}, numbers_(spec.moe_layers()),
        layers_(numbers_.size()) {}

  void add(std::vector<tokenized> const& documents, range batch, batch_output const& result);

  /// Writes shard `index` and adds it to the manifest.
  void write(std::filesystem::path const& folder, std::size_t index, std::vector<tokenized> const& documents,
             tokenizer const& words, std::function<std::string(std::span<std::int32_t const>)> const& text_of,
             trace_manifest& manifest);

  /// Counts the shard instead.
  void count(std::vector<tokenized> const& documents, cli::trace_counts& counts, int threads, trace_manifest& manifest);

 private:
  // Mean nats per predicted token; NaN for a document of one token, which predicts nothing.
  double loss(std::size_t i) const;
  void close();
  void add_totals(trace_manifest& manifest) const;

  model_spec const& spec_;
  dtype type_;
  bool has_logits_;
  std::vector<std::int64_t> numbers_;  // of the layers with experts
  trace_shard_data columns_;
  std::vector<layer_output> layers_;
  std::uint64_t nonfinite_ = 0;
};

}  // namespace moeroute::capture

#endif

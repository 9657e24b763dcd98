// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_TOOLS_CLI_COLLECT_HPP
#define MOEROUTE_TOOLS_CLI_COLLECT_HPP

#include <moeroute/io/trace.hpp>
#include <moeroute/routing/activation.hpp>
#include <moeroute/routing/document_counts.hpp>
#include <moeroute/routing/gate.hpp>
#include <moeroute/routing/load.hpp>
#include <moeroute/routing/selection.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace moeroute::cli {

struct collect_options {
  std::string label_key = "label";
  std::string block_key = "passage";
  int threads = 0;
  std::uint64_t count_memory = std::uint64_t{512} << 20;  ///< bytes that per-document counts may take
  std::size_t example_tokens = 256;                       ///< longest example document
  bool progress = false;
};

/// What the accumulators need to know of every document before the first token is read.
struct document_table {
  struct label {
    std::string name;
    std::uint64_t documents = 0, tokens = 0;
    double loss = quiet_nan;  ///< nats per predicted token
  };
  std::vector<std::int64_t> ids;         ///< global ids, increasing
  std::vector<std::int32_t> labels;      ///< [D]
  std::vector<label> label_list;         ///< by name
  std::uint64_t tokens = 0;
  bool has_blocks = false;               ///< some document carries the block key
  std::uint64_t blocks = 0;              ///< distinct blocks; a document without one is its own

  // Rows of document_counts: documents, or groups of documents of one label and one hash of their block.
  bool grouped = false;
  std::vector<std::int32_t> rows;        ///< [D]
  std::vector<std::int32_t> row_labels;  ///< [R]
  std::vector<std::int64_t> row_blocks;  ///< [R]

  std::vector<std::int64_t> examples;    ///< per label the document that is shown token by token

  std::size_t index_of(std::int64_t id) const;
};

/// One document, token by token.
struct example_document {
  trace_document document;
  std::size_t tokens = 0;  ///< shown; fewer than document.tokens if cut
  struct layer {
    std::vector<double> probability;  ///< [tokens,E] or empty
    std::vector<std::int16_t> ids;    ///< [tokens,K]
    std::vector<float> weights;       ///< [tokens,K] or empty
  };
  std::vector<layer> layers;
};

struct layer_statistics {
  load total;
  std::vector<activation> by_label;  ///< their merge is the whole
  std::optional<gate> decision;              ///< none without logits
  std::optional<selection_agreement> agreement;
  document_counts documents;
};

struct trace_statistics {
  document_table table;
  std::vector<layer_statistics> layers;
  std::vector<example_document> examples;  ///< one per label, in label order
};

/// Reads the labels of all documents, then streams the shards: memory is one mapped shard and the accumulators.
/// Throws format_error or io_error naming the file.
trace_statistics collect(trace_reader const& trace, collect_options const& options);

}  // namespace moeroute::cli

#endif

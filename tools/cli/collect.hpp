// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_TOOLS_CLI_COLLECT_HPP
#define MOEROUTE_TOOLS_CLI_COLLECT_HPP

#include <counts/counts_file.hpp>

#include <moeroute/io/trace.hpp>

#include <cstdint>
#include <string>
#include <vector>

namespace moeroute::cli {

/// Rows of a trace that are looked at: what was given to the model, what it wrote itself, or both.
enum class phase_choice { all, prefill, decode };

struct collect_options {
  phase_choice phase = phase_choice::all;
  std::string label_key = "label";
  std::string block_key = "passage";
  int threads = 0;
  std::uint64_t count_memory = std::uint64_t{512} << 20;  ///< bytes that per-document counts may take
  std::size_t example_tokens = 256;                       ///< longest example document
  bool progress = false;
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

struct trace_statistics {
  document_table table;
  std::vector<layer_statistics> layers;
  std::vector<example_document> examples;  ///< one per label, in label order; without tokens if the trace keeps counts
};

/// Reads the labels of all documents, then streams the shards: memory is one mapped shard and the accumulators. A trace of
/// counts has been through this while it was captured; its state is read.
/// Throws format_error or io_error naming the file, argument_error if counts were kept by another label or block.
trace_statistics collect(trace_reader const& trace, collect_options const& options);

}  // namespace moeroute::cli

#endif

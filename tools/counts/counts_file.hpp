// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_TOOLS_COUNTS_COUNTS_FILE_HPP
#define MOEROUTE_TOOLS_COUNTS_COUNTS_FILE_HPP

#include <counts/statistics.hpp>

#include <moeroute/io/trace.hpp>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace moeroute::cli {

/// What a trace of counts keeps instead of tokens: the accumulators of every layer, and the table of documents that they were filled with.
struct trace_counts {
  std::string label_key = "label", block_key = "passage";
  document_table table;  ///< read back: without ids, labels and rows of single documents
  std::vector<mean_loss> losses;            ///< [C]
  std::vector<layer_statistics> layers;
  std::vector<double> score_nats;           ///< [D] of documents that are scored, NaN elsewhere; or empty
  std::vector<std::uint8_t> score_greedy;   ///< [D]
  std::uint64_t parts = 0;                  ///< pieces of the capture that are in it
};

/// No token yet.
trace_counts empty_counts(document_table table, std::vector<trace_layer_info> const& layers, bool scored);

/// Throws argument_error if the two are not of the same capture.
void merge(trace_counts& into, trace_counts const& from);

/// Writes `folder/name` atomically. Equal counts give equal bytes.
trace_counts_info write_counts(std::filesystem::path const& folder, std::string const& name, trace_counts const& counts);

/// Throws format_error naming file and tensor for anything that does not fit the manifest or itself.
trace_counts read_counts(std::filesystem::path const& folder, trace_counts_info const& info,
                         std::vector<trace_layer_info> const& layers);

}  // namespace moeroute::cli

#endif

// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_CAPTURE_COUNTING_HPP
#define MOEROUTE_CAPTURE_COUNTING_HPP

#include <counts/counts_file.hpp>

#include <moeroute/io/trace.hpp>

#include <cstdint>
#include <vector>

namespace moeroute::capture {

/// More documents than this are counted in groups.
inline constexpr std::size_t counted_documents = 256;

/// Counts of documents 0, 1, ... with these labels and sizes, before the first token.
cli::trace_counts empty_counts(std::vector<cli::document_entry> entries, std::vector<trace_layer_info> const& layers, bool scored);

/// Counts a shard that is not written; `losses` are those of its documents.
void add_shard(cli::trace_counts& counts, std::vector<trace_layer_info> const& layers, trace_shard_data const& shard,
               std::vector<double> const& losses, int threads);

/// Bytes of the state in memory and on the disk, before there is any.
std::uint64_t counts_bytes(std::vector<trace_layer_info> const& layers, std::size_t documents, std::size_t labels);

}  // namespace moeroute::capture

#endif

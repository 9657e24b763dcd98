// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_TOOLS_COUNTS_STATISTICS_HPP
#define MOEROUTE_TOOLS_COUNTS_STATISTICS_HPP

#include <counts/document_table.hpp>

#include <moeroute/routing/activation.hpp>
#include <moeroute/routing/document_counts.hpp>
#include <moeroute/routing/gate.hpp>
#include <moeroute/routing/load.hpp>
#include <moeroute/routing/selection.hpp>

#include <cstdint>
#include <optional>
#include <vector>

namespace moeroute::cli {

struct layer_statistics {
  load total;
  std::vector<activation> by_label;  ///< their merge is the whole
  std::optional<gate> decision;      ///< none without logits
  std::optional<selection_agreement> agreement;
  document_counts documents;
};

layer_statistics empty_statistics(router_spec const& spec, document_table const& table, bool has_logits);

/// Adds the routing of whole documents: rows and labels are those of the documents in `spans`.
/// Instantiated for float, bf16 and f16.
template <class Logit>
void update(layer_statistics& statistics, routing_batch<Logit> const& batch, document_spans const& spans,
            std::vector<std::int32_t> const& rows, std::vector<std::size_t> const& labels);

/// Throws argument_error if they are of other routers or documents.
void merge(layer_statistics& into, layer_statistics const& from);

}  // namespace moeroute::cli

#endif

// SPDX-License-Identifier: Apache-2.0
#include <counts/statistics.hpp>

#include <bit>

namespace moeroute::cli {

layer_statistics empty_statistics(router_spec const& spec, document_table const& table, bool has_logits) {
  // A power of two that no weight exceeds; rounding of the weights themselves may pass the scale by an ulp.
  double const bound = static_cast<double>(std::bit_ceil(static_cast<std::uint64_t>(spec.scale * 1.01) + 1));
  return {load({spec.experts}),
          std::vector<activation>(table.label_list.size(), activation({spec.experts, spec.score, bound})),
          has_logits ? std::optional(gate({spec.experts, spec.top_k})) : std::nullopt,
          has_logits ? std::optional(selection_agreement(spec)) : std::nullopt,
          document_counts({spec.experts, static_cast<index_t>(table.row_labels.size())})};
}

template <class Logit>
void update(layer_statistics& statistics, routing_batch<Logit> const& batch, document_spans const& spans,
            std::vector<std::int32_t> const& rows, std::vector<std::size_t> const& labels) {
  statistics.total.update(batch);
  statistics.documents.update(batch, spans, vector_view<std::int32_t>(rows.data(), static_cast<index_t>(rows.size())));
  if (batch.has_logits()) {
    statistics.decision->update(batch);
    statistics.agreement->update(batch);
  }
  // Neighbouring documents of one label go in together.
  for (index_t d = 0; d < spans.documents();) {
    index_t last = d + 1;
    while (last < spans.documents() && labels[static_cast<std::size_t>(last)] == labels[static_cast<std::size_t>(d)]) ++last;
    auto const end = last == spans.documents() ? spans.tokens() : spans.first(last);
    statistics.by_label[labels[static_cast<std::size_t>(d)]].update(batch.slice(spans.first(d), end - spans.first(d)));
    d = last;
  }
}

template void update(layer_statistics&, routing_batch<float> const&, document_spans const&,
                     std::vector<std::int32_t> const&, std::vector<std::size_t> const&);
template void update(layer_statistics&, routing_batch<bf16> const&, document_spans const&,
                     std::vector<std::int32_t> const&, std::vector<std::size_t> const&);
template void update(layer_statistics&, routing_batch<f16> const&, document_spans const&,
                     std::vector<std::int32_t> const&, std::vector<std::size_t> const&);

void merge(layer_statistics& into, layer_statistics const& from) {
  if (into.by_label.size() != from.by_label.size() || into.decision.has_value() != from.decision.has_value() ||
      into.agreement.has_value() != from.agreement.has_value())
    throw argument_error("moeroute: statistics of other documents cannot be merged");
  into.total.merge(from.total);
  for (std::size_t c = 0; c < into.by_label.size(); ++c) into.by_label[c].merge(from.by_label[c]);
  if (into.decision) into.decision->merge(*from.decision);
  if (into.agreement) into.agreement->merge(*from.agreement);
  into.documents.merge(from.documents);
}

}  // namespace moeroute::cli

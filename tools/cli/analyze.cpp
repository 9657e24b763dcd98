// SPDX-License-Identifier: Apache-2.0
#include <cli/analyze.hpp>

#include <moeroute/routing/design_effect.hpp>

#include <cmath>
#include <numeric>

namespace moeroute::cli {

namespace {

layer_analysis describe(layer_statistics const& statistics, router_spec const& spec, document_table const& table) {
  layer_analysis out;
  out.total = statistics.total.result();
  activation all(statistics.by_label.front().options());
  for (auto const& part : statistics.by_label) {
    all.merge(part);
    out.soft_by_label.push_back(part.result());
  }
  out.soft = all.result();
  if (statistics.decision) out.decision = statistics.decision->result();
  if (statistics.agreement) out.agreement = statistics.agreement->result();
  out.balance = balance_of(out.total.counts);
  auto const tokens = static_cast<double>(out.total.tokens);
  out.uniform = uniform_balance(tokens, spec.experts, spec.top_k);
  auto const documents = statistics.documents.result();
  out.design_effect = design_effect(documents.matrix(), table.row_blocks);
  if (!std::isnan(out.design_effect)) out.dependent = uniform_balance(std::max(1.0, std::floor(tokens / out.design_effect)), spec.experts, spec.top_k);
  out.losses = load_balancing_loss(out.total.counts, out.soft.probability, out.total.tokens);
  // With P = 1/E the product is the same for every f.
  out.uniform_losses = {1.0, static_cast<double>(spec.top_k)};
  out.unseen = unseen_experts(out.total.counts, table.blocks);
  return out;
}

bool same_experts(trace_manifest const& manifest) {
  for (auto const& l : manifest.layers)
    if (l.router.experts != manifest.layers.front().router.experts) return false;
  return true;
}

}  // namespace

analysis analyze(analyze_options const& options) {
  analysis a;
  a.options = options;
  trace_reader const trace(options.trace);
  a.manifest = trace.manifest();
  if (a.manifest.tokens == 0)
    throw format_error((options.trace / "manifest.json").string(), "tokens", "is 0: there is nothing to analyze");
  a.statistics = collect(trace, options.collecting);
  auto const& table = a.statistics.table;
  for (std::size_t l = 0; l < a.manifest.layers.size(); ++l) {
    a.layers.push_back(describe(a.statistics.layers[l], a.manifest.layers[l].router, table));
    auto const& layer = a.layers.back();
    auto const name = "layer " + std::to_string(a.manifest.layers[l].layer);
    if (layer.soft.nonfinite_rows > 0)
      a.warnings.push_back(name + ": " + std::to_string(layer.soft.nonfinite_rows) + " of " + std::to_string(layer.total.tokens) +
                           " tokens have NaN or infinite logits; they are left out of probabilities and gate statistics");
    if (layer.soft.refused_weights > 0)
      a.warnings.push_back(name + ": " + std::to_string(layer.soft.refused_weights) + " combination weights are NaN, negative or too large");
    if (layer.agreement && layer.agreement->largest_mismatch_gap > 1e-3)
      a.warnings.push_back(name + ": " + std::to_string(layer.agreement->mismatched_rows) +
                           " recorded selections do not follow from the logits, by a gap of up to " +
                           std::to_string(layer.agreement->largest_mismatch_gap) + "; is the router description right?");
  }

  auto const labels = static_cast<index_t>(table.label_list.size());
  std::vector<document_counts_result> counts;
  for (auto const& layer : a.statistics.layers) counts.push_back(layer.documents.result());
  std::vector<matrix_view<std::uint64_t>> matrices;
  for (auto const& c : counts) matrices.push_back(c.matrix());
  auto inference = options.inference;
  inference.threads = options.collecting.threads;
  a.labels = specialization(matrices, table.row_labels, table.row_blocks, labels, inference);
  if (labels < 2)
    a.not_computed.emplace_back("labels", "all documents carry one value of the label '" + options.collecting.label_key +
                                              "', so there is nothing to compare; set one with capture --label or --label-field");
  if (table.grouped)
    a.warnings.push_back("too many documents to keep one by one: inference uses 256 groups of documents per label");
  for (auto const& label : table.label_list)
    if (labels > 1 && label.documents < 20)
      a.warnings.push_back("label " + label.name + " has " + std::to_string(label.documents) +
                           " documents; intervals need about 40 to be trusted");

  auto lags = options.lags;
  lags.threads = options.collecting.threads;
  lags.seed = options.inference.seed;
  lags.permutations = options.inference.permutations;
  auto const layer_count = static_cast<index_t>(a.layers.size());
  if (layer_count < 2 || !same_experts(a.manifest)) {
    a.not_computed.emplace_back("lag_correlation", layer_count < 2 ? "the trace has one MoE layer" : "layers have different numbers of experts");
  } else {
    auto const experts = a.manifest.layers.front().router.experts;
    std::vector<double> hard, soft;
    bool has_soft = true;
    for (auto const& layer : a.layers) {
      hard.insert(hard.end(), layer.total.share.begin(), layer.total.share.end());
      soft.insert(soft.end(), layer.soft.probability.begin(), layer.soft.probability.end());
      has_soft = has_soft && layer.soft.probability_rows > 0;
    }
    a.lags_load = lag_correlation(matrix_view<double>(hard.data(), layer_count, experts), lags);
    if (has_soft) a.lags_probability = lag_correlation(matrix_view<double>(soft.data(), layer_count, experts), lags);
  }
  if (!a.layers.front().decision)
    a.not_computed.emplace_back("probability", "the trace has no logits (captured with --keep topk, or imported), so there are no soft "
                                               "probabilities, gate statistics, load-balancing losses or check of the selection");
  if (a.manifest.counts)
    a.not_computed.emplace_back("documents", "the trace keeps counts alone (captured with --keep counts), so no document can be shown token by token");
  a.answers = answer(a);
  return a;
}

}  // namespace moeroute::cli

// SPDX-License-Identifier: Apache-2.0
#include <cli/analyze.hpp>

#include <moeroute/core/version.hpp>
#include <moeroute/io/npy.hpp>

#include <array>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <span>
#include <sstream>

namespace moeroute::cli {

namespace {

using json = nlohmann::ordered_json;

json interval_json(estimate const& e) { return {{"value", e.value}, {"lower", e.lower}, {"upper", e.upper}}; }

template <class Matrix>
json row_json(Matrix const& m, std::size_t row) {
  auto out = json::array();
  for (std::size_t e = 0; e < m.shape()[1]; ++e) out.push_back(m(row, e));
  return out;
}

json counts_row_json(xt::xtensor<double, 2> const& m, std::size_t row) {
  auto out = json::array();
  for (std::size_t e = 0; e < m.shape()[1]; ++e) out.push_back(static_cast<std::uint64_t>(m(row, e)));
  return out;
}

template <class T>
json rows_json(std::vector<T> const& values, std::size_t columns) {
  auto out = json::array();
  for (std::size_t i = 0; i < values.size(); i += columns)
    out.push_back(std::vector<T>(values.begin() + static_cast<std::ptrdiff_t>(i), values.begin() + static_cast<std::ptrdiff_t>(i + columns)));
  return out;
}

constexpr std::array<char const*, 3> phase_names{"all", "prefill", "decode"};

json trace_json(analysis const& a) {
  auto const& table = a.statistics.table;
  auto labels = json::array();
  for (auto const& l : table.label_list)
    labels.push_back({{"name", l.name}, {"documents", l.documents}, {"tokens", l.tokens}, {"loss", l.loss}});
  return {{"model", a.manifest.model},
          {"run", a.manifest.run},
          {"documents", table.documents},
          {"tokens", table.tokens},
          {"phase", phase_names[static_cast<std::size_t>(a.options.collecting.phase)]},
          {"label_key", a.options.collecting.label_key},
          {"block_key", table.has_blocks ? json(a.options.collecting.block_key) : json(nullptr)},
          {"blocks", table.blocks},
          {"labels", labels}};
}

json balance_json(layer_analysis const& layer, bool has_probability) {
  json out;
  for (std::size_t f = 0; f < std::size(balance_fields); ++f) {
    auto const field = balance_fields[f];
    out[balance_field_names[f]] = {{"value", layer.balance.*field},
                                   {"uniform_mean", layer.uniform.mean.*field},
                                   {"uniform_q95", layer.uniform.bound_95.*field},
                                   {"dependent_q95", layer.dependent.bound_95.*field}};
  }
  out["design_effect"] = layer.design_effect;
  if (has_probability) {
    // Against the limit only: a product of loads and probabilities has no null without a null for the probabilities.
    out["load_balancing_loss"] = {{"value", layer.losses.switch_form}, {"uniform_mean", layer.uniform_losses.switch_form}, {"uniform_q95", nullptr}, {"dependent_q95", nullptr}};
    out["load_balancing_loss_olmoe"] = {{"value", layer.losses.olmoe_form}, {"uniform_mean", layer.uniform_losses.olmoe_form}, {"uniform_q95", nullptr}, {"dependent_q95", nullptr}};
  }
  return out;
}

json layer_json(analysis const& a, std::size_t l) {
  auto const& layer = a.layers[l];
  auto const& spec = a.manifest.layers[l].router;
  bool const has_probability = layer.soft.probability_rows > 0, has_weight = layer.soft.weight_rows > 0;
  json out{{"layer", a.manifest.layers[l].layer},
           {"experts", spec.experts},
           {"top_k", spec.top_k},
           {"tokens", layer.total.tokens},
           {"dropped_slots", layer.total.dropped},
           {"counts", layer.total.counts},
           {"load_share", layer.total.share}};
  if (has_probability) out["probability"] = layer.soft.probability;
  if (has_weight) out["weight_share"] = layer.soft.weight;
  out["nonfinite_rows"] = layer.soft.nonfinite_rows;
  if (layer.agreement) {
    out["tied_rows"] = layer.agreement->tied_rows;
    out["selection_mismatch_rows"] = layer.agreement->mismatched_rows;
    out["selection_mismatch_gap"] = layer.agreement->largest_mismatch_gap;
  }
  out["balance"] = balance_json(layer, has_probability);
  out["unseen"] = {{"experts", layer.unseen.experts}, {"upper_95", layer.unseen.upper_95}};
  if (layer.decision)
    out["gate"] = {{"entropy_nats", layer.decision->entropy_nats},
                   {"margin", layer.decision->margin},
                   {"top_k_mass", layer.decision->top_k_mass},
                   {"z_loss", layer.decision->z_loss},
                   {"top1_probability", layer.decision->top1_probability}};
  auto const& by_label = a.labels.layers[l];
  auto labels = json::array();
  for (std::size_t c = 0; c < a.statistics.table.label_list.size(); ++c) {
    json entry{{"counts", counts_row_json(by_label.counts, c)},   {"share", row_json(by_label.share, c)},
               {"lower", row_json(by_label.lower, c)},            {"upper", row_json(by_label.upper, c)},
               {"lift", row_json(by_label.lift, c)},              {"lift_lower", row_json(by_label.lift_lower, c)},
               {"lift_upper", row_json(by_label.lift_upper, c)},  {"p_value", row_json(by_label.p_value, c)},
               {"p_adjusted", row_json(by_label.p_adjusted, c)},  {"q_by", row_json(by_label.q_by, c)},
               {"effective_experts", interval_json(by_label.effective_experts[c])}};
    if (layer.soft_by_label[c].probability_rows > 0) entry["probability"] = layer.soft_by_label[c].probability;
    labels.push_back(std::move(entry));
  }
  out["labels"] = std::move(labels);
  auto const& mi = by_label.information;
  out["mutual_information"] = {{"nats", mi.nats}, {"corrected_nats", mi.corrected_nats}, {"null_mean", mi.null_mean}, {"null_q95", mi.null_q95}, {"p_value", mi.p_value}};
  return out;
}

json effective_json(analysis const& a) {
  auto const& table = a.statistics.table.label_list;
  auto labels = json::array(), differences = json::array();
  for (std::size_t c = 0; c < table.size(); ++c) {
    auto entry = interval_json(a.labels.effective_experts[c]);
    entry["name"] = table[c].name;
    labels.push_back(std::move(entry));
  }
  for (auto const& d : a.labels.differences) {
    json entry{{"a", table[static_cast<std::size_t>(d.a)].name}, {"b", table[static_cast<std::size_t>(d.b)].name}};
    entry.update(interval_json(d.value));
    entry["p_value"] = d.p_value;
    entry["p_adjusted"] = d.p_adjusted;
    differences.push_back(std::move(entry));
  }
  return {{"labels", labels}, {"slots_compared", a.labels.slots_compared}, {"tokens_compared", a.labels.slots_compared / static_cast<double>(a.manifest.layers.front().router.top_k)}, {"differences", differences}};
}

json lag_json(lag_correlation_result const& r) {
  auto matrix = json::array(), lags = json::array();
  for (std::size_t l = 0; l < r.matrix.shape()[0]; ++l) matrix.push_back(row_json(r.matrix, l));
  for (auto const& s : r.lags)
    lags.push_back({{"delta", s.delta}, {"mean", s.mean}, {"sd", s.sd}, {"n", s.pairs}, {"p_value", s.p_value}, {"p_adjusted", s.p_adjusted}});
  return {{"matrix", matrix}, {"lags", lags}, {"null_sd", r.null_sd}};
}

std::string piece_of(example_document const& d, std::size_t t) {
  if (t < d.document.pieces.size()) return d.document.pieces[t];
  std::string number = std::to_string(t);  // "#" + number would set off a false -Wrestrict of g++ 12
  number.insert(number.begin(), '#');
  return number;
}

json documents_json(analysis const& a) {
  auto out = json::array();
  for (std::size_t c = 0; c < a.statistics.examples.size(); ++c) {
    auto const& d = a.statistics.examples[c];
    if (d.tokens == 0) continue;
    auto tokens = json::array(), layers = json::array();
    for (std::size_t t = 0; t < d.tokens; ++t) tokens.push_back(piece_of(d, t));
    for (std::size_t l = 0; l < d.layers.size(); ++l) {
      auto const& spec = a.manifest.layers[l].router;
      json layer{{"layer", a.manifest.layers[l].layer}};
      if (!d.layers[l].probability.empty()) layer["probability"] = rows_json(d.layers[l].probability, static_cast<std::size_t>(spec.experts));
      layer["ids"] = rows_json(d.layers[l].ids, static_cast<std::size_t>(spec.top_k));
      if (!d.layers[l].weights.empty()) layer["weights"] = rows_json(d.layers[l].weights, static_cast<std::size_t>(spec.top_k));
      layers.push_back(std::move(layer));
    }
    out.push_back({{"document", d.document.document},
                   {"id", d.document.id},
                   {"label", a.statistics.table.label_list[c].name},
                   {"tokens", tokens},
                   {"truncated", d.tokens < d.document.tokens},
                   {"layers", layers}});
  }
  return out;
}

json results_json(analysis const& a) {
  auto layers = json::array(), missing = json::array();
  for (std::size_t l = 0; l < a.layers.size(); ++l) layers.push_back(layer_json(a, l));
  for (auto const& [what, why] : a.not_computed) missing.push_back({{"what", what}, {"why", why}});
  json out{{"schema", "moeroute.results"},
           {"schema_version", 1},
           {"moeroute_version", version},
           {"trace", trace_json(a)},
           {"options",
            {{"seed", a.options.inference.seed},
             {"bootstrap_replicates", a.options.inference.bootstrap_replicates},
             {"permutations", a.options.inference.permutations},
             {"level", a.options.inference.level}}},
           {"layers", layers},
           {"effective_experts", effective_json(a)}};
  if (a.lags_load) {
    json lag{{"layers", json::array()}, {"load", lag_json(*a.lags_load)}};
    for (auto const& l : a.manifest.layers) lag["layers"].push_back(l.layer);
    if (a.lags_probability) lag["probability"] = lag_json(*a.lags_probability);
    out["lag_correlation"] = std::move(lag);
  }
  out["documents"] = documents_json(a);
  out["answers"] = a.answers;
  out["warnings"] = a.warnings;
  out["not_computed"] = missing;
  return out;
}

// Names come from files of others: quoted whenever a reader could take them for something else, and never read as a formula.
std::string csv_field(std::string const& text) {
  std::string const guarded = !text.empty() && std::string("=+-@\t\r").find(text[0]) != std::string::npos ? "'" + text : text;
  if (guarded.find_first_of(",\"\n\r") == std::string::npos) return guarded;
  std::string out = "\"";
  for (char const c : guarded) out += c == '"' ? "\"\"" : std::string(1, c);
  return out + "\"";
}

class csv_table {
 public:
  explicit csv_table(std::string const& header) { text_ << header << "\n"; }
  template <class First, class... Rest>
  void row(First const& first, Rest const&... rest) {
    cell(first);
    ((text_ << ',', cell(rest)), ...);
    text_ << "\n";
  }
  void save(std::filesystem::path const& path) const { write_file(path, text_.str()); }

 private:
  void cell(std::string const& s) { text_ << csv_field(s); }
  void cell(double x) {
    if (std::isnan(x)) return;  // an empty field is what spreadsheets and pandas read as missing
    char buffer[40];
    std::snprintf(buffer, sizeof buffer, "%.10g", x);
    text_ << buffer;
  }
  template <std::integral T>
  void cell(T x) {
    text_ << +x;
  }
  std::ostringstream text_;
};

void write_tables(analysis const& a) {
  auto const& folder = a.options.output;
  auto const& labels = a.statistics.table.label_list;
  std::string header = "layer,tokens,dropped_slots,design_effect";
  for (auto const* name : balance_field_names) header += std::string(",") + name + "," + name + "_uniform_mean," + name + "_uniform_q95," + name + "_dependent_q95";
  csv_table balance(header + ",load_balancing_loss,load_balancing_loss_olmoe,unseen_experts,unseen_upper_95,router_entropy_nats,margin,top_k_mass,z_loss");
  for (std::size_t l = 0; l < a.layers.size(); ++l) {
    auto const& y = a.layers[l];
    auto const decision = y.decision.value_or(gate_result{});
    std::vector<double> v;
    for (auto const field : balance_fields)
      for (auto const* m : {&y.balance, &y.uniform.mean, &y.uniform.bound_95, &y.dependent.bound_95}) v.push_back(m->*field);
    std::apply([&](auto... i) { balance.row(a.manifest.layers[l].layer, y.total.tokens, y.total.dropped, y.design_effect, v[i]..., y.losses.switch_form, y.losses.olmoe_form,
                                            y.unseen.experts.size(), y.unseen.upper_95, decision.entropy_nats, decision.margin, decision.top_k_mass, decision.z_loss); },
               std::tuple{0u, 1u, 2u, 3u, 4u, 5u, 6u, 7u, 8u, 9u, 10u, 11u, 12u, 13u, 14u, 15u, 16u, 17u, 18u, 19u, 20u, 21u, 22u, 23u});
  }
  balance.save(folder / "balance.csv");

  csv_table cells("label,layer,expert,counts,share,lower,upper,lift,lift_lower,lift_upper,p_value,p_adjusted,q_by");
  for (std::size_t c = 0; c < labels.size(); ++c)
    for (std::size_t l = 0; l < a.layers.size(); ++l) {
      auto const& y = a.labels.layers[l];
      for (std::size_t e = 0; e < y.counts.shape()[1]; ++e)
        cells.row(labels[c].name, a.manifest.layers[l].layer, e, static_cast<std::uint64_t>(y.counts(c, e)), y.share(c, e), y.lower(c, e), y.upper(c, e), y.lift(c, e),
                  y.lift_lower(c, e), y.lift_upper(c, e), y.p_value(c, e), y.p_adjusted(c, e), y.q_by(c, e));
    }
  cells.save(folder / "label_experts.csv");

  csv_table top("document,token,piece,layer,rank,expert,weight");
  for (auto const& d : a.statistics.examples)
    for (std::size_t t = 0; t < d.tokens; ++t)
      for (std::size_t l = 0; l < d.layers.size(); ++l) {
        auto const slots = static_cast<std::size_t>(a.manifest.layers[l].router.top_k);
        for (std::size_t k = 0; k < slots; ++k)
          top.row(d.document.id, t, piece_of(d, t), a.manifest.layers[l].layer, k + 1, d.layers[l].ids[t * slots + k],
                  d.layers[l].weights.empty() ? quiet_nan : static_cast<double>(d.layers[l].weights[t * slots + k]));
      }
  top.save(folder / "top_experts.csv");
}

void write_arrays(analysis const& a) {
  auto const& folder = a.options.output;
  auto const layers = static_cast<index_t>(a.layers.size()), experts = a.manifest.layers.front().router.experts;
  auto const labels = static_cast<index_t>(a.statistics.table.label_list.size());
  for (auto const& l : a.manifest.layers)
    if (l.router.experts != experts) return;  // ragged: the csv files have it
  std::vector<std::uint64_t> counts;
  std::vector<double> share, probability;
  for (auto const& y : a.layers) {
    counts.insert(counts.end(), y.total.counts.begin(), y.total.counts.end());
    share.insert(share.end(), y.total.share.begin(), y.total.share.end());
    probability.insert(probability.end(), y.soft.probability.begin(), y.soft.probability.end());
  }
  write_npy<std::uint64_t>(folder / "counts.npy", counts, {layers, experts});
  write_npy<double>(folder / "load_share.npy", share, {layers, experts});
  if (a.layers.front().decision) write_npy<double>(folder / "probability.npy", probability, {layers, experts});
  auto const by_label = [&](xt::xtensor<double, 2> specialization_layer::* field) {
    std::vector<double> values;
    for (std::size_t c = 0; c < static_cast<std::size_t>(labels); ++c)
      for (auto const& y : a.labels.layers)
        for (std::size_t e = 0; e < static_cast<std::size_t>(experts); ++e) values.push_back((y.*field)(c, e));
    return values;
  };
  auto const label_counts = by_label(&specialization_layer::counts);
  write_npy<std::uint64_t>(folder / "label_counts.npy", std::vector<std::uint64_t>(label_counts.begin(), label_counts.end()), {labels, layers, experts});
  write_npy<double>(folder / "label_share.npy", by_label(&specialization_layer::share), {labels, layers, experts});
  write_npy<double>(folder / "label_lift.npy", by_label(&specialization_layer::lift), {labels, layers, experts});
  write_npy<double>(folder / "label_p_adjusted.npy", by_label(&specialization_layer::p_adjusted), {labels, layers, experts});
  for (auto const& [name, lags] : {std::pair{"lag_correlation_load.npy", &a.lags_load}, std::pair{"lag_correlation_probability.npy", &a.lags_probability}})
    if (*lags) {
      auto const& m = (*lags)->matrix;
      write_npy<double>(folder / name, std::span<double const>(m.data(), m.size()), {static_cast<index_t>(m.shape()[0]), static_cast<index_t>(m.shape()[1])});
    }
}

std::string summary(analysis const& a) {
  std::ostringstream out;
  auto const line = [&](char const* format, auto... values) {
    char buffer[512];
    std::snprintf(buffer, sizeof buffer, format, values...);
    out << buffer << "\n";
  };
  auto const& table = a.statistics.table;
  out << "moeroute " << version << ": summary of " << a.manifest.model.value("name", std::string("trace")) << "\n\n";
  line("%llu documents, %llu tokens, %zu MoE layers, %td experts, %td per token", static_cast<unsigned long long>(table.documents), static_cast<unsigned long long>(table.tokens), a.layers.size(),
       a.manifest.layers.front().router.experts, a.manifest.layers.front().router.top_k);
  if (a.options.collecting.phase != phase_choice::all) line("%s rows only", phase_names[static_cast<std::size_t>(a.options.collecting.phase)]);
  out << "\nWhat was found\n";
  for (auto const& s : a.answers) out << "- " << s << "\n";
  if (!a.warnings.empty()) out << "\nWarnings\n";
  for (auto const& s : a.warnings) out << "- " << s << "\n";
  out << "\nLabels                     documents     tokens  nats/token  effective experts (interval)\n";
  for (std::size_t c = 0; c < table.label_list.size(); ++c) {
    auto const& l = table.label_list[c];
    auto const& e = a.labels.effective_experts[c];
    char loss[16] = "-";
    if (!std::isnan(l.loss)) std::snprintf(loss, sizeof loss, "%.3f", l.loss);
    line("  %-24s %9llu %10llu  %10s  %6.2f (%.2f to %.2f)", l.name.c_str(), static_cast<unsigned long long>(l.documents), static_cast<unsigned long long>(l.tokens), loss, e.value, e.lower, e.upper);
  }
  out << "\nLayer  MaxVio (uniform 95 %)  CV     entropy/ln E  effective  unseen  MI nats (null 95 %)\n";
  for (std::size_t l = 0; l < a.layers.size(); ++l) {
    auto const& y = a.layers[l];
    auto const& mi = a.labels.layers[l].information;
    line("%5td  %6.3f (%.3f)         %5.3f  %12.4f  %9.2f  %6zu  %7.4f (%.4f)", a.manifest.layers[l].layer, y.balance.max_violation, y.uniform.bound_95.max_violation,
         y.balance.coefficient_of_variation, y.balance.normalized_entropy, y.balance.effective_experts, y.unseen.experts.size(), mi.nats, mi.null_q95);
  }
  if (a.lags_load && !a.lags_load->lags.empty()) {
    out << "\nLag (MoE layers)  mean r  pairs  p     p family-wise\n";
    for (auto const& s : a.lags_load->lags) line("%16td  %6.3f  %5td  %.3f  %.3f", s.delta, s.mean, s.pairs, s.p_value, s.p_adjusted);
  }
  for (auto const& [what, why] : a.not_computed) out << "\nNot computed: " << what << ": " << why << "\n";
  return out.str();
}

}  // namespace

void write_results(analysis const& a) {
  namespace fs = std::filesystem;
  auto const& folder = a.options.output;
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) throw io_error(folder.string(), "cannot create folder", error.value());
  // A folder with results.json is whole: the old one goes first, the new one comes last.
  if (!fs::remove(folder / "results.json", error) && error) throw io_error((folder / "results.json").string(), "cannot remove", error.value());
  write_arrays(a);
  write_tables(a);
  write_file(folder / "summary_report.txt", summary(a));
  // Pieces of tokens need not be UTF-8 in traces of others.
  write_file(folder / "results.json", results_json(a).dump(1, ' ', false, json::error_handler_t::replace) + "\n");
}

}  // namespace moeroute::cli

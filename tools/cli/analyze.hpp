// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_TOOLS_CLI_ANALYZE_HPP
#define MOEROUTE_TOOLS_CLI_ANALYZE_HPP

#include <cli/collect.hpp>

#include <moeroute/layers/lag_correlation.hpp>
#include <moeroute/routing/balance.hpp>
#include <moeroute/routing/specialization.hpp>

#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace moeroute::cli {

struct analyze_options {
  std::filesystem::path trace;
  std::filesystem::path output;
  collect_options collecting;
  specialization_options inference;
  lag_correlation_options lags;
};

/// Everything that results.json says of one layer.
struct layer_analysis {
  load_result total;
  activation_result soft;                    ///< all labels
  std::vector<activation_result> soft_by_label;
  std::optional<gate_result> decision;
  std::optional<selection_agreement_result> agreement;
  balance_measures balance;
  balance_reference uniform;                 ///< independent tokens
  balance_reference dependent;               ///< as many tokens as the documents are worth
  double design_effect = quiet_nan;
  load_balancing_losses losses;
  load_balancing_losses uniform_losses;
  unseen_result unseen;
};

struct analysis {
  trace_manifest manifest;
  analyze_options options;
  trace_statistics statistics;
  std::vector<layer_analysis> layers;
  specialization_result labels;
  std::optional<lag_correlation_result> lags_load, lags_probability;
  std::vector<std::string> answers, warnings;
  std::vector<std::pair<std::string, std::string>> not_computed;  ///< what, why
};

/// Reads a trace and computes everything that it supports. Throws as trace_reader and collect.
analysis analyze(analyze_options const& options);

/// Whole sentences for the reader; the first says which label uses fewer experts.
std::vector<std::string> answer(analysis const& a);

/// Writes results.json (last, so that a folder with it is whole), summary_report.txt, .npy and .csv. Throws io_error.
void write_results(analysis const& a);

}  // namespace moeroute::cli

#endif

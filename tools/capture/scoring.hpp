// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_CAPTURE_SCORING_HPP
#define MOEROUTE_CAPTURE_SCORING_HPP

#include <moeroute/core/scalar.hpp>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "inputs.hpp"

namespace moeroute::capture {

/// Tokens of a scored document, or of a piece of one. Tokens before `from` are context.
struct scored_tokens {
  std::vector<std::int32_t> ids;
  std::size_t from = 0;
};

/// A scored document as tokens, at most `longest`. Too long a prompt loses its beginning (`cut` says so). An article becomes pieces that overlap by
/// one token, so that every token but its first is predicted once.
/// The context ends where the ids of the prompt alone end, as published evaluations have it.
/// Throws format_error naming the document if its prompt has no token or its answer has none or is longer than `longest`.
std::vector<scored_tokens> scored_pieces(document const& d,
                                         std::function<std::vector<std::int32_t>(std::string_view)> const& encode,
                                         std::size_t longest, bool& cut);

/// What teacher forcing says of the scored part of a document.
struct document_score {
  double nats = quiet_nan;   ///< minus the log probability of all its tokens; NaN: not computed yet
  std::uint64_t tokens = 0;
  bool greedy = false;       ///< each of its tokens is the most probable one, given the true tokens before it
};

/// Scores ids[from..]: logprob and predicted as in a trace.
document_score score_of(std::span<std::int32_t const> ids, std::span<float const> logprob,
                        std::span<std::int32_t const> predicted, std::size_t from);

struct scored_document {
  std::int64_t document = 0;  ///< its number in the trace
  scored_part const* part = nullptr;
  document_score score;
};

/// Scores of data sets: scores.json, as docs/design/trace-format.md describes it, and a line for each to print.
struct score_report {
  nlohmann::ordered_json json;
  std::vector<std::string> lines;
};
/// `documents` in order of the trace; documents of an example stand in a row.
score_report report_scores(std::vector<data_source> const& sources, std::vector<scored_document> const& documents);

}  // namespace moeroute::capture

#endif

// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_CAPTURE_TOKENIZED_INPUTS_HPP
#define MOEROUTE_CAPTURE_TOKENIZED_INPUTS_HPP

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "family.hpp"
#include "generate.hpp"
#include "inputs.hpp"
#include "session.hpp"
#include "tokenizer.hpp"

namespace moeroute::capture {

/// A document as the model sees it. The text itself is not kept.
struct tokenized {
  std::string id, source;
  std::map<std::string, std::string> labels;
  std::vector<std::int32_t> ids;
  std::optional<scored_part> scored = {};
  std::size_t scored_from = 0;  // token
  std::optional<generated_tokens> generated = {};  ///< these are the last of `ids`

  std::size_t prompt_tokens() const { return ids.size() - (generated ? generated->ids.size() : 0); }
};

struct tokenized_inputs {
  std::vector<tokenized> documents;
  std::uint64_t tokens = 0, truncated = 0, text_bytes = 0;
  std::string sha256;
};

/// Reads the documents that the options name and encodes them; `folder` is that of the tokenizer. Throws format_error with
/// file and place of a document that the model cannot take, resource_error if all of them do not fit into memory.
tokenized_inputs read_inputs(capture_options const& options, tokenizer const& words, std::filesystem::path const& folder,
                             model_spec const& spec);

/// Documents [first, last) that go into one shard, or into one batch.
using range = std::pair<std::size_t, std::size_t>;

/// Consecutive documents, as many as `limit` tokens hold with `more` for each, at least one.
std::vector<range> cut(std::vector<tokenized> const& documents, range whole, std::uint64_t limit, std::uint64_t more);

}  // namespace moeroute::capture

#endif

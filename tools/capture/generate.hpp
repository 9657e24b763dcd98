// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_CAPTURE_GENERATE_HPP
#define MOEROUTE_CAPTURE_GENERATE_HPP

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "model.hpp"

namespace moeroute::capture {

struct generation_options {
  std::uint64_t tokens = 0;  ///< at most, behind every prompt; 0: none
  double temperature = 0;    ///< 0: the most probable token
  double top_p = 1;
  std::uint64_t seed = 0;
  bool skip_special_tokens = false;  ///< in the text; the ids have them all
};

struct prompt {
  std::string id;
  std::span<std::int32_t const> ids;
};

struct generated_tokens {
  std::vector<std::int32_t> ids;
  bool ended = false;  ///< the last one is an end token of the model
};

struct generation {
  std::vector<generated_tokens> documents;
  batch_output rows;  ///< of prompts and generated tokens, document after document
};

/// The ids at which the model stops: eos_token_id of generation_config.json, or else of config.json; one, a list or
/// none. Throws format_error for anything else.
std::vector<std::int32_t> end_tokens(std::filesystem::path const& folder);

/// Goes on from prompts. Every generated token is run through the model, the last one too, so that each has its
/// routing.
///
/// Prompts of similar length go together: prompts times the longest, with the tokens to come, stay within
/// `batch_tokens`, or a prompt goes alone. `go_on` hears how many rows were done and is asked before each pass; false
/// ends it without a result.
std::optional<generation> generate(model const& decoder, generation_options const& options,
                                   std::vector<std::int32_t> const& ends, std::vector<prompt> const& prompts,
                                   std::uint64_t batch_tokens, std::function<bool(std::uint64_t)> const& go_on);

}  // namespace moeroute::capture

#endif

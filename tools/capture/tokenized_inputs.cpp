// SPDX-License-Identifier: Apache-2.0
#include "tokenized_inputs.hpp"

#include <moeroute/core/error.hpp>
#include <moeroute/io/sha256.hpp>

#include <algorithm>
#include <span>
#include <string_view>

#include "model.hpp"
#include "plan.hpp"
#include "scoring.hpp"

namespace moeroute::capture {
namespace {

[[noreturn]] void refuse(std::string const& place, std::string const& what) {
  auto const colon = place.rfind(':');
  throw format_error(place.substr(0, colon), place.substr(colon + 1), what);
}

/// A prompt and what is to follow must fit into the model.
void refuse_too_long(std::string const& place, std::size_t tokens, std::uint64_t more, model_spec const& spec) {
  auto const whole = tokens + more;
  auto const both = "the prompt has " + std::to_string(tokens) + " tokens, with --generate " + std::to_string(more);
  if (whole > static_cast<std::uint64_t>(spec.max_positions))
    refuse(place, both + " that exceeds the model's max_position_embeddings " + std::to_string(spec.max_positions) +
                      "; generate fewer, or cut prompts with --max-tokens");
  auto const bound = static_cast<std::uint64_t>(spec.rope.long_from);
  if (!spec.rope.long_frequencies.empty() && tokens <= bound && whole > bound)
    refuse(place, both + " would pass " + std::to_string(bound) +
                      " tokens, where the model changes its rotation and all keys; generate fewer");
}

}  // namespace

tokenized_inputs read_inputs(capture_options const& options, tokenizer const& words, std::filesystem::path const& folder,
                             model_spec const& spec) {
  auto const longest = options.max_tokens != 0 ? options.max_tokens : static_cast<std::uint64_t>(spec.max_positions);
  auto const more = options.generate.tokens;
  tokenized_inputs out;
  moeroute::sha256 hash;
  auto const add_text = [&hash](std::string const& text) {
    // With its length, so that no two lists of texts can run together to the same bytes.
    std::string const framed = std::to_string(text.size()) + ':' + text;
    hash.update(std::as_bytes(std::span<char const>(framed)));
  };
  auto const memory = free_memory();
  std::uint64_t kept = 0;
  auto const add = [&](document const& d, tokenized&& t) {
    if (t.ids.empty()) {
      if (options.inputs.skip_empty) return;
      refuse(d.place, "the document has no tokens; remove it or use --skip-empty");
    }
    auto const largest = *std::max_element(t.ids.begin(), t.ids.end());
    if (largest >= spec.vocabulary)
      throw format_error(options.inputs.ids_field.empty() ? (folder / "tokenizer.json").string() : d.place,
                         "id " + std::to_string(largest),
                         "is outside the model's vocab_size of " + std::to_string(spec.vocabulary) +
                             "; tokenizer and model do not belong together");
    // A prompt is not cut unasked: what follows would not follow from its end.
    if (t.ids.size() > longest && (more == 0 || options.max_tokens != 0)) {
      t.ids.resize(static_cast<std::size_t>(longest));
      ++out.truncated;
    }
    if (more > 0) refuse_too_long(d.place, t.ids.size(), more, spec);
    auto const dense = static_cast<std::uint64_t>(spec.index_keys);
    if (dense > 0 && t.ids.size() + more > dense)
      refuse(d.place, "the document has " + std::to_string(t.ids.size()) + " tokens" +
                          (more > 0 ? " and may get " + std::to_string(more) + " more" : "") +
                          "; the sparse attention of more than " + std::to_string(dense) +
                          " (index_topk) is not built: use --max-tokens " + std::to_string(dense - std::min(dense, more)));
    add_text(t.id);
    add_text(t.source);
    for (auto const& [key, value] : t.labels) add_text(key), add_text(value);
    add_text("");
    hash.update(std::as_bytes(std::span<std::int32_t const>(t.ids)));
    out.tokens += t.ids.size();
    auto names = t.id.size() + t.source.size();
    for (auto const& [key, value] : t.labels) names += key.size() + value.size();
    out.text_bytes += names;
    kept += sizeof(tokenized) + t.ids.size() * 4 + 2 * names;
    if (memory && kept > *memory)
      throw resource_error(d.place + ": the documents up to here need more memory than is free; use --max-docs");
    out.documents.push_back(std::move(t));
  };
  read_documents(options.inputs, [&](document&& d) {
    out.text_bytes += d.text.size();
    tokenized t{d.id, d.source, d.labels, {}, d.scored};
    if (!d.scored) {
      t.ids = options.inputs.ids_field.empty() ? words.encode(d.text) : std::move(d.ids);
      return add(d, std::move(t));
    }
    bool beheaded = false;
    auto pieces = scored_pieces(d, [&](std::string_view text) { return words.encode(text); },
                                static_cast<std::size_t>(longest), beheaded);
    out.truncated += beheaded ? 1 : 0;
    for (std::size_t i = 0; i < pieces.size(); ++i) {
      auto piece = t;
      if (pieces.size() > 1) piece.id += "/" + std::to_string(i);
      if (i > 0) piece.scored->length = 0;
      piece.ids = std::move(pieces[i].ids);
      piece.scored_from = pieces[i].from;
      add(d, std::move(piece));
    }
  });
  out.sha256 = hash.hex();
  return out;
}

std::vector<range> cut(std::vector<tokenized> const& documents, range whole, std::uint64_t limit, std::uint64_t more) {
  std::vector<range> out;
  std::uint64_t tokens = 0;
  for (auto d = whole.first; d < whole.second; ++d) {
    auto const size = documents[d].ids.size() + more;
    if (out.empty() || tokens + size > limit) {
      out.push_back({d, d});
      tokens = 0;
    }
    out.back().second = d + 1;
    tokens += size;
  }
  return out;
}

}  // namespace moeroute::capture

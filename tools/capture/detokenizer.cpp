// SPDX-License-Identifier: Apache-2.0
#include "detokenizer.hpp"

#include <algorithm>
#include <charconv>
#include <limits>
#include <stdexcept>
#include <string_view>
#include <utility>

#include "utf8.hpp"

namespace moeroute::capture {
namespace {

constexpr std::int64_t largest = std::numeric_limits<std::int32_t>::max();

// Takes what it writes from `room`: a few replacements that each make many of one would fill any memory.
std::string replaced(std::string_view text, std::string_view pattern, std::string_view content, std::size_t& room) {
  std::string out;
  auto const append = [&](std::string_view part) {
    if (part.size() > room) throw std::runtime_error("decoder of tokenizer.json: makes the text more than 64 times as long");
    room -= part.size();
    out.append(part);
  };
  std::size_t last = 0;
  for (auto at = text.find(pattern); at != std::string_view::npos; at = text.find(pattern, last)) {
    append(text.substr(last, at - last));
    append(content);
    last = at + pattern.size();
  }
  append(text.substr(last));
  return out;
}

std::string joined(std::vector<std::string> const& tokens, char const* between) {
  std::string out;
  for (std::size_t i = 0; i < tokens.size(); ++i) out.append(i == 0 ? "" : between).append(tokens[i]);
  return out;
}

// "<0x0A>" is a byte.
bool is_byte(std::string_view token, char& byte) {
  if (token.size() != 6 || !token.starts_with("<0x") || token.back() != '>') return false;
  unsigned value = 0;
  auto const [end, error] = std::from_chars(token.data() + 3, token.data() + 5, value, 16);
  byte = static_cast<char>(value);
  return error == std::errc() && end == token.data() + 5;
}

// Bytes that follow each other are a text if they are UTF-8, else each is one U+FFFD.
std::vector<std::string> with_bytes_joined(std::vector<std::string> const& tokens) {
  std::vector<std::string> out;
  std::string bytes;
  auto const flush = [&] {
    if (find_invalid_utf8(bytes) == std::string::npos)
      out.push_back(bytes);
    else
      out.insert(out.end(), bytes.size(), "\uFFFD");
    bytes.clear();
  };
  for (auto const& token : tokens) {
    if (char byte = 0; is_byte(token, byte)) {
      bytes += byte;
      continue;
    }
    if (!bytes.empty()) flush();
    out.push_back(token);
  }
  if (!bytes.empty()) flush();
  return out;
}

}  // namespace

detokenizer detokenizer::load(std::filesystem::path const& folder) {
  auto const path = folder / "tokenizer.json";
  auto const json = read_json(path);
  json_view const top(json, path.string());
  detokenizer out;
  auto const vocab = top.at("model").at("vocab");
  if (!vocab.raw().is_object()) vocab.refuse("expected an object of token to id");
  for (auto const& [token, value] : vocab.raw().items()) {
    auto const id = json_view(value, path.string(), "model.vocab." + token).integer(0, largest);
    out.tokens_[static_cast<std::int32_t>(id)] = token;
  }
  if (top.has("added_tokens"))
    for (auto const& node : top.at("added_tokens").elements()) {
      auto const& content = node.at("content").string();
      out.tokens_[static_cast<std::int32_t>(node.at("id").integer(0, largest))] = content;
      if (node.has("special") && node.at("special").boolean()) out.special_.insert(content);
    }
  out.joined_by_spaces_ = !top.has("decoder");
  if (top.has("decoder")) out.add(top.at("decoder"));
  return out;
}

void detokenizer::add(json_view const& node) {
  auto const type = node.at("type");
  auto const& name = type.string();
  if (name == "Sequence") {
    for (auto const& inner : node.at("decoders").elements()) add(inner);
  } else if (name == "ByteLevel") {
    steps_.push_back({step::kind::byte_level});
  } else if (name == "ByteFallback") {
    steps_.push_back({step::kind::byte_fallback});
  } else if (name == "Fuse") {
    steps_.push_back({step::kind::fuse});
  } else if (name == "Metaspace") {
    step by{step::kind::metaspace, node.at("replacement").string()};
    // Files from before prepend_scheme have add_prefix_space.
    if (node.has("prepend_scheme"))
      by.marked_start = node.at("prepend_scheme").string() != "never";
    else
      by.marked_start = !node.has("add_prefix_space") || node.at("add_prefix_space").boolean();
    if (by.pattern.empty()) node.at("replacement").refuse("is empty");
    steps_.push_back(std::move(by));
  } else if (name == "Replace") {
    auto const pattern = node.at("pattern");
    if (!pattern.has("String")) pattern.refuse("only \"String\" is built yet");
    if (pattern.at("String").string().empty()) pattern.at("String").refuse("is empty");
    steps_.push_back({step::kind::replace, pattern.at("String").string(), node.at("content").string()});
  } else if (name == "Strip") {
    step by{step::kind::strip, node.at("content").string()};
    if (by.pattern.empty()) node.at("content").refuse("is empty");
    by.start = static_cast<std::size_t>(node.at("start").integer(0, largest));
    by.stop = static_cast<std::size_t>(node.at("stop").integer(0, largest));
    steps_.push_back(std::move(by));
  } else {
    type.refuse("\"" + name +
                "\" is not built yet; known: ByteLevel, Metaspace, ByteFallback, Fuse, Replace, Strip, Sequence");
  }
}

void detokenizer::apply(step const& by, std::size_t room, std::vector<std::string>& tokens) const {
  using kind = step::kind;
  switch (by.what) {
    case kind::byte_level: {
      std::string bytes;
      for (auto const& token : tokens) bytes += alphabet_.bytes(token).value_or(token);
      tokens = {replace_invalid_utf8(bytes)};
      break;
    }
    case kind::metaspace:
      for (std::size_t i = 0; i < tokens.size(); ++i)
        tokens[i] = replaced(tokens[i], by.pattern, i == 0 && by.marked_start ? "" : " ", room);
      break;
    case kind::byte_fallback:
      tokens = with_bytes_joined(tokens);
      break;
    case kind::fuse:
      tokens = {joined(tokens, "")};
      break;
    case kind::replace:
      for (auto& token : tokens) token = replaced(token, by.pattern, by.content, room);
      break;
    case kind::strip:
      for (auto& token : tokens) {
        std::string_view rest = token;
        auto const width = by.pattern.size();
        for (std::size_t n = 0; n < by.start && rest.starts_with(by.pattern); ++n) rest.remove_prefix(width);
        for (std::size_t n = 0; n < by.stop && rest.ends_with(by.pattern); ++n) rest.remove_suffix(width);
        token = std::string(rest);
      }
      break;
  }
}

std::string detokenizer::decode(std::span<std::int32_t const> ids, bool skip_special_tokens) const {
  std::vector<std::string> tokens;
  for (auto const id : ids) {
    auto const found = tokens_.find(id);
    if (found == tokens_.end() || (skip_special_tokens && special_.contains(found->second))) continue;
    tokens.push_back(found->second);
  }
  std::size_t size = 0;
  for (auto const& token : tokens) size += token.size();
  for (auto const& by : steps_) apply(by, 64 * size + 65536, tokens);
  return joined(tokens, joined_by_spaces_ ? " " : "");
}

}  // namespace moeroute::capture

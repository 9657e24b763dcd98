// SPDX-License-Identifier: Apache-2.0
#include "tokenizer.hpp"

#include <algorithm>
#include <iterator>
#include <limits>
#include <optional>
#include <stdexcept>
#include <unordered_map>
#include <utility>

#include "json_view.hpp"
#include "utf8.hpp"

namespace moeroute::capture {

/// Turns the JSON into a tokenizer, one section of the file per function.
class tokenizer_loader {
 public:
  tokenizer load(std::filesystem::path const& folder) {
    auto const json = read_json(folder / "tokenizer.json");
    json_view const top(json, (folder / "tokenizer.json").string());
    if (top.has("pre_tokenizer")) pre_tokenizer(top.at("pre_tokenizer"));
    model(top.at("model"));
    if (top.has("normalizer")) normalizer(top.at("normalizer"));
    if (top.has("added_tokens")) added_tokens(top.at("added_tokens"));
    if (top.has("post_processor")) post_processor(top.at("post_processor"));
    if (std::filesystem::exists(folder / "tokenizer_config.json")) special_tokens(folder / "tokenizer_config.json");
    return std::move(out_);
  }

 private:
  static constexpr std::int64_t largest_id = 4'000'000;  // a bound for untrusted files, far above any vocabulary

  [[noreturn]] static void unknown(json_view const& type, std::string const& known) {
    type.refuse("\"" + type.string() + "\" is not built yet; known: " + known);
  }

  void model(json_view const& model) {
    // Old files leave the type out; then the fields decide, and only BPE has merges.
    if (model.has("type") ? model.at("type").string() != "BPE" : !model.has("merges")) {
      if (model.has("type")) unknown(model.at("type"), "BPE");
      model.refuse("has no \"type\" and no \"merges\"; known: BPE");
    }
    for (char const* key : {"continuing_subword_prefix", "end_of_word_suffix"})
      if (model.has(key) && !model.at(key).string().empty()) model.at(key).refuse("is not built yet; must be empty");
    if (model.has("dropout") && model.at("dropout").number() != 0)
      model.at("dropout").refuse("is for training; must be null or 0");
    bool const fallback = model.has("byte_fallback") && model.at("byte_fallback").boolean();
    if (byte_level_ && fallback) model.at("byte_fallback").refuse("together with ByteLevel is not built yet");
    if (!byte_level_ && !fallback && !model.has("unk_token"))
      model.refuse("has neither \"byte_fallback\" nor \"unk_token\", and there is no ByteLevel pre-tokenizer");

    auto const vocab = model.at("vocab");
    if (!vocab.raw().is_object()) vocab.refuse("expected an object of token to id");
    for (auto const& [token, value] : vocab.raw().items()) {
      auto const id =
          static_cast<std::int32_t>(json_view(value, vocab.file(), "model.vocab." + token).integer(0, largest_id));
      ids_.emplace(token, id);
      if (!byte_level_) {
        if (auto const c = token.empty() ? code_point{} : first_code_point(token); c.length == token.size() && c.length > 0)
          out_.model_.characters.emplace(c.value, id);
        out_.model_.whole.emplace(token, id);
        set_piece(id, unmarked(token));
        continue;
      }
      auto bytes = alphabet_.bytes(token);
      set_piece(id, bytes ? *bytes : token);
      if (bytes) out_.model_.whole.emplace(std::move(*bytes), id);
    }
    if (!byte_level_ && out_.model_.characters.empty()) vocab.refuse("has no token of one character");
    constexpr char const* digits = "0123456789ABCDEF";
    for (unsigned byte = 0; byte < 256; ++byte) {
      std::optional<std::int32_t> id;
      if (byte_level_)
        id = find(alphabet_.character(static_cast<unsigned char>(byte)));
      else if (fallback)
        id = find(std::string("<0x") + digits[byte / 16] + digits[byte % 16] + '>');
      out_.model_.byte_ids[byte] = id.value_or(-1);
      if (id && !byte_level_) set_piece(*id, std::string(1, static_cast<char>(byte)));
    }
    merges(model.at("merges"));
    out_.model_.ignore_merges = model.has("ignore_merges") && model.at("ignore_merges").boolean();
    out_.model_.fuse_unknown = model.has("fuse_unk") && model.at("fuse_unk").boolean();
    if (model.has("unk_token")) out_.model_.unknown = id_of(model.at("unk_token"));
    out_.model_.finish();
  }

  void merges(json_view const& merges) {
    if (!merges.raw().is_array()) merges.refuse("expected an array");
    std::uint32_t rank = 0;
    std::string joined;
    for (auto const& entry : merges.raw()) {
      std::string left, right;
      bool well_formed = false;
      if (entry.is_string()) {
        auto const& text = entry.get_ref<std::string const&>();
        auto const space = text.find(' ');
        well_formed = space != std::string::npos && text.find(' ', space + 1) == std::string::npos;
        if (well_formed) left = text.substr(0, space), right = text.substr(space + 1);
      } else if (entry.is_array() && entry.size() == 2 && entry[0].is_string() && entry[1].is_string()) {
        well_formed = true;
        left = entry[0].get<std::string>(), right = entry[1].get<std::string>();
      }
      json_view const place(entry, merges.file(), "model.merges[" + std::to_string(rank) + ']');
      if (!well_formed) place.refuse("expected \"left right\" or [left, right]");
      auto const a = find(left), b = find(right), ab = find(joined.assign(left).append(right));
      if (!a || !b || !ab) place.refuse("\"" + (!a ? left : !b ? right : joined) + "\" is not in model.vocab");
      out_.model_.add_merge(*a, *b, *ab, rank++);
    }
  }

  void normalizer(json_view const& node) {
    auto const type = node.at("type");
    using kind = tokenizer::replacement::kind;
    constexpr std::pair<std::string_view, normal_form> forms[] = {
        {"NFC", normal_form::nfc}, {"NFD", normal_form::nfd}, {"NFKC", normal_form::nfkc}, {"NFKD", normal_form::nfkd}};
    auto const* form =
        std::find_if(std::begin(forms), std::end(forms), [&](auto const& f) { return f.first == type.string(); });
    if (form != std::end(forms)) {
      out_.normalizer_.push_back({.what = kind::unicode, .form = form->second});
    } else if (type.string() == "Prepend") {
      out_.normalizer_.push_back({.what = kind::prepend, .content = node.at("prepend").string()});
    } else if (type.string() == "Replace") {
      auto const pattern = node.at("pattern");
      if (!pattern.has("String")) pattern.refuse("only \"String\" is built yet");
      if (pattern.at("String").string().empty()) pattern.at("String").refuse("is empty");
      out_.normalizer_.push_back(
          {.what = kind::replace, .pattern = pattern.at("String").string(), .content = node.at("content").string()});
    } else if (type.string() == "Sequence") {
      for (auto const& inner : node.at("normalizers").elements()) normalizer(inner);
    } else {
      unknown(type, "NFC, NFD, NFKC, NFKD, Prepend, Replace, Sequence");
    }
  }

  void pre_tokenizer(json_view const& node) {
    auto const type = node.at("type");
    if (type.string() == "Sequence") {
      for (auto const& inner : node.at("pretokenizers").elements()) pre_tokenizer(inner);
      return;
    }
    if (byte_level_) node.refuse("a pre-tokenizer after ByteLevel is not built yet");
    if (type.string() == "ByteLevel") {
      byte_level_ = true;
      if (node.has("add_prefix_space") && node.at("add_prefix_space").boolean()) {
        if (!out_.pretokenizer_.steps.empty())
          node.at("add_prefix_space").refuse("after another pre-tokenizer is not built yet");
        out_.pretokenizer_.steps.push_back({.what = pretokenizer_step::kind::prefix_space});
      }
      if (!node.has("use_regex") || node.at("use_regex").boolean())
        add_split(node, R"('(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)",
                  split_behavior::isolated, false);
    } else if (type.string() == "Digits") {
      bool const single = node.has("individual_digits") && node.at("individual_digits").boolean();
      add_split(node, single ? R"(\p{N})" : R"(\p{N}+)", split_behavior::isolated, false);
    } else if (type.string() == "Metaspace") {
      metaspace(node);
    } else if (type.string() == "Split") {
      auto const pattern = node.at("pattern");
      auto const behavior = node.at("behavior");
      if (behavior.string() != "Isolated" && behavior.string() != "Removed") unknown(behavior, "Isolated, Removed");
      std::string text;
      if (pattern.has("Regex")) {
        text = pattern.at("Regex").string();
      } else {
        text = escaped(pattern.at("String").string());
      }
      add_split(pattern, text, behavior.string() == "Removed" ? split_behavior::removed : split_behavior::isolated,
                node.has("invert") && node.at("invert").boolean());
    } else {
      unknown(type, "ByteLevel, Split, Digits, Metaspace, Sequence");
    }
  }

  void metaspace(json_view const& node) {
    if (!out_.pretokenizer_.steps.empty()) node.refuse("after another pre-tokenizer is not built yet");
    pretokenizer_step step{.what = pretokenizer_step::kind::metaspace, .mark = node.at("replacement").string()};
    using prefix = pretokenizer_step::prefix;
    if (node.has("prepend_scheme")) {
      auto const scheme = node.at("prepend_scheme");
      if (scheme.string() == "always")
        step.where = prefix::always;
      else if (scheme.string() == "first")
        step.where = prefix::first;
      else if (scheme.string() != "never")
        unknown(scheme, "always, first, never");
    } else {
      // Files from before prepend_scheme.
      step.where = !node.has("add_prefix_space") || node.at("add_prefix_space").boolean() ? prefix::always : prefix::never;
    }
    auto const mark = step.mark;
    out_.pretokenizer_.steps.push_back(std::move(step));
    if (!node.has("split") || node.at("split").boolean())
      add_split(node, escaped(mark), split_behavior::merged_with_next, false);
  }

  static std::string escaped(std::string_view text) {
    std::string out;
    for (char const c : text) {
      if (std::string_view("\\^$.[]|()?*+{}").find(c) != std::string_view::npos) out += '\\';
      out += c;
    }
    return out;
  }

  // A token as its reader wants to see it: SentencePiece writes a space as U+2581.
  static std::string unmarked(std::string_view token) {
    std::string out(token);
    for (auto at = out.find("\u2581"); at != std::string::npos; at = out.find("\u2581", at)) out.replace(at, 3, " ");
    return out;
  }

  void add_split(json_view const& place, std::string const& pattern, split_behavior behavior, bool invert) {
    try {
      out_.pretokenizer_.steps.push_back(
          {.pattern = std::make_shared<regex const>(pattern), .behavior = behavior, .invert = invert});
    } catch (std::invalid_argument const& e) {
      place.refuse(e.what());
    }
  }

  void added_tokens(json_view const& list) {
    for (auto const& node : list.elements()) {
      added_token token;
      token.id = static_cast<std::int32_t>(node.at("id").integer(0, largest_id));
      token.content = node.at("content").string();
      auto const flag = [&](char const* key) { return node.has(key) && node.at(key).boolean(); };
      token.single_word = flag("single_word");
      token.lstrip = flag("lstrip");
      token.rstrip = flag("rstrip");
      token.normalized = flag("normalized");
      ids_.insert_or_assign(token.content, token.id);
      set_piece(token.id, token.content);
      if (token.normalized)
        out_.after_normalizing_.add(token, out_.normalized(token.content));
      else
        out_.before_normalizing_.add(token, token.content);
    }
  }

  void post_processor(json_view const& node) {
    auto const type = node.at("type");
    if (type.string() == "ByteLevel") return;  // offsets only
    if (type.string() == "Sequence") {
      for (auto const& inner : node.at("processors").elements()) post_processor(inner);
      return;
    }
    if (type.string() != "TemplateProcessing") unknown(type, "ByteLevel, TemplateProcessing, Sequence");
    bool before = true;
    auto const special = node.at("special_tokens");
    for (auto const& part : node.at("single").elements()) {
      if (part.has("Sequence")) {
        if (!before) part.refuse("the text twice is not built yet");
        before = false;
        continue;
      }
      for (auto const& id : special.at(part.at("SpecialToken").at("id").string()).at("ids").elements())
        (before ? out_.prefix_ : out_.suffix_).push_back(static_cast<std::int32_t>(id.integer(0, largest_id)));
    }
    if (before) node.at("single").refuse("the template leaves the text out");
    template_ = true;
  }

  // A template in tokenizer.json has the last word; without one these two flags decide, as some families rely on.
  void special_tokens(std::filesystem::path const& path) {
    auto const json = read_json(path);
    json_view const top(json, path.string());
    auto const token = [&](std::string const& flag, std::string const& key, std::vector<std::int32_t>& ids) {
      if (template_ || !top.has(flag) || !top.at(flag).boolean()) return;
      auto const value = top.at(key);
      ids.push_back(id_of(value.raw().is_object() ? value.at("content") : value));
    };
    token("add_bos_token", "bos_token", out_.prefix_);
    token("add_eos_token", "eos_token", out_.suffix_);
  }

  std::optional<std::int32_t> find(std::string const& token) const {
    auto const place = ids_.find(token);
    return place == ids_.end() ? std::nullopt : std::optional(place->second);
  }

  std::int32_t id_of(json_view const& token) const {
    auto const id = find(token.string());
    if (!id) token.refuse("\"" + token.string() + "\" is not in the vocabulary");
    return *id;
  }

  void set_piece(std::int32_t id, std::string_view bytes) {
    auto const at = static_cast<std::size_t>(id);
    if (at >= out_.pieces_.size()) out_.pieces_.resize(at + 1);
    out_.pieces_[at] = replace_invalid_utf8(bytes);
  }

  tokenizer out_;
  byte_alphabet alphabet_;
  std::unordered_map<std::string, std::int32_t> ids_;
  bool byte_level_ = false, template_ = false;
};

tokenizer tokenizer::load(std::filesystem::path const& folder) { return tokenizer_loader().load(folder); }

std::vector<std::int32_t> tokenizer::encode(std::string_view text) const {
  std::vector<std::int32_t> ids = prefix_;
  for (auto const& part : before_normalizing_.split(text)) {
    if (part.id >= 0) {
      ids.push_back(part.id);
      continue;
    }
    // What a normalizer puts before the text belongs to its first piece.
    bool at_start = part.text.data() == text.data();
    auto const rest = normalizer_.empty() ? std::string() : normalized(part.text);
    for (auto const& inner : after_normalizing_.split(normalizer_.empty() ? part.text : std::string_view(rest))) {
      if (inner.id >= 0)
        ids.push_back(inner.id);
      else
        encode_part(inner.text, at_start, ids);
      at_start = false;
    }
  }
  ids.insert(ids.end(), suffix_.begin(), suffix_.end());
  return ids;
}

std::string tokenizer::normalized(std::string_view text) const {
  std::string out(text);
  for (auto const& step : normalizer_) {
    using kind = replacement::kind;
    if (step.what == kind::unicode) {
      out = capture::normalized(out, step.form);
    } else if (step.what == kind::prepend) {
      if (!out.empty()) out.insert(0, step.content);
    } else {
      std::string next;
      std::size_t last = 0;
      for (auto at = out.find(step.pattern); at != std::string::npos; at = out.find(step.pattern, last)) {
        next.append(out, last, at - last).append(step.content);
        last = at + step.pattern.size();
        // A few replacements that each make many of one would fill any memory.
        if (next.size() > 64 * text.size() + 65536)
          throw std::runtime_error("normalizer of tokenizer.json: makes the text more than 64 times as long");
      }
      out = next.append(out, last);
    }
  }
  return out;
}

void tokenizer::encode_part(std::string_view text, bool at_start, std::vector<std::int32_t>& ids) const {
  std::string buffer;
  for (auto const piece : pretokenizer_.split(text, at_start, buffer)) model_.encode(piece, ids);
}

std::string const& tokenizer::piece(std::int32_t id) const {
  static std::string const nothing;
  return id >= 0 && static_cast<std::size_t>(id) < pieces_.size() ? pieces_[static_cast<std::size_t>(id)] : nothing;
}

}  // namespace moeroute::capture

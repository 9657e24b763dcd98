// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_CAPTURE_DETOKENIZER_HPP
#define MOEROUTE_CAPTURE_DETOKENIZER_HPP

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "bpe.hpp"
#include "json_view.hpp"

namespace moeroute::capture {

/// The way back from ids to text that a tokenizer.json describes: the same text as `decode` of Hugging Face tokenizers.
///
/// Built today: the decoders ByteLevel, Metaspace, ByteFallback, Fuse, Replace (of a string), Strip, sequences of them,
/// and none, where tokens are joined by spaces. Anything else is refused on loading with a format_error that names file
/// and key.
class detokenizer {
 public:
  static detokenizer load(std::filesystem::path const& folder);

  /// Always UTF-8; ids that nobody knows give nothing. Throws std::runtime_error for replacements that make far more of
  /// the text than it was.
  std::string decode(std::span<std::int32_t const> ids, bool skip_special_tokens) const;

 private:
  struct step {
    enum class kind { byte_level, metaspace, byte_fallback, fuse, replace, strip };
    kind what;
    std::string pattern = {}, content = {};  // metaspace: the mark is `pattern`; strip: the character
    bool marked_start = false;               // metaspace: marks of the first token stand for nothing
    std::size_t start = 0, stop = 0;         // strip: so many at most
  };

  void add(json_view const& node);
  void apply(step const& by, std::size_t room, std::vector<std::string>& tokens) const;

  std::unordered_map<std::int32_t, std::string> tokens_;
  std::unordered_set<std::string> special_;
  std::vector<step> steps_;
  bool joined_by_spaces_ = true;
  byte_alphabet alphabet_;
};

}  // namespace moeroute::capture

#endif

// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_CAPTURE_TOKENIZER_HPP
#define MOEROUTE_CAPTURE_TOKENIZER_HPP

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "added_tokens.hpp"
#include "bpe.hpp"
#include "normal_form.hpp"
#include "pretokenizer.hpp"

namespace moeroute::capture {

/// The tokenizer that a tokenizer.json describes: the same ids as Hugging Face tokenizers.
///
/// Built today: byte-level BPE, and SentencePiece's BPE over characters with byte fallback; the normalizers NFC, NFD,
/// NFKC, NFKD, Prepend and Replace; the pre-tokenizers ByteLevel, Split, Digits, Metaspace, or none. Anything else in
/// the file is refused on loading with a format_error that names file and key.
class tokenizer {
 public:
  /// Reads tokenizer.json in `folder`, and tokenizer_config.json beside it for add_bos_token and add_eos_token.
  static tokenizer load(std::filesystem::path const& folder);

  /// Ids of a text, which must be UTF-8; special tokens that the files ask for are put around it. It remembers words that
  /// it has seen: one thread at a time.
  std::vector<std::int32_t> encode(std::string_view text) const;

  /// The text a token stands for, as UTF-8; bytes that are not whole characters show as U+FFFD. Empty for unknown ids.
  std::string const& piece(std::int32_t id) const;

  std::vector<std::int32_t> const& prefix() const { return prefix_; }
  std::vector<std::int32_t> const& suffix() const { return suffix_; }
  std::int32_t largest_id() const { return static_cast<std::int32_t>(pieces_.size()) - 1; }

 private:
  friend class tokenizer_loader;

  struct replacement {
    enum class kind { unicode, prepend, replace };
    kind what;
    normal_form form = normal_form::nfc;  // of unicode
    std::string pattern = {}, content = {};
  };

  std::string normalized(std::string_view text) const;
  void encode_part(std::string_view text, bool at_start, std::vector<std::int32_t>& ids) const;

  std::vector<replacement> normalizer_;
  added_token_finder before_normalizing_, after_normalizing_;
  pretokenizer pretokenizer_;
  bpe model_;
  std::vector<std::int32_t> prefix_, suffix_;
  std::vector<std::string> pieces_;
};

}  // namespace moeroute::capture

#endif

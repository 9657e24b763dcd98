// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_CAPTURE_BPE_HPP
#define MOEROUTE_CAPTURE_BPE_HPP

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace moeroute::capture {

struct string_hash {
  using is_transparent = void;
  std::size_t operator()(std::string_view text) const noexcept { return std::hash<std::string_view>{}(text); }
};
using vocabulary = std::unordered_map<std::string, std::int32_t, string_hash, std::equal_to<>>;

/// The printable characters that stand for bytes in the files of byte-level tokenizers.
class byte_alphabet {
 public:
  byte_alphabet();

  std::string const& character(unsigned char byte) const { return characters_[byte]; }
  /// The bytes that a vocabulary entry stands for; none if a character of it is not of the alphabet.
  std::optional<std::string> bytes(std::string_view token) const;

 private:
  std::array<std::string, 256> characters_;
  std::unordered_map<char32_t, unsigned char> bytes_;
};

/// Byte-pair encoding of one piece of text: the lowest rank first, of equal ranks the leftmost.
class bpe {
 public:
  bool ignore_merges = false;  ///< a piece that is a token stays whole
  bool fuse_unknown = false;   ///< neighbouring unknown bytes become one token
  std::int32_t unknown = -1;   ///< token of what the vocabulary lacks; -1: it gives no token
  std::array<std::int32_t, 256> byte_ids{};  ///< -1: none
  /// Empty: the alphabet is the bytes. Otherwise it is these characters, and `byte_ids` are for the bytes of all others
  /// ("byte fallback"), used if every byte of the character has one.
  vocabulary characters;
  vocabulary whole;  ///< byte strings of all tokens; needed for ignore_merges

  void add_merge(std::int32_t left, std::int32_t right, std::int32_t merged, std::uint32_t rank);

  /// Appends the ids of the piece; O(n log n). Returns how many symbols gave no token.
  std::size_t encode(std::string_view piece, std::vector<std::int32_t>& ids) const;

 private:
  struct merge {
    std::uint32_t rank;
    std::int32_t id;
  };
  merge const* find(std::int32_t left, std::int32_t right) const;
  // Ids of the next symbols of the text, at most one character; -1 for what the vocabulary lacks. Shortens the text.
  void first_symbols(std::string_view& text, std::vector<std::int32_t>& ids) const;

  std::unordered_map<std::uint64_t, merge> merges_;
};

}  // namespace moeroute::capture

#endif

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

/// Pairs of ids, which are never negative, in one flat table: nearly every look-up finds nothing and must be quick at it.
class pair_table {
 public:
  struct entry {
    std::uint64_t pair = ~std::uint64_t{0};  // none
    std::uint32_t rank = 0;
    std::int32_t id = 0;
    std::int32_t left() const { return static_cast<std::int32_t>(pair >> 32); }
    std::int32_t right() const { return static_cast<std::int32_t>(pair & 0xFFFFFFFFu); }
  };

  void set(std::int32_t left, std::int32_t right, std::uint32_t rank, std::int32_t id);
  entry const* find(std::int32_t left, std::int32_t right) const {
    auto const& e = entries_[place(key(left, right))];
    return e.pair == ~std::uint64_t{0} ? nullptr : &e;
  }
  /// Every place of the table; those without a pair have `rank` and `id` 0 and a pair of negative ids.
  std::vector<entry> const& entries() const { return entries_; }

 private:
  static std::uint64_t key(std::int32_t left, std::int32_t right) {
    return (static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32) | static_cast<std::uint32_t>(right);
  }
  // Where the pair is, or the empty place where it would be.
  std::size_t place(std::uint64_t pair) const {
    auto at = static_cast<std::size_t>(pair * 0x9E3779B97F4A7C15u >> shift_);
    while (entries_[at].pair != pair && entries_[at].pair != ~std::uint64_t{0}) at = (at + 1) & (entries_.size() - 1);
    return at;
  }

  std::vector<entry> entries_ = std::vector<entry>(16);
  unsigned shift_ = 60;
  std::size_t count_ = 0;
};

/// Ids of short pieces that came before; of two that fall on the same place the later one stays.
class piece_cache {
 public:
  static constexpr std::size_t longest = 30, most_ids = 7;
  struct entry {
    std::array<char, longest> text{};
    std::uint8_t length = 0, count = 0;  // length 0: empty
    std::array<std::int32_t, most_ids> ids{};
  };

  /// The place of a piece of 1 to `longest` bytes, which may be taken by another.
  entry& at(std::string_view piece);
  static bool holds(entry const& e, std::string_view piece) {
    return std::string_view(e.text.data(), e.length) == piece;
  }

 private:
  std::vector<entry> entries_;
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
  std::unordered_map<char32_t, std::int32_t> characters;
  vocabulary whole;  ///< byte strings of all tokens; needed for ignore_merges

  void add_merge(std::int32_t left, std::int32_t right, std::int32_t merged, std::uint32_t rank);
  /// To be called once, when all of the above is there.
  void finish();

  /// Appends the ids of the piece; O(n log n). Remembers pieces, so one thread at a time.
  void encode(std::string_view piece, std::vector<std::int32_t>& ids) const;

 private:
  struct symbol {
    std::int32_t id;
    std::ptrdiff_t previous, next;  // -1 at the ends
    bool alive;
  };

  std::int32_t character(char32_t c) const {
    return c < by_code_point_.size() ? by_code_point_[c] : -1;
  }
  // The first symbol of the text if the alphabet has it, or -1, and its length.
  std::pair<std::int32_t, std::size_t> first_symbol(std::string_view text) const;
  void add_symbols(std::string_view piece) const;
  void remembered(std::string_view piece, std::vector<std::int32_t>& ids) const;
  void merged(std::string_view piece, std::vector<std::int32_t>& ids) const;
  void merge_few() const;
  void merge_many(std::vector<std::int32_t>& ids) const;

  pair_table merges_;
  // Pairs of symbols that some merge joins: its left token ends in the first, its right token begins with the second. Text
  // can be cut between all others.
  pair_table joints_;
  bool cuts_ = false;
  std::vector<std::int32_t> by_code_point_;
  mutable piece_cache cache_;
  mutable std::vector<std::int32_t> few_;       // symbols of the piece at hand
  mutable std::vector<std::uint32_t> ranks_;    // of each with the next
};

}  // namespace moeroute::capture

#endif

// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_CAPTURE_ADDED_TOKENS_HPP
#define MOEROUTE_CAPTURE_ADDED_TOKENS_HPP

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace moeroute::capture {

/// A token that is looked for in the text itself, before the model sees it.
struct added_token {
  std::int32_t id = 0;
  std::string content;
  bool single_word = false, lstrip = false, rstrip = false, normalized = false, special = false;
};

/// Finds added tokens in a text: leftmost first, the longest of those that begin there.
class added_token_finder {
 public:
  /// A stretch of text, or an added token where id >= 0.
  struct part {
    std::string_view text;
    std::int32_t id;
  };

  /// `content` is what is searched for; it may differ from token.content by normalisation.
  void add(added_token const& token, std::string_view content);

  std::vector<part> split(std::string_view text) const;

 private:
  static constexpr std::size_t none = static_cast<std::size_t>(-1);

  struct node {
    std::map<unsigned char, std::size_t> next;
    std::size_t token = none;
  };

  std::vector<added_token> tokens_;
  std::vector<node> trie_{1};
  std::array<bool, 256> begins_{};  // bytes that tokens begin with: most places of a text are passed by this alone
};

}  // namespace moeroute::capture

#endif

// SPDX-License-Identifier: Apache-2.0
#include "added_tokens.hpp"

#include <algorithm>

#include <utf8proc.h>

#include "utf8.hpp"

namespace moeroute::capture {
namespace {

// Unicode White_Space, and word characters in the sense of Unicode's regular expressions (Alphabetic is taken as
// letters, marks and letter numbers), for lstrip, rstrip and single_word.
bool is_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

bool is_word(char32_t c) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:
      // Join controls, and the circled letters, which are symbols but alphabetic.
      return c == 0x200C || c == 0x200D || (c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) ||
             (c >= 0x1F150 && c <= 0x1F169) || (c >= 0x1F170 && c <= 0x1F189);
  }
}

code_point last_code_point(std::string_view text) {
  std::size_t at = text.size() - 1;
  while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0u) == 0x80u) --at;
  return first_code_point(text.substr(at));
}

}  // namespace

void added_token_finder::add(added_token const& token, std::string_view content) {
  if (content.empty()) return;
  begins_[static_cast<unsigned char>(content.front())] = true;
  std::size_t at = 0;
  for (char const c : content) {
    auto const [place, fresh] = trie_[at].next.try_emplace(static_cast<unsigned char>(c), trie_.size());
    at = place->second;
    if (fresh) trie_.emplace_back();
  }
  trie_[at].token = tokens_.size();
  tokens_.push_back(token);
}

std::vector<added_token_finder::part> added_token_finder::split(std::string_view text) const {
  std::vector<part> parts;
  std::size_t done = 0;  // everything before it is in `parts`
  for (std::size_t at = 0; at < text.size();) {
    if (!begins_[static_cast<unsigned char>(text[at])]) {
      ++at;
      continue;
    }
    std::size_t node_at = 0, found = none, end = at;
    for (std::size_t i = at; i < text.size(); ++i) {
      auto const& next = trie_[node_at].next;
      auto const place = next.find(static_cast<unsigned char>(text[i]));
      if (place == next.end()) break;
      node_at = place->second;
      if (trie_[node_at].token != none) {
        found = trie_[node_at].token;
        end = i + 1;
      }
    }
    if (found == none) {
      ++at;
      continue;
    }
    added_token const& token = tokens_[found];
    std::size_t begin = at;
    at = end;
    if (token.single_word && ((begin > 0 && is_word(last_code_point(text.substr(0, begin)).value)) ||
                              (end < text.size() && is_word(first_code_point(text.substr(end)).value))))
      continue;
    if (token.lstrip) {
      while (begin > done) {
        code_point const c = last_code_point(text.substr(0, begin));
        if (!is_space(c.value)) break;
        begin -= c.length;
      }
      begin = std::max(begin, done);
    }
    if (token.rstrip) {
      while (end < text.size()) {
        code_point const c = first_code_point(text.substr(end));
        if (!is_space(c.value)) break;
        end += c.length;
      }
    }
    // Spaces that rstrip took may hold the next match; the search goes on behind the token, not behind the spaces.
    if (done < begin) parts.push_back({text.substr(done, begin - done), -1});
    parts.push_back({text.substr(begin, end > begin ? end - begin : 0), token.id});
    done = end;
  }
  if (done < text.size()) parts.push_back({text.substr(done), -1});
  return parts;
}

}  // namespace moeroute::capture

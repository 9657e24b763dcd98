// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_CAPTURE_PRETOKENIZER_HPP
#define MOEROUTE_CAPTURE_PRETOKENIZER_HPP

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace moeroute::capture {

/// A regular expression of a tokenizer.json (Oniguruma's dialect), run by PCRE2.
///
/// Constructs that the two dialects read differently are rewritten (white space, scripts) or refused with
/// std::invalid_argument, never passed through.
class regex {
 public:
  explicit regex(std::string_view pattern);

  /// Non-empty matches from left to right, as (begin, end).
  std::vector<std::pair<std::size_t, std::size_t>> matches(std::string_view text) const;

 private:
  struct state;
  std::shared_ptr<state const> state_;
};

/// The pattern as PCRE2 reads it.
std::string pcre2_dialect(std::string_view pattern);

/// What becomes of a match and of the text between matches.
enum class split_behavior { isolated, removed };

/// One step of a pre-tokenizer: cuts every piece by a regular expression, or puts a space before it.
struct pretokenizer_step {
  enum class kind { split, prefix_space };
  kind what;
  std::shared_ptr<regex const> pattern;
  split_behavior behavior;
  bool invert;
};

/// The pieces of one stretch of text. `buffer` keeps text that the steps made and must outlive the views.
class pretokenizer {
 public:
  std::vector<pretokenizer_step> steps;

  std::vector<std::string_view> split(std::string_view text, std::string& buffer) const;
};

}  // namespace moeroute::capture

#endif

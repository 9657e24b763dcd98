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

  /// Non-empty matches from left to right, as (begin, end), in place of what `found` held.
  void find(std::string_view text, std::vector<std::pair<std::size_t, std::size_t>>& found) const;

 private:
  struct state;
  std::shared_ptr<state const> state_;
};

/// The pattern as PCRE2 reads it.
std::string pcre2_dialect(std::string_view pattern);

/// What becomes of a match and of the text between matches.
enum class split_behavior { isolated, removed, merged_with_next };

/// One step of a pre-tokenizer.
struct pretokenizer_step {
  enum class kind {
    split,         ///< cuts every piece by a regular expression
    prefix_space,  ///< puts a space before the first piece if it has none
    metaspace      ///< spaces become `mark`, which is put before the piece too if it has none there
  };
  enum class prefix { never, first, always };  ///< of a metaspace: first = at the beginning of the text only
  kind what = kind::split;
  std::shared_ptr<regex const> pattern = {};
  split_behavior behavior = split_behavior::isolated;
  bool invert = false;
  std::string mark = {};
  prefix where = prefix::never;
};

/// The pieces of one stretch of text. `buffer` keeps text that the steps made and must outlive the views.
class pretokenizer {
 public:
  std::vector<pretokenizer_step> steps;

  /// `at_start`: the stretch is the beginning of the whole text.
  std::vector<std::string_view> split(std::string_view text, bool at_start, std::string& buffer) const;
};

}  // namespace moeroute::capture

#endif

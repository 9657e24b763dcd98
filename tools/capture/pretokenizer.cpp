// SPDX-License-Identifier: Apache-2.0
#include "pretokenizer.hpp"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <array>
#include <stdexcept>

#include <pcre2.h>

namespace moeroute::capture {
namespace {

// White space as Oniguruma sees it. PCRE2's own \s would add U+180E.
constexpr std::string_view white_space =
    R"(\t\n\x0B\f\r \x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000})";

[[noreturn]] void refuse(std::string_view pattern, std::string const& why) {
  throw std::invalid_argument("regular expression " + std::string(pattern) + ": " + why);
}

std::string pcre2_message(int code) {
  std::array<PCRE2_UCHAR, 256> text{};
  pcre2_get_error_message(code, text.data(), text.size());
  return reinterpret_cast<char const*>(text.data());
}

// Reads \p{..} or \P{..}, with `at` on the letter; moves `at` past it. Names of more than two letters are scripts,
// which PCRE2 would match by script extensions unless told otherwise.
std::string property(std::string_view pattern, std::size_t& at) {
  char const letter = pattern[at];
  if (at + 1 >= pattern.size() || pattern[at + 1] != '{') refuse(pattern, "\\p without braces is not supported");
  std::size_t const close = pattern.find('}', at);
  if (close == std::string_view::npos) refuse(pattern, "\\p{ is not closed");
  std::string name(pattern.substr(at + 2, close - at - 2));
  at = close + 1;
  std::string out{'\\', letter, '{'};
  if (!name.empty() && name.front() == '^') {
    out += '^';
    name.erase(0, 1);
  }
  return out + (name.size() > 2 ? "sc:" : "") + name + '}';
}

}  // namespace

std::string pcre2_dialect(std::string_view pattern) {
  std::string out;
  bool in_class = false;
  for (std::size_t i = 0; i < pattern.size();) {
    char const c = pattern[i];
    if (c == '\\') {
      if (++i == pattern.size()) refuse(pattern, "ends in a backslash");
      char const e = pattern[i];
      if (e == 's') {
        out += in_class ? std::string(white_space) : '[' + std::string(white_space) + ']';
        ++i;
      } else if (e == 'S') {
        if (in_class) refuse(pattern, "\\S inside a character class is not supported");
        out += "[^" + std::string(white_space) + ']';
        ++i;
      } else if (e == 'p' || e == 'P') {
        out += property(pattern, i);
      } else {
        bool const letter_or_digit = (e >= 'a' && e <= 'z') || (e >= 'A' && e <= 'Z') || (e >= '0' && e <= '9');
        if (letter_or_digit && std::string_view("rntfd").find(e) == std::string_view::npos)
          refuse(pattern, std::string("\\") + e + " is not supported");
        out += '\\';
        out += e;
        ++i;
      }
      continue;
    }
    if (in_class) {
      if (c == '[') refuse(pattern, "a class inside a class is not supported");
      if (pattern.substr(i, 2) == "&&") refuse(pattern, "&& inside a character class is not supported");
      in_class = c != ']';
    } else {
      in_class = c == '[';
    }
    out += c;
    ++i;
    if (c == '[' && i < pattern.size() && pattern[i] == '^') out += pattern[i++];
  }
  return out;
}

struct regex::state {
  std::string pattern;
  pcre2_code* code = nullptr;
  bool compiled = false;  // to machine code

  ~state() { pcre2_code_free(code); }
  state() = default;
  state(state const&) = delete;
  state& operator=(state const&) = delete;
};

regex::regex(std::string_view pattern) {
  auto built = std::make_shared<state>();
  built->pattern = pattern;
  std::string const text = pcre2_dialect(pattern);
  int error = 0;
  PCRE2_SIZE offset = 0;
  // Oniguruma's ^ and $ always mean lines.
  built->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(),
                              PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE, &error, &offset, nullptr);
  if (built->code == nullptr) refuse(pattern, pcre2_message(error));
  // Where there is no JIT the interpreter gives the same matches.
  built->compiled = pcre2_jit_compile(built->code, PCRE2_JIT_COMPLETE) == 0;
  state_ = std::move(built);
}

void regex::find(std::string_view text, std::vector<std::pair<std::size_t, std::size_t>>& found) const {
  struct match_memory {
    pcre2_match_data* data = pcre2_match_data_create(1, nullptr);
    ~match_memory() { pcre2_match_data_free(data); }
  };
  thread_local match_memory const memory;
  found.clear();
  for (std::size_t at = 0; at < text.size();) {
    // The text is checked once, by the caller; a check per match would make long lines quadratic.
    auto const subject = reinterpret_cast<PCRE2_SPTR>(text.data());
    int code = state_->compiled ? pcre2_jit_match(state_->code, subject, text.size(), at, 0, memory.data, nullptr)
                                : PCRE2_ERROR_JIT_STACKLIMIT;
    if (code == PCRE2_ERROR_JIT_STACKLIMIT)
      code =
          pcre2_match(state_->code, subject, text.size(), at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, memory.data, nullptr);
    if (code == PCRE2_ERROR_NOMATCH) break;
    if (code < 0) throw std::runtime_error("regular expression " + state_->pattern + ": " + pcre2_message(code));
    PCRE2_SIZE const* range = pcre2_get_ovector_pointer(memory.data);
    if (range[1] > range[0]) {
      found.emplace_back(range[0], range[1]);
      at = range[1];
    } else {
      at = range[1] + 1;
      while (at < text.size() && (static_cast<unsigned char>(text[at]) & 0xC0u) == 0x80u) ++at;
    }
  }
}

std::vector<std::string_view> pretokenizer::split(std::string_view text, bool at_start, std::string& buffer) const {
  std::vector<std::string_view> pieces{text}, next;
  std::vector<std::pair<std::size_t, std::size_t>> found;
  for (auto const& step : steps) {
    if (step.what == pretokenizer_step::kind::prefix_space) {
      // One piece at most reaches this step (the loader sees to it), so one buffer is enough.
      if (!pieces.empty() && !pieces[0].empty() && pieces[0].front() != ' ') {
        buffer = ' ' + std::string(pieces[0]);
        pieces[0] = buffer;
      }
      continue;
    }
    if (step.what == pretokenizer_step::kind::metaspace) {
      // Here too: the loader lets nothing cut the text before this step.
      if (pieces.empty() || pieces[0].empty()) continue;
      std::string marked;
      for (char const c : pieces[0]) {
        if (c == ' ')
          marked += step.mark;
        else
          marked += c;
      }
      using prefix = pretokenizer_step::prefix;
      if (!marked.starts_with(step.mark) && (step.where == prefix::always || (step.where == prefix::first && at_start)))
        marked.insert(0, step.mark);
      buffer = std::move(marked);
      pieces[0] = buffer;
      continue;
    }
    next.clear();
    next.reserve(pieces.size());
    for (std::string_view const piece : pieces) {
      auto const keep = [&](std::size_t begin, std::size_t end, bool matched) {
        bool const removed = step.behavior == split_behavior::removed && matched != step.invert;
        if (end > begin && !removed) next.push_back(piece.substr(begin, end - begin));
      };
      std::size_t last = 0;
      step.pattern->find(piece, found);
      for (auto const& [begin, end] : found) {
        keep(last, begin, false);
        last = begin;  // a match that is merged with what follows it is kept then
        if (step.behavior == split_behavior::merged_with_next) continue;
        keep(begin, end, true);
        last = end;
      }
      keep(last, piece.size(), false);
    }
    std::swap(pieces, next);
  }
  return pieces;
}

}  // namespace moeroute::capture

// SPDX-License-Identifier: Apache-2.0
#include "normal_form.hpp"

#include <algorithm>
#include <array>
#include <bitset>
#include <cstddef>
#include <iterator>
#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

#include <utf8proc.h>

#include "utf8.hpp"

namespace moeroute::capture {
namespace {

utf8proc_propval_t combining_class(utf8proc_int32_t c) { return utf8proc_get_property(c)->combining_class; }

// Marks, one letter pair and characters with a compatibility decomposition, of Unicode 10 to 15. The normaliser inside
// Hugging Face tokenizers has the data of Unicode 9, for which these are unassigned: it neither moves nor joins nor
// replaces them, and neither may we, or ids would differ.
constexpr std::pair<utf8proc_int32_t, utf8proc_int32_t> unknown_to_reference[] = {
    {0x7FD, 0x7FD}, {0x898, 0x89F}, {0x8CA, 0x8D3}, {0x9FE, 0x9FE}, {0xC3C, 0xC3C}, {0xD3B, 0xD3C}, {0xEBA, 0xEBA},
    {0x1715, 0x1715}, {0x1ABF, 0x1ACE}, {0x1DF6, 0x1DFA}, {0x32FF, 0x32FF}, {0xA7F2, 0xA7F4}, {0xA82C, 0xA82C},
    {0xAB69, 0xAB69}, {0x10781, 0x10785}, {0x10787, 0x107B0}, {0x107B2, 0x107BA}, {0x10D24, 0x10D27},
    {0x10EAB, 0x10EAC}, {0x10EFD, 0x10EFF}, {0x10F46, 0x10F50}, {0x10F82, 0x10F85}, {0x11070, 0x11070},
    {0x1133B, 0x1133B}, {0x1145E, 0x1145E}, {0x11839, 0x1183A}, {0x11930, 0x11930}, {0x11938, 0x11938},
    {0x1193D, 0x1193E}, {0x11943, 0x11943}, {0x119E0, 0x119E0}, {0x11A34, 0x11A34}, {0x11A47, 0x11A47},
    {0x11A99, 0x11A99}, {0x11D42, 0x11D42}, {0x11D44, 0x11D45}, {0x11D97, 0x11D97}, {0x11F41, 0x11F42},
    {0x16FF0, 0x16FF1}, {0x1E030, 0x1E06D}, {0x1E08F, 0x1E08F}, {0x1E130, 0x1E136}, {0x1E2AE, 0x1E2AE},
    {0x1E2EC, 0x1E2EF}, {0x1E4EC, 0x1E4EF}, {0x1F16C, 0x1F16C}, {0x1FBF0, 0x1FBF9}};

bool is_unknown_to_reference(char32_t value) {
  auto const c = static_cast<utf8proc_int32_t>(value);
  auto const* range = std::upper_bound(std::begin(unknown_to_reference), std::end(unknown_to_reference), c,
                                       [](utf8proc_int32_t v, auto const& r) { return v < r.first; });
  return range != std::begin(unknown_to_reference) && c <= std::prev(range)->second;
}

// Canonical ordering. utf8proc's own bubbles marks into place, which a text of nothing but marks makes quadratic.
void order_marks(std::vector<utf8proc_int32_t>& points) {
  for (std::size_t i = 0; i < points.size();) {
    if (combining_class(points[i]) == 0) {
      ++i;
      continue;
    }
    std::size_t end = i + 1;
    while (end < points.size() && combining_class(points[end]) != 0) ++end;
    std::stable_sort(points.begin() + static_cast<std::ptrdiff_t>(i), points.begin() + static_cast<std::ptrdiff_t>(end),
                     [](auto a, auto b) { return combining_class(a) < combining_class(b); });
    i = end;
  }
}

bool composes(normal_form form) { return form == normal_form::nfc || form == normal_form::nfkc; }

utf8proc_option_t options_of(normal_form form) {
  bool const compatible = form == normal_form::nfkc || form == normal_form::nfkd;
  return static_cast<utf8proc_option_t>(UTF8PROC_DECOMPOSE | (compatible ? UTF8PROC_COMPAT : 0));
}

// The full decomposition of a code point; 18 are the longest there is.
struct decomposition {
  std::array<utf8proc_int32_t, 32> points{};
  std::size_t size = 0;
};
decomposition decomposed(utf8proc_int32_t c, normal_form form) {
  decomposition out;
  int boundary = 0;
  auto const n = utf8proc_decompose_char(c, out.points.data(), static_cast<utf8proc_ssize_t>(out.points.size()),
                                         options_of(form), &boundary);
  if (n < 0 || n > static_cast<utf8proc_ssize_t>(out.points.size())) throw std::runtime_error("normalisation: utf8proc failed");
  out.size = static_cast<std::size_t>(n);
  return out;
}

// Orders and composes the decomposed code points, appends them to the text and clears them.
void flush(std::vector<utf8proc_int32_t>& points, std::string& out, normal_form form) {
  order_marks(points);
  auto n = static_cast<utf8proc_ssize_t>(points.size());
  if (composes(form))
    n = utf8proc_normalize_utf32(points.data(), n, static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  if (n < 0) throw std::runtime_error(std::string("normalisation: ") + utf8proc_errmsg(n));
  for (std::size_t i = 0; i < static_cast<std::size_t>(n); ++i) append_utf8(out, static_cast<char32_t>(points[i]));
  points.clear();
}

void append_normalized(std::string& out, std::string_view text, normal_form form) {
  std::vector<utf8proc_int32_t> points;
  points.reserve(text.size());
  for (std::size_t i = 0; i < text.size();) {
    code_point const c = first_code_point(text.substr(i));
    i += c.length;
    if (is_unknown_to_reference(c.value)) {
      flush(points, out, form);
      append_utf8(out, c.value);
      continue;
    }
    auto const parts = decomposed(static_cast<utf8proc_int32_t>(c.value), form);
    points.insert(points.end(), parts.points.begin(), parts.points.begin() + static_cast<std::ptrdiff_t>(parts.size));
  }
  flush(points, out, form);
}

// Code points that are themselves in NFC, wherever they stand, and separate what is before them from what is behind: they
// have no decomposition but one that composes again, are no marks, and are the second half of no composition.
class stable_points {
 public:
  stable_points() {
    stable_.set();
    // Beyond are ideographs without decomposition, and nothing.
    for (utf8proc_int32_t c = 0; c < 0x30000; ++c) {
      auto const parts = decomposed(c, normal_form::nfc);
      auto again = parts.points;
      auto const n = parts.size == 1 ? 1
                                     : utf8proc_normalize_utf32(again.data(), static_cast<utf8proc_ssize_t>(parts.size),
                                                                static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
      if (n != 1 || again[0] != c || combining_class(c) != 0 || is_unknown_to_reference(static_cast<char32_t>(c)))
        stable_.reset(static_cast<std::size_t>(c));
      for (std::size_t i = 1; i < parts.size; ++i) stable_.reset(static_cast<std::size_t>(parts.points[i]));
    }
  }
  bool operator()(char32_t c) const { return c >= stable_.size() || stable_.test(c); }

 private:
  std::bitset<0x30000> stable_;
};

}  // namespace

std::string normalized(std::string_view text, normal_form form) {
  static auto const stable = std::make_unique<stable_points const>();
  std::string out;
  out.reserve(text.size());
  // Stretches of stable code points are copied; the last before others goes with those, a mark may follow it. ASCII is
  // stable in all forms.
  std::size_t copied = 0, last = 0;  // end of what is in `out`; beginning of the last stable code point
  for (std::size_t i = 0; i < text.size();) {
    auto const is_stable = [&](std::size_t at, std::size_t& length) {
      length = 1;
      if (static_cast<unsigned char>(text[at]) < 0x80) return true;
      code_point const c = first_code_point(text.substr(at));
      if (c.length == 0) throw std::invalid_argument("normalisation: text is not UTF-8");
      length = c.length;
      return form == normal_form::nfc && (*stable)(c.value);
    };
    std::size_t length = 0;
    if (is_stable(i, length)) {
      last = i;
      i += length;
      continue;
    }
    std::size_t const begin = i > copied ? last : i;
    std::size_t end = i + length;
    while (end < text.size() && !is_stable(end, length)) end += length;
    out.append(text.substr(copied, begin - copied));
    append_normalized(out, text.substr(begin, end - begin), form);
    copied = i = end;
  }
  out.append(text.substr(copied));
  return out;
}

}  // namespace moeroute::capture

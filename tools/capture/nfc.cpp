// SPDX-License-Identifier: Apache-2.0
#include "nfc.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <iterator>
#include <stdexcept>
#include <utility>
#include <vector>

#include <utf8proc.h>

#include "utf8.hpp"

namespace moeroute::capture {
namespace {

utf8proc_propval_t combining_class(utf8proc_int32_t c) { return utf8proc_get_property(c)->combining_class; }

// Marks (and one letter pair) of Unicode 10 to 14. The normaliser inside Hugging Face tokenizers has the data of
// Unicode 9, for which these are unassigned: it neither moves nor joins them, and neither may we, or ids would differ.
constexpr std::pair<utf8proc_int32_t, utf8proc_int32_t> unknown_to_reference[] = {
    {0x7FD, 0x7FD},     {0x898, 0x89F},     {0x8CA, 0x8D3},     {0x9FE, 0x9FE},     {0xC3C, 0xC3C},
    {0xD3B, 0xD3C},     {0xEBA, 0xEBA},     {0x1715, 0x1715},   {0x1ABF, 0x1ACE},   {0x1DF6, 0x1DFA},
    {0xA82C, 0xA82C},   {0x10D24, 0x10D27}, {0x10EAB, 0x10EAC}, {0x10F46, 0x10F50}, {0x10F82, 0x10F85},
    {0x11070, 0x11070}, {0x1133B, 0x1133B}, {0x1145E, 0x1145E}, {0x11839, 0x1183A}, {0x11930, 0x11930},
    {0x11938, 0x11938}, {0x1193D, 0x1193E}, {0x11943, 0x11943}, {0x119E0, 0x119E0}, {0x11A34, 0x11A34},
    {0x11A47, 0x11A47}, {0x11A99, 0x11A99}, {0x11D42, 0x11D42}, {0x11D44, 0x11D45}, {0x11D97, 0x11D97},
    {0x16FF0, 0x16FF1}, {0x1E130, 0x1E136}, {0x1E2AE, 0x1E2AE}, {0x1E2EC, 0x1E2EF}};

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

// Orders and composes the decomposed code points, appends them to the text and clears them.
void flush(std::vector<utf8proc_int32_t>& points, std::string& out) {
  order_marks(points);
  auto const n = utf8proc_normalize_utf32(points.data(), static_cast<utf8proc_ssize_t>(points.size()),
                                          static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  if (n < 0) throw std::runtime_error(std::string("nfc: ") + utf8proc_errmsg(n));
  for (std::size_t i = 0; i < static_cast<std::size_t>(n); ++i) append_utf8(out, static_cast<char32_t>(points[i]));
  points.clear();
}

void append_composed(std::string& out, std::string_view text) {
  std::vector<utf8proc_int32_t> points;
  points.reserve(text.size());
  std::array<utf8proc_int32_t, 32> expansion{};  // the longest canonical decomposition has 4 code points
  for (std::size_t i = 0; i < text.size();) {
    code_point const c = first_code_point(text.substr(i));
    if (c.length == 0) throw std::invalid_argument("nfc: text is not UTF-8");
    i += c.length;
    if (is_unknown_to_reference(c.value)) {
      flush(points, out);
      append_utf8(out, c.value);
      continue;
    }
    int boundary = 0;
    auto const n =
        utf8proc_decompose_char(static_cast<utf8proc_int32_t>(c.value), expansion.data(),
                                static_cast<utf8proc_ssize_t>(expansion.size()), UTF8PROC_DECOMPOSE, &boundary);
    if (n < 0 || n > static_cast<utf8proc_ssize_t>(expansion.size())) throw std::runtime_error("nfc: utf8proc failed");
    points.insert(points.end(), expansion.begin(), expansion.begin() + n);
  }
  flush(points, out);
}

}  // namespace

std::string nfc(std::string_view text) {
  auto const is_ascii = [](char c) { return static_cast<unsigned char>(c) < 0x80; };
  std::string out;
  out.reserve(text.size());
  // No code point below U+0300 reacts with what stands before it, so stretches of ASCII are copied; the last
  // ASCII character before other text goes with that text, a mark may follow it.
  for (std::size_t i = 0; i < text.size();) {
    std::size_t end_of_ascii = i;
    while (end_of_ascii < text.size() && is_ascii(text[end_of_ascii])) ++end_of_ascii;
    if (end_of_ascii == text.size()) {
      out.append(text.substr(i));
      break;
    }
    std::size_t const begin = end_of_ascii > i ? end_of_ascii - 1 : end_of_ascii;
    out.append(text.substr(i, begin - i));
    std::size_t end = end_of_ascii;
    while (end < text.size() && !is_ascii(text[end])) ++end;
    append_composed(out, text.substr(begin, end - begin));
    i = end;
  }
  return out;
}

}  // namespace moeroute::capture

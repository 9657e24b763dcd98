// SPDX-License-Identifier: Apache-2.0
#include "utf8.hpp"

#include <cstdint>

namespace moeroute::capture {
namespace {

unsigned byte_at(std::string_view text, std::size_t i) { return static_cast<unsigned char>(text[i]); }

// What the lead byte allows: length and the range of the second byte, which is where overlong forms,
// surrogates and values above U+10FFFF show.
struct lead {
  std::size_t length;
  unsigned second_low, second_high;
};

lead lead_of(unsigned byte) noexcept {
  if (byte < 0x80) return {1, 0, 0};
  if (byte < 0xC2) return {0, 0, 0};
  if (byte < 0xE0) return {2, 0x80, 0xBF};
  if (byte == 0xE0) return {3, 0xA0, 0xBF};
  if (byte == 0xED) return {3, 0x80, 0x9F};
  if (byte < 0xF0) return {3, 0x80, 0xBF};
  if (byte == 0xF0) return {4, 0x90, 0xBF};
  if (byte < 0xF4) return {4, 0x80, 0xBF};
  if (byte == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

// How many leading bytes could still be the beginning of a code point; at least 1.
std::size_t well_formed_prefix(std::string_view text) noexcept {
  lead const l = lead_of(byte_at(text, 0));
  std::size_t n = 1;
  while (n < l.length && n < text.size()) {
    unsigned const byte = byte_at(text, n);
    unsigned const low = n == 1 ? l.second_low : 0x80;
    unsigned const high = n == 1 ? l.second_high : 0xBF;
    if (byte < low || byte > high) break;
    ++n;
  }
  return n;
}

}  // namespace

code_point first_code_point(std::string_view text) noexcept {
  unsigned const first = byte_at(text, 0);
  lead const l = lead_of(first);
  if (l.length == 1) return {static_cast<char32_t>(first), 1};
  if (l.length == 0 || well_formed_prefix(text) != l.length) return {0xFFFD, 0};
  std::uint32_t value = first & (0x7Fu >> l.length);
  for (std::size_t i = 1; i < l.length; ++i) value = (value << 6) | (byte_at(text, i) & 0x3Fu);
  return {static_cast<char32_t>(value), l.length};
}

std::size_t find_invalid_utf8(std::string_view text) noexcept {
  for (std::size_t i = 0; i < text.size();) {
    std::size_t const length = byte_at(text, i) < 0x80 ? 1 : first_code_point(text.substr(i)).length;
    if (length == 0) return i;
    i += length;
  }
  return std::string_view::npos;
}

std::string replace_invalid_utf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t i = 0; i < text.size();) {
    std::size_t const length = first_code_point(text.substr(i)).length;
    if (length != 0) {
      out.append(text.substr(i, length));
      i += length;
    } else {
      out.append("\xEF\xBF\xBD");
      i += well_formed_prefix(text.substr(i));
    }
  }
  return out;
}

void append_utf8(std::string& out, char32_t value) {
  auto const put = [&out](std::uint32_t byte) { out.push_back(static_cast<char>(static_cast<unsigned char>(byte))); };
  auto const v = static_cast<std::uint32_t>(value);
  if (v < 0x80) {
    put(v);
  } else if (v < 0x800) {
    put(0xC0 | (v >> 6));
    put(0x80 | (v & 0x3F));
  } else if (v < 0x10000) {
    put(0xE0 | (v >> 12));
    put(0x80 | ((v >> 6) & 0x3F));
    put(0x80 | (v & 0x3F));
  } else {
    put(0xF0 | (v >> 18));
    put(0x80 | ((v >> 12) & 0x3F));
    put(0x80 | ((v >> 6) & 0x3F));
    put(0x80 | (v & 0x3F));
  }
}

}  // namespace moeroute::capture

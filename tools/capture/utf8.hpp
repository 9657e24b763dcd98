// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_CAPTURE_UTF8_HPP
#define MOEROUTE_CAPTURE_UTF8_HPP

#include <cstddef>
#include <string>
#include <string_view>

namespace moeroute::capture {

/// One decoded code point: its value and its length in bytes; length 0 means the bytes are not UTF-8.
struct code_point {
  char32_t value;
  std::size_t length;
};

/// Decodes the first code point of a non-empty text. Overlong forms, surrogates and values above U+10FFFF are refused.
code_point first_code_point(std::string_view text) noexcept;

/// Offset of the first byte that is not UTF-8, or npos.
std::size_t find_invalid_utf8(std::string_view text) noexcept;

/// The text with every maximal ill-formed part replaced by U+FFFD (the replacement the Unicode standard recommends).
std::string replace_invalid_utf8(std::string_view text);

void append_utf8(std::string& out, char32_t value);

}  // namespace moeroute::capture

#endif

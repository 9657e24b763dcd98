// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_CAPTURE_SHA1_HPP
#define MOEROUTE_CAPTURE_SHA1_HPP

#include <moeroute/io/detail/block_hash.hpp>

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace moeroute::capture {

struct sha1_rule {
  using state = std::array<std::uint32_t, 5>;
  static constexpr state initial{0x67452301u, 0xEFCDAB89u, 0x98BADCFEu, 0x10325476u, 0xC3D2E1F0u};

  static void compress(state& s, std::byte const* blocks, std::size_t count) noexcept {
    for (; count > 0; --count, blocks += 64) {
      std::array<std::uint32_t, 80> w{};
      for (std::size_t i = 0; i < 64; ++i) w[i / 4] = (w[i / 4] << 8) | std::to_integer<std::uint32_t>(blocks[i]);
      for (std::size_t i = 16; i < 80; ++i) w[i] = std::rotl(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
      auto [a, b, c, d, e] = s;
      for (std::size_t i = 0; i < 80; ++i) {
        std::uint32_t const mixed = i < 20   ? ((b & c) | (~b & d)) + 0x5A827999u
                                    : i < 40 ? (b ^ c ^ d) + 0x6ED9EBA1u
                                    : i < 60 ? ((b & c) | (b & d) | (c & d)) + 0x8F1BBCDCu
                                             : (b ^ c ^ d) + 0xCA62C1D6u;
        std::uint32_t const next = std::rotl(a, 5) + mixed + e + w[i];
        e = d, d = c, c = std::rotl(b, 30), b = a, a = next;
      }
      state const add{a, b, c, d, e};
      for (std::size_t i = 0; i < 5; ++i) s[i] += add[i];
    }
  }
};

/// SHA-1, because git names its objects by it; against errors of transmission, not against forgers. 40 hexadecimal digits.
///
/// Source FIPS 180-4, sections 5.1.1, 6.1.2.
class sha1 : public detail::block_hash<sha1_rule> {};

}  // namespace moeroute::capture

#endif

// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_CAPTURE_SHA1_HPP
#define MOEROUTE_CAPTURE_SHA1_HPP

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace moeroute::capture {

/// SHA-1, because git names its objects by it; against errors of transmission, not against forgers.
///
/// Source FIPS 180-4, sections 5.1.1, 6.1.2.
class sha1 {
 public:
  void update(std::span<std::byte const> bytes) noexcept {
    length_ += bytes.size();
    while (!bytes.empty()) {
      auto const n = std::min(bytes.size(), block_.size() - filled_);
      std::copy_n(bytes.begin(), n, block_.begin() + static_cast<std::ptrdiff_t>(filled_));
      filled_ += n;
      bytes = bytes.subspan(n);
      if (filled_ < block_.size()) continue;
      compress();
      filled_ = 0;
    }
  }

  /// 40 lower-case hexadecimal digits. The object must not be updated afterwards.
  std::string hex() {
    std::uint64_t const bits = length_ * 8;
    std::array<std::byte, 72> tail{std::byte{0x80}};
    std::size_t const padding = (filled_ < 56 ? 56 : 120) - filled_;
    for (std::size_t i = 0; i < 8; ++i) tail[padding + i] = static_cast<std::byte>(bits >> (56 - 8 * i));
    update(std::span<std::byte const>(tail.data(), padding + 8));
    std::string text;
    for (std::uint32_t const word : state_)
      for (int shift = 28; shift >= 0; shift -= 4) text.push_back("0123456789abcdef"[(word >> shift) & 15u]);
    return text;
  }

 private:
  void compress() noexcept {
    std::array<std::uint32_t, 80> w{};
    for (std::size_t i = 0; i < 64; ++i) w[i / 4] = (w[i / 4] << 8) | std::to_integer<std::uint32_t>(block_[i]);
    for (std::size_t i = 16; i < 80; ++i) w[i] = std::rotl(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
    auto [a, b, c, d, e] = state_;
    for (std::size_t i = 0; i < 80; ++i) {
      std::uint32_t const mixed = i < 20   ? ((b & c) | (~b & d)) + 0x5A827999u
                                  : i < 40 ? (b ^ c ^ d) + 0x6ED9EBA1u
                                  : i < 60 ? ((b & c) | (b & d) | (c & d)) + 0x8F1BBCDCu
                                           : (b ^ c ^ d) + 0xCA62C1D6u;
      std::uint32_t const next = std::rotl(a, 5) + mixed + e + w[i];
      e = d, d = c, c = std::rotl(b, 30), b = a, a = next;
    }
    std::array const sums{a, b, c, d, e};
    for (std::size_t i = 0; i < 5; ++i) state_[i] += sums[i];
  }

  std::array<std::uint32_t, 5> state_{0x67452301u, 0xEFCDAB89u, 0x98BADCFEu, 0x10325476u, 0xC3D2E1F0u};
  std::array<std::byte, 64> block_{};
  std::size_t filled_ = 0;
  std::uint64_t length_ = 0;
};

}  // namespace moeroute::capture

#endif

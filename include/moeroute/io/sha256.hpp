// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_IO_SHA256_HPP
#define MOEROUTE_IO_SHA256_HPP

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace moeroute {

namespace detail {

// floor(2^32 frac(p^(1/root))) for the first N primes: the largest r with r^root <= p 2^(32 root), modulo 2^32. r < 2^37, so that its
// cube fits 128 bits.
template <std::size_t N>
consteval std::array<std::uint32_t, N> prime_roots(int root) {
  __extension__ using wide = unsigned __int128;
  std::array<std::uint32_t, N> out{};
  std::size_t found = 0;
  for (std::uint32_t p = 2; found < N; ++p) {
    bool prime = true;
    for (std::uint32_t d = 2; d * d <= p; ++d) prime = prime && p % d != 0;
    if (!prime) continue;
    wide const bound = wide{p} << (32 * root);
    std::uint64_t r = 0;
    for (int bit = 36; bit >= 0; --bit) {
      wide const candidate = r | (std::uint64_t{1} << bit);
      if ((root == 2 ? candidate * candidate : candidate * candidate * candidate) <= bound) r = static_cast<std::uint64_t>(candidate);
    }
    out[found++] = static_cast<std::uint32_t>(r);
  }
  return out;
}

}  // namespace detail

/// SHA-256 of a stream of bytes, for checksums of shards and identities of models.
///
/// Source  FIPS 180-4, sections 4 to 6. The round constants are the first 32 bits of the fractional parts of the square and cube
///         roots of the first primes (section 4.2.2), computed here rather than copied.
class sha256 {
 public:
  void update(std::span<std::byte const> bytes) noexcept {
    length_ += bytes.size();
    while (!bytes.empty()) {
      auto const n = std::min(bytes.size(), block_.size() - filled_);
      std::copy_n(bytes.begin(), n, block_.begin() + static_cast<std::ptrdiff_t>(filled_));
      filled_ += n;
      bytes = bytes.subspan(n);
      if (filled_ == block_.size()) {
        compress();
        filled_ = 0;
      }
    }
  }

  /// 64 lower-case hexadecimal digits. The object must not be updated afterwards.
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
  static constexpr int rounds = 64;

  void compress() noexcept {
    static constexpr auto k = detail::prime_roots<rounds>(3);
    std::array<std::uint32_t, rounds> w;
    for (std::size_t i = 0; i < 16; ++i)
      w[i] = (static_cast<std::uint32_t>(block_[4 * i]) << 24) | (static_cast<std::uint32_t>(block_[4 * i + 1]) << 16) |
             (static_cast<std::uint32_t>(block_[4 * i + 2]) << 8) | static_cast<std::uint32_t>(block_[4 * i + 3]);
    for (std::size_t i = 16; i < rounds; ++i) {
      auto const a = w[i - 15], b = w[i - 2];
      w[i] = w[i - 16] + (std::rotr(a, 7) ^ std::rotr(a, 18) ^ (a >> 3)) + w[i - 7] + (std::rotr(b, 17) ^ std::rotr(b, 19) ^ (b >> 10));
    }
    auto [a, b, c, d, e, f, g, h] = state_;
    for (std::size_t i = 0; i < rounds; ++i) {
      auto const t1 = h + (std::rotr(e, 6) ^ std::rotr(e, 11) ^ std::rotr(e, 25)) + ((e & f) ^ (~e & g)) + k[i] + w[i];
      auto const t2 = (std::rotr(a, 2) ^ std::rotr(a, 13) ^ std::rotr(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
      h = g;
      g = f;
      f = e;
      e = d + t1;
      d = c;
      c = b;
      b = a;
      a = t1 + t2;
    }
    std::array<std::uint32_t, 8> const add{a, b, c, d, e, f, g, h};
    for (std::size_t i = 0; i < 8; ++i) state_[i] += add[i];
  }

  std::array<std::uint32_t, 8> state_ = detail::prime_roots<8>(2);
  std::array<std::byte, 64> block_{};
  std::size_t filled_ = 0;
  std::uint64_t length_ = 0;
};

/// SHA-256 of `bytes` as 64 hexadecimal digits.
inline std::string sha256_hex(std::span<std::byte const> bytes) {
  sha256 hash;
  hash.update(bytes);
  return hash.hex();
}

}  // namespace moeroute

#endif

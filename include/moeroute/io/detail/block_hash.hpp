// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_IO_DETAIL_BLOCK_HASH_HPP
#define MOEROUTE_IO_DETAIL_BLOCK_HASH_HPP

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <type_traits>

namespace moeroute::detail {

/// What SHA-1 and SHA-256 share: a message in blocks of 64 bytes, padded with its length, that turn a state of 32-bit words.
/// `Rule` has `initial`, the state before the first block, and `compress(state, blocks, count)`.
///
/// Source  FIPS 180-4, sections 5.1.1, 5.2.1 and 6.
template <class Rule>
class block_hash {
 public:
  void update(std::span<std::byte const> bytes) noexcept {
    length_ += bytes.size();
    if (filled_ > 0) {
      auto const n = std::min(bytes.size(), block_.size() - filled_);
      std::copy_n(bytes.begin(), n, block_.begin() + static_cast<std::ptrdiff_t>(filled_));
      filled_ += n;
      bytes = bytes.subspan(n);
      if (filled_ < block_.size()) return;
      Rule::compress(state_, block_.data(), 1);
    }
    auto const whole = bytes.size() / block_.size();
    Rule::compress(state_, bytes.data(), whole);
    bytes = bytes.subspan(whole * block_.size());
    std::copy(bytes.begin(), bytes.end(), block_.begin());
    filled_ = bytes.size();
  }

  /// The digest in lower-case hexadecimal digits, 8 for each word. The object must not be updated afterwards.
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
  std::remove_const_t<decltype(Rule::initial)> state_ = Rule::initial;
  std::array<std::byte, 64> block_{};
  std::size_t filled_ = 0;
  std::uint64_t length_ = 0;
};

}  // namespace moeroute::detail

#endif

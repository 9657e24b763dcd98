// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_IO_SHA256_HPP
#define MOEROUTE_IO_SHA256_HPP

#include <moeroute/io/detail/block_hash.hpp>

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

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

struct sha256_rule {
  using state = std::array<std::uint32_t, 8>;
  static constexpr int rounds = 64;
  static constexpr state initial = prime_roots<8>(2);
  static constexpr auto constants = prime_roots<rounds>(3);

  static void compress(state& s, std::byte const* blocks, std::size_t count) noexcept {
#if defined(__x86_64__)
    if (has_instructions()) return compress_with_instructions(s, blocks, count);
#endif
    compress_portably(s, blocks, count);
  }

  static void compress_portably(state& s, std::byte const* blocks, std::size_t count) noexcept {
    for (; count > 0; --count, blocks += 64) {
      std::array<std::uint32_t, rounds> w{};
      for (std::size_t i = 0; i < 64; ++i) w[i / 4] = (w[i / 4] << 8) | std::to_integer<std::uint32_t>(blocks[i]);
      for (std::size_t i = 16; i < rounds; ++i) {
        auto const a = w[i - 15], b = w[i - 2];
        w[i] = w[i - 16] + (std::rotr(a, 7) ^ std::rotr(a, 18) ^ (a >> 3)) + w[i - 7] + (std::rotr(b, 17) ^ std::rotr(b, 19) ^ (b >> 10));
      }
      auto [a, b, c, d, e, f, g, h] = s;
      for (std::size_t i = 0; i < rounds; ++i) {
        auto const t1 = h + (std::rotr(e, 6) ^ std::rotr(e, 11) ^ std::rotr(e, 25)) + ((e & f) ^ (~e & g)) + constants[i] + w[i];
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
      state const add{a, b, c, d, e, f, g, h};
      for (std::size_t i = 0; i < 8; ++i) s[i] += add[i];
    }
  }

#if defined(__x86_64__)
  static bool has_instructions() noexcept {
    // __builtin_cpu_supports does not know the name in every compiler.
    static bool const supported = [] {
      unsigned a = 0, b = 0, c = 0, d = 0;
      return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (b >> 29 & 1u) != 0 && __builtin_cpu_supports("sse4.1") != 0;
    }();
    return supported;
  }

  // The instructions keep the state as (a, b, e, f) and (c, d, g, h), the first word in the highest lane; one does two rounds.
  __attribute__((target("sha,sse4.1"))) static void compress_with_instructions(state& s, std::byte const* blocks,
                                                                               std::size_t count) noexcept {
    auto const at = [](void const* p) { return static_cast<__m128i const*>(p); };
    auto const to = [](void* p) { return static_cast<__m128i*>(p); };
    __m128i const big_endian = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
    __m128i const dcba = _mm_loadu_si128(at(s.data())), hgfe = _mm_loadu_si128(at(s.data() + 4));
    __m128i const cdab = _mm_shuffle_epi32(dcba, 0xb1), efgh = _mm_shuffle_epi32(hgfe, 0x1b);
    __m128i abef = _mm_alignr_epi8(cdab, efgh, 8), cdgh = _mm_blend_epi16(efgh, cdab, 0xf0);
    for (; count > 0; --count, blocks += 64) {
      __m128i const abef_before = abef, cdgh_before = cdgh;
      __m128i w[4];  // four words each, the last sixteen of the schedule
      for (int i = 0; i < 4; ++i) w[i] = _mm_shuffle_epi8(_mm_loadu_si128(at(blocks + 16 * i)), big_endian);
#pragma GCC unroll 16
      for (int i = 0; i < rounds / 4; ++i) {
        __m128i& oldest = w[i % 4];
        __m128i const sum = _mm_add_epi32(oldest, _mm_loadu_si128(at(constants.data() + 4 * i)));
        cdgh = _mm_sha256rnds2_epu32(cdgh, abef, sum);
        abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(sum, 0x0e));
        __m128i const newest = w[(i + 3) % 4];
        __m128i const seven_back = _mm_alignr_epi8(newest, w[(i + 2) % 4], 4);
        oldest = _mm_sha256msg2_epu32(_mm_add_epi32(_mm_sha256msg1_epu32(oldest, w[(i + 1) % 4]), seven_back), newest);
      }
      abef = _mm_add_epi32(abef, abef_before);
      cdgh = _mm_add_epi32(cdgh, cdgh_before);
    }
    __m128i const feba = _mm_shuffle_epi32(abef, 0x1b), dchg = _mm_shuffle_epi32(cdgh, 0xb1);
    _mm_storeu_si128(to(s.data()), _mm_blend_epi16(feba, dchg, 0xf0));
    _mm_storeu_si128(to(s.data() + 4), _mm_alignr_epi8(dchg, feba, 8));
  }
#endif
};

}  // namespace detail

/// SHA-256 of a stream of bytes, for checksums of shards and identities of models; 64 hexadecimal digits. Where the processor
/// has instructions for it they are used, which is several times as fast and gives the same digits.
///
/// Source  FIPS 180-4, sections 4 to 6. The round constants are the first 32 bits of the fractional parts of the square and cube
///         roots of the first primes (section 4.2.2), computed here rather than copied.
class sha256 : public detail::block_hash<detail::sha256_rule> {};

/// SHA-256 of `bytes` as 64 hexadecimal digits.
inline std::string sha256_hex(std::span<std::byte const> bytes) {
  sha256 hash;
  hash.update(bytes);
  return hash.hex();
}

}  // namespace moeroute

#endif

// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_NUMERIC_RANDOM_HPP
#define MOEROUTE_NUMERIC_RANDOM_HPP

#include <moeroute/core/error.hpp>
#include <moeroute/core/view.hpp>
#include <moeroute/numeric/simd.hpp>

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <numeric>
#include <ranges>
#include <utility>
#include <vector>

namespace moeroute {

/// Philox4x32 with 10 rounds: 128 random bits as a pure function of a 128-bit counter and a 64-bit key.
///
/// In     counter, key: any words.
/// Out    four words; distinct counters give distinct outputs under one key.
/// Cost   O(1): 20 multiplications.
/// Source Salmon, Moraes, Dror, Shaw 2011, doi:10.1145/2063384.2063405. Differs: as given.
constexpr std::array<std::uint32_t, 4> philox4x32(std::array<std::uint32_t, 4> counter,
                                                  std::array<std::uint32_t, 2> key) noexcept {
  for (int round = 0; round < 10; ++round) {
    std::uint64_t const a = std::uint64_t{0xD2511F53u} * counter[0], b = std::uint64_t{0xCD9E8D57u} * counter[2];
    counter = {static_cast<std::uint32_t>(b >> 32) ^ counter[1] ^ key[0], static_cast<std::uint32_t>(b),
               static_cast<std::uint32_t>(a >> 32) ^ counter[3] ^ key[1], static_cast<std::uint32_t>(a)};
    key[0] += 0x9E3779B9u;  // golden ratio
    key[1] += 0xBB67AE85u;  // sqrt(3) - 1
  }
  return counter;
}

namespace detail {

/// philox4x32 of `counter` and of those after it, whose word `Moving` is 1, 2, ... more: words [4 blocks], one block after
/// another. The 32 bits that are multiplied lie in 64.
template <int Moving>
struct philox_kernel {
  template <simd_level Level>
  MOEROUTE_ALWAYS_INLINE static void run(std::uint32_t const* counter, std::uint64_t key, index_t blocks,
                                         std::uint32_t* words) {
    constexpr int W = lane_count<Level, std::uint64_t>;
    constexpr std::uint64_t low = 0xffffffffu;
    using v = lanes<std::uint64_t, W>;
    for (index_t block = 0; block < blocks; block += W) {
      std::uint64_t moving[W];
      for (int i = 0; i < W; ++i) moving[i] = (counter[Moving] + static_cast<std::uint64_t>(block + i)) & low;
      v c[4] = {v{} + counter[0], v{} + counter[1], v{} + counter[2], v{} + counter[3]};
      load<W>(c[Moving], moving);
      auto k0 = static_cast<std::uint32_t>(key), k1 = static_cast<std::uint32_t>(key >> 32);
#pragma GCC unroll 10
      for (int round = 0; round < 10; ++round) {
        v const a = c[0] * 0xD2511F53u, b = c[2] * 0xCD9E8D57u;
        c[0] = (b >> 32) ^ c[1] ^ k0;
        c[1] = b & low;
        c[2] = (a >> 32) ^ c[3] ^ k1;
        c[3] = a & low;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
      }
      v const pair[2] = {c[0] | c[1] << 32, c[2] | c[3] << 32};
      std::uint64_t out[2][W];
      store<W>(pair[0], out[0]);
      store<W>(pair[1], out[1]);
      for (index_t i = 0; i < std::min<index_t>(W, blocks - block); ++i)
        for (int half = 0; half < 2; ++half) {
          std::uint32_t* const at = words + 4 * (block + i) + 2 * half;
          at[0] = static_cast<std::uint32_t>(out[half][i]);
          at[1] = static_cast<std::uint32_t>(out[half][i] >> 32);
        }
    }
  }
};

}  // namespace detail

/// Bijective mixing of 64 bits (the finaliser of SplitMix64): neighbouring seeds become unrelated keys.
/// Source Steele, Lea, Flood 2014, doi:10.1145/2714064.2660195. Differs: as given.
constexpr std::uint64_t mix64(std::uint64_t x) noexcept {
  x += 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

/// A stream of random numbers named by (seed, purpose, id, sub): the same name gives the same numbers in every thread,
/// shard, process and compiler, in any order of use.
///
/// In     seed of the analysis; purpose keeps uses of one seed apart; id and sub name the stream, e.g. document and
///        replicate.
/// Out    64-bit words (UniformRandomBitGenerator). Do not feed it to std distributions: their draws differ between
///        libraries.
/// Cost   one philox4x32 per two words.
/// Throws argument_error after 2^33 words.
/// Source philox4x32. Differs: key = mix64(mix64(seed) + purpose), counter = (block, sub, id).
class random_stream {
 public:
  using result_type = std::uint64_t;
  static constexpr result_type min() noexcept { return 0; }
  static constexpr result_type max() noexcept { return std::numeric_limits<result_type>::max(); }

  constexpr random_stream(std::uint64_t seed, std::uint64_t purpose, std::uint64_t id = 0,
                          std::uint32_t sub = 0) noexcept
      : key_{low(mix64(mix64(seed) + purpose)), high(mix64(mix64(seed) + purpose))}, id_{id}, sub_{sub} {}

  constexpr result_type operator()() {
    if (used_ == 2) refill();
    return words_[used_++];
  }

  /// Uniform in [0, 1), a multiple of 2^-53.
  constexpr double uniform() { return static_cast<double>((*this)() >> 11) * 0x1p-53; }

  /// Uniform in 0..n-1 without modulo bias.
  /// Throws argument_error if n is 0.
  constexpr std::uint64_t index(std::uint64_t n) {
    if (n == 0) throw argument_error("moeroute::random_stream::index: n must be positive");
    std::uint64_t const biased =
        (max() % n + 1) % n;  // 2^64 mod n: so many words at the top would favour small results
    std::uint64_t x = (*this)();
    while (x > max() - biased) x = (*this)();
    return x % n;
  }

 private:
  static constexpr std::uint32_t low(std::uint64_t x) noexcept { return static_cast<std::uint32_t>(x); }
  static constexpr std::uint32_t high(std::uint64_t x) noexcept { return static_cast<std::uint32_t>(x >> 32); }

  constexpr void refill() {
    if (block_ > std::numeric_limits<std::uint32_t>::max())
      throw argument_error("moeroute::random_stream: stream is exhausted");
    auto const w = philox4x32({static_cast<std::uint32_t>(block_++), sub_, low(id_), high(id_)}, key_);
    words_ = {w[0] | std::uint64_t{w[1]} << 32, w[2] | std::uint64_t{w[3]} << 32};
    used_ = 0;
  }

  std::array<std::uint32_t, 2> key_;
  std::uint64_t id_;
  std::uint64_t block_ = 0;
  std::array<std::uint64_t, 2> words_{};
  std::uint32_t sub_;
  unsigned used_ = 2;
};

/// A Poisson(1) number from one 64-bit word by comparison with integers: the same bits on every machine.
///
/// In     draw: uniform 64-bit word.
/// Out    k = #{j : draw >= floor(2^64 P(X <= j))}; at most 21. The law is Poisson(1) to within 2^-64 per value.
/// Cost   O(1), two comparisons on average.
/// Source inversion, Devroye 1986, chapter X.3; thresholds from tests/golden/make_random.py. Differs: as given.
constexpr unsigned poisson_one(std::uint64_t draw) noexcept {
  constexpr std::array<std::uint64_t, 21> threshold{
      6786177901268885274u,  13572355802537770549u, 16965444753172213186u, 18096474403383694065u, 18379231815936564285u,
      18435783298447138329u, 18445208545532234003u, 18446555009401533385u, 18446723317385195808u, 18446742018272269410u,
      18446743888360976771u, 18446744058369041076u, 18446744072536379768u, 18446744073626175052u, 18446744073704017573u,
      18446744073709207074u, 18446744073709531418u, 18446744073709550497u, 18446744073709551557u, 18446744073709551613u,
      18446744073709551615u};
  unsigned k = 0;
  while (k < threshold.size() && draw >= threshold[k]) ++k;
  return k;
}

/// Puts a random-access range into uniformly random order.
///
/// In     range; stream g.
/// Cost   O(n) draws.
/// Source Fisher and Yates 1938, in Durstenfeld's form (1964, doi:10.1145/364520.364540). Differs: as given.
template <std::ranges::random_access_range Range>
constexpr void shuffle(Range&& range, random_stream& g) {
  auto const first = std::ranges::begin(range);
  for (auto n = std::ranges::distance(range); n > 1; --n)
    std::ranges::iter_swap(first + (n - 1), first + static_cast<decltype(n)>(g.index(static_cast<std::uint64_t>(n))));
}

/// A uniformly random permutation of 0..n-1.
/// Throws argument_error if n is negative.
inline std::vector<index_t> random_permutation(index_t n, random_stream& g) {
  if (n < 0) detail::raise("moeroute::random_permutation: n = ", n, " must not be negative");
  std::vector<index_t> order(static_cast<std::size_t>(n));
  std::iota(order.begin(), order.end(), index_t{0});
  shuffle(order, g);
  return order;
}

}  // namespace moeroute

#endif

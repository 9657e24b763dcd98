// SPDX-License-Identifier: Apache-2.0
#include <moeroute/numeric/random.hpp>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include <doctest/doctest.h>

#include "support/golden.hpp"

using namespace moeroute;

TEST_CASE("random: philox, mixing and streams equal their golden words") {
  for (auto const& known : golden("random", "philox4x32"))
    CHECK(philox4x32(known["counter"].get<std::array<std::uint32_t, 4>>(),
                     known["key"].get<std::array<std::uint32_t, 2>>()) ==
          known["output"].get<std::array<std::uint32_t, 4>>());
  for (auto const& pair : golden("random", "mix64"))
    CHECK(mix64(pair[0].get<std::uint64_t>()) == pair[1].get<std::uint64_t>());
  for (auto const& s : golden("random", "streams")) {
    random_stream stream(s["name"][0], s["name"][1], s["name"][2], s["name"][3]);
    for (auto const& word : s["words"]) CHECK(stream() == word.get<std::uint64_t>());
  }
}

TEST_CASE("random: the Poisson table is that of mpmath, and each threshold starts the next number") {
  auto const thresholds = golden("random", "poisson_thresholds").get<std::vector<std::uint64_t>>();
  REQUIRE(thresholds.size() == 21);
  for (unsigned k = 0; k < thresholds.size(); ++k) {
    CHECK(poisson_one(thresholds[k] - 1) == k);
    CHECK(poisson_one(thresholds[k]) == k + 1);
  }
  CHECK(poisson_one(0) == 0);
  CHECK(poisson_one(~std::uint64_t{0}) == 21);
}

TEST_CASE("random: streams of neighbouring names share no word") {
  std::set<std::uint64_t> seen;
  std::size_t drawn = 0;
  for (std::uint64_t seed : {0u, 1u})
    for (std::uint64_t purpose : {0u, 1u})
      for (std::uint64_t id : {0u, 1u})
        for (std::uint32_t sub : {0u, 1u}) {
          random_stream s(seed, purpose, id, sub);
          for (int i = 0; i < 100; ++i, ++drawn) seen.insert(s());
        }
  CHECK(seen.size() == drawn);
}

TEST_CASE("random: index is uniform, also where 2^64 is no multiple of n") {
  random_stream s(7, 1);
  std::uint64_t const n = 3 * (std::uint64_t{1} << 62);  // plain modulo would give the lower third twice as often
  int const draws = 30000;
  int low = 0;
  for (int i = 0; i < draws; ++i) {
    auto const x = s.index(n);
    REQUIRE(x < n);
    low += x < n / 3;
  }
  CHECK(std::abs(low - draws / 3.0) < 5 * std::sqrt(draws * 2.0 / 9));
  CHECK(s.index(1) == 0);
  CHECK_THROWS_AS(s.index(0), argument_error);
}

TEST_CASE("random: uniform lies in [0, 1) with the right mean and variance") {
  random_stream s(11, 1);
  double sum = 0, square = 0;
  int const n = 100000;
  for (int i = 0; i < n; ++i) {
    double const u = s.uniform();
    REQUIRE((u >= 0 && u < 1));
    sum += u;
    square += u * u;
  }
  CHECK(sum / n == doctest::Approx(0.5).epsilon(0.01));
  CHECK(square / n == doctest::Approx(1.0 / 3).epsilon(0.01));
}

TEST_CASE("random: every order of four is equally likely") {
  std::map<std::vector<index_t>, int> seen;
  int const draws = 24000;
  for (int i = 0; i < draws; ++i) {
    random_stream s(3, 2, static_cast<std::uint64_t>(i));
    ++seen[random_permutation(4, s)];
  }
  CHECK(seen.size() == 24);
  double chi_square = 0;
  for (auto const& [order, n] : seen) chi_square += (n - draws / 24.0) * (n - draws / 24.0) / (draws / 24.0);
  CHECK(chi_square < 49.7);  // 23 degrees of freedom, 0.1 %
  random_stream s(3, 2);
  CHECK(random_permutation(0, s).empty());
  CHECK_THROWS_AS(random_permutation(-1, s), argument_error);
}

TEST_CASE("random: words in lanes are those of philox4x32 at every instruction set") {
  std::uint64_t const key = 0x123456789abcdef0;
  std::array<std::uint32_t, 4> const start{0xfffffffau, 0xfffffffdu, 0x80000001u, 3u};
  auto const compare = [&]<int Moving>(detail::philox_kernel<Moving>, index_t blocks) {
    std::vector<std::uint32_t> words(static_cast<std::size_t>(4 * blocks + 1), 77);
    detail::dispatch<detail::philox_kernel<Moving>>(start.data(), key, blocks, words.data());
    for (index_t b = 0; b < blocks; ++b) {
      auto counter = start;
      counter[Moving] += static_cast<std::uint32_t>(b);  // runs over
      auto const want = philox4x32(counter, {0x9abcdef0u, 0x12345678u});
      for (index_t w = 0; w < 4; ++w)
        CHECK(words[static_cast<std::size_t>(4 * b + w)] == want[static_cast<std::size_t>(w)]);
    }
    CHECK(words.back() == 77);
  };
  for (auto const level : {simd_level::baseline, simd_level::avx2, simd_level::avx512}) {
    detail::limit_simd_level(level);
    for (index_t const blocks : {1, 2, 7, 8, 19}) {
      compare(detail::philox_kernel<0>{}, blocks);
      compare(detail::philox_kernel<1>{}, blocks);
    }
  }
  detail::limit_simd_level(simd_level::avx512);
}

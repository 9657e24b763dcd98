// SPDX-License-Identifier: Apache-2.0
#include "sampling.hpp"

#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <set>
#include <vector>

#include <doctest/doctest.h>

using namespace moeroute::capture;

TEST_CASE("a draw is the inversion of the distribution") {
  std::array<float, 5> const p{0.1f, 0.f, 0.4f, 0.3f, 0.2f};
  CHECK(draw_token(p, 1, 0) == 0);
  CHECK(draw_token(p, 1, 0.0999) == 0);
  CHECK(draw_token(p, 1, 0.1001) == 2);
  CHECK(draw_token(p, 1, 0.4999) == 2);
  CHECK(draw_token(p, 1, 0.5001) == 3);
  CHECK(draw_token(p, 1, std::nextafter(1.0, 0.0)) == 4);
  // What has no probability is never drawn, not even at the ends.
  std::array<float, 4> const inner{0.f, 1.f, 1.f, 0.f};
  CHECK(draw_token(inner, 1, 0) == 1);
  CHECK(draw_token(inner, 1, std::nextafter(1.0, 0.0)) == 2);
}

TEST_CASE("top-p keeps the fewest that reach it") {
  std::array<float, 5> const p{0.125f, 0.0625f, 0.5f, 0.25f, 0.0625f};
  auto const kept = [&](double top_p) {
    std::set<std::int32_t> seen;
    for (int i = 0; i < 1000; ++i) seen.insert(draw_token(p, top_p, i / 1000.0));
    return seen;
  };
  CHECK(kept(1e-9) == std::set<std::int32_t>{2});
  CHECK(kept(0.5) == std::set<std::int32_t>{2});
  CHECK(kept(0.5001) == std::set<std::int32_t>{2, 3});
  CHECK(kept(0.75) == std::set<std::int32_t>{2, 3});
  CHECK(kept(0.87) == std::set<std::int32_t>{0, 2, 3});
  CHECK(kept(0.93) == std::set<std::int32_t>{0, 1, 2, 3});  // of equal ones the smaller id
  CHECK(kept(0.95) == std::set<std::int32_t>{0, 1, 2, 3, 4});
  // Those that remain share the whole: 2/3 and 1/3.
  CHECK(draw_token(p, 0.6, 0.66) == 2);
  CHECK(draw_token(p, 0.6, 0.67) == 3);
}

TEST_CASE("no draw from what is no distribution") {
  float const nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
  for (auto const& p : std::vector<std::vector<float>>{{}, {0, 0}, {0.5f, nan}, {inf, 1}}) {
    CHECK(draw_token(p, 1, 0.5) == -1);
    CHECK(draw_token(p, 0.5, 0.5) == -1);
  }
}

TEST_CASE("numbers of draws depend on seed, document and position") {
  std::set<double> seen;
  double sum = 0;
  int count = 0;
  for (std::uint64_t seed : {0u, 1u})
    for (char const* id : {"", "a", "b", "text-1"})
      for (std::uint32_t position = 0; position < 500; ++position, ++count) {
        auto const u = draw_number(seed, id, position);
        CHECK((u >= 0 && u < 1));
        CHECK(u == draw_number(seed, id, position));
        seen.insert(u);
        sum += u;
      }
  CHECK(seen.size() == static_cast<std::size_t>(count));
  CHECK(std::abs(sum / count - 0.5) < 5 / std::sqrt(12.0 * count));
}

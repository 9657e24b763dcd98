// SPDX-License-Identifier: Apache-2.0
#include <moeroute/numeric/histogram.hpp>
#include <moeroute/numeric/random.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include <doctest/doctest.h>

#include "support/containers.hpp"
#include "support/golden.hpp"
#include "support/laws.hpp"

using namespace moeroute;

namespace {
constexpr double infinite = std::numeric_limits<double>::infinity();
using numbers = std::vector<double>;
using counts = std::vector<std::uint64_t>;
}  // namespace

TEST_CASE("histogram: by hand, with everything that falls outside") {
  histogram h({.low = -1, .high = 1, .bins = 4});
  h.update(numbers{-1, -0.51, -0.5, 0, 0.49, 0.5, 1, std::nextafter(1.0, 2.0), -1.5, 7, quiet_nan, infinite, -infinite,
                   -infinite});
  auto const r = h.result();
  CHECK(r.counts == counts{2, 1, 2, 2});
  CHECK(r.edges == numbers{-1, -0.5, 0, 0.5, 1});
  CHECK(r.below == 1);
  CHECK(r.above == 2);
  CHECK(r.minus_infinity == 2);
  CHECK(r.plus_infinity == 1);
  CHECK(r.nan == 1);
  CHECK(h.count() == 14);
}

TEST_CASE("histogram: equals numpy, on the edges too") {
  for (auto const& g : golden("density", "histograms")) {
    histogram h({.low = g["low"], .high = g["high"], .bins = g["bins"]});
    h.update(g["x"].get<numbers>());
    auto const r = h.result();
    CHECK(r.counts == g["counts"].get<counts>());
    CHECK(r.edges == g["edges"].get<numbers>());
  }
}

TEST_CASE("histogram: every value is between the edges of its bin") {
  random_stream random(9, 1, 0);
  for (int i = 0; i < 2000; ++i) {
    histogram_options const o{.low = random.uniform() - 5,
                              .high = 1e-3 + random.uniform() * 1e3,
                              .bins = 1 + static_cast<index_t>(random.index(50))};
    histogram h(o);
    auto const edges = h.result().edges;
    auto const at = random.index(static_cast<std::uint64_t>(o.bins));
    double const x = i % 2 == 0 ? edges[at] : std::nextafter(edges[at + 1], o.low);
    h.update(numbers{x});
    CHECK(h.result().counts[at] == 1);
  }
}

TEST_CASE("histogram: accumulator laws, containers, scalars") {
  numbers x;
  random_stream random(9, 2, 0);
  for (int i = 0; i < 300; ++i) x.push_back(3 * random.uniform() - 1);
  x[5] = quiet_nan;
  x[6] = infinite;
  law_case<histogram> c{.options = {.low = 0, .high = 1.5, .bins = 7},
                        .other_options = {.low = 0, .high = 1.5, .bins = 8},
                        .documents = 300,
                        .feed = [&](histogram& h, index_t first, index_t last) {
                          h.update(vector_view<double>(x.data() + first, last - first));
                        }};
  check_accumulator_laws(c);
  for_each_vector(std::vector<float>{0.1f, 0.9f, 0.2f}, [](char const* name, auto const& v) {
    CAPTURE(name);
    histogram h({.low = 0, .high = 1, .bins = 2});
    h.update(v);
    CHECK(h.result().counts == counts{2, 1});
  });
  histogram h({.low = 0, .high = 1, .bins = 2});
  h.update(std::vector<bf16>{to_bf16(0.75f), to_bf16(-3)});
  CHECK(h.result().counts == counts{0, 1});
}

TEST_CASE("histogram: refuses bins that are none") {
  for (auto const& o :
       {histogram_options{1, 1, 4}, histogram_options{2, 1, 4}, histogram_options{0, 1, 0}, histogram_options{0, 1, -3},
        histogram_options{quiet_nan, 1, 4}, histogram_options{0, infinite, 4}, histogram_options{-1e308, 1e308, 4},
        histogram_options{0, 1, index_t{1} << 27}, histogram_options{1e20, 1e20 + 65536, 64}})
    CHECK_THROWS_AS(histogram{o}, argument_error);
  CHECK_THROWS_WITH(histogram({.low = 3, .high = 2, .bins = 5}), "moeroute::histogram: low = 3, high = 2, bins = 5");
}

namespace {
// Counts by the rule itself: the edges decide.
template <class T>
counts by_edges(std::vector<T> const& x, std::vector<double> const& edges) {
  counts out(edges.size() - 1);
  for (T const v : x) {
    double const y = static_cast<double>(to_compute(v));
    if (!(y >= edges.front() && y <= edges.back())) continue;
    auto const after = std::upper_bound(edges.begin(), edges.end() - 1, y);
    ++out[static_cast<std::size_t>(after - edges.begin() - 1)];
  }
  return out;
}
}  // namespace

TEST_CASE("histogram: the same counts at every instruction set, however values lie among the edges") {
  random_stream random(17, 1, 0);
  auto const level = detail::active_simd_level();
  for (int trial = 0; trial < 40; ++trial) {
    histogram_options const o{.low = trial % 4 == 3 ? 1e15 + 0.25 : random.uniform() * 8 - 4,
                              .high = trial % 4 == 3 ? 1e15 + 4 : 5 + random.uniform(),
                              .bins = 1 + static_cast<index_t>(random.index(trial % 4 == 3 ? 16 : 3000))};
    histogram const empty(o);
    auto const edges = empty.result().edges;
    numbers wide;
    std::vector<float> narrow;
    std::vector<bf16> half;
    // Blocks of every kind: inside, on edges and next to them, and some with values outside.
    for (int i = 0; i < 2000; ++i) {
      double const edge = edges[random.index(edges.size())], anywhere = o.low + (o.high - o.low) * random.uniform();
      double x = i < 1000 || i % 3 == 0 ? anywhere : i % 3 == 1 ? edge : std::nextafter(edge, i % 2 == 0 ? -1e30 : 1e30);
      if (i % 257 == 0) x = std::vector{quiet_nan, -quiet_nan, infinite, -infinite, 1e300, -1e300}[random.index(6)];
      wide.push_back(x);
      narrow.push_back(static_cast<float>(x));
      half.push_back(to_bf16(static_cast<float>(x)));
    }
    auto const compare = [&](auto const& x) {
      for (auto const limit : {simd_level::baseline, simd_level::avx2, simd_level::avx512}) {
        detail::limit_simd_level(limit);
        histogram h(o);
        h.update(x);
        CHECK(h.result().counts == by_edges(x, edges));
        CHECK(h.count() == x.size());
      }
      detail::limit_simd_level(level);
    };
    compare(wide);
    compare(narrow);
    compare(half);
  }
}

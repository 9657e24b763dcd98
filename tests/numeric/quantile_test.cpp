// SPDX-License-Identifier: Apache-2.0
#include <moeroute/numeric/quantile.hpp>
#include <moeroute/numeric/random.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include <doctest/doctest.h>

#include "support/golden.hpp"

using namespace moeroute;

namespace {

using numbers = std::vector<double>;
numbers const levels{0, 1e-6, 0.01, 0.25, 0.3, 0.5, 0.75, 0.975, 0.999999, 1};

// By sorting.
template <class T>
numbers sorted_quantiles(std::vector<T> const& x, numbers const& p) {
  numbers v;
  for (T const y : x)
    if (double const d = static_cast<double>(to_compute(y)); !std::isnan(d)) v.push_back(d);
  std::sort(v.begin(), v.end());
  numbers out;
  for (double const q : p) {
    double const place = q * static_cast<double>(v.size() - 1), t = place - std::floor(place);
    double const a = v[static_cast<std::size_t>(place)],
                 b = v[std::min(static_cast<std::size_t>(place) + 1, v.size() - 1)];
    double volatile const step = t * (b - a);  // rounded on its own
    out.push_back(t == 0 || a == b ? a : a + step);
  }
  return out;
}

bool equal(numbers const& a, numbers const& b) {  // NaN equals NaN
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](double x, double y) { return x == y || (std::isnan(x) && std::isnan(y)); });
}

}  // namespace

TEST_CASE("quantile: by hand") {
  CHECK(quantiles_of(numbers{3, 1, 2, quiet_nan}, numbers{0, 0.25, 0.5, 1}) == numbers{1, 1.5, 2, 3});
  CHECK(quantiles_of(numbers{7}, numbers{0.3}) == numbers{7});
  CHECK(std::isnan(quantiles_of(numbers{}, numbers{0.5})[0]));
  CHECK(std::isnan(quantiles_of(numbers{quiet_nan, -quiet_nan}, numbers{0.5})[0]));
  CHECK(quantiles_of(numbers{1, 2}, numbers{}).empty());
  CHECK_THROWS_AS(quantiles_of(numbers{1}, numbers{-0.1}), argument_error);
  CHECK_THROWS_AS(quantiles_of(numbers{1}, numbers{1.1}), argument_error);
  CHECK_THROWS_AS(quantiles_of(numbers{1}, numbers{quiet_nan}), argument_error);
}

TEST_CASE("quantile: equals numpy's") {
  for (auto const& g : golden("quantile", "quantiles")) {
    auto const got = quantiles_of(g["x"].get<numbers>(), g["p"].get<numbers>()), want = g["quantiles"].get<numbers>();
    REQUIRE(got.size() == want.size());
    for (std::size_t i = 0; i < got.size(); ++i) CHECK(close(got[i], want[i], 1e-14));
  }
}

TEST_CASE("quantile: equals sorting for every scalar, long and short, with ties, NaN and infinities") {
  double const infinity = std::numeric_limits<double>::infinity();
  random_stream random(5, 1);
  for (index_t const n : {10, 1000, 65535, 65536, 100'003})
    for (int kind = 0; kind < 4; ++kind) {
      numbers x;
      for (index_t i = 0; i < n; ++i) {
        double const u = random.uniform() + random.uniform() - 1;
        x.push_back(kind == 0   ? u
                    : kind == 1 ? std::round(8 * u)
                    : kind == 2 ? (i % 997 == 3 ? (i % 2 == 0 ? quiet_nan : -quiet_nan) : std::exp(40 * u) * (u - 0.2))
                                : (i % 3 == 0 ? (i % 2 == 0 ? infinity : -infinity) : i % 5 == 0 ? quiet_nan : u));
      }
      std::vector<float> f;
      std::vector<bf16> b;
      std::vector<f16> h;
      for (double const v : x) {
        f.push_back(static_cast<float>(v));
        b.push_back(to_bf16(f.back()));
        h.push_back(to_f16(f.back()));
      }
      for (auto const level : {simd_level::baseline, simd_level::avx2, simd_level::avx512}) {
        detail::limit_simd_level(level);
        CHECK(equal(quantiles_of(x, levels), sorted_quantiles(x, levels)));
        CHECK(equal(quantiles_of(f, levels), sorted_quantiles(f, levels)));
        CHECK(equal(quantiles_of(b, levels), sorted_quantiles(b, levels)));
        CHECK(equal(quantiles_of(h, levels), sorted_quantiles(h, levels)));
      }
      detail::limit_simd_level(simd_level::avx512);
      CHECK(equal(quantiles_of(vector_view<double>(x.data(), n / 2, 2), levels), sorted_quantiles([&] {
              numbers every_second;
              for (index_t i = 0; i < n / 2; ++i) every_second.push_back(x[static_cast<std::size_t>(2 * i)]);
              return every_second;
            }(), levels)));
    }
}

// SPDX-License-Identifier: Apache-2.0
#include <moeroute/numeric/dct.hpp>
#include <moeroute/numeric/random.hpp>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include <doctest/doctest.h>

#include "support/containers.hpp"
#include "support/golden.hpp"

using namespace moeroute;

namespace {

std::vector<double> random_vector(std::size_t n, std::uint64_t id) {
  random_stream random(9, 3, id);
  std::vector<double> x(n);
  for (auto& v : x) v = random.uniform() - 0.5;
  return x;
}

}  // namespace

TEST_CASE("dct: by hand") {
  CHECK(dct2(std::vector<double>{3}) == std::vector<double>{6});
  CHECK(dct3(std::vector<double>{3}) == std::vector<double>{3});
  auto const y = dct2(std::vector<double>{1, 0});
  CHECK(y[0] == doctest::Approx(2));
  CHECK(y[1] == doctest::Approx(std::numbers::sqrt2));
}

TEST_CASE("dct: equals the definition and scipy") {
  for (std::size_t n = 1; n <= 256; n *= 2) {
    auto const x = random_vector(n, n), y = dct2(x), z = dct3(x);
    for (std::size_t k = 0; k < n; ++k) {
      long double two = 0, three = x[0];
      for (std::size_t i = 0; i < n; ++i) {
        two += 2 * x[i] *
               std::cos(std::numbers::pi_v<long double> * static_cast<long double>(k * (2 * i + 1)) /
                        static_cast<long double>(2 * n));
        if (i > 0)
          three += 2 * x[i] *
                   std::cos(std::numbers::pi_v<long double> * static_cast<long double>(i * (2 * k + 1)) /
                            static_cast<long double>(2 * n));
      }
      CHECK(std::abs(static_cast<double>(two - y[k])) <= 1e-14 * std::sqrt(static_cast<double>(n)));
      CHECK(std::abs(static_cast<double>(three - z[k])) <= 1e-14 * std::sqrt(static_cast<double>(n)));
    }
  }
  for (auto const& g : golden("density", "dct")) {
    auto const x = g["x"].get<std::vector<double>>(), two = g["dct2"].get<std::vector<double>>(),
               three = g["dct3"].get<std::vector<double>>();
    auto const y = dct2(x), z = dct3(x);
    for (std::size_t i = 0; i < x.size(); ++i) {
      CHECK(close(y[i], two[i], 1e-13));
      CHECK(close(z[i], three[i], 1e-13));
    }
  }
}

TEST_CASE("dct: type III inverts type II") {
  std::size_t const n = 1 << 14;
  auto const x = random_vector(n, 5), back = dct3(dct2(x));
  double worst = 0;
  for (std::size_t i = 0; i < n; ++i)
    worst = std::max(worst, std::abs(back[i] / (2.0 * static_cast<double>(n)) - x[i]));
  CHECK(worst <= 2e-15);
}

TEST_CASE("dct: containers, and lengths that are no power of two") {
  std::vector<double> const x{1, 2, 3, 5};
  auto const y = dct2(x);
  for_each_vector(x, [&](char const* name, auto const& v) {
    CAPTURE(name);
    CHECK(dct2(v) == y);
  });
  for (std::size_t const n : {std::size_t{0}, std::size_t{3}, std::size_t{12}}) {
    CHECK_THROWS_AS(dct2(std::vector<double>(n)), shape_error);
    CHECK_THROWS_AS(dct3(std::vector<double>(n)), shape_error);
  }
  CHECK_THROWS_WITH(dct2(std::vector<double>(3)), "moeroute::dct2: 3 values, must be a power of two");
}

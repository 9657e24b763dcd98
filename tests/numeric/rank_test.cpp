// SPDX-License-Identifier: Apache-2.0
#include <moeroute/numeric/rank.hpp>

#include <cmath>
#include <vector>

#include <doctest/doctest.h>

#include "support/golden.hpp"

using namespace moeroute;

TEST_CASE("rank: equals scipy") {
  for (auto const& g : golden("numeric", "rank")) {
    auto const x = g["x"].get<std::vector<double>>(), y = g["y"].get<std::vector<double>>();
    CHECK(mid_ranks(x) == g["ranks_x"].get<std::vector<double>>());
    CHECK(close(pearson(x, y), g["pearson"], 1e-8));  // the third pair sits at 1e8 with a spread of 1
    CHECK(close(spearman(x, y), g["spearman"], 1e-14));
  }
}

TEST_CASE("rank: by hand") {
  CHECK(mid_ranks(std::vector<int>{30, 10, 20, 10}) == std::vector<double>{4, 1.5, 3, 1.5});
  CHECK(mid_ranks(std::vector<int>{}).empty());
  CHECK(pearson(std::vector<int>{1, 2, 3}, std::vector<float>{2, 4, 6}) == doctest::Approx(1));
  CHECK(spearman(std::vector<int>{1, 2, 3}, std::vector<float>{9, 4, -6}) == doctest::Approx(-1));
}

TEST_CASE("rank: pearson does not lose values whose squares leave the range of double") {
  std::vector<double> const x{1, 5, -2, 4, 0}, y{2, 3, -1, -4, 1};
  double const r = pearson(x, y);
  for (double const scale : {0x1p-900, 0x1p+900, 0x1p-1040, 0x1p+1018}) {
    auto u = x, v = y;
    for (double& e : u) e *= scale;
    for (double& e : v) e *= -scale;
    CHECK(pearson(u, v) == doctest::Approx(-r).epsilon(1e-15));
    CHECK(pearson(u, y) == doctest::Approx(r).epsilon(1e-15));
  }
  CHECK(std::isnan(pearson(x, std::vector<double>{1, 2, std::numeric_limits<double>::infinity(), 4, 5})));
}

TEST_CASE("rank: constant, short and NaN vectors have no correlation") {
  std::vector<double> const tenths(7, 0.1), x{1, 2, 3, 4, 5, 6, 7};
  CHECK(std::isnan(pearson(tenths, x)));
  CHECK(std::isnan(spearman(x, tenths)));
  CHECK(std::isnan(pearson(std::vector<double>{1}, std::vector<double>{2})));
  CHECK(std::isnan(pearson(std::vector<double>{}, std::vector<double>{})));
  auto holed = x;
  holed[2] = quiet_nan;
  CHECK(std::isnan(pearson(holed, x)));
  CHECK(std::isnan(spearman(holed, x)));
  CHECK(std::isnan(mid_ranks(holed)[0]));
  CHECK_THROWS_AS(pearson(x, std::vector<double>{1, 2}), shape_error);
  CHECK_THROWS_AS(spearman(x, std::vector<double>{1, 2}), shape_error);
}

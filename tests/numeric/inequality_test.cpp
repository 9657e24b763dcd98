// SPDX-License-Identifier: Apache-2.0
#include <moeroute/numeric/inequality.hpp>

#include <algorithm>
#include <cmath>
#include <vector>

#include <doctest/doctest.h>

#include "support/golden.hpp"

using namespace moeroute;

TEST_CASE("inequality: equals scipy, numpy and the definitions") {
  for (auto const& g : golden("numeric", "entropy")) {
    auto const counts = g["counts"].get<std::vector<int>>();
    CHECK(close(coefficient_of_variation(counts), g["cv0"], 1e-13));
    CHECK(close(coefficient_of_variation(counts, 1), g["cv1"], 1e-13));
    CHECK(close(gini(counts), g["gini"], 1e-13));
    CHECK(close(herfindahl(counts), g["herfindahl"], 1e-14));
    CHECK(close(inverse_simpson(counts), 1 / g["herfindahl"].get<double>(), 1e-13));
    double const cv = coefficient_of_variation(counts);
    CHECK(close(jain_index(counts), 1 / (1 + cv * cv), 1e-13));
  }
}

TEST_CASE("inequality: by hand") {
  std::vector<int> const one{0, 0, 8, 0}, even{3, 3, 3};
  CHECK(max_violation(one) == 3);
  CHECK(min_violation(one) == 1);
  CHECK(coefficient_of_variation(one) == doctest::Approx(std::sqrt(3.0)));
  CHECK(gini(one) == 0.75);
  CHECK(inverse_simpson(one) == 1);
  CHECK(jain_index(one) == 0.25);
  CHECK(max_violation(even) == 0);
  CHECK(min_violation(even) == 0);
  CHECK(coefficient_of_variation(even) == 0);
  CHECK(gini(even) == 0);
  CHECK(inverse_simpson(even) == doctest::Approx(3));
  CHECK(jain_index(even) == doctest::Approx(1));
  CHECK(max_violation(std::vector<double>{0.5, 0.3, 0.2}) == doctest::Approx(0.5));
  CHECK(min_violation(std::vector<double>{0.5, 0.3, 0.2}) == doctest::Approx(0.4));
}

TEST_CASE("inequality: the names of the experts and the number of tokens do not matter") {
  std::vector<int> x{7, 1, 30, 4, 4}, doubled;
  auto y = x;
  std::reverse(y.begin(), y.end());
  for (int v : x) doubled.push_back(2 * v);
  for (auto const& other : {y, doubled}) {
    CHECK(max_violation(other) == doctest::Approx(max_violation(x)));
    CHECK(gini(other) == doctest::Approx(gini(x)));
    CHECK(coefficient_of_variation(other) == doctest::Approx(coefficient_of_variation(x)));
    CHECK(herfindahl(other) == doctest::Approx(herfindahl(x)));
  }
}

TEST_CASE("inequality: nothing counted is NaN, negative masses throw") {
  for (auto const& x : {std::vector<int>{}, std::vector<int>{0, 0}}) {
    CHECK(std::isnan(max_violation(x)));
    CHECK(std::isnan(min_violation(x)));
    CHECK(std::isnan(coefficient_of_variation(x)));
    CHECK(std::isnan(gini(x)));
    CHECK(std::isnan(herfindahl(x)));
    CHECK(std::isnan(inverse_simpson(x)));
    CHECK(std::isnan(jain_index(x)));
  }
  CHECK(std::isnan(coefficient_of_variation(std::vector<int>{3}, 1)));
  CHECK_THROWS_AS(coefficient_of_variation(std::vector<int>{3, 4}, 2), argument_error);
  CHECK_THROWS_AS(gini(std::vector<int>{3, -4}), argument_error);
  CHECK_THROWS_AS(max_violation(std::vector<double>{3, quiet_nan}), argument_error);
}

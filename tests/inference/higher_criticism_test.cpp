// SPDX-License-Identifier: Apache-2.0
#include <moeroute/inference/higher_criticism.hpp>

#include <cmath>
#include <limits>
#include <numbers>
#include <vector>

#include <doctest/doctest.h>

#include "support/containers.hpp"
#include "support/golden.hpp"
#include "support/normal.hpp"

using namespace moeroute;

TEST_CASE("higher_criticism: both forms and the repository's equal their definitions in numpy") {
  for (auto const& g : golden("higher_criticism", "cases")) {
    auto const p = g["p"].get<std::vector<double>>();
    for (auto const& c : g["donoho_jin"]) {
      auto const r = higher_criticism(p, {.alpha0 = c["alpha0"], .above_1_n = c["plus"]});
      if (c["result"].is_null()) {
        CHECK(std::isnan(r.statistic));
        CHECK(r.rank == 0);
        continue;
      }
      CHECK(close(r.statistic, c["result"][0], 1e-13));
      CHECK(r.rank == c["result"][1].get<index_t>());
    }
    for (auto const& c : g["repository"]) {
      bool const plus = c["beta"].is_string();
      auto const r = repository_higher_criticism(
          p, {.beta = plus ? 1.0 : c["beta"].get<double>(), .plus = plus, .min_k = c["min_k"], .max_k = c["max_k"]});
      if (!c["result"][0].is_null()) CHECK(close(r.statistic, c["result"][0], 1e-13));
      CHECK(r.rank == c["result"][1].get<index_t>());
      CHECK(r.count == c["result"][2].get<index_t>());
    }
  }
}

TEST_CASE("higher_criticism: by hand") {
  std::vector<double> const p{0.5, 0.04, 0.9, 0.3};
  auto const star = higher_criticism(p, {.alpha0 = 0.5, .above_1_n = false});
  CHECK(star.statistic == doctest::Approx(2 * (0.25 - 0.04) / std::sqrt(0.04 * 0.96)));
  CHECK(star.rank == 1);
  CHECK(star.threshold == 0.04);
  auto const plus = higher_criticism(p);  // 0.04 is not above 1/4
  CHECK(plus.statistic == doctest::Approx(2 * (0.5 - 0.3) / std::sqrt(0.3 * 0.7)));
  CHECK(plus.rank == 2);
  // Strictly above 1/N; the first of equal maxima; 0.29 * 100 ranks are 29, although the product is below.
  CHECK(higher_criticism(std::vector<double>{0.25, 0.45, 0.9, 1}).rank == 2);
  auto const level = higher_criticism(std::vector<double>{0.25, 0.5, 0.75, 1}, {.alpha0 = 0.75, .above_1_n = false});
  CHECK(level.statistic == 0);
  CHECK(level.rank == 1);
  std::vector<double> many;
  for (int i = 1; i <= 100; ++i) many.push_back(i <= 29 ? 0.1 : 0.5);
  CHECK(higher_criticism(many, {.alpha0 = 0.29}).rank == 29);
  for_each_vector<double>(p, [&](char const* name, auto const& x) {
    INFO(name);
    CHECK(higher_criticism(x).statistic == plus.statistic);
  });
  // Without the guard the repository's rule stops at the one tiny p-value; HC+ goes on to the group of small ones.
  std::vector<double> group{1e-9};
  for (int i = 0; i < 10; ++i) group.push_back(0.02 + 0.001 * i);
  for (int i = 11; i < 64; ++i) group.push_back((i + 0.5) / 64);
  CHECK(repository_higher_criticism(group).rank == 1);
  CHECK(repository_higher_criticism(group, {.min_k = 4}).rank == 11);
  CHECK(higher_criticism(group).rank == 11);
}

TEST_CASE("higher_criticism: ends, NaN and nonsense") {
  CHECK(higher_criticism(std::vector<double>{0, 0.5, 0.7}, {.alpha0 = 1, .above_1_n = false}).statistic ==
        std::numeric_limits<double>::infinity());
  CHECK(higher_criticism(std::vector<double>{1, 1}, {.alpha0 = 1}).rank == 1);
  CHECK(std::isnan(higher_criticism(std::vector<double>{}).statistic));
  CHECK(std::isnan(higher_criticism(std::vector<double>{0.3}).statistic));
  std::vector<double> const holed{0.1, quiet_nan, 0.3}, whole{0.1, 0.3};
  CHECK(higher_criticism(holed, {.above_1_n = false}).statistic ==
        higher_criticism(whole, {.above_1_n = false}).statistic);
  CHECK_THROWS_AS(higher_criticism(std::vector<double>{1.1}), argument_error);
  CHECK_THROWS_AS(higher_criticism(whole, {.alpha0 = 0}), argument_error);
  CHECK_THROWS_AS(higher_criticism(whole, {.alpha0 = quiet_nan}), argument_error);
  CHECK_THROWS_AS(repository_higher_criticism(whole, {.beta = 0}), argument_error);
  CHECK_THROWS_AS(repository_higher_criticism(whole, {.min_k = 5, .max_k = 4}), argument_error);
  CHECK_THROWS_AS(repository_higher_criticism(std::vector<double>{-0.1}), argument_error);
  CHECK_THROWS_AS(higher_criticism_null(0), argument_error);
  CHECK_THROWS_AS(higher_criticism_null(4, {}, -1), argument_error);
  CHECK(repository_higher_criticism(std::vector<double>{}).count == 1);
}

TEST_CASE("higher_criticism: the null is a function of the seed, and its two readings agree") {
  higher_criticism_null const a(64, {}, 999, 5), b(64, {}, 999, 5, 3), c(64, {}, 999, 6);
  CHECK(a.critical_value(0.05) == b.critical_value(0.05));
  CHECK(a.critical_value(0.05) != c.critical_value(0.05));
  for (double const alpha : {0.001, 0.05, 0.3}) {
    double const critical = a.critical_value(alpha);
    CHECK(a.p_value(critical) > alpha);
    CHECK(a.p_value(critical + 1e-9) <= alpha * (1 + 1e-12));
  }
  CHECK(a.p_value(1e9) == 1.0 / 1000);
  CHECK(a.p_value(quiet_nan) == 1);
  CHECK(a.p_value(std::numeric_limits<double>::infinity()) == 1.0 / 1000);
  higher_criticism_null const own(std::vector<double>{3, quiet_nan, 1, 2});
  CHECK(own.p_value(2) == 3.0 / 5);
  CHECK(own.critical_value(0.2) == 3);
  CHECK_THROWS_AS(own.critical_value(0.1), argument_error);
  CHECK_THROWS_AS(own.critical_value(1), argument_error);
  CHECK(higher_criticism_null(std::vector<double>{}).p_value(3) == 1);
}

TEST_CASE("higher_criticism: the simulated null of HC* has the exact tail") {
  for (auto const& g : golden("higher_criticism", "null")) {
    higher_criticism_null const null(g["n"], {.alpha0 = g["alpha0"], .above_1_n = false}, 4999, 3);
    double const p = g["p"];
    INFO("N = ", g["n"].get<int>(), ", statistic ", g["statistic"].get<double>());
    CHECK(std::abs(null.p_value(g["statistic"]) - p) < 4 * std::sqrt(p * (1 - p) / 5000) + 1.0 / 5000);
  }
}

TEST_CASE("higher_criticism: level and power, and dependence that needs its own null" * doctest::test_suite("slow")) {
  int const repeats = 2000;
  std::size_t const n = 64;
  higher_criticism_null const null(64, {}, 19999);
  double level = 0, power = 0, dependent = 0;
  auto const p_of = [](double z) { return 0.5 * std::erfc(z / std::numbers::sqrt2); };
  for (int r = 0; r < repeats; ++r) {
    random_stream random(2, 1, static_cast<std::uint64_t>(r));
    double const common = normal(random);
    std::vector<double> a, b, c;
    for (std::size_t i = 0; i < n; ++i) {
      a.push_back(p_of(normal(random)));
      b.push_back(p_of(normal(random) + (i < 6 ? 2.5 : 0)));
      c.push_back(p_of(std::sqrt(0.5) * (common + normal(random))));
    }
    level += null.p_value(higher_criticism(a).statistic) <= 0.05 ? 1.0 / repeats : 0;
    power += null.p_value(higher_criticism(b).statistic) <= 0.05 ? 1.0 / repeats : 0;
    dependent += null.p_value(higher_criticism(c).statistic) <= 0.05 ? 1.0 / repeats : 0;
  }
  MESSAGE("rejected at 5 %: null ", level, ", 6 of 64 shifted by 2.5 sd ", power, ", null with correlation 1/2 ",
          dependent);
  CHECK(std::abs(level - 0.05) < 3 * std::sqrt(0.05 * 0.95 / repeats));
  CHECK(power > 0.6);
  CHECK(dependent > 0.1);
}

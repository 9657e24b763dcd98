// SPDX-License-Identifier: Apache-2.0
#include <moeroute/inference/goodness_of_fit.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include <doctest/doctest.h>

#include "support/containers.hpp"
#include "support/golden.hpp"

using namespace moeroute;

namespace {

using vector = std::vector<double>;

vector logs(vector x) {
  for (double& v : x) v = std::log(v);
  return x;
}
vector complements(vector x) {
  for (double& v : x) v = 1 - v;
  return x;
}

}  // namespace

TEST_CASE("goodness_of_fit: the law of D equals scipy's at any n") {
  for (auto const& g : golden("goodness_of_fit", "kolmogorov")) {
    index_t const n = g["n"];
    double const d = g["d"], p = g["p"], ours = kolmogorov_survival(n, d), zz = static_cast<double>(n) * d * d;
    INFO("n = ", n, ", d = ", d, ": ", ours, " against ", p);
    double const tolerance = n <= 500 ? 1e-9 : n <= 1000000 && zz > 4 ? 1e-8 : 4e-4;
    if (n <= 1000000 || zz < 2) CHECK(std::abs(ours / p - 1) < tolerance);
  }
  CHECK(kolmogorov_survival(10, 0.05) == 1);
  CHECK(kolmogorov_survival(10, 1) == 0);
  CHECK(kolmogorov_survival(1, 0.7) == doctest::Approx(0.6));                // 2 (1 - d)
  CHECK(kolmogorov_survival(2, 0.4) == doctest::Approx(1 - 2 * 0.3 * 0.3));  // 1 - 2 (2d - 1/2)^2
  CHECK(std::isnan(kolmogorov_survival(10, quiet_nan)));
  CHECK_THROWS_AS(kolmogorov_survival(0, 0.5), argument_error);
}

TEST_CASE("goodness_of_fit: one sample by hand and against scipy") {
  auto const r = kolmogorov_smirnov_test(vector{0.7, quiet_nan, 0.2});
  CHECK(r.n == 2);
  CHECK(r.above == doctest::Approx(0.3));
  CHECK(r.below == doctest::Approx(0.2));
  CHECK(r.statistic == r.above);
  for (auto const& g : golden("goodness_of_fit", "one_sample")) {
    auto const u = g["u"].get<vector>();
    auto const test = kolmogorov_smirnov_test(u);
    CHECK(close(test.statistic, g["d"], 1e-14));
    CHECK(close(test.p_value, g["p"], u.size() > 500 ? 3e-4 : 1e-9));
    for_each_vector<double>(
        u, [&](char const*, auto const& x) { CHECK(kolmogorov_smirnov_test(x).p_value == test.p_value); });
  }
  CHECK(std::isnan(kolmogorov_smirnov_test(vector{quiet_nan}).statistic));
  CHECK(std::isnan(kolmogorov_smirnov_test(vector{}).p_value));
  CHECK_THROWS_AS(kolmogorov_smirnov_test(vector{1.1}), argument_error);
  CHECK_THROWS_AS(kolmogorov_smirnov_test(vector{-0.1}), argument_error);
}

TEST_CASE("goodness_of_fit: two samples equal counted paths, ties and tails included") {
  for (auto const& g : golden("goodness_of_fit", "two_sample")) {
    auto const x = g["x"].get<vector>(), y = g["y"].get<vector>();
    auto const r = kolmogorov_smirnov_two_sample(x, y), turned = kolmogorov_smirnov_two_sample(y, x);
    INFO(x.size(), " against ", y.size(), ": ", r.p_value);
    CHECK(close(r.statistic, g["d"], 1e-15));
    CHECK(std::abs(r.p_value / g["p"].get<double>() - 1) < 1e-12);
    if (g.contains("scipy_p")) CHECK(std::abs(r.p_value / g["scipy_p"].get<double>() - 1) < 1e-9);
    CHECK(turned.statistic == r.statistic);
    CHECK(turned.p_value == doctest::Approx(r.p_value).epsilon(1e-12));
  }
  // Three values against one: D = 1 in two of four deals.
  CHECK(kolmogorov_smirnov_two_sample(vector{1, 2, 3}, vector{4}).p_value == doctest::Approx(0.5));
  CHECK(kolmogorov_smirnov_two_sample(vector{1, 1}, vector{1}).p_value == 1);
  CHECK(std::isnan(kolmogorov_smirnov_two_sample(vector{}, vector{1}).p_value));
  CHECK(std::isnan(kolmogorov_smirnov_two_sample(vector{quiet_nan}, vector{1}).statistic));
  // The limit takes over where the exact sum would be slow.
  vector many(4000), more(3000);
  for (std::size_t i = 0; i < many.size(); ++i) many[i] = static_cast<double>(i) / 4000;
  for (std::size_t i = 0; i < more.size(); ++i) more[i] = std::pow(static_cast<double>(i) / 3000, 1.05);
  auto const wide = kolmogorov_smirnov_two_sample(many, more);
  CHECK(wide.p_value == doctest::Approx(detail::kolmogorov_limit(wide.statistic * std::sqrt(4000.0 * 3000 / 7000))));
}

TEST_CASE("goodness_of_fit: the limit of A^2 equals its series at high precision, and never dies") {
  for (auto const& g : golden("goodness_of_fit", "anderson_limit")) {
    double const a = g["a"], p = g["p"];
    INFO("A^2 = ", a);
    CHECK(std::abs(anderson_darling_survival(1000000000, a) / p - 1) < 1e-9);  // the correction is 1e-10 there
  }
  double last = 1;
  for (double a = 0.02; a < 700; a *= 1.1) {
    double const p = anderson_darling_survival(20, a);
    CHECK(p <= last);
    CHECK(p > 0);
    last = p;
  }
  for (double const u : {0.5, 0.3, 0.01, 1e-9})  // one value: as far from the middle as u, or further
    CHECK(anderson_darling_survival(1, -1 - std::log(u) - std::log1p(-u)) == doctest::Approx(2 * u).epsilon(1e-12));
  CHECK(anderson_darling_survival(1, 0.38) == 1);
  CHECK(anderson_darling_survival(1, 400) > 0);
  CHECK(anderson_darling_survival(3, -1) == 1);
  CHECK(anderson_darling_survival(3, std::numeric_limits<double>::infinity()) == 0);
  CHECK(std::isnan(anderson_darling_survival(3, quiet_nan)));
  CHECK_THROWS_AS(anderson_darling_survival(0, 1), argument_error);
}

TEST_CASE("goodness_of_fit: the corrected A^2 has the simulated quantiles") {
  for (auto const& g : golden("goodness_of_fit", "anderson_finite")) {
    double const p = g["p"], ours = anderson_darling_survival(g["n"], g["a"]);
    INFO("n = ", g["n"].get<int>(), ", p = ", p, ": ", ours);
    // Four standard errors of the simulation, and what the constants may be off.
    CHECK(std::abs(ours - p) < 4 * std::sqrt(p * (1 - p) / g["simulations"].get<double>()) + 4e-4 * p + 3e-5);
  }
}

TEST_CASE("goodness_of_fit: A^2 by hand, against statsmodels, in every container") {
  vector const u{0.5, 0.25};
  auto const r = anderson_darling_test(logs(u), logs(complements(u)));
  CHECK(r.statistic == doctest::Approx(-2 - (std::log(0.25 * 0.5) + 3 * std::log(0.5 * 0.75)) / 2));
  CHECK(r.p_value == anderson_darling_survival(2, r.statistic));
  for (auto const& g : golden("goodness_of_fit", "anderson_fixed")) {
    auto const cdf = g["log_cdf"].get<vector>(), survival = g["log_survival"].get<vector>();
    for_each_vector<double>(cdf, [&](char const*, auto const& c) {
      CHECK(close(anderson_darling_test(c, survival).statistic, g["a"], 1e-12));
    });
    auto holed = cdf, also = survival;
    holed.push_back(quiet_nan);
    also.push_back(-1);
    CHECK(anderson_darling_test(holed, also).statistic == anderson_darling_test(cdf, survival).statistic);
  }
  CHECK(std::isnan(anderson_darling_test(vector{}, vector{}).p_value));
  double const infinity = std::numeric_limits<double>::infinity();
  CHECK(anderson_darling_test(vector{-infinity}, vector{0}).p_value == 0);
  CHECK_THROWS_AS(anderson_darling_test(vector{-1}, vector{}), shape_error);
  CHECK_THROWS_AS(anderson_darling_test(vector{0.1}, vector{-1}), argument_error);
}

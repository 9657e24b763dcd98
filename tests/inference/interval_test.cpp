// SPDX-License-Identifier: Apache-2.0
#include <moeroute/inference/interval.hpp>
#include <moeroute/numeric/random.hpp>

#include <cmath>

#include <doctest/doctest.h>

#include "support/golden.hpp"

using namespace moeroute;

TEST_CASE("interval: equals statsmodels") {
  for (auto const& g : golden("inference", "intervals")) {
    std::uint64_t const k = g["k"], n = g["n"];
    double const level = g["level"];
    INFO(k, " of ", n, " at ", level);
    for (auto const& [name, ours] : {std::pair{"wilson", wilson_interval(k, n, level)},
                                     std::pair{"clopper_pearson", clopper_pearson_interval(k, n, level)},
                                     std::pair{"jeffreys", jeffreys_interval(k, n, level)}}) {
      INFO(name);
      CHECK(ours.value == double(k) / double(n));
      CHECK(close(ours.lower, g[name][0], 1e-11));
      CHECK(close(ours.upper, g[name][1], 1e-11));
      CHECK(ours.level == level);
    }
    CHECK(close(unseen_upper_bound(n, level), g["unseen"], 1e-14));
  }
}

TEST_CASE("interval: ends are exact, the two sides mirror each other") {
  for (std::uint64_t n : {1u, 7u, 400u})
    for (auto* interval : {wilson_interval, clopper_pearson_interval, jeffreys_interval}) {
      CHECK(interval(0, n, 0.95).lower == 0);
      CHECK(interval(n, n, 0.95).upper == 1);
      for (std::uint64_t k = 0; k <= n; k += 1 + n / 5) {
        auto const a = interval(k, n, 0.9), b = interval(n - k, n, 0.9);
        CHECK(a.lower == doctest::Approx(1 - b.upper).epsilon(1e-12));
        CHECK(a.lower <= a.value);
        CHECK(a.value <= a.upper);
      }
    }
  CHECK(unseen_upper_bound(1) == doctest::Approx(0.95));
  CHECK(unseen_upper_bound(1000000) == doctest::Approx(-std::log(0.05) / 1e6).epsilon(1e-5));
}

TEST_CASE("interval: no trials is NaN, nonsense throws") {
  for (auto* interval : {wilson_interval, clopper_pearson_interval, jeffreys_interval}) {
    auto const e = interval(0, 0, 0.95);
    CHECK(std::isnan(e.value));
    CHECK(std::isnan(e.lower));
    CHECK(std::isnan(e.upper));
    CHECK_THROWS_AS(interval(4, 3, 0.95), argument_error);
    CHECK_THROWS_AS(interval(1, 3, 1.0), argument_error);
    CHECK_THROWS_AS(interval(1, 3, quiet_nan), argument_error);
  }
  CHECK(std::isnan(unseen_upper_bound(0)));
  CHECK_THROWS_AS(unseen_upper_bound(5, 0), argument_error);
}

TEST_CASE("interval: counts of any size, and no jump where the incomplete beta function is left") {
  for (double const share : {1e-6, 0.02, 0.4, 0.98})
    for (std::uint64_t n :
         {2000000000ull, 60000000000ull, 1000000000000ull, 1000000000000000ull, 4000000000000000000ull})
      for (double const level : {0.95, 0.999}) {
        auto const k = static_cast<std::uint64_t>(share * static_cast<double>(n));
        auto const w = wilson_interval(k, n, level), c = clopper_pearson_interval(k, n, level),
                   j = jeffreys_interval(k, n, level);
        double const width = w.upper - w.lower, few = 1 / std::sqrt(share * (1 - share) * static_cast<double>(n));
        INFO(k, " of ", n);
        CHECK(width > 0);
        for (auto const& e : {c, j}) {
          CHECK(std::abs(e.lower - w.lower) <= 3 * few * width + 1e-15);
          CHECK(std::abs(e.upper - w.upper) <= 3 * few * width + 1e-15);
        }
      }
  // Either side of the switch.
  std::uint64_t const k = 1000000000, n = 7000000000;
  for (auto* interval : {clopper_pearson_interval, jeffreys_interval}) {
    auto const below = interval(k, n, 0.95), above = interval(k + 1, n, 0.95);
    double const width = below.upper - below.lower, step = 1 / static_cast<double>(n);
    CHECK(std::abs(above.lower - below.lower - step) < 1e-4 * width);
    CHECK(std::abs(above.upper - below.upper - step) < 1e-4 * width);
  }
  // scipy.stats.beta there: the half success that the exact interval is wider by counts.
  auto const exact = clopper_pearson_interval(1500000000, 3000000000, 0.95);
  CHECK(std::abs(exact.lower - 0.49998210789190334) < 1e-11);
  CHECK(std::abs(exact.upper - 0.5000178921080967) < 1e-11);
}

TEST_CASE("interval: coverage is as documented" * doctest::test_suite("slow")) {
  // Exactly, by summing the binomial law, and averaged over the share; Clopper-Pearson may not fall below its level
  // anywhere.
  for (unsigned n : {20u, 100u}) {
    double wilson = 0, jeffreys = 0, least = 1;
    int const shares = 400;
    for (int i = 0; i < shares; ++i) {
      double const p = 0.02 + 0.96 * i / (shares - 1);
      double w = 0, c = 0, j = 0;
      for (unsigned k = 0; k <= n; ++k) {
        double const pmf = std::exp(std::lgamma(n + 1.0) - std::lgamma(k + 1.0) - std::lgamma(n - k + 1.0) +
                                    k * std::log(p) + (n - k) * std::log1p(-p));
        auto const holds = [p](estimate const& e) { return e.lower <= p && p <= e.upper; };
        w += holds(wilson_interval(k, n)) ? pmf : 0;
        c += holds(clopper_pearson_interval(k, n)) ? pmf : 0;
        j += holds(jeffreys_interval(k, n)) ? pmf : 0;
      }
      wilson += w / shares;
      jeffreys += j / shares;
      least = std::min(least, c);
    }
    MESSAGE("n = ", n, ": wilson ", wilson, ", jeffreys ", jeffreys, ", clopper-pearson at least ", least);
    CHECK(std::abs(wilson - 0.95) < 0.02);
    CHECK(std::abs(jeffreys - 0.95) < 0.02);
    CHECK(least >= 0.95 - 1e-9);
  }
}

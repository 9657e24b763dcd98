// SPDX-License-Identifier: Apache-2.0
#include <moeroute/numeric/divergence.hpp>
#include <moeroute/numeric/random.hpp>

#include <cmath>
#include <vector>

#include <doctest/doctest.h>

#include "support/golden.hpp"

using namespace moeroute;

TEST_CASE("divergence: equals mpmath, relative to its own size") {
  for (auto const& g : golden("numeric", "divergence")) {
    auto const p = g["p"].get<std::vector<std::uint64_t>>(), q = g["q"].get<std::vector<std::uint64_t>>();
    auto const near = [](double ours, double theirs, double tolerance) {
      return std::abs(ours - theirs) <= tolerance * theirs;
    };
    // The last pair differs by 1e-9: its shares are rounded to 1e-7 of their difference before anything is computed.
    if (g["kl"].is_null())
      CHECK(std::isinf(kullback_leibler_nats(p, q)));
    else
      CHECK(near(kullback_leibler_nats(p, q), g["kl"], 1e-6));
    CHECK(near(jensen_shannon_nats(p, q), g["js"], 1e-6));
    CHECK(close(jensen_shannon_nats(p, q), g["js_scipy"], 1e-12));
    CHECK(near(total_variation(p, q), g["tv"], 1e-6));
    CHECK(near(hellinger(p, q), g["hellinger"], 1e-6));
    if (g["tv"].get<double>() > 1e-3) {
      CHECK(close(jensen_shannon_nats(p, q), g["js"], 1e-14));
      CHECK(close(hellinger(p, q), g["hellinger"], 1e-14));
      CHECK(close(total_variation(p, q), g["tv"], 1e-14));
    }
  }
}

TEST_CASE("divergence: by hand") {
  std::vector<int> const a{1, 0}, b{0, 1}, c{1, 1};
  CHECK(jensen_shannon_nats(a, b) == doctest::Approx(std::log(2.0)));
  CHECK(total_variation(a, b) == 1);
  CHECK(hellinger(a, b) == 1);
  CHECK(kullback_leibler_nats(a, c) == doctest::Approx(std::log(2.0)));
  CHECK(std::isinf(kullback_leibler_nats(c, a)));
  for (auto const& x : {a, c}) {
    CHECK(jensen_shannon_nats(x, x) == 0);
    CHECK(kullback_leibler_nats(x, x) == 0);
    CHECK(hellinger(x, x) == 0);
  }
  CHECK(jensen_shannon_nats(a, c) == jensen_shannon_nats(c, a));
}

TEST_CASE("divergence: undefined is NaN, unequal lengths throw") {
  std::vector<int> const zero{0, 0}, one{1, 2}, three{1, 2, 3};
  CHECK(std::isnan(kullback_leibler_nats(zero, one)));
  CHECK(std::isnan(jensen_shannon_nats(one, zero)));
  CHECK(std::isnan(total_variation(zero, zero)));
  CHECK(std::isnan(hellinger(zero, one)));
  CHECK(std::isnan(jensen_shannon_bias_nats(4, 0, 5)));
  CHECK_THROWS_AS(jensen_shannon_nats(one, three), shape_error);
  CHECK_THROWS_AS(total_variation(one, std::vector<int>{1, -2}), argument_error);
}

TEST_CASE("divergence: the bias term is what two samples of one distribution show") {
  random_stream random(9, 1);
  double mean = 0;
  int const repeats = 4000, classes = 10, n1 = 400, n2 = 900;
  for (int r = 0; r < repeats; ++r) {
    std::vector<int> a(classes), b(classes);
    for (int i = 0; i < n1; ++i) ++a[random.index(classes)];
    for (int i = 0; i < n2; ++i) ++b[random.index(classes)];
    mean += jensen_shannon_nats(a, b) / repeats;
  }
  CHECK(mean == doctest::Approx(jensen_shannon_bias_nats(classes, n1, n2)).epsilon(0.03));
}

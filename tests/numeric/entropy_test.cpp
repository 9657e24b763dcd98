// SPDX-License-Identifier: Apache-2.0
#include <moeroute/numeric/entropy.hpp>
#include <moeroute/numeric/random.hpp>

#include <cmath>
#include <vector>

#include <doctest/doctest.h>

#include "support/golden.hpp"

using namespace moeroute;

TEST_CASE("entropy: equals mpmath and scipy") {
  for (auto const& g : golden("numeric", "entropy")) {
    auto const counts = g["counts"].get<std::vector<std::uint64_t>>();
    CHECK(close(entropy_nats(counts), g["entropy"], 1e-14));
    CHECK(close(entropy_nats(counts), g["entropy_scipy"], 1e-13));
    CHECK(close(entropy_miller_madow_nats(counts), g["miller_madow"], 1e-14));
    CHECK(close(effective_number(counts), std::exp(g["entropy"].get<double>()), 1e-13));
    CHECK(close(normalized_entropy(counts), g["entropy"].get<double>() / std::log(double(counts.size())), 1e-14));
    for (auto const& [n, h] : g["rarefied"].get<std::vector<std::pair<std::uint64_t, double>>>()) {
      INFO("n = ", n);
      CHECK(close(rarefied_entropy_nats(counts, n), h, 1e-13));
    }
  }
}

TEST_CASE("entropy: by hand, and the scale of the shares does not matter") {
  CHECK(entropy_nats(std::vector<int>{1, 1}) == doctest::Approx(std::log(2.0)));
  CHECK(entropy_nats(std::vector<double>{0.25, 0.25, 0.5}) == doctest::Approx(1.5 * std::log(2.0)));
  CHECK(entropy_nats(std::vector<float>{3.f, 3.f, 6.f}) == doctest::Approx(1.5 * std::log(2.0)));
  CHECK(entropy_nats(std::vector<int>{0, 5, 0}) == 0);
  CHECK(normalized_entropy(std::vector<int>{2, 2, 2, 2}) == doctest::Approx(1));
  CHECK(rarefied_entropy_nats(std::vector<int>{2, 2}, 2) == doctest::Approx(2.0 / 3 * std::log(2.0)));
}

TEST_CASE("entropy: what is undefined is NaN, what is no mass throws") {
  CHECK(std::isnan(entropy_nats(std::vector<int>{})));
  CHECK(std::isnan(entropy_nats(std::vector<int>{0, 0})));
  CHECK(std::isnan(effective_number(std::vector<int>{0, 0})));
  CHECK(std::isnan(entropy_miller_madow_nats(std::vector<int>{0, 0})));
  CHECK(std::isnan(normalized_entropy(std::vector<int>{4})));
  CHECK(std::isnan(rarefied_entropy_nats(std::vector<int>{4, 5}, 10)));
  CHECK(std::isnan(rarefied_entropy_nats(std::vector<int>{4, 5}, 0)));
  CHECK(std::isnan(rarefied_entropy_expansion_nats(std::vector<int>{0}, 3)));
  CHECK_THROWS_AS(entropy_nats(std::vector<int>{1, -1}), argument_error);
  CHECK_THROWS_AS(entropy_nats(std::vector<double>{1, quiet_nan}), argument_error);
  CHECK_THROWS_AS(entropy_nats(std::vector<double>{1, INFINITY}), argument_error);
  CHECK_THROWS_AS(entropy_miller_madow_nats(std::vector<double>{0.5, 0.5}), argument_error);
  CHECK_THROWS_AS(rarefied_entropy_nats(std::vector<double>{1.5, 3}, 2), argument_error);
}

TEST_CASE("entropy: rarefaction is what subsamples give on average") {
  std::vector<int> const counts{40, 25, 10, 4, 1};
  std::vector<std::size_t> draws;
  for (std::size_t e = 0; e < counts.size(); ++e) draws.insert(draws.end(), static_cast<std::size_t>(counts[e]), e);
  random_stream random(5, 1);
  double mean = 0, square = 0;
  int const repeats = 20000;
  for (int r = 0; r < repeats; ++r) {
    shuffle(draws, random);
    std::vector<int> sample(counts.size());
    for (std::size_t i = 0; i < 20; ++i) ++sample[draws[i]];
    double const h = entropy_nats(sample);
    mean += h / repeats;
    square += h * h / repeats;
  }
  double const error = std::sqrt((square - mean * mean) / repeats);
  CHECK(std::abs(rarefied_entropy_nats(counts, 20) - mean) < 4 * error);
}

TEST_CASE("entropy: rarefaction grows with n, and the expansion follows it where classes are not rare") {
  std::vector<int> counts;
  for (int e = 0; e < 16; ++e) counts.push_back(900 + 130 * e);
  double last = -1;
  for (std::uint64_t n : {1u, 2u, 10u, 100u, 1000u, 10000u, 30000u}) {
    double const h = rarefied_entropy_nats(counts, n);
    CHECK(h > last);
    last = h;
  }
  CHECK(rarefied_entropy_nats(counts, 1) == doctest::Approx(0).epsilon(1e-12));
  for (std::uint64_t n : {1000u, 10000u, 20000u})
    CHECK(std::abs(rarefied_entropy_expansion_nats(counts, n) - rarefied_entropy_nats(counts, n)) <
          300.0 / double(n) / double(n));
  CHECK(rarefied_entropy_expansion_nats(counts, 30000) == entropy_nats(counts));
}

TEST_CASE("entropy: rarefaction of large counts keeps its digits") {
  std::vector<std::uint64_t> const counts{4'000'000'000u, 1'000'000'000u};
  double const n = 2.5e9, h = entropy_nats(counts);
  // The first order of the difference is 1e-10, the next 1e-18.
  CHECK(std::abs(rarefied_entropy_nats(counts, 2'500'000'000u) - (h - 0.5 / n + 0.5 / 5e9)) < 1e-13);
}

// SPDX-License-Identifier: Apache-2.0
#include <moeroute/layers/layer_order.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include <doctest/doctest.h>

#include "support/containers.hpp"
#include "support/golden.hpp"

using namespace moeroute;

namespace {

struct similarity {
  index_t layers;
  std::vector<double> c;
  matrix_view<double> view() const { return {c.data(), layers, layers}; }
};

// Noise, a level of each layer of its own, and `strength` for layers a multiple of `period` apart.
similarity planted(index_t layers, index_t period, double strength, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal;
  std::vector<double> level;
  for (index_t l = 0; l < layers; ++l) level.push_back(normal(random));
  similarity s{layers, std::vector<double>(static_cast<std::size_t>(layers * layers), 1.0)};
  for (index_t i = 0; i < layers; ++i)
    for (index_t j = i + 1; j < layers; ++j)
      s.c[static_cast<std::size_t>(i * layers + j)] = s.c[static_cast<std::size_t>(j * layers + i)] =
          normal(random) + level[static_cast<std::size_t>(i)] + level[static_cast<std::size_t>(j)] +
          (period > 0 && (j - i) % period == 0 ? strength : 0.0);
  return s;
}

layer_order_options quick(index_t delta_max, index_t permutations, std::uint64_t seed = 1, int threads = 1) {
  return {delta_max, permutations, seed, threads};
}

bool same(double a, double b) { return std::memcmp(&a, &b, sizeof a) == 0; }

}  // namespace

TEST_CASE("layer_order: by hand") {
  // Three layers: lag 1 has 1 and 3, lag 2 has 8. The mean is 4; the sum of two is 12 less the third.
  std::vector<double> const c{0, 1, 8, 1, 0, 3, 8, 3, 0};
  auto const r = layer_order_test(matrix_view<double>(c.data(), 3, 3), quick(9, 0));
  REQUIRE(r.lags.size() == 2);
  CHECK(r.mean == 4);
  CHECK(r.lags[0].mean == 2);
  CHECK(r.lags[1].mean == 8);
  double const sd = std::sqrt((9.0 + 1 + 16) / 3);  // of one of 1, 3, 8
  CHECK(r.lags[1].z == doctest::Approx(4 / sd));
  CHECK(r.lags[0].z == doctest::Approx(-4 / sd));
  CHECK(r.lags[0].pairs == 2);
  CHECK(std::isnan(r.lags[0].p_value));
}

TEST_CASE("layer_order: z and p-values of all orders, in every container") {
  for (auto const& c : golden("layers", "orders")) {
    auto const rows = c["similarity"].get<std::vector<std::vector<double>>>();
    std::vector<double> x;
    for (auto const& r : rows) x.insert(x.end(), r.begin(), r.end());
    for_each_matrix(6, 6, x, [&](char const* name, auto const& m) {
      INFO(name);
      auto const r = layer_order_test(m, quick(4, 0));
      for (std::size_t j = 0; j < 4; ++j) {
        CHECK(close(r.lags[j].mean, c["mean"][j].get<double>(), 1e-13));
        CHECK(close(r.lags[j].z, c["z"][j].get<double>(), 1e-12));
      }
    });
    auto const r = layer_order_test(matrix_view<double>(x.data(), 6, 6), quick(4, 20000));
    for (std::size_t j = 0; j < 4; ++j) {
      double const p = c["p_value"][j], q = c["p_adjusted"][j];
      CHECK(std::abs(r.lags[j].p_value - p) < 5 * std::sqrt(p * (1 - p) / 20000) + 1e-4);
      CHECK(std::abs(r.lags[j].p_adjusted - q) < 5 * std::sqrt(q * (1 - q) / 20000) + 1e-4);
    }
  }
}

TEST_CASE("layer_order: sums and their sd, against all orders written out") {
  for (index_t layers = 2; layers <= 7; ++layers) {
    auto const s = planted(layers, 0, 0, static_cast<std::uint64_t>(layers));
    index_t const lags = layers - 1;
    detail::order_sums const sums(s.view(), lags);
    std::vector<std::uint32_t> order(sums.places(), static_cast<std::uint32_t>(layers));
    std::iota(order.begin(), order.begin() + layers, 0u);
    std::vector<double> t(static_cast<std::size_t>(lags + detail::order_sums::together)), square(t.size());
    double n = 0;
    do {
      sums(order, t.data());
      for (index_t lag = 0; lag < lags; ++lag) {
        double want = 0;
        for (index_t l = 0; l + lag + 1 < layers; ++l)
          want +=
              s.view()(order[static_cast<std::size_t>(l)], order[static_cast<std::size_t>(l + lag + 1)]) - sums.mean();
        CHECK(close(t[static_cast<std::size_t>(lag)], want, 1e-12));
        square[static_cast<std::size_t>(lag)] += want * want;
      }
      ++n;
    } while (std::next_permutation(order.begin(), order.begin() + layers));
    for (index_t lag = 0; lag < lags; ++lag) {
      double const sd = std::sqrt(square[static_cast<std::size_t>(lag)] / n);
      if (sd > 1e-7)
        CHECK(sums.sd(lag + 1) == doctest::Approx(sd).epsilon(1e-9));
      else
        CHECK(std::isnan(sums.sd(lag + 1)));  // two layers have one mean whatever their order
    }
  }
}

TEST_CASE("layer_order: a period is found through levels of single layers; every thread count gives the same bits") {
  int found = 0, beside = 0;
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    auto const s = planted(24, 6, 1.5, seed);
    auto const r = layer_order_test(s.view(), quick(12, 499));
    found += r.lags[5].p_adjusted <= 0.05 && r.lags[11].p_value <= 0.05;
    for (auto const& lag : r.lags) beside += lag.delta % 6 != 0 && lag.p_adjusted <= 0.05;
    if (seed > 3) continue;
    auto const five = layer_order_test(s.view(), quick(12, 499, 1, 5));
    for (std::size_t j = 0; j < 12; ++j) {
      CHECK(same(five.lags[j].p_value, r.lags[j].p_value));
      CHECK(same(five.lags[j].p_adjusted, r.lags[j].p_adjusted));
    }
  }
  CHECK(found >= 38);
  CHECK(beside <= 2);
}

TEST_CASE("layer_order: a decay with distance is seen at small lags, which the header says is no period") {
  similarity s = planted(20, 0, 0, 5);
  for (index_t i = 0; i < 20; ++i)
    for (index_t j = 0; j < 20; ++j)
      s.c[static_cast<std::size_t>(i * 20 + j)] += 4 * std::exp(-0.4 * static_cast<double>(std::abs(i - j)));
  auto const r = layer_order_test(s.view(), quick(10, 999));
  CHECK(r.lags[0].p_adjusted < 0.01);
  CHECK(r.lags[9].p_adjusted > 0.2);
}

TEST_CASE("layer_order: scale, offset, direction of depth and the lower triangle do not matter") {
  auto const s = planted(9, 3, 1, 8);
  auto turned = s;
  for (index_t i = 0; i < 9; ++i)
    for (index_t j = 0; j < 9; ++j)
      turned.c[static_cast<std::size_t>(i * 9 + j)] = i < j ? 5 + 2 * s.view()(8 - j, 8 - i) : quiet_nan;
  auto const a = layer_order_test(s.view(), quick(8, 0)), b = layer_order_test(turned.view(), quick(8, 0));
  for (std::size_t j = 0; j < 8; ++j) CHECK(close(a.lags[j].z, b.lags[j].z, 1e-12));
}

TEST_CASE("layer_order: nothing to test, and what cannot be") {
  std::vector<double> c(25, 0.5);
  auto const flat = layer_order_test(matrix_view<double>(c.data(), 5, 5), quick(4, 99));
  CHECK(flat.mean == 0.5);
  for (auto const& lag : flat.lags) CHECK(std::isnan(lag.p_adjusted));
  std::vector<double> const thirds(25, 0.3);  // their mean rounds to another number
  for (auto const& lag : layer_order_test(matrix_view<double>(thirds.data(), 5, 5), quick(4, 99)).lags) {
    CHECK(std::isnan(lag.z));
    CHECK(std::isnan(lag.p_value));
  }
  c[1] = quiet_nan;
  auto const broken = layer_order_test(matrix_view<double>(c.data(), 5, 5), quick(4, 99));
  for (auto const& lag : broken.lags) {
    CHECK(std::isnan(lag.z));
    CHECK(std::isnan(lag.p_value));
  }
  CHECK(layer_order_test(matrix_view<double>(c.data(), 1, 1)).lags.empty());
  CHECK(layer_order_test(matrix_view<double>(c.data(), 0, 0)).lags.empty());
  CHECK_THROWS_AS(layer_order_test(matrix_view<double>(c.data(), 2, 3)), shape_error);
  CHECK_THROWS_AS(layer_order_test(matrix_view<double>(c.data(), 2, 2), quick(0, 9)), argument_error);
  CHECK_THROWS_AS(layer_order_test(matrix_view<double>(c.data(), 2, 2), quick(1, -1)), argument_error);
}

namespace {

void check_null(int runs, std::uint64_t seed) {
  int alone = 0, family = 0;
  for (int i = 0; i < runs; ++i) {
    auto const s = planted(12, 0, 0, seed + static_cast<std::uint64_t>(i));
    auto const r = layer_order_test(s.view(), quick(8, 199, static_cast<std::uint64_t>(i) + 1));
    alone += r.lags[2].p_value <= 0.05;
    family += std::any_of(r.lags.begin(), r.lags.end(), [](auto const& lag) { return lag.p_adjusted <= 0.05; });
  }
  double const slack = 3.5 * std::sqrt(0.05 * 0.95 / runs);
  INFO("rejected " << alone << " and " << family << " of " << runs);
  CHECK(std::abs(static_cast<double>(alone) / runs - 0.05) < slack);
  CHECK(std::abs(static_cast<double>(family) / runs - 0.05) < slack);
}

}  // namespace

TEST_CASE("layer_order: without lag structure rejected as often as the level says (quick)") { check_null(300, 1000); }

TEST_CASE("layer_order: calibration" * doctest::test_suite("slow")) { check_null(5000, 100000); }

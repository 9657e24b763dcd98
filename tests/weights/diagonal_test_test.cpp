// SPDX-License-Identifier: Apache-2.0
#include <moeroute/weights/diagonal_test.hpp>

#include <cmath>
#include <limits>
#include <random>

#include <doctest/doctest.h>

#include "support/containers.hpp"
#include "support/golden.hpp"

using namespace moeroute;

namespace {

std::vector<double> flat(nlohmann::json const& rows) {
  std::vector<double> x;
  for (auto const& row : rows.get<std::vector<std::vector<double>>>()) x.insert(x.end(), row.begin(), row.end());
  return x;
}

// Values with strong row and column effects, as unequal norms and shared axes give; `own` is added to the diagonal.
std::vector<double> effects(index_t n, double own, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::exponential_distribution<double> skewed;
  std::vector<double> row, column, m;
  for (index_t i = 0; i < n; ++i) row.push_back(3 * skewed(random)), column.push_back(3 * skewed(random));
  for (std::size_t i = 0; i < row.size(); ++i)
    for (std::size_t j = 0; j < row.size(); ++j) m.push_back(row[i] + column[j] + skewed(random) + (i == j ? own : 0));
  return m;
}

}  // namespace

TEST_CASE("diagonal_test: mean, sd and p-value are those of all relabellings") {
  for (auto const& c : golden("weights", "diagonal")) {
    auto const m = flat(c["matrix"]);
    for_each_matrix(5, 5, m, [&](char const* name, auto const& x) {
      INFO(name);
      auto const r = diagonal_test(x, {.permutations = 0});
      CHECK(close(r.null_mean, c["null_mean"].get<double>(), 1e-14));
      CHECK(close(r.null_sd, c["null_sd"].get<double>(), 1e-14));
      CHECK(std::isnan(r.p_value));
    });
    double const p = c["p_value"];
    auto const r = diagonal_test(matrix_view<double>(m.data(), 5, 5), {.permutations = 20000});
    CHECK(std::abs(r.p_value - p) < 5 * std::sqrt(p * (1 - p) / 20000) + 1e-4);
  }
}

TEST_CASE("diagonal_test: by hand") {
  std::vector<float> const m{5, 1, 2, 8};
  auto const r = diagonal_test(matrix_view<float>(m.data(), 2, 2));
  CHECK(r.diagonal == 6.5);
  CHECK(r.off_diagonal == 1.5);
  CHECK(r.null_mean == 4);
  CHECK(r.null_sd == doctest::Approx(2.5));  // 6.5 or 1.5
  CHECK(r.z == doctest::Approx(1));
  CHECK(r.p_value == 1);  // both relabellings are as far from the mean
}

TEST_CASE("diagonal_test: a special diagonal is found among large row and column effects") {
  auto const m = effects(16, 3, 1);
  auto const r = diagonal_test(matrix_view<double>(m.data(), 16, 16));
  CHECK(r.p_value == 1.0 / 2000);
  CHECK(r.z > 5);
  auto const lower = effects(16, -3, 1);
  CHECK(diagonal_test(matrix_view<double>(lower.data(), 16, 16)).z < -5);
}

TEST_CASE("diagonal_test: row effects, column effects and units do not matter; threads neither") {
  auto m = effects(7, 0.5, 2);
  auto const a = diagonal_test(matrix_view<double>(m.data(), 7, 7), {.threads = 1});
  for (std::size_t i = 0; i < 7; ++i)
    for (std::size_t j = 0; j < 7; ++j)
      m[7 * i + j] = 1000 * (m[7 * i + j] + static_cast<double>(i * i) - 5 * static_cast<double>(j));
  auto const b = diagonal_test(matrix_view<double>(m.data(), 7, 7), {.threads = 5});
  CHECK(b.z == doctest::Approx(a.z).epsilon(1e-10));
  CHECK(b.p_value == a.p_value);
}

TEST_CASE("diagonal_test: nothing to test is NaN, not 1") {
  std::vector<double> m{1, 2, 3, 2, 3, 4, 3, 4, 5};  // row effect + column effect
  auto r = diagonal_test(matrix_view<double>(m.data(), 3, 3));
  CHECK(r.diagonal == 3);
  CHECK(r.null_mean == doctest::Approx(3));
  CHECK(std::isnan(r.p_value));
  CHECK(std::isnan(r.z));
  m[4] = quiet_nan;
  CHECK(std::isnan(diagonal_test(matrix_view<double>(m.data(), 3, 3)).p_value));
  m[4] = std::numeric_limits<double>::infinity();
  CHECK(std::isnan(diagonal_test(matrix_view<double>(m.data(), 3, 3)).p_value));
  CHECK(std::isnan(diagonal_test(matrix_view<double>(m.data(), 1, 1)).off_diagonal));
  CHECK(std::isnan(diagonal_test(matrix_view<double>(m.data(), 0, 0)).diagonal));
  CHECK_THROWS_AS(diagonal_test(matrix_view<double>(m.data(), 2, 3)), shape_error);
  CHECK_THROWS_AS(diagonal_test(matrix_view<double>(m.data(), 3, 3), {.permutations = -1}), argument_error);
}

namespace {

void check_level(int runs, std::uint64_t seed) {
  int rejected = 0;
  for (int i = 0; i < runs; ++i) {
    auto const m = effects(8, 0, seed + static_cast<std::uint64_t>(i));
    rejected += diagonal_test(matrix_view<double>(m.data(), 8, 8),
                              {.permutations = 199, .seed = seed + static_cast<std::uint64_t>(i), .threads = 1})
                    .p_value <= 0.05;
  }
  double const rate = static_cast<double>(rejected) / runs;
  MESSAGE("rejected " << rejected << " of " << runs);
  CHECK(std::abs(rate - 0.05) < 3.5 * std::sqrt(0.05 * 0.95 / runs));
}

}  // namespace

TEST_CASE("diagonal_test: rejects an ordinary diagonal as often as its level says (quick)") { check_level(300, 1); }
TEST_CASE("diagonal_test: calibration" * doctest::test_suite("slow")) { check_level(4000, 100000); }

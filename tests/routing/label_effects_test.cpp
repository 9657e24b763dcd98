// SPDX-License-Identifier: Apache-2.0
#include <moeroute/routing/design_effect.hpp>
#include <moeroute/routing/label_effects.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include <doctest/doctest.h>

#include "support/containers.hpp"
#include "support/golden.hpp"

using namespace moeroute;

namespace {

matrix_view<std::uint64_t> matrix(std::vector<std::uint64_t> const& v, index_t cols) {
  return {v.data(), static_cast<index_t>(v.size()) / cols, cols};
}

// Documents of two labels with habits of their own; the label multiplies the weight of expert 0.
struct corpus {
  std::vector<std::uint64_t> label_counts[2];  // by document, [D,E]
  std::vector<std::uint64_t> totals;           // [2,E]
  std::vector<double> design_effects;
};
corpus simulate(index_t experts, int documents, double habit_shape, double pull, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::gamma_distribution<double> habit(habit_shape, 1 / habit_shape);
  corpus c;
  c.totals.resize(static_cast<std::size_t>(2 * experts));
  std::vector<std::int64_t> blocks;
  for (int d = 0; d < documents; ++d) blocks.push_back(d);
  for (std::size_t label = 0; label < 2; ++label) {
    auto& counts = c.label_counts[label];
    for (int d = 0; d < documents; ++d) {
      std::vector<double> weight;
      for (index_t e = 0; e < experts; ++e)
        weight.push_back(habit(random) * (1 + static_cast<double>(e % 4)) * (label == 1 && e == 0 ? pull : 1));
      std::discrete_distribution<std::size_t> choose(weight.begin(), weight.end());
      std::vector<std::uint64_t> row(static_cast<std::size_t>(experts));
      for (int n = 0; n < 60; ++n) ++row[choose(random)];
      for (std::size_t e = 0; e < row.size(); ++e) c.totals[label * row.size() + e] += row[e];
      counts.insert(counts.end(), row.begin(), row.end());
    }
    c.design_effects.push_back(design_effect(matrix(counts, experts), blocks));
  }
  return c;
}

}  // namespace

TEST_CASE("label_effects: by hand") {
  // Two labels, two experts; prior of 4 slots on pooled shares 1/4, 3/4.
  std::vector<std::uint64_t> const counts{6, 4, 4, 26};
  auto const r = label_effects(matrix(counts, 2), std::vector<double>{2, 1}, 4);
  // Label 0: 3 and 2 independent slots, plus 1 and 3: odds 4/5. Label 1: 4 + 1 and 26 + 3: odds 5/29.
  CHECK(r.log_odds(0, 0) == doctest::Approx(std::log(4.0 / 5) - std::log(5.0 / 29)));
  CHECK(r.log_odds(1, 0) == doctest::Approx(-r.log_odds(0, 0)));
  CHECK(r.log_odds(0, 1) == doctest::Approx(-r.log_odds(0, 0)));  // two experts: one question
  CHECK(r.log_odds_error(0, 0) == doctest::Approx(std::sqrt(1.0 / 4 + 1.0 / 5)));
  CHECK(r.jensen_shannon_floor(0, 1) == doctest::Approx(1.0 / 8 * (1.0 / 5 + 1.0 / 30)));
  CHECK(r.jensen_shannon(0, 0) == 0);
  CHECK(r.jensen_shannon_floor(1, 1) == 0);
  CHECK(r.jensen_shannon(0, 1) == r.jensen_shannon(1, 0));
}

TEST_CASE("label_effects: golden values of the published formula and of scipy, from every container") {
  auto const cases = golden("label_effects", "label_effects");
  REQUIRE(cases.size() == 3);
  for (auto const& c : cases) {
    auto const deff = c["design_effects"].get<std::vector<double>>();
    std::vector<std::int64_t> counts;
    for (auto const& row : c["counts"])
      for (auto const& n : row) counts.push_back(n);
    auto const labels = static_cast<index_t>(c["counts"].size()), experts = static_cast<index_t>(c["counts"][0].size());
    for_each_matrix(labels, experts, counts, [&](char const* name, auto const& m) {
      INFO(name);
      auto const r = label_effects(m, deff, c["prior"]);
      for (std::size_t i = 0; i < static_cast<std::size_t>(labels); ++i) {
        for (std::size_t e = 0; e < static_cast<std::size_t>(experts); ++e) {
          CHECK(close(r.log_odds(i, e), c["log_odds"][i][e], 1e-12));
          CHECK(close(r.log_odds_error(i, e), c["error"][i][e], 1e-12));
        }
        for (std::size_t j = 0; j < static_cast<std::size_t>(labels); ++j)
          CHECK(close(r.jensen_shannon(i, j), c["jensen_shannon"][i][j], 1e-12));
      }
    });
  }
}

TEST_CASE("label_effects: shrinkage, extremes, bad input") {
  std::vector<std::uint64_t> const rare{1, 999, 0, 1000};
  std::vector<double> const ones{1, 1};
  double last = std::numeric_limits<double>::infinity();
  for (double const prior : {0.5, 5.0, 50.0, 5000.0}) {
    auto const odds = label_effects(matrix(rare, 2), ones, prior).log_odds(0, 0);
    CHECK(odds > 0);
    CHECK(odds < last);
    last = odds;
  }
  CHECK(last < 0.4);
  std::vector<std::uint64_t> const counts{3, 0, 0, 2, 0, 5, 0, 0, 0};  // expert 1 unused, label 2 without slots
  auto const r = label_effects(matrix(counts, 3), std::vector<double>{1, 1.5, 1});
  CHECK(std::isnan(r.log_odds(0, 1)));
  CHECK(std::isnan(r.log_odds(2, 0)));
  CHECK(std::isnan(r.jensen_shannon(0, 2)));
  CHECK_FALSE(std::isnan(r.log_odds(0, 2)));
  CHECK_FALSE(std::isnan(r.jensen_shannon_floor(0, 1)));
  // A label without a design effect: a distance, no more, and nobody's other.
  auto const unknown = label_effects(matrix(counts, 3), std::vector<double>{1, quiet_nan, 1});
  CHECK(std::isnan(unknown.log_odds(1, 0)));
  CHECK(std::isnan(unknown.log_odds(0, 0)));
  CHECK_FALSE(std::isnan(unknown.jensen_shannon(0, 1)));
  CHECK(std::isnan(unknown.jensen_shannon_floor(0, 1)));
  auto const alone = label_effects(matrix(std::vector<std::uint64_t>{3, 4}, 2), std::vector<double>{1});
  CHECK(std::isnan(alone.log_odds(0, 0)));
  std::vector<std::uint64_t> const single{3, 4};
  CHECK(std::isnan(label_effects(matrix(single, 1), ones).log_odds(0, 0)));
  CHECK_THROWS_AS(label_effects(matrix(counts, 3), ones), shape_error);
  CHECK_THROWS_AS(label_effects(matrix(rare, 2), std::vector<double>{1, 0.5}), argument_error);
  CHECK_THROWS_AS(label_effects(matrix(rare, 2), ones, -1), argument_error);
  CHECK_THROWS_AS(label_effects(matrix(rare, 2), ones, quiet_nan), argument_error);
  std::vector<std::int64_t> const negative{1, -1};
  CHECK_THROWS_AS(label_effects(matrix_view<std::int64_t>(negative.data(), 1, 2), std::vector<double>{1}),
                  argument_error);
}

namespace {

// Dependent documents: the floor is the mean of the divergence without a difference, the error is that of the log-odds,
// a pull is found.
void check_simulated(int runs, double habit_shape, std::uint64_t seed) {
  double js = 0, floor = 0, naive = 0, found = 0;
  int beyond = 0, beyond_naive = 0;
  for (int i = 0; i < runs; ++i) {
    auto const c = simulate(8, 40, habit_shape, 1, seed + static_cast<std::uint64_t>(i));
    auto const r = label_effects(matrix(c.totals, 8), c.design_effects),
               n = label_effects(matrix(c.totals, 8), std::vector<double>{1, 1});
    js += r.jensen_shannon(0, 1) / runs;
    floor += r.jensen_shannon_floor(0, 1) / runs;
    naive += n.jensen_shannon_floor(0, 1) / runs;
    beyond += std::abs(r.log_odds(1, 0)) > 1.96 * r.log_odds_error(1, 0);
    beyond_naive += std::abs(n.log_odds(1, 0)) > 1.96 * n.log_odds_error(1, 0);
    auto const p = simulate(8, 40, habit_shape, 3, seed + 7000000 + static_cast<std::uint64_t>(i));
    found += label_effects(matrix(p.totals, 8), p.design_effects).log_odds(1, 0) / runs;
  }
  double const slack = 3.5 * std::sqrt(0.05 * 0.95 / runs);
  INFO("habit " << habit_shape << ": JS " << js << ", floor " << floor << ", floor of independent slots " << naive
                << "; |log-odds| beyond 1.96 errors " << beyond << ", with independent slots " << beyond_naive << " of "
                << runs << "; planted log-odds " << found);
  CHECK(floor == doctest::Approx(js).epsilon(0.2));
  CHECK(naive < js / 2);
  CHECK(static_cast<double>(beyond) / runs < 0.05 + slack + 0.03);
  CHECK(static_cast<double>(beyond_naive) / runs > 0.15);
  CHECK(found > 0.6);
  CHECK(found < std::log(3.0) + 0.1);
}

}  // namespace

TEST_CASE("label_effects: dependent documents (quick)") { check_simulated(100, 0.5, 1); }
TEST_CASE("label_effects: calibration under dependence" * doctest::test_suite("slow")) {
  check_simulated(2000, 0.5, 10000);
  check_simulated(2000, 2, 20000);
}

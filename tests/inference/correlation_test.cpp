// SPDX-License-Identifier: Apache-2.0
#include <moeroute/inference/correlation.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <vector>

#include <doctest/doctest.h>

#include "support/containers.hpp"
#include "support/golden.hpp"
#include "support/normal.hpp"

using namespace moeroute;

namespace {

using vector = std::vector<double>;

}  // namespace

TEST_CASE("correlation: values, intervals and p-values equal scipy's and numpy's") {
  for (auto const& g : golden("correlation", "cases")) {
    auto const x = g["x"].get<vector>(), y = g["y"].get<vector>();
    auto const p = pearson_test(x, y, 0.9), s = spearman_test(x, y, 0.9);
    INFO("n = ", x.size());
    CHECK(close(p.value, g["pearson"], 1e-14));
    CHECK(std::abs(p.p_value / g["pearson_p"].get<double>() - 1) < 1e-11);
    CHECK(close(s.value, g["spearman"], 1e-14));
    double const least = 2 / std::tgamma(static_cast<double>(x.size()) + 1);
    CHECK(s.p_value == doctest::Approx(std::max(least, g["spearman_p"].get<double>())).epsilon(1e-11));
    if (g.contains("pearson_interval")) {
      CHECK(close(p.lower, g["pearson_interval"][0], 1e-13));
      CHECK(close(p.upper, g["pearson_interval"][1], 1e-13));
      CHECK(close(s.lower, g["spearman_interval"][0], 1e-13));
      CHECK(close(s.upper, g["spearman_interval"][1], 1e-13));
    } else {
      CHECK(std::isnan(p.lower));
    }
    CHECK(close(permutation_correlation(x, y, {.permutations = 0}).statistic, g["studentised"], 1e-13));
    CHECK(p.n == static_cast<index_t>(x.size()));
    CHECK(p.level == 0.9);
  }
}

TEST_CASE("correlation: log p equals mpmath down to exp(-300 million)") {
  for (auto const& g : golden("correlation", "tails")) {
    double const ours = detail::log_p_of_correlation(g["r"], g["n"]), theirs = g["log_p"];
    INFO("n = ", g["n"].get<double>(), ", r = ", g["r"].get<double>(), ": ", ours);
    CHECK(std::abs(ours - theirs) <= 1e-13 * std::abs(theirs) + 1e-15);
    if (theirs < -40) {  // the continued fraction also where it is not needed
      CHECK(std::abs(detail::log_beta_tail(0.5 * (g["n"].get<double>() - 2), g["r"]) - theirs) <=
            1e-13 * std::abs(theirs));
    }
  }
}

TEST_CASE("correlation: the permutation p-value is that of all permutations, and of any number of threads") {
  for (auto const& g : golden("correlation", "permutations")) {
    auto const x = g["x"].get<vector>(), y = g["y"].get<vector>();
    double const p = g["p"];
    auto const ours = permutation_correlation(x, y, {.permutations = 19999});
    CHECK(std::abs(ours.p_value - p) < 4 * std::sqrt(p * (1 - p) / 20000));
    CHECK(ours.p_value == permutation_correlation(x, y, {.permutations = 19999, .threads = 3}).p_value);
    CHECK(ours.p_value != permutation_correlation(x, y, {.permutations = 19999, .seed = 2}).p_value);
    CHECK(permutation_correlation(x, y, {.permutations = 0}).p_value == 1);
  }
}

TEST_CASE("correlation: scale, sign, order and containers do not matter") {
  vector const x{1, 4, 2, 8, 5, 7}, y{2, 3, 5, 9, 4, 4};
  auto const p = pearson_test(x, y), s = spearman_test(x, y);
  vector turned, negative, stretched;
  for (std::size_t i = 0; i < x.size(); ++i) {
    negative.push_back(-3 * x[i] + 7);
    stretched.push_back(std::exp(x[i]));
  }
  CHECK(pearson_test(negative, y).value == doctest::Approx(-p.value));
  CHECK(pearson_test(negative, y).log_p == doctest::Approx(p.log_p));
  CHECK(pearson_test(negative, y).lower == doctest::Approx(-p.upper));
  CHECK(spearman_test(stretched, y).value == s.value);
  CHECK(pearson_test(y, x).log_p == doctest::Approx(p.log_p));
  for_each_vector<float>({1, 4, 2, 8, 5, 7}, [&](char const* name, auto const& c) {
    INFO(name);
    CHECK(pearson_test(c, y).value == p.value);
    CHECK(permutation_correlation(c, y).p_value == permutation_correlation(x, y).p_value);
  });
}

TEST_CASE("correlation: ends, undefined and nonsense") {
  vector const x{1, 2, 3, 4}, flat{2, 2, 2, 2};
  auto const line = pearson_test(x, x);
  CHECK(line.value == 1);
  CHECK(line.lower == 1);
  CHECK(line.upper == 1);
  CHECK(line.p_value == 0);
  CHECK(line.log_p == -std::numeric_limits<double>::infinity());
  CHECK(spearman_test(x, x).p_value == doctest::Approx(2.0 / 24));
  CHECK(std::isnan(pearson_test(x, flat).value));
  CHECK(std::isnan(pearson_test(x, flat).p_value));
  CHECK(std::isnan(permutation_correlation(x, flat).p_value));
  CHECK(std::isnan(pearson_test(vector{1, 2}, vector{2, 1}).p_value));
  CHECK(pearson_test(vector{1, 2}, vector{2, 1}).value == -1);
  CHECK(std::isnan(spearman_test(x, vector{1, 2, quiet_nan, 3}).value));
  CHECK(std::isnan(pearson_test(vector{}, vector{}).value));
  CHECK_THROWS_AS(pearson_test(x, vector{1}), shape_error);
  CHECK_THROWS_AS(pearson_test(x, x, 1), argument_error);
  CHECK_THROWS_AS(spearman_test(x, flat, 0), argument_error);
  CHECK_THROWS_AS(permutation_correlation(x, vector{1}), shape_error);
  CHECK_THROWS_AS(permutation_correlation(x, x, {.permutations = -1}), argument_error);
}

TEST_CASE("correlation: levels and coverage" * doctest::test_suite("slow")) {
  int const repeats = 2000;
  double pearson_level = 0, spearman_level = 0, permuted = 0, heavy = 0, spread_raw = 0, spread = 0, covered = 0,
         covered_rank = 0;
  double tokens = 0, documents = 0;
  double const alpha = 0.05, truth = 0.6, rank_truth = 6 / std::numbers::pi * std::asin(truth / 2);
  auto const reject = [&](double p) { return p <= alpha ? 1.0 / repeats : 0; };
  for (int r = 0; r < repeats; ++r) {
    random_stream random(4, 1, static_cast<std::uint64_t>(r));
    vector x, y, z, u, w;
    for (int i = 0; i < 40; ++i) {
      x.push_back(normal(random));
      y.push_back(normal(random));
      z.push_back(truth * x.back() + std::sqrt(1 - truth * truth) * normal(random));
      u.push_back(std::tan(std::numbers::pi * (random.uniform() - 0.5)));  // no variance at all
      w.push_back(x.back() * normal(random));                              // spread grows with |x|
    }
    pearson_level += reject(pearson_test(x, y).p_value);
    spearman_level += reject(spearman_test(x, y).p_value);
    spread_raw += reject(pearson_test(x, w).p_value);
    permutation_correlation_options const options{.permutations = 499, .seed = static_cast<std::uint64_t>(r)};
    permuted += reject(permutation_correlation(x, y, options).p_value);
    heavy += reject(permutation_correlation(x, u, options).p_value);
    spread += reject(permutation_correlation(x, w, options).p_value);
    auto const p = pearson_test(x, z), s = spearman_test(x, z);
    covered += p.lower <= truth && truth <= p.upper ? 1.0 / repeats : 0;
    covered_rank += s.lower <= rank_truth && rank_truth <= s.upper ? 1.0 / repeats : 0;
    // 30 documents of unequal length whose tokens are alike: two independent properties of a document.
    vector a, b, mean_a, mean_b;
    for (int d = 0; d < 30; ++d) {
      double const left = normal(random), right = normal(random);
      double sum_a = 0, sum_b = 0;
      int const n = 5 + static_cast<int>(random.index(40));
      for (int t = 0; t < n; ++t) {
        a.push_back(left + 0.5 * normal(random));
        b.push_back(right + 0.5 * normal(random));
        sum_a += a.back();
        sum_b += b.back();
      }
      mean_a.push_back(sum_a / n);
      mean_b.push_back(sum_b / n);
    }
    tokens += reject(pearson_test(a, b).p_value);
    documents += reject(pearson_test(mean_a, mean_b).p_value);
  }
  MESSAGE("rejected at 5 %: pearson ", pearson_level, ", spearman ", spearman_level, ", permutation ", permuted,
          ", Cauchy tails ", heavy, "; uncorrelated with unequal spread: pearson ", spread_raw,
          ", studentised permutation ", spread, "; tokens as units ", tokens, ", documents ", documents, "; coverage ",
          covered, " and ", covered_rank);
  double const noise = 3 * std::sqrt(alpha * (1 - alpha) / repeats);
  for (double const rate : {pearson_level, spearman_level, permuted, heavy, documents})
    CHECK(std::abs(rate - alpha) < noise);
  CHECK(spread_raw > 0.2);
  CHECK(spread < 0.08);
  CHECK(tokens > 0.4);
  for (double const c : {covered, covered_rank}) CHECK((c >= 0.93 && c <= 0.97));
}

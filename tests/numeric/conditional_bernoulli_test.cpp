// SPDX-License-Identifier: Apache-2.0
#include <moeroute/numeric/conditional_bernoulli.hpp>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <tuple>
#include <vector>

#include <doctest/doctest.h>

#include "support/golden.hpp"
#include "support/kernels.hpp"

using namespace moeroute;

namespace {

using counts_type = std::vector<std::uint64_t>;

// Loads of `sets` random sets of k of `classes`, with odds of spread exp(skew).
counts_type random_loads(index_t classes, index_t k, int sets, double skew, std::uint64_t seed) {
  plain_random random(seed);
  std::vector<double> log_odds(static_cast<std::size_t>(classes)), key(log_odds.size());
  for (double& w : log_odds) w = skew * random.bell();
  counts_type loads(log_odds.size());
  std::vector<std::size_t> order(log_odds.size());
  for (int t = 0; t < sets; ++t) {
    for (std::size_t e = 0; e < key.size(); ++e) key[e] = log_odds[e] - std::log(-std::log(random.uniform() + 1e-18));
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::sort(order.begin(), order.end(), [&](auto a, auto b) { return key[a] > key[b]; });
    for (index_t j = 0; j < k; ++j) ++loads[order[static_cast<std::size_t>(j)]];
  }
  return loads;
}

counts_type only(index_t k, std::uint64_t sets) {
  counts_type sizes(static_cast<std::size_t>(k) + 1);
  sizes.back() = sets;
  return sizes;
}

}  // namespace

TEST_CASE("expected_joint_counts: by hand") {
  // Two of three: the pairs have probability 1 - inclusion of the third.
  auto const three = expected_joint_counts({60, 80, 60}, {0, 0, 100});
  CHECK(three(0, 1) == doctest::Approx(40).epsilon(1e-12));
  CHECK(three(0, 2) == doctest::Approx(20).epsilon(1e-12));
  CHECK(three(1, 2) == doctest::Approx(40).epsilon(1e-12));
  CHECK(three(1, 1) == 80);
  // Equal loads: k (k - 1) / (E (E - 1)) of the sets.
  auto const equal = expected_joint_counts(counts_type(8, 100), {0, 0, 400});
  CHECK(equal(3, 5) == doctest::Approx(400 * 2.0 / 56).epsilon(1e-13));
  // One of n: never two together. All of n: always.
  CHECK(expected_joint_counts({3, 7}, {0, 10})(0, 1) == 0);
  CHECK(expected_joint_counts({10, 10}, {0, 0, 10})(0, 1) == doctest::Approx(10).epsilon(1e-12));
}

TEST_CASE("expected_joint_counts: sums over all sets, by scipy") {
  for (auto const& c : golden("coactivation", "expected_joint")) {
    auto const counts = c["counts"].get<counts_type>(), sizes = c["sets_of_size"].get<counts_type>();
    auto const joint = expected_joint_counts(counts, sizes);
    double const sets = static_cast<double>(std::accumulate(sizes.begin() + 1, sizes.end(), std::uint64_t{0}));
    for (std::size_t i = 0; i < counts.size(); ++i)
      for (std::size_t j = 0; j < counts.size(); ++j)
        CHECK(std::abs(joint(i, j) - c["joint"][i][j].get<double>()) < 2e-11 * sets);
  }
}

TEST_CASE("expected_joint_counts: every class meets (k - 1) others per set") {
  for (auto const& [classes, k, skew] :
       {std::tuple{64, 8, 0.5}, {64, 8, 3.0}, {128, 8, 1.5}, {16, 15, 1.0}, {8, 2, 3.0}, {200, 1, 1.0}}) {
    auto const loads = random_loads(classes, k, 3000, skew, 11);
    auto const joint = expected_joint_counts(loads, only(k, 3000));
    for (std::size_t i = 0; i < loads.size(); ++i) {
      double met = 0;
      for (std::size_t j = 0; j < loads.size(); ++j) {
        CHECK(joint(i, j) == joint(j, i));
        // Less often together than independent choices: what fixing the size does.
        if (i != j) CHECK(joint(i, j) <= static_cast<double>(loads[i]) * static_cast<double>(loads[j]) / 3000 + 1e-9);
        met += i == j ? 0 : joint(i, j);
      }
      CHECK(close(met, static_cast<double>(k - 1) * static_cast<double>(loads[i]), 1e-9));
    }
  }
}

TEST_CASE("expected_joint_counts: extreme loads") {
  auto const skewed = expected_joint_counts({1000000, 999999, 1, 1, 999999}, {0, 0, 0, 1000000});
  CHECK(skewed(0, 1) == doctest::Approx(999999).epsilon(1e-9));
  CHECK(std::isfinite(skewed(2, 3)));
  // Sets of 1 inside {0, 1}, sets of 3 holding both: no finite odds, but a limit.
  auto const edge = expected_joint_counts({15, 15, 5, 5}, {0, 10, 0, 10});
  CHECK((std::isnan(edge(0, 1)) || std::abs(edge(0, 1) - 10) < 0.1));
  auto const none = expected_joint_counts({0, 0}, {7});
  CHECK(none(0, 1) == 0);
  CHECK(expected_joint_counts({}, {}).size() == 0);
}

TEST_CASE("expected_joint_counts: refuses") {
  CHECK_THROWS_AS(expected_joint_counts({5, 5}, {0, 9}), argument_error);        // sums differ
  CHECK_THROWS_AS(expected_joint_counts({11, 1}, {0, 8, 2}), argument_error);    // more than sets
  CHECK_THROWS_AS(expected_joint_counts({3, 3}, {0, 0, 0, 2}), argument_error);  // 3 of 2
}

TEST_CASE("expected_joint_counts: agrees with swaps that keep every load and every set size") {
  // 300 sets of 3 of 8; two sets exchange a member each has and the other lacks.
  plain_random random(5);
  index_t const classes = 8, k = 3, sets = 300;
  std::vector<std::vector<bool>> member(static_cast<std::size_t>(sets), std::vector<bool>(classes));
  counts_type loads(classes);
  for (auto& set : member)
    for (index_t n = 0; n < k;) {
      double const u = random.uniform();
      auto const e = static_cast<std::size_t>(static_cast<double>(classes) * u * u);  // low numbers are popular
      if (set[e]) continue;
      set[e] = true;
      ++loads[e];
      ++n;
    }
  auto const joint = expected_joint_counts(loads, only(k, static_cast<std::uint64_t>(sets)));
  std::vector<double> mean(classes * classes);
  int const rounds = 3000;
  for (int round = -100; round < rounds; ++round) {
    for (int swap = 0; swap < 1000; ++swap) {
      auto &a = member[random.below(sets)], &b = member[random.below(sets)];
      auto const i = random.below(classes), j = random.below(classes);
      if (a[i] && !b[i] && b[j] && !a[j]) {
        a[i] = b[j] = false;
        a[j] = b[i] = true;
      }
    }
    if (round < 0) continue;
    for (auto const& set : member)
      for (std::size_t i = 0; i < classes; ++i)
        for (std::size_t j = 0; j < classes; ++j) mean[i * classes + j] += set[i] && set[j] ? 1.0 / rounds : 0;
  }
  for (std::size_t i = 0; i < classes; ++i)
    for (std::size_t j = 0; j < classes; ++j)
      CHECK(std::abs(mean[i * classes + j] - joint(i, j)) < 0.01 * joint(i, j) + 0.3);
}

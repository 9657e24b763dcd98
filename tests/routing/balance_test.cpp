// SPDX-License-Identifier: Apache-2.0
#include <moeroute/routing/balance.hpp>
#include <moeroute/routing/design_effect.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <string>

#include <doctest/doctest.h>

#include "support/containers.hpp"
#include "support/golden.hpp"

using namespace moeroute;

TEST_CASE("balance: by hand") {
  auto const b = balance_of(std::vector<double>{4, 0, 2, 2});
  CHECK(b.max_violation == 1);
  CHECK(b.min_violation == 1);
  CHECK(b.coefficient_of_variation == doctest::Approx(std::sqrt(0.5)));
  CHECK(b.gini == doctest::Approx(0.375));  // differences 2,2,4,0,2,2 (each twice) over 2 * 16 * mean 2
  CHECK(b.effective_experts == doctest::Approx(std::pow(2.0, 1.5)));
  CHECK(b.normalized_entropy == doctest::Approx(0.75));
  auto const even = balance_of(std::vector<std::uint64_t>{5, 5, 5});
  CHECK(even.max_violation == 0);
  CHECK(even.gini == 0);
  CHECK(even.normalized_entropy == doctest::Approx(1).epsilon(1e-15));
  CHECK(even.effective_experts == doctest::Approx(3).epsilon(1e-15));
}

TEST_CASE("balance: golden values of numpy and scipy, from every container") {
  auto const cases = golden("routing", "balance");
  REQUIRE(cases.size() >= 5);
  for (auto const& c : cases) {
    auto const check = [&](char const* name, auto const& loads) {
      INFO(name);
      auto const b = balance_of(loads);
      for (std::size_t f = 0; f < std::size(balance_fields); ++f) {
        INFO(balance_field_names[f]);
        CHECK(close(b.*balance_fields[f], c[balance_field_names[f]].get<double>(), 1e-12));
      }
    };
    for_each_vector(c["loads"].get<std::vector<double>>(), check);
    check("integers", c["loads"].get<std::vector<std::uint64_t>>());
  }
}

TEST_CASE("balance: scale and order do not matter; extremes") {
  std::vector<double> const x{3, 1, 4, 1, 5, 9, 2, 6};
  auto y = x;
  std::reverse(y.begin(), y.end());
  for (double& v : y) v *= 1e6;
  auto const a = balance_of(x), b = balance_of(y);
  for (auto const f : balance_fields) CHECK(a.*f == doctest::Approx(b.*f).epsilon(1e-13));
  for (auto const f : balance_fields) CHECK(std::isnan(balance_of(std::vector<double>{0, 0}).*f));
  auto const one = balance_of(std::vector<double>{7});
  CHECK(one.max_violation == 0);
  CHECK(one.effective_experts == 1);
  std::vector<double> all_in_one(256);
  all_in_one[17] = 1e12;
  auto const worst = balance_of(all_in_one);
  CHECK(worst.max_violation == 255);
  CHECK(worst.gini == doctest::Approx(255.0 / 256));
  CHECK(worst.effective_experts == 1);
  CHECK_THROWS_AS(balance_of(std::vector<double>{1, -1}), argument_error);
  CHECK_THROWS_AS(balance_of(std::vector<double>{1, quiet_nan}), argument_error);
}

TEST_CASE("uniform_balance: agrees with brute force by another generator") {
  struct size {
    index_t tokens, experts, top_k;
  };
  for (auto const [tokens, experts, top_k] : {size{50, 8, 2}, size{300, 16, 4}, size{7, 5, 5}, size{2500, 8, 2}}) {
    INFO(tokens << " tokens, " << experts << " experts, top " << top_k);
    constexpr int runs = 3000;
    std::mt19937_64 random(99);
    std::vector<std::vector<double>> seen(std::size(balance_fields));
    std::vector<int> deck(static_cast<std::size_t>(experts));
    std::iota(deck.begin(), deck.end(), 0);
    for (int r = 0; r < runs; ++r) {
      std::vector<double> counts(deck.size());
      std::vector<int> chosen(static_cast<std::size_t>(top_k));
      for (index_t t = 0; t < tokens; ++t) {
        std::sample(deck.begin(), deck.end(), chosen.begin(), top_k, random);
        for (int const e : chosen) counts[static_cast<std::size_t>(e)] += 1;
      }
      auto const b = balance_of(counts);
      for (std::size_t f = 0; f < seen.size(); ++f) seen[f].push_back(b.*balance_fields[f]);
    }
    auto const reference = uniform_balance(static_cast<double>(tokens), experts, top_k, 7, 2000);
    for (std::size_t f = 0; f < seen.size(); ++f) {
      INFO(balance_field_names[f]);
      auto& x = seen[f];
      double mean = 0, square = 0;
      for (double const v : x) mean += v / runs;
      for (double const v : x) square += (v - mean) * (v - mean) / (runs - 1);
      CHECK(std::abs(reference.mean.*balance_fields[f] - mean) <=
            5 * std::sqrt(square * (1.0 / runs + 1.0 / 2000)) + 1e-12);
      // At the bound the other sample must leave about 5 % beyond; ties of small counts widen that to one value.
      std::sort(x.begin(), x.end());
      double const bound = reference.bound_95.*balance_fields[f], slack = 1e-9;
      bool const low = f >= 4;
      auto const beyond =
          std::count_if(x.begin(), x.end(), [&](double v) { return low ? v < bound - slack : v > bound + slack; });
      auto const at_least =
          std::count_if(x.begin(), x.end(), [&](double v) { return low ? v < bound + slack : v > bound - slack; });
      CHECK(static_cast<double>(beyond) / runs < 0.07);
      if (square > 0) CHECK(static_cast<double>(at_least) / runs > 0.03);
    }
  }
}

TEST_CASE("uniform_balance: the multinomial floor of the coefficient of variation, on both sides of the border") {
  for (double const tokens : {500.0, 2048.0, 2049.0, 50000.0}) {
    index_t const e = 64, k = 8;
    double const floor = std::sqrt((static_cast<double>(e) / static_cast<double>(k) - 1) / tokens);
    CHECK(uniform_balance(tokens, e, k).mean.coefficient_of_variation == doctest::Approx(floor).epsilon(0.01));
  }
}

TEST_CASE("uniform_balance: drawn and normal regime meet") {
  // The borders are 2048 tokens and 64 slots per expert. Sparse routing is where the normal limit is worst, so the
  // second row has not yet left the drawn regime at 2048 tokens.
  struct size {
    index_t experts, top_k;
    double border;
  };
  for (auto const [experts, top_k, border] : {size{256, 8, 2048}, size{256, 1, 2048}, size{256, 1, 16384}}) {
    double const past = border * 1.02;
    auto const drawn = uniform_balance(border, experts, top_k, 3, 800),
               beyond = uniform_balance(past, experts, top_k, 4, 1500);
    double const shrink = std::sqrt(border / past);
    INFO(experts << " experts, top " << top_k);
    for (auto const f : {&balance_measures::max_violation, &balance_measures::min_violation,
                         &balance_measures::coefficient_of_variation, &balance_measures::gini}) {
      CHECK(beyond.mean.*f == doctest::Approx(drawn.mean.*f * shrink).epsilon(0.02));
      // A quantile of whole slots can be one slot off.
      double const want = drawn.bound_95.*f * shrink,
                   slot = static_cast<double>(experts) / (static_cast<double>(top_k) * border);
      CHECK(std::abs(beyond.bound_95.*f - want) <= 0.03 * want + slot);
    }
    CHECK(1 - beyond.mean.normalized_entropy ==
          doctest::Approx((1 - drawn.mean.normalized_entropy) * shrink * shrink).epsilon(0.03));
  }
}

TEST_CASE("uniform_balance: a function of its arguments; extremes") {
  auto const a = uniform_balance(100, 8, 2, 5, 50), b = uniform_balance(100, 8, 2, 5, 50),
             c = uniform_balance(100, 8, 2, 6, 50);
  CHECK(a.mean.gini == b.mean.gini);
  CHECK_FALSE(a.mean.gini == c.mean.gini);
  CHECK(uniform_balance(10, 4, 4).mean.max_violation == 0);  // K = E: everybody is chosen
  CHECK(uniform_balance(1e6, 1, 1).bound_95.effective_experts == 1);
  for (double const none : {0.0, -1.0, quiet_nan}) CHECK(std::isnan(uniform_balance(none, 4, 1).mean.gini));
  CHECK_THROWS_AS(uniform_balance(std::numeric_limits<double>::infinity(), 4, 1), argument_error);
  CHECK_THROWS_AS(uniform_balance(10, 0, 1), argument_error);
  CHECK_THROWS_AS(uniform_balance(10, 4, 5), argument_error);
  CHECK_THROWS_AS(uniform_balance(10, 4, 0), argument_error);
}

TEST_CASE("load_balancing_loss: both normalisations, balanced and by the published code") {
  std::vector<std::uint64_t> const even{20, 20, 20, 20};
  std::vector<double> const quarter(4, 0.25);
  auto const balanced = load_balancing_loss(even, quarter, 40);
  CHECK(balanced.switch_form == doctest::Approx(1));
  CHECK(balanced.olmoe_form == doctest::Approx(2));  // K
  for (auto const& c : golden("routing", "load_balancing_loss")) {
    auto const got = load_balancing_loss(c["counts"].get<std::vector<std::uint64_t>>(),
                                         c["probability"].get<std::vector<double>>(), c["tokens"].get<std::uint64_t>());
    CHECK(close(got.olmoe_form, c["transformers"].get<double>(), 1e-6));  // binary32 there
    CHECK(close(got.switch_form, c["transformers"].get<double>() / c["top_k"].get<double>(), 1e-6));
  }
  auto const none = load_balancing_loss(std::vector<std::uint64_t>{0, 0}, std::vector<double>{0.5, 0.5}, 0);
  CHECK(std::isnan(none.switch_form));
  CHECK(std::isnan(none.olmoe_form));
  CHECK_THROWS_AS(load_balancing_loss(even, std::vector<double>{1}, 1), shape_error);
}

TEST_CASE("unseen_experts: who, and how rare they must be") {
  auto const r = unseen_experts(std::vector<std::uint64_t>{0, 3, 0}, 60);
  CHECK(r.experts == std::vector<index_t>{0, 2});
  CHECK(r.upper_95 == doctest::Approx(1 - std::pow(0.05, 1.0 / 60)));
  CHECK(std::pow(1 - r.upper_95, 60) == doctest::Approx(0.05));
  CHECK(unseen_experts(std::vector<std::uint64_t>{0}, 0).upper_95 == 1);
  CHECK(unseen_experts(std::vector<std::uint64_t>{1}, 5).experts.empty());
}

TEST_CASE("unseen_experts: planted dead experts are found, and the bound holds for live ones") {
  // Experts 3 and 11 are dead, 7 is chosen by a document with probability 0.02, the others by every document.
  int missed = 0, covered = 0;
  for (int run = 0; run < 400; ++run) {
    std::mt19937_64 random(static_cast<std::uint64_t>(run) + 1);
    std::vector<std::uint64_t> counts(16);
    constexpr std::uint64_t documents = 100;
    for (std::uint64_t d = 0; d < documents; ++d)
      for (std::size_t e = 0; e < counts.size(); ++e)
        if (e != 3 && e != 11 && (e != 7 || random() % 50 == 0)) counts[e] += 1 + random() % 9;
    auto const r = unseen_experts(counts, documents);
    bool const rare = counts[7] == 0;
    CHECK(r.experts == (rare ? std::vector<index_t>{3, 7, 11} : std::vector<index_t>{3, 11}));
    missed += rare ? 1 : 0;
    covered += rare && r.upper_95 >= 0.02 ? 1 : 0;
  }
  CHECK(missed > 20);  // 0.98^100 of 400 is 53
  CHECK(missed < 100);
  CHECK(covered == missed);
}

TEST_CASE("design_effect: independent tokens of K distinct experts") {
  // One document a token: the spread of counts is that of sampling without replacement, (E - K)/(E - 1) of independent
  // slots.
  std::mt19937_64 random(4);
  index_t const e = 6, k = 3, n = 4000;
  std::vector<std::uint64_t> counts;
  std::vector<std::int64_t> blocks;
  std::vector<std::size_t> deck{0, 1, 2, 3, 4, 5};
  for (index_t t = 0; t < n; ++t) {
    std::shuffle(deck.begin(), deck.end(), random);
    std::vector<std::uint64_t> row(6);
    for (std::size_t j = 0; j < 3; ++j) row[deck[j]] = 1;
    counts.insert(counts.end(), row.begin(), row.end());
    blocks.push_back(t / 2);  // pairs of a token and its copy: twice the variance
    if (t % 2 == 1) std::copy_n(counts.end() - 12, 6, counts.end() - 6);
  }
  matrix_view<std::uint64_t> const m(counts.data(), n, e);
  CHECK(design_effect(m, blocks, k) == doctest::Approx(2).epsilon(0.05));
  CHECK(design_effect(m, blocks) == doctest::Approx(2 * 0.6).epsilon(0.05));
  CHECK(std::isnan(design_effect(m, blocks, 6)));
  CHECK_THROWS_AS(design_effect(m, blocks, 7), argument_error);
  CHECK_THROWS_AS(design_effect(m, blocks, 0), argument_error);
}

namespace {

// Routing that is uniform on the whole, in documents with strong habits: how often it exceeds the two references.
void check_dependent_reference(int runs, index_t experts, index_t top_k, std::uint64_t seed) {
  std::vector<int> beyond(std::size(balance_fields)), beyond_naive(beyond.size());
  double effect = 0;
  for (int i = 0; i < runs; ++i) {
    std::mt19937_64 random(seed + static_cast<std::uint64_t>(i));
    std::gamma_distribution<double> habit(0.5, 1);
    std::uniform_real_distribution<double> uniform;
    auto const e_count = static_cast<std::size_t>(experts);
    std::vector<std::uint64_t> counts, total(e_count);
    std::vector<std::int64_t> blocks;
    int tokens = 0;
    for (int d = 0; d < 60; ++d) {
      std::vector<double> weight;
      for (index_t e = 0; e < experts; ++e) weight.push_back(0.05 + habit(random));
      std::vector<std::uint64_t> row(e_count);
      for (int t = 0; t < 20; ++t, ++tokens) {
        auto left = weight;
        for (index_t k = 0; k < top_k; ++k) {
          double u = uniform(random) * std::accumulate(left.begin(), left.end(), 0.0);
          std::size_t e = 0;
          while (e + 1 < e_count && (u -= left[e]) > 0) ++e;
          while (left[e] == 0) --e;
          ++row[e];
          left[e] = 0;
        }
      }
      for (std::size_t e = 0; e < e_count; ++e) total[e] += row[e];
      counts.insert(counts.end(), row.begin(), row.end());
      blocks.push_back(d);
    }
    auto const deff = design_effect(matrix_view<std::uint64_t>(counts.data(), 60, experts), blocks, top_k);
    effect += deff / runs;
    auto const observed = balance_of(total);
    auto const dependent = uniform_balance(tokens / deff, experts, top_k, static_cast<std::uint64_t>(i) + 1, 199);
    auto const naive = uniform_balance(tokens, experts, top_k, static_cast<std::uint64_t>(i) + 1, 199);
    for (std::size_t f = 0; f < beyond.size(); ++f) {
      auto const over = [&](balance_reference const& r) {
        double const bound = r.bound_95.*balance_fields[f], value = observed.*balance_fields[f];
        return f >= 4 ? value < bound : value > bound;
      };
      beyond[f] += over(dependent);
      beyond_naive[f] += over(naive);
    }
  }
  double const slack = 3.5 * std::sqrt(0.05 * 0.95 / runs);
  for (std::size_t f = 0; f < beyond.size(); ++f) {
    INFO(std::string(balance_field_names[f])
         << ", top " << top_k << ", design effect " << effect << ": beyond the dependent reference " << beyond[f]
         << ", beyond the independent one " << beyond_naive[f] << " of " << runs);
    CHECK(static_cast<double>(beyond[f]) / runs < 0.06 + slack);
    CHECK(static_cast<double>(beyond[f]) / runs > 0.04 - slack);
    CHECK(static_cast<double>(beyond_naive[f]) / runs > 0.5);
  }
}

}  // namespace

TEST_CASE("uniform_balance: with the design effect it holds its level under dependence (quick)") {
  check_dependent_reference(60, 8, 4, 1);
}
TEST_CASE("uniform_balance: calibration under dependence" * doctest::test_suite("slow")) {
  check_dependent_reference(2000, 8, 1, 10000);
  check_dependent_reference(2000, 8, 4, 20000);
}

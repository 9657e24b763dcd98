// SPDX-License-Identifier: Apache-2.0
#include <moeroute/layers/periodicity.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include <doctest/doctest.h>

#include "support/containers.hpp"
#include "support/golden.hpp"

using namespace moeroute;

namespace {

struct profiles {
  index_t layers, experts;
  std::vector<double> x;
  matrix_view<double> view() const { return {x.data(), layers, experts}; }
};

// Each expert is a Gaussian series over depth with this covariance, then exp(skew * series) as loads are skewed
// (skew 0: left as it is).
profiles series(index_t layers, index_t experts, std::function<double(index_t, index_t)> const& covariance, double skew,
                std::uint64_t seed) {
  auto const n = static_cast<std::size_t>(layers);
  std::vector<double> root(n * n);  // Cholesky
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j <= i; ++j) {
      double s = i == j ? 1 : covariance(static_cast<index_t>(i), static_cast<index_t>(j));
      for (std::size_t k = 0; k < j; ++k) s -= root[i * n + k] * root[j * n + k];
      root[i * n + j] = i == j ? std::sqrt(s) : s / root[j * n + j];
    }
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal;
  profiles p{layers, experts, std::vector<double>(n * static_cast<std::size_t>(experts))};
  for (std::size_t e = 0; e < static_cast<std::size_t>(experts); ++e) {
    std::vector<double> z(n);
    for (double& v : z) v = normal(random);
    for (std::size_t i = 0; i < n; ++i) {
      double v = 0;
      for (std::size_t k = 0; k <= i; ++k) v += root[i * n + k] * z[k];
      p.x[i * static_cast<std::size_t>(experts) + e] = skew > 0 ? std::exp(skew * v) : v;
    }
  }
  return p;
}

double decay(double rate, index_t i, index_t j) { return std::pow(rate, static_cast<double>(std::abs(i - j))); }

// A decay, and half of the variance common to layers 12 apart.
double with_period(index_t i, index_t j) { return 0.3 * decay(0.8, i, j) + (i % 12 == j % 12 ? 0.4 : 0.0); }

periodicity_options quick(index_t delta_max, index_t permutations, index_t flips, std::uint64_t seed = 1) {
  periodicity_options o;
  o.correlation.delta_max = delta_max;
  o.correlation.permutations = permutations;
  o.correlation.seed = seed;
  o.correlation.threads = 1;
  o.flips = flips;
  return o;
}

bool same(double a, double b) { return std::memcmp(&a, &b, sizeof a) == 0; }

}  // namespace

TEST_CASE("periodicity: peaks, harmonics and all sign flips, by scipy and enumeration") {
  for (auto const& c : golden("layers", "peaks")) {
    auto const rows = c["profiles"].get<std::vector<std::vector<double>>>();
    std::vector<double> x;
    for (auto const& r : rows) x.insert(x.end(), r.begin(), r.end());
    for_each_matrix(static_cast<index_t>(rows.size()), static_cast<index_t>(rows[0].size()), x,
                    [&](char const* name, auto const& m) {
                      INFO(name);
                      auto const r = periodicity(m, quick(6, 0, 0));
                      CHECK(std::isnan(r.lags[0].peak));
                      for (std::size_t j = 0; j < c["delta"].size(); ++j) {
                        auto const& lag = r.lags[c["delta"][j].get<std::size_t>() - 1];
                        CHECK(close(lag.rise, c["rise"][j].get<double>(), 1e-13));
                        CHECK(close(lag.peak, c["peak"][j].get<double>(), 1e-12));
                        CHECK(std::isnan(lag.p_peak));
                      }
                      CHECK(close(r.lags[1].harmonic_rise, c["harmonic_rise_of_2"].get<double>(), 1e-13));
                    });
    auto const r = periodicity(
        matrix_view<double>(x.data(), static_cast<index_t>(rows.size()), static_cast<index_t>(rows[0].size())),
        quick(6, 0, 40000));
    auto const near = [](double got, double p) {
      return std::abs(got - p) < 5 * std::sqrt(p * (1 - p) / 40000) + 5e-5;
    };
    for (std::size_t j = 0; j < c["delta"].size(); ++j) {
      auto const& lag = r.lags[c["delta"][j].get<std::size_t>() - 1];
      CHECK(near(lag.p_peak, c["p_peak"][j].get<double>()));
      CHECK(near(lag.p_peak_adjusted, c["p_peak_adjusted"][j].get<double>()));
    }
    CHECK(near(r.lags[1].p_harmonics, c["p_harmonics_of_2"].get<double>()));
  }
}

TEST_CASE("periodicity: the lags are those of lag_correlation; the same bits for every number of threads") {
  auto const p = series(14, 20, with_period, 0.7, 3);
  auto options = quick(12, 199, 600);
  auto const one = periodicity(p.view(), options);
  auto const lags = lag_correlation(p.view(), options.correlation);
  options.correlation.threads = 5;
  auto const five = periodicity(p.view(), options);
  REQUIRE(one.lags.size() == lags.lags.size());
  for (std::size_t j = 0; j < lags.lags.size(); ++j) {
    CHECK(same(one.lags[j].mean, lags.lags[j].mean));
    CHECK(same(one.lags[j].p_adjusted, lags.lags[j].p_adjusted));
    CHECK(one.lags[j].pairs == lags.lags[j].pairs);
    CHECK(same(one.lags[j].p_peak, five.lags[j].p_peak));
    CHECK(same(one.lags[j].p_peak_adjusted, five.lags[j].p_peak_adjusted));
    CHECK(same(one.lags[j].p_harmonics, five.lags[j].p_harmonics));
  }
  for (std::size_t j = 1; j < one.lags.size(); ++j) {
    CHECK(one.lags[j].p_peak_adjusted >= one.lags[j].p_peak);
    double const right = j + 1 < one.lags.size()
                             ? one.lags[j + 1].mean
                             : lag_correlation(p.view(), {.delta_max = 13, .permutations = 0}).lags[12].mean;
    CHECK(close(one.lags[j].rise, one.lags[j].mean - std::max(one.lags[j - 1].mean, right), 1e-13));
  }
}

TEST_CASE("periodicity: a period of 12 in 48 layers is found through a decay, with its harmonics") {
  int found = 0, beside = 0, supported = 0;
  int const runs = 30;
  for (int i = 0; i < runs; ++i) {
    auto const p = series(48, 64, with_period, 0.7, static_cast<std::uint64_t>(i) + 1);
    auto const r = periodicity(p.view(), quick(24, 199, 999));
    CHECK(r.lags[11].harmonics == 2);  // 24 and 36
    found += r.lags[11].periodic;
    supported += r.lags[11].p_harmonics <= 0.05;
    for (auto const delta : r.periodic_at) beside += delta % 12 != 0;
    CHECK(r.lags[0].p_adjusted < 0.01);  // the decay is real, and no period
    CHECK_FALSE(r.lags[0].periodic);
  }
  INFO("found " << found << ", supported " << supported << ", beside " << beside);
  CHECK(found == runs);
  CHECK(supported == runs);
  CHECK(beside <= 1);
}

TEST_CASE("periodicity: other periods; Spearman and log share find them too") {
  for (auto const method :
       {profile_correlation::pearson, profile_correlation::spearman, profile_correlation::log_share})
    for (index_t const period : {5, 8}) {
      int found = 0;
      for (std::uint64_t seed = 1; seed <= 8; ++seed) {
        auto const p = series(
            32, 64, [&](index_t i, index_t j) { return i % period == j % period ? 0.5 : 0.0; }, 1.0, seed);
        auto options = quick(16, 99, 499);
        options.correlation.method = method;
        auto const r = periodicity(p.view(), options);
        found += !r.periodic_at.empty() && r.periodic_at.front() == period;
      }
      CHECK(found >= 7);
    }
}

TEST_CASE("periodicity: only tests call a lag periodic") {
  // One layer pair of eight experts at r = 1: far above any threshold, and no evidence.
  profiles p{4, 8, {}};
  std::mt19937_64 random(2);
  std::normal_distribution<double> normal;
  for (int i = 0; i < 32; ++i) p.x.push_back(normal(random));
  for (std::size_t e = 0; e < 8; ++e) p.x[16 + e] = p.x[e];
  auto const r = periodicity(p.view(), quick(2, 999, 999));
  CHECK(r.correlation.matrix(0, 1) == doctest::Approx(1));
  CHECK(r.periodic_at.empty());
  // The same lag with a negative mean is no period however significant.
  auto const q = series(
      24, 64, [](index_t i, index_t j) { return i % 6 == j % 6 ? 0.5 : 0.0; }, 0, 5);
  auto turned = q;
  for (index_t l = 0; l < 24; ++l)
    for (index_t e = 0; e < 64; ++e)
      if (l / 6 % 2) turned.x[static_cast<std::size_t>(l * 64 + e)] *= -1;
  CHECK(periodicity(q.view(), quick(12, 199, 499)).periodic_at == std::vector<index_t>{6, 12});
  auto const against = periodicity(turned.view(), quick(12, 199, 499));
  CHECK(against.lags[5].p_adjusted < 0.05);
  CHECK(against.periodic_at == std::vector<index_t>{12});
}

TEST_CASE("periodicity: lags in model layers have the next lags with pairs as neighbours") {
  auto const p = series(
      16, 40, [](index_t i, index_t j) { return i % 4 == j % 4 ? 0.6 : 0.0; }, 0.7, 4);
  std::vector<int> every_other(16);
  for (std::size_t l = 0; l < 16; ++l) every_other[l] = static_cast<int>(2 * l + 1);
  auto const plain = periodicity(p.view(), quick(8, 99, 499)),
             twice = periodicity(p.view(), every_other, quick(16, 99, 499));
  REQUIRE(twice.lags.size() == 16);
  for (std::size_t j = 0; j < 8; ++j) {
    CHECK(std::isnan(twice.lags[2 * j].peak));
    auto const &a = plain.lags[j], &b = twice.lags[2 * j + 1];
    CHECK(b.delta == 2 * a.delta);
    if (j == 0) continue;  // the first lag has no left neighbour
    CHECK(same(a.rise, b.rise));
    CHECK(same(a.p_peak_adjusted, b.p_peak_adjusted));
    CHECK(a.harmonics == b.harmonics);
  }
  CHECK(plain.periodic_at == std::vector<index_t>{4, 8});
  CHECK(twice.periodic_at == std::vector<index_t>{8, 16});
}

TEST_CASE("periodicity: nothing to test, and what cannot be") {
  std::vector<double> x{1, 2, 3, 3, 1, 2, 5, 5, 5, 1, 4, 2};
  auto const r = periodicity(matrix_view<double>(x.data(), 4, 3), quick(9, 99, 99));
  REQUIRE(r.lags.size() == 3);
  CHECK(r.lags[0].pairs == 1);
  for (auto const& lag : r.lags) CHECK(lag.pairs <= 1);
  auto const three = periodicity(matrix_view<double>(x.data(), 3, 3), quick(9, 99, 99));  // the third is constant
  for (auto const& lag : three.lags) CHECK(std::isnan(lag.peak));
  std::vector<double> const copies{1, 2, 4, 1, 2, 4, 1, 2, 4, 1, 2, 4, 1, 2, 4};
  auto const equal = periodicity(matrix_view<double>(copies.data(), 5, 3), quick(9, 99, 99));
  for (auto const& lag : equal.lags) {
    CHECK(lag.mean == doctest::Approx(1));
    CHECK(std::isnan(lag.peak));  // no difference between any two lags
    CHECK(std::isnan(lag.p_peak));
  }
  CHECK(equal.periodic_at.empty());
  CHECK(periodicity(matrix_view<double>(x.data(), 1, 3), quick(9, 9, 9)).lags.empty());
  CHECK(periodicity(matrix_view<double>(x.data(), 0, 3), quick(9, 9, 9)).lags.empty());
  CHECK_THROWS_AS(periodicity(matrix_view<double>(x.data(), 2, 3), quick(0, 9, 9)), argument_error);
  CHECK_THROWS_AS(periodicity(matrix_view<double>(x.data(), 2, 3), quick(1, 9, -1)), argument_error);
  auto options = quick(1, 9, 9);
  for (double const level : {0.0, 1.0, quiet_nan}) {
    options.level = level;
    CHECK_THROWS_AS(periodicity(matrix_view<double>(x.data(), 2, 3), options), argument_error);
  }
  CHECK_THROWS_AS(periodicity(matrix_view<double>(x.data(), 2, 3), std::vector<int>{3, 3}, quick(1, 9, 9)),
                  argument_error);
}

namespace {

// Decays that are no period: how often is any lag called periodic, how often does any peak reach 5 %?
void check_decays(int runs, std::uint64_t seed) {
  struct decay_case {
    char const* name;
    std::function<double(index_t, index_t)> covariance;
  };
  std::vector<decay_case> const decays{
      {"none", [](index_t, index_t) { return 0.0; }},
      {"flat", [](index_t, index_t) { return 0.5; }},
      {"geometric", [](index_t i, index_t j) { return decay(0.9, i, j); }},
      {"bell", [](index_t i, index_t j) { return 0.9 * std::exp(-static_cast<double>((i - j) * (i - j)) / 128); }},
      {"triangle",
       [](index_t i, index_t j) { return 0.95 * std::max(0.0, 1 - static_cast<double>(std::abs(i - j)) / 8); }},
      {"drift from one profile to another", [](index_t i, index_t j) {
         double const a = static_cast<double>(i) / 24, b = static_cast<double>(j) / 24;
         return 0.8 * ((1 - a) * (1 - b) + a * b);
       }}};
  for (auto const& d : decays)
    for (double const skew : {0.0, 1.2}) {
      int called = 0, peaks = 0;
      for (int i = 0; i < runs; ++i) {
        auto const p = series(24, 32, d.covariance, skew, seed + static_cast<std::uint64_t>(i));
        auto const r = periodicity(p.view(), quick(12, 99, 199, static_cast<std::uint64_t>(i) + 1));
        called += !r.periodic_at.empty();
        peaks += std::any_of(r.lags.begin(), r.lags.end(), [](auto const& lag) { return lag.p_peak_adjusted <= 0.05; });
      }
      INFO(d.name << ", skew " << skew << ": called periodic " << called << ", a peak " << peaks << " of " << runs);
      double const most = (0.05 + 3 * std::sqrt(0.05 * 0.95 / runs)) * runs;
      CHECK(called <= most);
      CHECK(peaks <= most);
    }
}

// True r of profiles without noise against intervals from documents.
void check_coverage(int runs, std::uint64_t seed, double low) {
  int const documents = 60, tokens = 100;
  index_t const layers = 8, experts = 16, cells = layers * experts;
  int covered = 0, percentile = 0;
  for (int i = 0; i < runs; ++i) {
    std::mt19937_64 random(seed + static_cast<std::uint64_t>(i));
    std::normal_distribution<double> normal;
    std::vector<double> taste(static_cast<std::size_t>(cells));  // log share; layers 4 apart are alike
    for (index_t c = 0; c < cells; ++c) {
      taste[static_cast<std::size_t>(c)] = 0.5 * normal(random);
      if (c >= 4 * experts)
        (taste[static_cast<std::size_t>(c)] *= 0.7) += 0.7 * taste[static_cast<std::size_t>(c - 4 * experts)];
    }
    auto const document = [&](std::vector<double>& share) {
      for (index_t l = 0; l < layers; ++l) {
        double total = 0;
        for (index_t e = 0; e < experts; ++e)
          total += share[static_cast<std::size_t>(l * experts + e)] =
              std::exp(taste[static_cast<std::size_t>(l * experts + e)] + 0.7 * normal(random));
        for (index_t e = 0; e < experts; ++e) share[static_cast<std::size_t>(l * experts + e)] /= total;
      }
    };
    std::vector<double> share(taste.size()), truth(taste.size()), sum(taste.size());
    for (int d = 0; d < 4000; ++d) {
      document(share);
      for (std::size_t c = 0; c < share.size(); ++c) truth[c] += share[c];
    }
    std::vector<std::uint64_t> counts;
    std::vector<int> ids;
    for (int d = 0; d < documents; ++d) {
      document(share);
      std::vector<std::uint64_t> count(share.size());
      for (index_t l = 0; l < layers; ++l) {
        auto const first = share.begin() + l * experts;
        std::discrete_distribution<index_t> choose(first, first + experts);
        for (int t = 0; t < tokens; ++t) ++count[static_cast<std::size_t>(l * experts + choose(random))];
      }
      for (std::size_t c = 0; c < count.size(); ++c) sum[c] += static_cast<double>(count[c]);
      counts.insert(counts.end(), count.begin(), count.end());
      ids.push_back(d);
    }
    bootstrap_options boot;
    boot.seed = static_cast<std::uint64_t>(i) + 1;
    boot.replicates = 300;
    auto const replicates = replicate_totals(matrix_view<std::uint64_t>(counts.data(), documents, cells), ids, boot);
    lag_correlation_options const options{.delta_max = 4, .permutations = 0, .threads = 1};
    auto const e = lag_intervals(matrix_view<double>(sum.data(), layers, experts), replicates, options)[3];
    double const r = lag_correlation(matrix_view<double>(truth.data(), layers, experts), options).lags[3].mean;
    covered += e.lower <= r && r <= e.upper;
    percentile += 2 * e.value - e.upper <= r && r <= 2 * e.value - e.lower;
  }
  INFO("basic " << covered << ", percentiles " << percentile << " of " << runs);
  CHECK(covered >= low * runs);
  CHECK(percentile < covered);
}

}  // namespace

TEST_CASE("periodicity: a decay is not called a period (quick)") { check_decays(40, 1000); }

TEST_CASE("periodicity: a decay is not called a period" * doctest::test_suite("slow")) { check_decays(2000, 100000); }

TEST_CASE("lag_intervals: coverage (quick)") { check_coverage(25, 1, 0.75); }

TEST_CASE("lag_intervals: coverage" * doctest::test_suite("slow")) { check_coverage(400, 1000, 0.9); }

TEST_CASE("lag_intervals: by hand, threads, and what cannot be") {
  // Two layers of three experts; replicates whose correlations are 1, 1, -1 and undefined. The value is 0.5.
  std::vector<double> const x{1, 2, 3, 1, 3, 2},
      b{1, 2, 3, 1, 2, 3, 2, 4, 6, 0, 1, 2, 1, 2, 3, 3, 2, 1, 1, 2, 3, 1, 1, 1};
  matrix_view<double> const profiles_(x.data(), 2, 3), replicates(b.data(), 4, 6);
  auto const e = lag_intervals(profiles_, replicates, {.delta_max = 5}, 0.5);
  REQUIRE(e.size() == 1);
  CHECK(e[0].value == doctest::Approx(0.5));
  CHECK(e[0].used == 3);
  CHECK(e[0].undefined == 1);
  CHECK(e[0].lower == doctest::Approx(0));  // quartiles 0 and 1 of -1, 1, 1
  CHECK(e[0].upper == doctest::Approx(1));  // 2 * 0.5 - 0
  auto const none = lag_intervals(profiles_, matrix_view<double>(b.data(), 0, 6));
  CHECK(std::isnan(none[0].lower));
  CHECK(std::isnan(none[0].upper));
  CHECK(lag_intervals(matrix_view<double>(x.data(), 1, 6), replicates).empty());
  // The same layers as numbers 3 and 5 of the model: all that was at lag 1 is at lag 2.
  auto const model = lag_intervals(profiles_, replicates, std::vector<int>{3, 5}, {.delta_max = 5}, 0.5);
  REQUIRE(model.size() == 2);
  CHECK(std::isnan(model[0].value));
  CHECK(std::isnan(model[0].lower));
  CHECK(model[1].value == e[0].value);
  CHECK(model[1].lower == e[0].lower);
  CHECK(model[1].upper == e[0].upper);
  CHECK_THROWS_AS(lag_intervals(profiles_, replicates, std::vector<int>{3, 3}), argument_error);
  CHECK_THROWS_AS(lag_intervals(profiles_, replicates, std::vector<int>{3}), shape_error);
  CHECK_THROWS_AS(lag_intervals(profiles_, matrix_view<double>(b.data(), 4, 5)), shape_error);
  CHECK_THROWS_AS(lag_intervals(profiles_, replicates, {.delta_max = 0}), argument_error);
  CHECK_THROWS_AS(lag_intervals(profiles_, replicates, {}, 1.0), argument_error);
}

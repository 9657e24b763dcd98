// SPDX-License-Identifier: Apache-2.0
#include <moeroute/layers/lag_correlation.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <utility>
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

// Noise; layer l adds `strength` of the noise of layer l - period to its own, so that layers exactly `period` apart
// correlate.
profiles planted(index_t layers, index_t experts, index_t period, double strength, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::exponential_distribution<double> noise;
  std::vector<double> own;
  for (index_t i = 0; i < layers * experts; ++i) own.push_back(noise(random));
  profiles p{layers, experts, own};
  if (period > 0)
    for (index_t i = period * experts; i < layers * experts; ++i)
      p.x[static_cast<std::size_t>(i)] += strength * own[static_cast<std::size_t>(i - period * experts)];
  return p;
}

lag_correlation_options quick(index_t delta_max, index_t permutations, int threads = 1) {
  lag_correlation_options o;
  o.delta_max = delta_max;
  o.permutations = permutations;
  o.threads = threads;
  return o;
}

bool same(double a, double b) { return std::memcmp(&a, &b, sizeof a) == 0; }

}  // namespace

TEST_CASE("lag_correlation: matrix, means and sds of scipy") {
  for (auto const& c : golden("layers", "lag_correlation")) {
    auto const rows = c["profiles"].get<std::vector<std::vector<double>>>();
    std::vector<double> x;
    for (auto const& r : rows) x.insert(x.end(), r.begin(), r.end());
    auto const delta_max = static_cast<index_t>(c["mean"].size());
    for_each_matrix(static_cast<index_t>(rows.size()), static_cast<index_t>(rows[0].size()), x,
                    [&](char const* name, auto const& m) {
                      INFO(name);
                      auto const r = lag_correlation(m, quick(delta_max, 0));
                      for (std::size_t i = 0; i < rows.size(); ++i)
                        for (std::size_t d = 0; d < c["mean"].size(); ++d) {
                          auto const& want = c["matrix"][i][d];
                          if (want.is_null())
                            CHECK(std::isnan(r.matrix(i, d)));
                          else
                            CHECK(close(r.matrix(i, d), want.get<double>(), 1e-13));
                        }
                      for (std::size_t d = 0; d < c["mean"].size(); ++d) {
                        CHECK(r.lags[d].delta == static_cast<index_t>(d) + 1);
                        CHECK(r.lags[d].pairs == c["pairs"][d].get<index_t>());
                        CHECK(close(r.lags[d].mean, c["mean"][d].get<double>(), 1e-13));
                        if (c["sd"][d].is_null())
                          CHECK(std::isnan(r.lags[d].sd));
                        else
                          CHECK(close(r.lags[d].sd, c["sd"][d].get<double>(), 1e-13));
                        CHECK(std::isnan(r.lags[d].p_value));  // no permutations asked for
                      }
                      CHECK(r.null_sd == doctest::Approx(1 / std::sqrt(static_cast<double>(rows[0].size()) - 1)));
                    });
  }
}

TEST_CASE("lag_correlation: the p-value of two layers is that of all permutations") {
  for (auto const& c : golden("layers", "exact")) {
    std::vector<double> x = c["profiles"][0];
    auto const second = c["profiles"][1].get<std::vector<double>>();
    x.insert(x.end(), second.begin(), second.end());
    auto const r = lag_correlation(matrix_view<double>(x.data(), 2, 5), quick(1, 20000));
    double const p = c["p_value"];
    CHECK(std::abs(r.lags[0].p_value - p) < 5 * std::sqrt(p * (1 - p) / 20000) + 1e-4);
  }
}

TEST_CASE("lag_correlation: p-values equal a slow permutation test written out") {
  for (std::uint64_t seed = 1; seed <= 5; ++seed) {
    index_t const layers = 7, experts = seed % 2 ? 9 : 70, lags = 6, draws = 99;
    auto const p = planted(layers, experts, 2, experts == 9 ? 0.4 : 0.1, seed);
    auto const pearson_of = [&](double const* a, double const* b) {
      long double x = 0, y = 0, xx = 0, yy = 0, xy = 0, n = static_cast<long double>(experts);
      for (index_t e = 0; e < experts; ++e)
        x += a[e], y += b[e], xx += a[e] * a[e], yy += b[e] * b[e], xy += a[e] * b[e];
      return (xy - x * y / n) / std::sqrt((xx - x * x / n) * (yy - y * y / n));
    };
    // Lags of few pairs are noisy: each is measured in standard deviations.
    auto const statistics = [&](std::vector<double> const& x) {
      std::vector<long double> t;
      for (index_t d = 1; d <= lags; ++d) {
        long double sum = 0;
        for (index_t l = 0; l + d < layers; ++l)
          sum += pearson_of(x.data() + l * experts, x.data() + (l + d) * experts);
        t.push_back(std::abs(sum) / std::sqrt(static_cast<long double>(layers - d)));
      }
      return t;
    };
    std::vector<std::vector<long double>> null;
    std::vector<std::uint32_t> words;
    for (std::uint32_t b = 0; b < draws; ++b) {
      auto x = p.x;
      for (std::uint32_t l = 0; l < layers; ++l)
        detail::shuffle_values(x.data() + l * experts, experts, 1, b, l, words);
      null.push_back(statistics(x));
    }
    auto const observed = statistics(p.x);
    auto const r = lag_correlation(p.view(), quick(lags, draws));
    for (std::size_t j = 0; j < observed.size(); ++j) {
      int own = 1, any = 1;
      for (auto const& t : null) {
        own += t[j] >= observed[j];
        any += *std::max_element(t.begin(), t.end()) >= observed[j];
      }
      INFO("seed " << seed << ", lag " << j + 1);
      CHECK(r.lags[j].p_value == doctest::Approx(own / 100.0).epsilon(1e-12));
      CHECK(r.lags[j].p_adjusted == doctest::Approx(any / 100.0).epsilon(1e-12));
    }
  }
}

TEST_CASE("lag_correlation: the sum over pairs has the permutation mean 0 and variance pairs/(E-1)") {
  // Profiles with one dominating expert, where a normal approximation would be poor.
  auto p = planted(6, 5, 0, 0, 3);
  for (std::size_t i = 0; i < p.x.size(); i += 5) p.x[i] += 20;
  auto const unit = detail::unit_profiles_of(p.view(), profile_correlation::pearson, "test");
  std::vector<std::uint32_t> words;
  for (index_t const delta : {1, 2}) {
    double sum = 0, square = 0;
    std::uint32_t const draws = 40000;
    for (std::uint32_t b = 0; b < draws; ++b) {
      auto x = unit.values;
      for (std::uint32_t l = 0; l < 6; ++l) detail::shuffle_values(x.data() + l * 5, 5, 2, b, l, words);
      double s = 0;
      for (index_t l = 0; l + delta < 6; ++l)
        for (index_t e = 0; e < 5; ++e)
          s += x[static_cast<std::size_t>(l * 5 + e)] * x[static_cast<std::size_t>((l + delta) * 5 + e)];
      sum += s;
      square += s * s;
    }
    double const want = static_cast<double>(6 - delta) / 4;
    CHECK(std::abs(sum / draws) < 5 * std::sqrt(want / draws));
    CHECK(square / draws == doctest::Approx(want).epsilon(0.03));
  }
}

TEST_CASE("lag_correlation: every order of a shuffle is equally likely, and every draw is its own") {
  std::vector<int> seen(24);
  std::vector<std::uint32_t> words;
  for (std::uint32_t b = 0; b < 24000; ++b) {
    std::vector<double> x{0, 1, 2, 3};
    detail::shuffle_values(x.data(), 4, 9, b, 7, words);
    std::vector<double> order{0, 1, 2, 3};
    std::size_t rank = 0;
    for (; order != x; ++rank) std::next_permutation(order.begin(), order.end());
    ++seen[rank];
  }
  double chi = 0;
  for (int const n : seen) chi += (n - 1000.0) * (n - 1000.0) / 1000;
  CHECK(chi < 55);  // 23 degrees of freedom: beyond it 0.0002
  std::vector<double> a(300), b(300), c(300);
  for (std::size_t i = 0; i < 300; ++i) a[i] = b[i] = c[i] = static_cast<double>(i);
  detail::shuffle_values(a.data(), 300, 1, 5, 6, words);
  detail::shuffle_values(b.data(), 300, 1, 6, 5, words);
  detail::shuffle_values(c.data(), 300, 2, 5, 6, words);
  CHECK(a != b);
  CHECK(a != c);
  std::sort(a.begin(), a.end());
  for (std::size_t i = 0; i < 300; ++i) CHECK(a[i] == static_cast<double>(i));
}

TEST_CASE("lag_correlation: Spearman and log share, against scipy") {
  for (auto const& c : golden("layers", "methods")) {
    auto const rows = c["counts"].get<std::vector<std::vector<std::int64_t>>>();
    std::vector<std::int64_t> x;
    for (auto const& r : rows) x.insert(x.end(), r.begin(), r.end());
    matrix_view<std::int64_t> const m(x.data(), static_cast<index_t>(rows.size()),
                                      static_cast<index_t>(rows[0].size()));
    for (auto const& [name, method] :
         {std::pair{"pearson", profile_correlation::pearson}, std::pair{"spearman", profile_correlation::spearman},
          std::pair{"log_share", profile_correlation::log_share}}) {
      auto options = quick(3, 0);
      options.method = method;
      auto const r = lag_correlation(m, options);
      INFO(name);
      for (std::size_t i = 0; i < rows.size(); ++i)
        for (std::size_t d = 0; d < 3; ++d)
          if (c[name][i][d].is_null())
            CHECK(std::isnan(r.matrix(i, d)));
          else
            CHECK(close(r.matrix(i, d), c[name][i][d].get<double>(), 1e-12));
      CHECK(r.zeros == (method == profile_correlation::log_share ? c["zeros"].get<std::uint64_t>() : 0));
    }
  }
}

TEST_CASE("lag_correlation: what each method does not see") {
  auto const p = planted(6, 11, 2, 0.5, 17);
  auto bent = p, scaled = p;
  for (std::size_t i = 0; i < p.x.size(); ++i) {
    bent.x[i] = p.x[i] * p.x[i] * p.x[i];
    scaled.x[i] = p.x[i] * static_cast<double>(1 + i / 11);  // another unit in every layer
  }
  auto options = quick(5, 99);
  for (auto const method :
       {profile_correlation::pearson, profile_correlation::spearman, profile_correlation::log_share}) {
    options.method = method;
    auto const plain = lag_correlation(p.view(), options), b = lag_correlation(bent.view(), options),
               s = lag_correlation(scaled.view(), options);
    for (std::size_t j = 0; j < 5; ++j) {
      CHECK(close(plain.lags[j].mean, s.lags[j].mean, 1e-12));
      CHECK(plain.lags[j].p_adjusted == s.lags[j].p_adjusted);
      bool const blind = method != profile_correlation::pearson;  // to a power: ranks and, up to a factor, logarithms
      CHECK(close(plain.lags[j].mean, b.lags[j].mean, 1e-12) == blind);
    }
  }
}

TEST_CASE("lag_correlation: a zero share becomes half the smallest positive one; negative shares are refused") {
  std::vector<double> const zero{0, 2, 6, 1, 3, 5}, half{1, 2, 6, 1, 3, 5}, empty{0, 0, 0, 1, 3, 5},
      negative{-1, 2, 3, 1, 3, 5};
  auto options = quick(1, 0);
  options.method = profile_correlation::log_share;
  auto const of = [&](std::vector<double> const& x) {
    return lag_correlation(matrix_view<double>(x.data(), 2, 3), options);
  };
  CHECK(of(zero).lags[0].mean == of(half).lags[0].mean);
  CHECK(of(zero).zeros == 1);
  CHECK(of(half).zeros == 0);
  CHECK(of(empty).lags[0].pairs == 0);
  CHECK_THROWS_AS(of(negative), argument_error);
  options.method = profile_correlation::spearman;
  CHECK(of(negative).lags[0].pairs == 1);
}

TEST_CASE("lag_correlation: lags in model layers") {
  auto const p = planted(6, 10, 0, 0, 4);
  std::vector<int> const every_other{1, 3, 5, 7, 9, 11}, uneven{0, 1, 2, 5, 6, 10};
  auto const plain = lag_correlation(p.view(), quick(5, 199));
  auto const twice = lag_correlation(p.view(), every_other, quick(30, 199));
  REQUIRE(twice.lags.size() == 10);
  for (std::size_t j = 0; j < 10; ++j) {
    CHECK(twice.lags[j].delta == static_cast<index_t>(j) + 1);
    if (j % 2 == 0) {
      CHECK(twice.lags[j].pairs == 0);
      CHECK(std::isnan(twice.lags[j].mean));
      CHECK(std::isnan(twice.lags[j].p_adjusted));
    } else {
      CHECK(same(twice.lags[j].mean, plain.lags[j / 2].mean));
      CHECK(twice.lags[j].p_adjusted == plain.lags[j / 2].p_adjusted);
    }
  }
  auto const r = lag_correlation(p.view(), uneven, quick(5, 0));
  REQUIRE(r.lags.size() == 5);
  std::vector<index_t> pairs;
  for (auto const& lag : r.lags) pairs.push_back(lag.pairs);
  CHECK(pairs == std::vector<index_t>{3, 1, 1, 3, 3});  // Δ = 4: 1-5, 2-6, 6-10
  CHECK(same(r.matrix(1, 3), plain.matrix(1, 1)));      // layers 1 and 5 are the second and the fourth profile
  CHECK(std::isnan(r.matrix(0, 3)));
  std::vector<int> const fallen{0, 1, 1, 2, 3, 4};
  CHECK_THROWS_AS(lag_correlation(p.view(), fallen, quick(5, 0)), argument_error);
  CHECK_THROWS_AS(lag_correlation(p.view(), std::vector<int>{1, 2}, quick(5, 0)), shape_error);
}

TEST_CASE("lag_correlation: the same bits at every instruction set") {
  auto const p = planted(9, 45, 3, 0.3, 6);
  auto const best = lag_correlation(p.view(), quick(8, 199));
  auto const pairs = detail::lag_pairs_of(detail::layer_numbers(9), std::vector<char>(9, 1), 8);
  std::vector<std::vector<double>> sums;
  for (auto const level : {simd_level::baseline, simd_level::avx2, simd_level::avx512}) {
    detail::limit_simd_level(level);
    auto const r = lag_correlation(p.view(), quick(8, 199));
    for (std::size_t j = 0; j < 8; ++j) CHECK(r.lags[j].p_adjusted == best.lags[j].p_adjusted);
    std::vector<double> blocks(static_cast<std::size_t>(detail::lag_blocks(45) * 9 * detail::lag_block));
    for (index_t l = 0; l < 9; ++l) detail::put_row(p.x.data() + l * 45, 45, l, 9, blocks.data());
    std::vector<double> out(8);
    detail::dispatch<detail::lag_sums_kernel>(static_cast<double const*>(blocks.data()), detail::lag_blocks(45),
                                              index_t{9}, &pairs, out.data());
    sums.push_back(out);
    for (index_t d = 1; d <= 8; ++d) {
      long double want = 0;
      for (index_t l = 0; l + d < 9; ++l)
        for (index_t e = 0; e < 45; ++e)
          want += static_cast<long double>(p.x[static_cast<std::size_t>(l * 45 + e)]) *
                  static_cast<long double>(p.x[static_cast<std::size_t>((l + d) * 45 + e)]);
      CHECK(close(out[static_cast<std::size_t>(d - 1)], static_cast<double>(want), 1e-14));
    }
  }
  detail::limit_simd_level(simd_level::avx512);
  for (std::size_t j = 0; j < 8; ++j) {
    CHECK(same(sums[0][j], sums[1][j]));
    CHECK(same(sums[0][j], sums[2][j]));
  }
}

TEST_CASE("lag_correlation: correlations have the same bits at every instruction set, for any number of experts") {
  for (index_t const experts : {2, 7, 8, 9, 16, 45, 64, 131}) {
    auto const p = planted(6, experts, 2, 0.3, 11);
    std::vector<xt::xtensor<double, 2>> matrix;
    for (auto const level : {simd_level::baseline, simd_level::avx2, simd_level::avx512}) {
      detail::limit_simd_level(level);
      matrix.push_back(lag_correlation(p.view(), quick(5, 0)).matrix);
    }
    detail::limit_simd_level(simd_level::avx512);
    for (std::size_t l = 0; l < 5; ++l) {
      auto const row = [&](std::size_t i) { return p.x.data() + static_cast<index_t>(i) * experts; };
      long double sums[5] = {};
      for (index_t e = 0; e < experts; ++e) {
        long double const a = row(l)[e], b = row(l + 1)[e], terms[5] = {a, b, a * a, b * b, a * b};
        for (int i = 0; i < 5; ++i) sums[i] += terms[i] / static_cast<long double>(experts);
      }
      auto const r = (sums[4] - sums[0] * sums[1]) /
                     std::sqrt((sums[2] - sums[0] * sums[0]) * (sums[3] - sums[1] * sums[1]));
      CHECK(close(matrix[0](l, 0), static_cast<double>(r), 1e-12));
      for (std::size_t d = 0; d + l + 1 < 6; ++d) {
        CHECK(same(matrix[0](l, d), matrix[1](l, d)));
        CHECK(same(matrix[0](l, d), matrix[2](l, d)));
      }
    }
  }
}

TEST_CASE("lag_correlation: a planted period is found at its own lag, not beside it") {
  int const runs = 60;
  for (index_t const period : {3, 4}) {
    int found = 0, beside = 0, largest = 0;
    for (int i = 0; i < runs; ++i) {
      auto const p = planted(14, 32, period, 0.8, static_cast<std::uint64_t>(100 * period + i));
      bool any = false;
      auto const lags = lag_correlation(p.view(), quick(8, 199)).lags;
      largest += std::max_element(lags.begin(), lags.end(), [](auto const& a, auto const& b) {
                   return a.mean < b.mean;
                 })->delta == period;
      for (auto const& lag : lags) {
        CHECK(lag.p_adjusted >= lag.p_value);
        if (lag.delta == period)
          found += lag.p_adjusted <= 0.01;
        else
          any = any || lag.p_adjusted <= 0.05;
      }
      beside += any;
    }
    INFO("period " << period << ", of " << runs << " found " << found << ", beside it " << beside);
    CHECK(found == runs);
    CHECK(largest == runs);
    // Rarely, but more often than 5 %: chance correlations repeat through the related layers (see Bias in the header).
    CHECK(beside <= runs / 3);
  }
}

TEST_CASE("lag_correlation: the same bits for every number of threads; other seeds, other draws") {
  auto const p = planted(7, 12, 2, 0.3, 5);
  auto const one = lag_correlation(p.view(), quick(6, 199, 1));
  for (int const threads : {2, 5}) {
    auto const r = lag_correlation(p.view(), quick(6, 199, threads));
    for (std::size_t j = 0; j < one.lags.size(); ++j) {
      CHECK(same(r.lags[j].p_value, one.lags[j].p_value));
      CHECK(same(r.lags[j].p_adjusted, one.lags[j].p_adjusted));
      CHECK(same(r.lags[j].mean, one.lags[j].mean));
    }
  }
  auto options = quick(6, 199);
  options.seed = 2;
  auto const other = lag_correlation(p.view(), options);
  bool differs = false;
  for (std::size_t j = 0; j < one.lags.size(); ++j) differs = differs || other.lags[j].p_value != one.lags[j].p_value;
  CHECK(differs);
}

TEST_CASE("lag_correlation: one relabelling for all layers changes nothing; units do not matter") {
  auto const p = planted(5, 9, 1, 0.5, 8);
  auto q = p;
  for (index_t l = 0; l < 5; ++l)
    for (index_t e = 0; e < 9; ++e)
      q.x[static_cast<std::size_t>(l * 9 + e)] = 1000 * p.x[static_cast<std::size_t>(l * 9 + 8 - e)];
  auto const a = lag_correlation(p.view(), quick(4, 0)), b = lag_correlation(q.view(), quick(4, 0));
  for (std::size_t j = 0; j < 4; ++j) CHECK(a.lags[j].mean == doctest::Approx(b.lags[j].mean).epsilon(1e-12));
}

TEST_CASE("lag_correlation: constant and broken profiles are left out and counted") {
  std::vector<double> x{1, 2, 3, 0.1, 0.1, 0.1, 3, 1, 2, 1, 2, 4};
  auto r = lag_correlation(matrix_view<double>(x.data(), 4, 3), quick(3, 99));
  CHECK(r.lags[0].pairs == 1);
  CHECK(std::isnan(r.matrix(0, 0)));
  CHECK_FALSE(std::isnan(r.matrix(2, 0)));
  x[0] = quiet_nan;
  r = lag_correlation(matrix_view<double>(x.data(), 4, 3), quick(3, 99));
  CHECK(r.lags[2].pairs == 0);
  CHECK(std::isnan(r.lags[2].mean));
  CHECK(std::isnan(r.lags[2].p_adjusted));
  CHECK(r.lags[0].p_adjusted <= 1);  // the others are tested without it
}

TEST_CASE("lag_correlation: equal layers; extremes") {
  std::vector<double> same_rows;
  for (int l = 0; l < 6; ++l)
    for (double const v : {5.0, 1.0, 2.0, 9.0, 4.0, 0.0, 3.0, 7.0}) same_rows.push_back(v);
  auto const r = lag_correlation(matrix_view<double>(same_rows.data(), 6, 8), quick(30, 499));
  CHECK(r.lags.size() == 5);  // not 30
  for (auto const& lag : r.lags) {
    CHECK(lag.mean == doctest::Approx(1));
    CHECK(lag.p_value == doctest::Approx(1.0 / 500));
  }
  CHECK(lag_correlation(matrix_view<double>(same_rows.data(), 1, 8)).lags.empty());
  CHECK(lag_correlation(matrix_view<double>(same_rows.data(), 0, 8)).lags.empty());
  auto const lonely =
      lag_correlation(matrix_view<double>(same_rows.data(), 3, 1), quick(2, 99));  // one expert has no profile
  CHECK(lonely.lags[0].pairs == 0);
  CHECK(std::isnan(lonely.null_sd));
  std::vector<float> const floats(same_rows.begin(), same_rows.end());
  CHECK(lag_correlation(matrix_view<float>(floats.data(), 2, 8), quick(1, 9)).lags[0].mean == doctest::Approx(1));
  CHECK_THROWS_AS(lag_correlation(matrix_view<double>(same_rows.data(), 2, 0)), argument_error);
  CHECK_THROWS_AS(lag_correlation(matrix_view<double>(same_rows.data(), 2, 2), quick(0, 9)), argument_error);
  CHECK_THROWS_AS(lag_correlation(matrix_view<double>(same_rows.data(), 2, 2), quick(1, -1)), argument_error);
}

namespace {

// Rejections at 5 % over unrelated profiles: of lag 1 alone, and of any lag.
void check_null(int runs, std::uint64_t seed) {
  int alone = 0, family = 0;
  for (int i = 0; i < runs; ++i) {
    auto const p = planted(8, 10, 0, 0, seed + static_cast<std::uint64_t>(i));
    auto options = quick(7, 199);
    options.seed = static_cast<std::uint64_t>(i) + 1;
    auto const r = lag_correlation(p.view(), options);
    alone += r.lags[0].p_value <= 0.05;
    bool any = false;
    for (auto const& lag : r.lags) any = any || lag.p_adjusted <= 0.05;
    family += any;
  }
  double const slack = 3.5 * std::sqrt(0.05 * 0.95 / runs);
  CHECK(std::abs(static_cast<double>(alone) / runs - 0.05) < slack);
  CHECK(std::abs(static_cast<double>(family) / runs - 0.05) < slack);
}

}  // namespace

TEST_CASE("lag_correlation: unrelated layers are rejected as often as the level says (quick)") {
  check_null(200, 1000);
}

TEST_CASE("lag_correlation: calibration" * doctest::test_suite("slow")) { check_null(5000, 100000); }

// SPDX-License-Identifier: Apache-2.0
#include <moeroute/inference/bootstrap.hpp>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include <doctest/doctest.h>

#include "support/golden.hpp"
#include "support/normal.hpp"

using namespace moeroute;

namespace {

std::vector<index_t> iota_ids(std::size_t n) {
  std::vector<index_t> ids(n);
  std::iota(ids.begin(), ids.end(), index_t{0});
  return ids;
}

}  // namespace

TEST_CASE("bootstrap: percentile and BCa bounds equal scipy's on the same replicates") {
  for (auto const& g : golden("inference", "bootstrap")) {
    auto const replicates = g["replicates"].get<std::vector<double>>(),
               left_out = g["leave_one_out"].get<std::vector<double>>();
    double const value = g["value"], level = g["level"];
    auto const p = percentile_interval(value, replicates, level);
    CHECK(close(p.lower, g["percentile"][0], 1e-12));
    CHECK(close(p.upper, g["percentile"][1], 1e-12));
    CHECK(p.used == 499);
    auto const b = bca_interval(value, replicates, left_out, level);
    CHECK(close(b.lower, g["bca"][0], 1e-11));
    CHECK(close(b.upper, g["bca"][1], 1e-11));
    CHECK(b.value == value);
    CHECK(b.level == level);
    auto const j = jackknife(value, left_out);
    CHECK(close(j.bias, g["jackknife_bias"], 1e-12));
    CHECK(close(j.standard_error, g["jackknife_error"], 1e-12));
    CHECK(j.corrected == value - j.bias);
  }
}

TEST_CASE("bootstrap: ratios and their cluster errors equal statsmodels' weighted regression") {
  for (auto const& g : golden("inference", "ratio")) {
    auto const r = ratio_of_totals(g["x"].get<std::vector<int>>(), g["n"].get<std::vector<int>>(),
                                   g["clusters"].get<std::vector<int>>());
    CHECK(close(r.value, g["value"], 1e-13));
    CHECK(std::abs(r.standard_error / g["standard_error"].get<double>() - 1) < 1e-10);
    CHECK(close(r.design_effect, g["design_effect"], 1e-9));
    CHECK(r.effective_n == doctest::Approx(1 / r.design_effect * [&] {
            auto const n = g["n"].get<std::vector<int>>();
            return std::accumulate(n.begin(), n.end(), 0.0);
          }()));
  }
}

TEST_CASE("bootstrap: studentised bounds by hand, and their mirrored ends") {
  std::vector<double> const replicates{9, 10, 12}, errors{1, 1, 1};
  auto const e = studentised_interval(10, 2, replicates, errors, 0.5);  // t = -1, 0, 2; quartiles -0.5 and 1
  CHECK(e.lower == doctest::Approx(8));
  CHECK(e.upper == doctest::Approx(11));
  CHECK_THROWS_AS(studentised_interval(10, 2, replicates, std::vector<double>{1}), shape_error);
}

TEST_CASE("bootstrap: totals are weighted sums, by any number of threads, any order and any split") {
  std::vector<int> const sums{1, 2, 3, 4, 5, 6, 7, 8}, ids{7, 3, 7, 12};
  bootstrap_options const options{.seed = 5, .replicates = 50};
  auto const all = replicate_totals(matrix_view<int>(sums.data(), 4, 2), ids, options);
  REQUIRE(all.shape()[0] == 50);
  for (std::uint32_t b = 0; b < 50; ++b) {
    double const w7 = poisson_weight(5, 7, b), w3 = poisson_weight(5, 3, b), w12 = poisson_weight(5, 12, b);
    CHECK(all(b, 0) == w7 * 1 + w3 * 3 + w7 * 5 + w12 * 7);
    CHECK(all(b, 1) == w7 * 2 + w3 * 4 + w7 * 6 + w12 * 8);
  }
  CHECK(all == replicate_totals(matrix_view<int>(sums.data(), 4, 2), ids, options, 3));
  auto const first = replicate_totals(matrix_view<int>(sums.data(), 1, 2), std::vector<int>{7}, options);
  auto const rest = replicate_totals(matrix_view<int>(sums.data() + 2, 3, 2), std::vector<int>{3, 7, 12}, options);
  for (std::size_t b = 0; b < 50; ++b) CHECK(first(b, 1) + rest(b, 1) == all(b, 1));
  std::vector<int> const reversed{7, 8, 5, 6, 3, 4, 1, 2};
  CHECK(all == replicate_totals(matrix_view<int>(reversed.data(), 4, 2), std::vector<int>{12, 7, 3, 7}, options));
}

TEST_CASE("bootstrap: totals are sums in the order of documents, bit for bit, at every instruction set") {
  random_stream random(3, 1);
  index_t const documents = 90, columns = 11;
  std::vector<double> sums;
  std::vector<int> ids;
  for (index_t i = 0; i < documents * columns; ++i) sums.push_back(random.uniform() - 0.3);
  for (index_t d = 0; d < documents; ++d) ids.push_back(static_cast<int>(random.index(60)));
  for (auto const scheme : {resampling::poisson, resampling::multinomial}) {
    bootstrap_options const options{.seed = 9, .replicates = 37, .scheme = scheme};
    std::vector<int> distinct(ids);
    std::sort(distinct.begin(), distinct.end());
    distinct.erase(std::unique(distinct.begin(), distinct.end()), distinct.end());
    for (auto const level : {simd_level::baseline, simd_level::avx2, simd_level::avx512}) {
      detail::limit_simd_level(level);
      auto const all = replicate_totals(matrix_view<double>(sums.data(), documents, columns), ids, options, 2);
      detail::limit_simd_level(simd_level::avx512);
      for (std::uint32_t b = 0; b < 37; ++b) {
        auto const drawn = multinomial_weights(9, static_cast<index_t>(distinct.size()), b);
        for (index_t m = 0; m < columns; ++m) {
          double total = 0;
          for (index_t d = 0; d < documents; ++d) {
            int const id = ids[static_cast<std::size_t>(d)];
            auto const at = std::lower_bound(distinct.begin(), distinct.end(), id) - distinct.begin();
            double const w = scheme == resampling::poisson ? poisson_weight(9, static_cast<std::uint64_t>(id), b)
                                                           : drawn[static_cast<std::size_t>(at)];
            double volatile const product = w * sums[static_cast<std::size_t>(d * columns + m)];
            total += product;
          }
          CHECK(all(b, static_cast<std::size_t>(m)) == total);
        }
      }
    }
  }
}

TEST_CASE("bootstrap: multinomial weights sum to the number of clusters and treat clusters as units") {
  bootstrap_options const options{.seed = 2, .replicates = 200, .scheme = resampling::multinomial};
  std::vector<int> const ones(5, 1), ids{4, 9, 4, 2, 11};
  auto const t = replicate_totals(matrix_view<int>(ones.data(), 5, 1), ids, options);
  for (std::uint32_t b = 0; b < 200; ++b) {
    auto const w = multinomial_weights(2, 4, b);  // sorted ids 2, 4, 9, 11
    CHECK(std::accumulate(w.begin(), w.end(), 0u) == 4);
    CHECK(t(b, 0) == w[0] + 2 * w[1] + w[2] + w[3]);
  }
  CHECK_THROWS_AS(multinomial_weights(2, -1, 0), argument_error);
}

TEST_CASE("bootstrap: Poisson weights have mean and variance 1 over clusters and over replicates") {
  double sum = 0, square = 0;
  int const n = 300;
  for (std::uint64_t cluster = 0; cluster < n; ++cluster)
    for (std::uint32_t b = 0; b < n; ++b) {
      double const w = poisson_weight(1, cluster, b);
      sum += w;
      square += w * w;
    }
  CHECK(sum / (n * n) == doctest::Approx(1).epsilon(0.02));
  CHECK(square / (n * n) - 1 == doctest::Approx(1).epsilon(0.03));
}

TEST_CASE("bootstrap: undefined replicates are counted, undefined intervals are NaN, nonsense throws") {
  std::vector<double> const holed{1, quiet_nan, 2, 3, quiet_nan}, none{quiet_nan}, jack{1, 2, 2};
  auto const e = percentile_interval(2, holed, 0.5);
  CHECK(e.used == 3);
  CHECK(e.undefined == 2);
  CHECK(e.lower == 1.5);
  CHECK(std::isnan(percentile_interval(2, none).lower));
  CHECK(std::isnan(percentile_interval(quiet_nan, holed).lower));
  CHECK(std::isnan(bca_interval(9, holed, jack).lower));  // all replicates below
  CHECK(std::isnan(bca_interval(2, holed, std::vector<double>{1, 1, 1}).lower));
  CHECK(std::isnan(jackknife(2, std::vector<double>{1}).bias));
  CHECK_THROWS_AS(percentile_interval(2, holed, 0), argument_error);
  std::vector<int> const x{1, 2}, n{0, 0}, id{0, 1};
  CHECK(std::isnan(ratio_of_totals(x, n, id).value));
  CHECK(std::isnan(ratio_of_totals(x, std::vector<int>{2, 2}, std::vector<int>{3, 3}).standard_error));
  CHECK_THROWS_AS(ratio_of_totals(x, n, std::vector<int>{1}), shape_error);
  CHECK_THROWS_AS(replicate_totals(matrix_view<int>(x.data(), 2, 1), std::vector<int>{1}, {}), shape_error);
  CHECK_THROWS_AS(replicate_totals(matrix_view<int>(x.data(), 2, 1), id, {.replicates = -1}), argument_error);
}

TEST_CASE("bootstrap: intervals of a share cover 93 to 97 % with clustered tokens; token-wise ones do not" *
          doctest::test_suite("slow")) {
  int const repeats = 2000, documents = 80;
  double const truth = 0.5 * (0.15 + 0.45);  // documents of either kind are equally likely
  double percentile = 0, bca = 0, studentised = 0, multinomial = 0, token_wise = 0;
  for (int r = 0; r < repeats; ++r) {
    random_stream random(6, 1, static_cast<std::uint64_t>(r));
    std::vector<int> sums;
    for (int d = 0; d < documents; ++d) {
      double const p = random.uniform() < 0.5 ? 0.15 : 0.45;
      int const n = 20 + static_cast<int>(random.index(60));
      int x = 0;
      for (int i = 0; i < n; ++i) x += random.uniform() < p ? 1 : 0;
      sums.insert(sums.end(), {x, n, x * x, x * n, n * n});
    }
    matrix_view<int> const table(sums.data(), documents, 5);
    auto const ids = iota_ids(documents);
    double x_all = 0, n_all = 0;
    for (int d = 0; d < documents; ++d) {
      x_all += table(d, 0);
      n_all += table(d, 1);
    }
    double const value = x_all / n_all;
    std::vector<double> left_out;
    for (int d = 0; d < documents; ++d) left_out.push_back((x_all - table(d, 0)) / (n_all - table(d, 1)));
    // sum (x - r n)^2 from the sums of x^2, x n and n^2.
    auto const error = [](double x, double n, double xx, double xn, double nn) {
      double const ratio = x / n;
      return std::sqrt(xx - 2 * ratio * xn + ratio * ratio * nn) / n;
    };
    bootstrap_options const options{.seed = static_cast<std::uint64_t>(r), .replicates = 999};
    auto const totals = replicate_totals(table, ids, options);
    std::vector<double> replicates, errors;
    for (std::size_t b = 0; b < 999; ++b) {
      replicates.push_back(totals(b, 0) / totals(b, 1));
      errors.push_back(error(totals(b, 0), totals(b, 1), totals(b, 2), totals(b, 3), totals(b, 4)));
    }
    auto const few =
        replicate_totals(table, ids, {.seed = options.seed, .replicates = 999, .scheme = resampling::multinomial});
    std::vector<double> drawn;
    for (std::size_t b = 0; b < 999; ++b) drawn.push_back(few(b, 0) / few(b, 1));
    auto const ratio = ratio_of_totals(std::vector<double>{value}, std::vector<double>{1}, std::vector<int>{0});
    REQUIRE(ratio.value == value);
    double xx = 0, xn = 0, nn = 0;
    for (int d = 0; d < documents; ++d) {
      xx += table(d, 2);
      xn += table(d, 3);
      nn += table(d, 4);
    }
    auto const covers = [&](estimate const& e) { return e.lower <= truth && truth <= e.upper ? 1.0 / repeats : 0; };
    percentile += covers(percentile_interval(value, replicates));
    multinomial += covers(percentile_interval(value, drawn));
    bca += covers(bca_interval(value, replicates, left_out));
    studentised += covers(studentised_interval(value, error(x_all, n_all, xx, xn, nn), replicates, errors));
    double const naive = 1.96 * std::sqrt(value * (1 - value) / n_all);
    token_wise += covers({value, value - naive, value + naive});
  }
  MESSAGE("coverage: percentile ", percentile, " (multinomial ", multinomial, "), BCa ", bca, ", studentised ",
          studentised, ", tokens as units ", token_wise);
  for (double const c : {percentile, multinomial, bca, studentised}) CHECK((c >= 0.93 && c <= 0.97));
  CHECK(token_wise < 0.8);
}

TEST_CASE("bootstrap: the jackknife error of a mean is its standard error") {
  random_stream random(8, 1);
  std::vector<double> x, left_out;
  for (int i = 0; i < 30; ++i) x.push_back(normal(random));
  double const sum = std::accumulate(x.begin(), x.end(), 0.0);
  double square = 0;
  for (double const v : x) {
    left_out.push_back((sum - v) / 29);
    square += (v - sum / 30) * (v - sum / 30);
  }
  auto const j = jackknife(sum / 30, left_out);
  CHECK(j.standard_error == doctest::Approx(std::sqrt(square / 29 / 30)));
  CHECK(std::abs(j.bias) < 1e-14);
}

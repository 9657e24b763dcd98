// SPDX-License-Identifier: Apache-2.0
#include <moeroute/density/trim.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include <doctest/doctest.h>

#include "support/containers.hpp"
#include "support/golden.hpp"
#include "support/kernels.hpp"

using namespace moeroute;

namespace {

double constexpr inf = std::numeric_limits<double>::infinity();

// share of N(location, scale), the rest of N(3, 0.5): specialists to the right of the window.
std::vector<double> mixture(std::size_t n, double share, double location, double scale, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal;
  std::uniform_real_distribution<double> uniform;
  std::vector<double> x;
  for (std::size_t i = 0; i < n; ++i)
    x.push_back(uniform(random) < share ? location + scale * normal(random) : 3 + 0.5 * normal(random));
  return x;
}

}  // namespace

TEST_CASE("trim_experts: by hand") {
  float const nan = std::numeric_limits<float>::quiet_NaN();
  std::vector<float> const z{3, 1, 2,      5,   4, /**/ 0, 0, -1,
                             7, 2, /**/ 1, nan, 2, 3,      4, /**/ -std::numeric_limits<float>::infinity(),
                             9, 8, 7,      6};
  matrix_view<float> const m(z.data(), 4, 5);
  auto const one = trim_experts(m, 1);
  CHECK(one.values == std::vector<float>{2, 3, 4, 0, 0, 2, 6, 7, 8});
  CHECK(one.rows == 3);
  CHECK(one.kept == 3);
  CHECK(one.nan_rows == 1);
  CHECK(trim_experts(m, 2).values == std::vector<float>{3, 0, 7});
  CHECK(trim_experts(m, 0).values.size() == 15);
  CHECK_THROWS_WITH_AS(trim_experts(m, 3), doctest::Contains("each_side = 3 of 5 experts"), argument_error);
  CHECK_THROWS_AS(trim_experts(m, -1), argument_error);
  CHECK(trim_experts(matrix_view<float>(z.data(), 0, 5), 1).values.empty());
}

TEST_CASE("trim_experts: every container and scalar") {
  std::vector<double> z;
  plain_random random(4);
  for (int i = 0; i < 7 * 9; ++i) z.push_back(random.bell());
  auto const expected = trim_experts(matrix_view<double>(z.data(), 7, 9), 2).values;
  for_each_matrix(7, 9, z, [&](char const* name, auto const& m) {
    INFO(name);
    CHECK(trim_experts(m, 2).values == expected);
  });
  std::vector<bf16> half;
  for (double const v : z) half.push_back(scalar<bf16>(v));
  auto const trimmed = trim_experts(matrix_view<bf16>(half.data(), 7, 9), 2);
  for (std::size_t r = 0; r < 7; ++r) {
    std::vector<float> row;
    for (std::size_t e = 0; e < 9; ++e) row.push_back(to_float(half[9 * r + e]));
    std::sort(row.begin(), row.end());
    for (std::size_t e = 0; e < 5; ++e) CHECK(to_float(trimmed.values[5 * r + e]) == row[e + 2]);
  }
}

TEST_CASE("central_normal: the likelihood equations in 40 digits") {
  for (auto const& c : golden("tail", "window")) {
    auto const x = c["x"].get<std::vector<double>>();
    double const lower = c["lower"], upper = c["upper"];
    auto sums = central_sums_of(x, lower, upper);
    CHECK(sums.inside == x.size());
    sums.total += c["outside"].get<std::uint64_t>();
    auto const r = central_normal(sums, lower, upper);
    CHECK(close(r.location, c["location"], 1e-9));
    CHECK(close(r.scale, c["scale"], 1e-9));
    CHECK(close(r.null_share, c["null_share"], 1e-9));
    CHECK(close(r.log_p(c["at"]), c["log_p"], 1e-7));
  }
}

TEST_CASE("central_normal: exact moments give the law back") {
  // Sums that a sample of a truncated normal law has on average; every window, off centre and narrow too.
  for (double const location : {-0.8, 0.0, 0.4, 1.5})
    for (double const scale : {0.05, 0.3, 1.0, 3.0}) {
      if (std::abs(location) > 1 && scale < 0.3) continue;  // nothing of the law lies inside
      long double m[3] = {0, 0, 0};
      int const steps = 400000;
      for (int i = 0; i < steps; ++i) {
        long double const t = (i + 0.5L) / steps * 2 - 1,
                          u = (t - static_cast<long double>(location)) / static_cast<long double>(scale);
        long double f = std::exp(-u * u / 2);
        for (auto& v : m) v += f, f *= t;
      }
      central_sums s;
      s.inside = 1000, s.total = 2000;
      s.sum = static_cast<double>(1000 * m[1] / m[0]);
      s.squares = static_cast<double>(1000 * m[2] / m[0]);
      auto const r = central_normal(s, 9, 13);  // t = (x - 11) / 2
      INFO("location " << location << " scale " << scale);
      CHECK(close(r.location, 11 + 2 * location, 1e-7));
      CHECK(close(r.scale, 2 * scale, 1e-7));
    }
}

TEST_CASE("central_normal: both ends belong to the window, which holds the central share") {
  CHECK(central_sums_of(std::vector<double>{0, 1, 2, 3, 4}, 1, 3).inside == 3);
  auto x = mixture(101, 1, 0, 1, 7);
  auto const r = central_normal(x, 0.8);
  std::sort(x.begin(), x.end());
  CHECK(r.lower == x[10]);
  CHECK(r.upper == x[90]);
  CHECK(r.inside == 81);
}

TEST_CASE("central_normal: sums of shards add up, NaN and infinities do not count") {
  auto x = mixture(3000, 0.9, -1, 0.6, 1);
  x.push_back(quiet_nan);
  x.push_back(inf);
  auto const whole = central_sums_of(x, -2, 0);
  CHECK(whole.total == 3000);
  std::vector<double> const a(x.begin(), x.begin() + 1000), b(x.begin() + 1000, x.end());
  auto const first = central_sums_of(a, -2, 0), second = central_sums_of(b, -2, 0);
  CHECK(whole.inside == first.inside + second.inside);
  CHECK(close(whole.squares, first.squares + second.squares, 1e-12));
}

TEST_CASE("central_normal: what has no answer") {
  CHECK(std::isnan(central_normal(central_sums{}, 0, 1).location));
  CHECK(std::isnan(central_normal({.total = 9, .inside = 2, .sum = 0, .squares = 1}, 0, 1).scale));
  CHECK(std::isnan(central_normal({.total = 9, .inside = 5, .sum = 2.5, .squares = 1.25}, 0, 1).scale));  // all equal
  // Values at both ends, none in the middle: the density curves upwards.
  auto const hollow = central_normal({.total = 100, .inside = 100, .sum = 0, .squares = 90}, 0, 1);
  CHECK(std::isnan(hollow.location));
  CHECK(std::isnan(hollow.null_share));
  CHECK(hollow.inside == 100);
  // A uniform window is the border of that, the variance 1/3; just below, the scale is large.
  CHECK(central_normal({.total = 100, .inside = 100, .sum = 0, .squares = 33}, 0, 1).scale > 1);
  CHECK(std::isnan(central_normal({.total = 100, .inside = 100, .sum = 0, .squares = 34}, 0, 1).scale));
  CHECK_THROWS_AS(central_normal(central_sums{}, 1, 1), argument_error);
  CHECK_THROWS_AS(central_normal(central_sums{}, 0, inf), argument_error);
  CHECK_THROWS_AS(central_normal({.total = 1, .inside = 2}, 0, 1), argument_error);
  std::vector<double> const x{1, 2, 3, 4, 5}, none{quiet_nan};
  CHECK_THROWS_AS(central_sums_of(x, 2, 1), argument_error);
  for (double const share : {0.0, 1.0, -1.0, quiet_nan}) CHECK_THROWS_AS(central_normal(x, share), argument_error);
  CHECK_THROWS_AS(central_normal(none, 0.5), argument_error);
  CHECK_THROWS_AS(central_normal(std::vector<double>{2, 2, 2}, 0.5), argument_error);
}

TEST_CASE("central_normal: planted null is found where mean, sd and the published trimming miss it") {
  auto const x = mixture(200000, 0.85, -1, 0.7, 5);
  auto const r = central_normal(central_sums_of(x, -2.4, 0.4), -2.4, 0.4);
  CHECK(r.location == doctest::Approx(-1).epsilon(0.01));
  CHECK(r.scale == doctest::Approx(0.7).epsilon(0.01));
  CHECK(r.null_share == doctest::Approx(0.85).epsilon(0.01));
  auto const by_share = central_normal(x, 0.5);
  CHECK(by_share.location == doctest::Approx(-1).epsilon(0.08));
  double mean = 0;
  for (double const v : x) mean += v / 200000;
  CHECK(mean > -0.5);
  // Tokens of 20 experts of this mixture, two dropped on either side: the largest logit that is left gets a collapsed
  // p-value.
  auto const trimmed = trim_experts(matrix_view<double>(x.data(), 10000, 20), 2);
  double const top = *std::max_element(trimmed.values.begin(), trimmed.values.end());
  CHECK(top < *std::max_element(x.begin(), x.end()));
}

// Estimates scatter around the truth: no bias beyond a few standard errors of the mean of B repetitions.
void check_bias(int repetitions) {
  double sum[3] = {0, 0, 0}, squares[3] = {0, 0, 0};
  for (int b = 0; b < repetitions; ++b) {
    auto const x = mixture(4000, 0.9, -1, 0.7, 100 + static_cast<std::uint64_t>(b));
    auto const r = central_normal(central_sums_of(x, -2.4, 0.4), -2.4, 0.4);
    double const e[3] = {r.location + 1, r.scale - 0.7, r.null_share - 0.9};
    for (int i = 0; i < 3; ++i) sum[i] += e[i], squares[i] += e[i] * e[i];
  }
  double const n = repetitions;
  for (int i = 0; i < 3; ++i) {
    double const sd = std::sqrt((squares[i] - sum[i] * sum[i] / n) / (n - 1));
    INFO("parameter " << i << " bias " << sum[i] / n << " sd " << sd);
    CHECK(std::abs(sum[i] / n) < 4 * sd / std::sqrt(n) + 0.1 * sd);
    // The header's figures at +-2 sd: 1.16 times the error of a mean, 1.6 times that of an sd.
    double const expected[2] = {1.1636 * 0.7 / std::sqrt(3600.0), 1.601 * 0.7 / std::sqrt(7200.0)};
    if (i < 2) CHECK(sd == doctest::Approx(expected[i]).epsilon(5 / std::sqrt(2 * n)));
  }
}
TEST_CASE("central_normal: unbiased, as wide as stated, quick") { check_bias(150); }
TEST_CASE("central_normal: unbiased, as wide as stated" * doctest::test_suite("slow")) { check_bias(2000); }

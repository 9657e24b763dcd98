// SPDX-License-Identifier: Apache-2.0
#include <moeroute/density/tail.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include <doctest/doctest.h>

#include "support/containers.hpp"
#include "support/golden.hpp"

using namespace moeroute;

namespace {

double constexpr inf = std::numeric_limits<double>::infinity();

// By inversion of the survival function.
std::vector<double> pareto_sample(generalised_pareto law, std::size_t n, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<double> y;
  while (y.size() < n) {
    double const u = (static_cast<double>(random() >> 11) + 0.5) * 0x1p-53;
    y.push_back(law.shape == 0 ? -law.scale * std::log(u)
                               : law.scale * std::expm1(-law.shape * std::log(u)) / law.shape);
  }
  return y;
}

double log_likelihood(generalised_pareto law, std::vector<double> const& y) {
  double sum = 0;
  for (double const v : y) sum += law.log_pdf(v);
  return sum;
}

}  // namespace

TEST_CASE("generalised_pareto: by hand") {
  generalised_pareto const light{-0.5, 2}, heavy{1, 3}, exponential{0, 2};
  CHECK(light.endpoint() == 4);
  CHECK(heavy.endpoint() == inf);
  CHECK(exponential.endpoint() == inf);
  CHECK(light.log_survival(2) == doctest::Approx(std::log(0.25)));  // (1 - 1/2)^2
  CHECK(light.log_survival(4) == -inf);
  CHECK(light.log_survival(5) == -inf);
  CHECK(light.log_pdf(5) == -inf);
  CHECK(heavy.log_survival(6) == doctest::Approx(-std::log(3)));
  CHECK(heavy.log_pdf(6) == doctest::Approx(-std::log(27)));
  CHECK(exponential.log_survival(6) == -3);
  CHECK(std::abs(generalised_pareto{1e-7, 2}.log_survival(6) - generalised_pareto{1.0000001e-9, 2}.log_survival(6)) <
        1e-6);
  CHECK(generalised_pareto{1e-6, 1}.log_survival(5e-3) == doctest::Approx(-5e-3 * (1 - 2.5e-9)).epsilon(1e-13));
  CHECK(std::isnan(generalised_pareto{}.endpoint()));
}

TEST_CASE("fit_generalised_pareto: the likelihood equations in 40 digits, and scipy's search") {
  for (auto const& c : golden("tail", "pareto")) {
    auto const y = c["excesses"].get<std::vector<double>>();
    auto const law = fit_generalised_pareto(y);
    INFO("shape " << c["shape"]);
    CHECK(close(law.shape, c["shape"], 1e-9));
    CHECK(std::abs(law.scale / c["scale"].get<double>() - 1) < 1e-9);
    CHECK(std::abs(law.shape - c["scipy_shape"].get<double>()) < 2e-4);
    CHECK(log_likelihood(law, y) >= log_likelihood({c["scipy_shape"], c["scipy_scale"]}, y));
    auto const at = c["at"].get<std::vector<double>>();
    for (std::size_t i = 0; i < at.size(); ++i) {
      if (c["log_survival"][i].is_number())
        CHECK(close(law.log_survival(at[i]), c["log_survival"][i], 1e-7));
      else
        CHECK(law.log_survival(at[i]) == -inf);
    }
  }
}

TEST_CASE("fit_generalised_pareto: no law fits better, whatever the scale of the data") {
  std::mt19937_64 random(3);
  std::uniform_real_distribution<double> uniform(-1, 1);
  for (double const shape : {-0.8, -0.3, 0.0, 1e-5, 0.2, 0.9, 3.0})
    for (std::size_t const n : {10u, 40u, 400u}) {
      auto const y = pareto_sample({shape, 1}, n, n + static_cast<std::uint64_t>(100 * (shape + 1)));
      auto const law = fit_generalised_pareto(y);
      INFO("shape " << shape << " n " << n << " found " << law.shape << " " << law.scale);
      CHECK(law.shape >= -1);
      double const best = log_likelihood(law, y);
      for (int i = 0; i < 300; ++i) {
        double const size = std::pow(10, -3.0 * (i % 3));
        generalised_pareto const other{law.shape + size * uniform(random),
                                       law.scale * std::exp(size * uniform(random))};
        if (other.shape >= -1) CHECK(log_likelihood(other, y) <= best + 1e-9 * (1 + std::abs(best)));
      }
      auto scaled = y;
      for (double& v : scaled) v *= 0x1p-30;
      auto const small = fit_generalised_pareto(scaled);
      CHECK(small.shape == law.shape);
      CHECK(small.scale == law.scale * 0x1p-30);
    }
}

TEST_CASE("fit_generalised_pareto: where the likelihood rises to the border") {
  // Evenly spaced up to a sharp end: the likelihood rises to shape -1.
  std::vector<double> y;
  for (int i = 1; i <= 40; ++i) y.push_back(1 - std::pow(1 - i / 41.0, 3));
  auto const law = fit_generalised_pareto(y);
  CHECK(law.shape == doctest::Approx(-1).epsilon(1e-9));
  CHECK(law.scale == doctest::Approx(y.back()));
  CHECK(std::isnan(pareto_tail(y, 0, 100).result().shape_se));
}

TEST_CASE("pareto_tail: what has no answer") {
  std::vector<double> const few{1, 2, 3}, equal(20, 1.0);
  CHECK(std::isnan(fit_generalised_pareto(few).shape));
  CHECK(std::isnan(fit_generalised_pareto(equal).shape));
  CHECK(std::isnan(pareto_tail(few, 0, 100).p_value(1).log_p));
  CHECK(pareto_tail(few, 0, 100).result().excesses == 3);
  CHECK_THROWS_WITH_AS(fit_generalised_pareto({1, 0, 2}), doctest::Contains("excess = 0"), argument_error);
  CHECK_THROWS_AS(fit_generalised_pareto({1, quiet_nan}), argument_error);
  CHECK_THROWS_AS(fit_generalised_pareto({1, inf}), argument_error);
  CHECK_THROWS_WITH_AS(pareto_tail(few, 0, 2), doctest::Contains("3 excesses of 2 values"), argument_error);
  CHECK_THROWS_AS(pareto_tail(few, quiet_nan, 9), argument_error);
  for (double const level : {0.0, 1.0, quiet_nan})
    CHECK_THROWS_AS(pareto_tail(few, 0, 9, {.level = level}), argument_error);
  for (double const d : {0.5, quiet_nan, inf})
    CHECK_THROWS_AS(pareto_tail(few, 0, 9, {.design_effect = d}), argument_error);
  for (double const q : {0.0, 1.0, quiet_nan}) CHECK_THROWS_AS(pareto_tail_above(few, q), argument_error);
  CHECK_THROWS_AS(pareto_tail_above(std::vector<double>{quiet_nan}, 0.5), argument_error);
}

TEST_CASE("pareto_tail: p-values of a known tail") {
  auto const y = pareto_sample({0.1, 1}, 500, 7);
  pareto_tail const tail(y, 3, 10000);
  auto const& r = tail.result();
  CHECK(r.excesses == 500);
  CHECK(r.shape_se == doctest::Approx((1 + r.law.shape) / std::sqrt(500)));
  double const largest = 3 + *std::max_element(y.begin(), y.end());
  double last = 0;
  for (double const x : {3.1, 4.0, 6.0, 9.0, 15.0}) {
    auto const p = tail.p_value(x);
    CHECK(p.log_p == doctest::Approx(std::log(0.05) + r.law.log_survival(x - 3)));
    CHECK(p.log_p_lo < p.log_p);
    CHECK(p.log_p < p.log_p_hi);
    CHECK(p.log_p < last);
    CHECK(p.extrapolated == (x > largest));
    last = p.log_p;
  }
  CHECK(std::isnan(tail.p_value(3).log_p));
  CHECK(std::isnan(tail.p_value(quiet_nan).log_p));
  // Four times the variance, about twice the width.
  pareto_tail const clustered(y, 3, 10000, {.design_effect = 4});
  auto const a = tail.p_value(6), b = clustered.p_value(6);
  CHECK((b.log_p_hi - b.log_p_lo) / (a.log_p_hi - a.log_p_lo) == doctest::Approx(2).epsilon(0.15));
}

TEST_CASE("pareto_tail: where all values exceed the threshold their share is known") {
  std::vector<double> excesses;
  for (int i = 1; i <= 400; ++i) excesses.push_back(-std::log(i / 401.0));
  double const near = 5 + 1e-9;  // hardly any of the law lies below
  auto const all = pareto_tail(excesses, 5, 400).p_value(near), few = pareto_tail(excesses, 5, 4000000).p_value(near);
  CHECK(all.log_p_hi - all.log_p_lo < 1e-7);
  CHECK(few.log_p - few.log_p_lo == doctest::Approx(1.959964 / 20).epsilon(1e-3));
}

TEST_CASE("pareto_tail: a negative shape ends, and its bounds know that it may not") {
  auto const y = pareto_sample({-0.3, 1}, 400, 11);
  pareto_tail const tail(y, 0, 4000);
  auto const& r = tail.result();
  CHECK(r.law.shape < 0);
  CHECK(r.endpoint == doctest::Approx(-r.law.scale / r.law.shape));
  auto const beyond = tail.p_value(r.endpoint * 1.01);
  CHECK(beyond.log_p == -inf);
  CHECK(beyond.log_p_lo == -inf);
  CHECK(beyond.log_p_hi > -40);
  CHECK(beyond.log_p_hi < 0);
  CHECK(beyond.extrapolated);
}

TEST_CASE("pareto_tail_above: threshold by quantile, ties, every container") {
  std::vector<double> x;
  for (int i = 0; i < 100; ++i) x.push_back(i);
  x.push_back(quiet_nan);
  auto const tail = pareto_tail_above(x, 0.8);
  CHECK(tail.result().threshold == 80);
  CHECK(tail.result().excesses == 19);
  CHECK(tail.result().total == 100);
  std::vector<double> tied(100, 5.0);
  for (int i = 0; i < 15; ++i) tied[static_cast<std::size_t>(i)] = 6 + i;
  CHECK(pareto_tail_above(tied, 0.5).result().excesses == 15);
  auto const y = pareto_sample({0.2, 1}, 300, 2);
  auto const expected = pareto_tail_above(y, 0.9).result().law.shape;
  for_each_vector(y, [&](char const* name, auto const& v) {
    INFO(name);
    CHECK(pareto_tail_above(v, 0.9).result().law.shape == expected);
  });
}

// The bounds of a p-value hold the true one as often as they say; standard errors are those of the estimates.
void check_coverage(int repetitions, generalised_pareto law, std::size_t n, double least, double most) {
  int held = 0, low = 0, high = 0;
  double sum = 0, squares = 0, se = 0;
  for (int b = 0; b < repetitions; ++b) {
    // A sample of ten n values of which a random number exceed the threshold.
    std::mt19937_64 random(static_cast<std::uint64_t>(b) + 1);
    std::binomial_distribution<int> count(static_cast<int>(10 * n), 0.1);
    auto const y = pareto_sample(law, static_cast<std::size_t>(count(random)), 1000 + static_cast<std::uint64_t>(b));
    pareto_tail const tail(y, 0, 10 * n);
    double const x = law.shape < 0 ? 0.8 * law.endpoint() : law.scale * 7;
    double const truth = std::log(0.1) + law.log_survival(x);
    auto const p = tail.p_value(x);
    held += p.log_p_lo <= truth && truth <= p.log_p_hi;
    low += truth < p.log_p_lo;
    high += truth > p.log_p_hi;
    sum += tail.result().law.shape;
    squares += tail.result().law.shape * tail.result().law.shape;
    se += tail.result().shape_se / repetitions;
  }
  double const r = repetitions, sd = std::sqrt((squares - sum * sum / r) / (r - 1));
  INFO("held " << held / r << " below " << low / r << " above " << high / r << " sd of shape " << sd << " stated " << se
               << " bias " << sum / r - law.shape);
  CHECK(held / r >= least);
  CHECK(held / r <= most);
  CHECK(se == doctest::Approx(sd).epsilon(0.1 + 4 / std::sqrt(2 * r)));
}
TEST_CASE("pareto_tail: coverage, quick") { check_coverage(100, {0.1, 1}, 80, 0.86, 0.995); }
TEST_CASE("pareto_tail: coverage" * doctest::test_suite("slow")) {
  check_coverage(2000, {0.1, 1}, 100, 0.93, 0.97);
  check_coverage(2000, {-0.2, 1}, 200, 0.93, 0.97);
}

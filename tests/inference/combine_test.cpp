// SPDX-License-Identifier: Apache-2.0
#include <moeroute/inference/combine.hpp>
#include <moeroute/numeric/random.hpp>

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

// Relative error of p, that is absolute error of log p, and relative to |log p| where that is large.
bool same_log_p(log_test_result const& ours, double theirs, double tolerance) {
  return std::abs(ours.log_p - theirs) <= tolerance * std::max(1.0, std::abs(theirs)) &&
         std::abs(ours.p_value - std::exp(ours.log_p)) <= 1e-15;
}

}  // namespace

TEST_CASE("combine: equals mpmath and scipy, from p near 1 to p = exp(-100000)") {
  for (auto const& g : golden("combine", "combine")) {
    auto const l = g["log_p"].get<std::vector<double>>();
    INFO(l.size(), " p-values from ", l[0]);
    CHECK(same_log_p(combine_fisher(l), g["fisher"], 4e-14));
    CHECK(same_log_p(combine_simes(l), g["simes"], 1e-15));
    CHECK(same_log_p(combine_cauchy(l, 1), g["cauchy"], 2e-14));
    CHECK(same_log_p(combine_cauchy(l, 0.99), g["cauchy_capped"], 2e-14));
    CHECK(same_log_p(combine_harmonic_mean_any_dependence(l), g["harmonic_any"], 4e-14));
    if (g.contains("harmonic")) CHECK(same_log_p(combine_harmonic_mean(l), g["harmonic"], 1e-9));
    if (g.contains("scipy_fisher")) CHECK(same_log_p(combine_fisher(l), g["scipy_fisher"], 1e-12));
  }
  for (auto const& g : golden("combine", "landau"))
    CHECK(std::abs(detail::landau_survival(g["x"]) / g["survival"].get<double>() - 1) < 1e-12);
}

TEST_CASE("combine: by hand") {
  std::vector<double> const l{std::log(0.01), std::log(0.04), std::log(0.5)};
  CHECK(combine_simes(l).p_value == doctest::Approx(0.03));
  CHECK(combine_bonferroni(l).p_value == doctest::Approx(0.03));
  CHECK(combine_bonferroni(std::vector<double>{std::log(0.5), std::log(0.6)}).p_value == 1);
  double const x = -(l[0] + l[1] + l[2]);
  CHECK(combine_fisher(l).p_value == doctest::Approx(std::exp(-x) * (1 + x + x * x / 2)));
  CHECK(combine_fisher(l).statistic == doctest::Approx(2 * x));
  CHECK(std::exp(combine_harmonic_mean(l).statistic) == doctest::Approx(3 / (100 + 25 + 2.0)));
  CHECK(combine_harmonic_mean_any_dependence(std::vector<double>{std::log(0.02), std::log(0.02)}).p_value ==
        doctest::Approx(0.04));
}

TEST_CASE("combine: one p-value is itself, order does not matter, NaN is left out, in every container") {
  auto* const functions = +[](std::vector<double> const& l) {
    return std::vector<double>{combine_fisher(l).log_p,        combine_simes(l).log_p,
                               combine_bonferroni(l).log_p,    combine_cauchy(l).log_p,
                               combine_harmonic_mean(l).log_p, combine_harmonic_mean_any_dependence(l).log_p};
  };
  for (double const l : {-0.2, -3.0, -50.0, -800.0})
    for (double const out : functions({l})) CHECK(out == doctest::Approx(l).epsilon(1e-13));
  std::vector<double> const l{-4, -0.5, -2, -7}, turned{-7, -2, quiet_nan, -0.5, -4};
  CHECK(functions(l) == functions(turned));
  for_each_vector<float>({-4, -0.5, -2, -7}, [&](char const* name, auto const& x) {
    INFO(name);
    CHECK(combine_cauchy(x).log_p == combine_cauchy(l).log_p);
    CHECK(combine_fisher(x).log_p == combine_fisher(l).log_p);
  });
  double const infinity = std::numeric_limits<double>::infinity();
  for (double const out : functions({-1, -infinity})) CHECK(out == -infinity);
  for (double const out : functions({})) CHECK(std::isnan(out));
  for (double const out : functions({quiet_nan})) CHECK(std::isnan(out));
  CHECK_THROWS_AS(functions({-1, 1e-9}), argument_error);
  CHECK_THROWS_AS(combine_cauchy(l, 0.5), argument_error);
  CHECK_THROWS_AS(combine_cauchy(l, 1.01), argument_error);
}

TEST_CASE("combine: branches meet") {
  // A small step of the input across the switch of a formula moves the output by as little.
  for (double const edge : {-645.0, -40.0 - std::log(2.0)})
    for (auto* combine : {+[](std::vector<double> const& l) { return combine_cauchy(l).log_p; },
                          +[](std::vector<double> const& l) { return combine_harmonic_mean(l).log_p; }}) {
      double const below = combine({edge - 1e-9, edge - 1e-9}), above = combine({edge + 1e-9, edge + 1e-9});
      CHECK(std::abs(above - below) < 3e-9);
    }
  double const below = combine_fisher(std::vector<double>{-644.72 / 2 - 4, -644.72 / 2}).log_p,
               above = combine_fisher(std::vector<double>{-644.74 / 2 - 4, -644.74 / 2}).log_p;
  CHECK(std::abs(above - below) < 0.021);
  CHECK(combine_cauchy(std::vector<double>{-6, 0}).p_value < 0.01);   // capped
  CHECK(combine_cauchy(std::vector<double>{-6, 0}, 1).p_value == 1);  // one p of 1 cancels the other
}

TEST_CASE("combine: level under independence and under dependence" * doctest::test_suite("slow")) {
  int const repeats = 20000;
  double const alpha = 0.05;
  std::size_t const m = 64;
  enum { fisher, simes, bonferroni, cauchy, harmonic, raw_harmonic, harmonic_any, kinds };
  for (double const shared : {0.0, 0.5, 0.95}) {
    std::vector<double> rate(kinds);
    for (int r = 0; r < repeats; ++r) {
      random_stream random(3, 1, static_cast<std::uint64_t>(r));
      double const common = normal(random);
      std::vector<double> l;
      for (std::size_t i = 0; i < m; ++i)
        l.push_back(std::log(0.5 * std::erfc((std::sqrt(shared) * common + std::sqrt(1 - shared) * normal(random)) /
                                             std::numbers::sqrt2)));
      double const p[] = {combine_fisher(l).p_value,
                          combine_simes(l).p_value,
                          combine_bonferroni(l).p_value,
                          combine_cauchy(l).p_value,
                          combine_harmonic_mean(l).p_value,
                          std::exp(combine_harmonic_mean(l).statistic),
                          combine_harmonic_mean_any_dependence(l).p_value};
      for (std::size_t k = 0; k < kinds; ++k) rate[k] += p[k] <= alpha ? 1.0 / repeats : 0;
    }
    MESSAGE("correlation ", shared, ": fisher ", rate[fisher], " simes ", rate[simes], " bonferroni ", rate[bonferroni],
            " cauchy ", rate[cauchy], " harmonic ", rate[harmonic], " (raw ", rate[raw_harmonic], ", any dependence ",
            rate[harmonic_any], ")");
    double const noise = 3 * std::sqrt(alpha * (1 - alpha) / repeats);
    for (auto const k : {simes, bonferroni, harmonic_any}) CHECK(rate[k] <= alpha + noise);
    if (shared == 0) {
      for (auto const k : {fisher, simes, harmonic}) CHECK(std::abs(rate[k] - alpha) < noise + 0.002);
      CHECK(rate[raw_harmonic] > 0.06);
    } else {
      CHECK(rate[fisher] > 0.1);
    }
    CHECK(rate[cauchy] < 0.08);
  }
}

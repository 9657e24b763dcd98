// SPDX-License-Identifier: Apache-2.0
#include <moeroute/inference/fitted_law.hpp>
#include <moeroute/inference/goodness_of_fit.hpp>

#include <cmath>
#include <vector>

#include <doctest/doctest.h>

#include "support/golden.hpp"
#include "support/normal.hpp"

using namespace moeroute;

namespace {

using vector = std::vector<double>;

vector logs(vector x) {
  for (double& v : x) v = std::log(v);
  return x;
}
vector complements(vector x) {
  for (double& v : x) v = 1 - v;
  return x;
}

}  // namespace

TEST_CASE("fitted_law: a normal law against statsmodels") {
  for (auto const& g : golden("goodness_of_fit", "normal")) {
    auto const x = g["x"].get<vector>();
    auto const r = fitted_law_test<normal_law>(x, {.replicates = 999});
    CHECK(close(r.law.mean, g["mean"], 1e-13));
    CHECK(close(r.law.sd, g["sd"], 1e-13));
    CHECK(close(r.kolmogorov_smirnov.statistic, g["d"], 1e-12));
    CHECK(close(r.anderson_darling.statistic, g["a"], 1e-11));
    double const table = g["p_table"], formula = g["a_p"];
    CHECK(std::abs(r.kolmogorov_smirnov.p_value - table) <
          4 * std::sqrt(table * (1 - table) / 1000) + 0.02);  // a rough table
    CHECK(std::abs(r.anderson_darling.p_value - formula) < 4 * std::sqrt(formula * (1 - formula) / 1000) + 0.02);
    if (x.size() == 20) {
      auto const again = fitted_law_test<normal_law>(x, {.replicates = 999, .threads = 3});
      CHECK(again.anderson_darling.p_value == r.anderson_darling.p_value);
      vector moved;
      for (double const v : x) moved.push_back(8 * v + 64);
      CHECK(fitted_law_test<normal_law>(moved, {.replicates = 999}).kolmogorov_smirnov.p_value ==
            r.kolmogorov_smirnov.p_value);
    }
  }
  CHECK(std::isnan(fitted_law_test<normal_law>(vector{1}).kolmogorov_smirnov.p_value));
  CHECK(std::isnan(fitted_law_test<normal_law>(vector{2, 2, 2}).anderson_darling.p_value));
  // The mean of seven tenths rounds to another number, which is no spread.
  CHECK(std::isnan(fitted_law_test<normal_law>(vector(7, 0.1)).anderson_darling.p_value));
  CHECK(std::isnan(normal_law::fit({}).mean));
  vector far(199);  // one value 14 sd above the rest: its survival is no difference from 1
  for (std::size_t i = 0; i < far.size(); ++i) far[i] = static_cast<double>(i % 7) * 1e-3;
  far.push_back(1e6);
  CHECK(std::isfinite(fitted_law_test<normal_law>(far, {.replicates = 9}).anderson_darling.statistic));
  CHECK_THROWS_AS(fitted_law_test<normal_law>(vector{1, quiet_nan}), argument_error);
  CHECK_THROWS_AS(fitted_law_test<normal_law>(vector{1, 2}, {.replicates = -1}), argument_error);
}

TEST_CASE("fitted_law: levels, the trap of a fitted law, power" * doctest::test_suite("slow")) {
  int const repeats = 2000;
  double ks = 0, ad = 0, two = 0, tied = 0, trap = 0, lilliefors = 0, case3 = 0, found = 0, dependent = 0;
  double const alpha = 0.05;
  auto const reject = [&](double p) { return p <= alpha ? 1.0 / repeats : 0; };
  for (int r = 0; r < repeats; ++r) {
    random_stream random(7, 1, static_cast<std::uint64_t>(r));
    vector u, x, a, b, ca, cb, skewed, documents;
    for (int i = 0; i < 40; ++i) {
      u.push_back(random.uniform());
      x.push_back(3 + 2 * normal(random));
      a.push_back(normal(random));
      b.push_back(normal(random));
      ca.push_back(std::round(a.back()));
      cb.push_back(std::round(b.back()));
      skewed.push_back(std::exp(0.7 * normal(random)));
    }
    for (int d = 0; d < 10; ++d) {
      double const mean = normal(random);
      for (int t = 0; t < 20; ++t)
        documents.push_back(detail::normal_cdf(std::sqrt(0.8) * mean + std::sqrt(0.2) * normal(random)));
    }
    ks += reject(kolmogorov_smirnov_test(u).p_value);
    ad += reject(anderson_darling_test(logs(u), logs(complements(u))).p_value);
    two += reject(kolmogorov_smirnov_two_sample(a, b).p_value);
    tied += reject(kolmogorov_smirnov_two_sample(ca, cb).p_value);
    vector fitted;
    auto const law = normal_law::fit(x);
    for (double const v : x) fitted.push_back(law.cdf(v));
    trap += reject(kolmogorov_smirnov_test(fitted).p_value);
    fitted_law_options const options{.replicates = 199, .seed = static_cast<std::uint64_t>(r)};
    auto const null = fitted_law_test<normal_law>(x, options);
    lilliefors += reject(null.kolmogorov_smirnov.p_value);
    case3 += reject(null.anderson_darling.p_value);
    found += reject(fitted_law_test<normal_law>(skewed, options).anderson_darling.p_value);
    dependent += reject(kolmogorov_smirnov_test(documents).p_value);
  }
  MESSAGE("rejected at 5 %: D ", ks, ", A^2 ", ad, ", two samples ", two, ", tied ", tied,
          ", fitted law with the table of a fixed one ", trap, ", Lilliefors ", lilliefors, ", A^2 fitted ", case3,
          ", log-normal found ", found, "; dependent tokens ", dependent);
  double const noise = 3 * std::sqrt(alpha * (1 - alpha) / repeats);
  for (double const rate : {ks, ad, lilliefors, case3}) CHECK(std::abs(rate - alpha) < noise);
  CHECK(two <= alpha + noise);
  CHECK(tied <= alpha + noise);
  CHECK(trap < 0.01);
  CHECK(found > 0.8);
  CHECK(dependent > 0.5);
}

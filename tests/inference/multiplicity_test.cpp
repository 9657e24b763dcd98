// SPDX-License-Identifier: Apache-2.0
#include <moeroute/inference/multiplicity.hpp>
#include <moeroute/numeric/random.hpp>

#include <cmath>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include "support/golden.hpp"

using namespace moeroute;

namespace {

void check_equal(std::vector<double> const& ours, std::vector<double> const& theirs) {
  REQUIRE(ours.size() == theirs.size());
  for (std::size_t i = 0; i < ours.size(); ++i) CHECK(close(ours[i], theirs[i], 1e-14));
}

}  // namespace

TEST_CASE("multiplicity: equals statsmodels, ties and ends included") {
  for (auto const& g : golden("inference", "multiplicity")) {
    auto const p = g["p"].get<std::vector<double>>();
    check_equal(bonferroni(p), g["bonferroni"]);
    check_equal(holm(p), g["holm"]);
    check_equal(benjamini_hochberg(p), g["bh"]);
    check_equal(benjamini_yekutieli(p), g["by"]);
  }
}

TEST_CASE("multiplicity: an undefined p-value stays undefined and changes nothing else") {
  std::vector<double> const p{0.01, 0.4, 0.02}, holed{quiet_nan, 0.01, 0.4, quiet_nan, 0.02};
  for (auto* adjust : {bonferroni<std::vector<double>>, holm<std::vector<double>>,
                       benjamini_hochberg<std::vector<double>>, benjamini_yekutieli<std::vector<double>>}) {
    auto const want = adjust(p), got = adjust(holed);
    CHECK(std::isnan(got[0]));
    CHECK(std::isnan(got[3]));
    CHECK(std::vector<double>{got[1], got[2], got[4]} == want);
    CHECK(adjust({}).empty());
    CHECK_THROWS_AS(adjust({0.1, 1.5}), argument_error);
    CHECK_THROWS_AS(adjust({-0.1}), argument_error);
  }
}

TEST_CASE("multiplicity: Storey's share of nulls and q-values equal their definition in numpy") {
  for (auto const& g : golden("combine", "storey")) {
    auto const p = g["p"].get<std::vector<double>>();
    CHECK(close(storey_null_share(p, g["lambda"]), g["pi0"], 1e-14));
    check_equal(storey_q_values(p, g["lambda"]), g["q"]);
  }
  // By hand: one of four above 1/2, so min(1, 2 / 2) = 1 and q = BH; none of ten above: 1/5.
  CHECK(storey_null_share(std::vector<double>{0.01, 0.02, 0.03, 0.9}) == 1);
  CHECK(storey_null_share(std::vector<double>(10, 0.1)) == doctest::Approx(0.2));
  CHECK(storey_q_values(std::vector<double>{0.01, 0.02, 0.03, 0.9})[0] == doctest::Approx(0.04));
  CHECK(storey_q_values(std::vector<double>{0.01, 0.02, 0.03, 0.9})[3] == 1);
  // A p-value of lambda itself is not above it: (1 + 1) / (5 * 0.8).
  std::vector<double> const at_lambda{0.2, 0.1, 0.1, 0.1, 0.9};
  CHECK(storey_null_share(at_lambda, 0.2) == doctest::Approx(0.5));
  CHECK(storey_q_values(at_lambda, 0.2)[0] == doctest::Approx(0.2 * 5 * 0.5 / 4));
  CHECK(std::isnan(storey_null_share(std::vector<double>{quiet_nan})));
  auto const holed = storey_q_values(std::vector<double>{quiet_nan, 0.01, 0.2});
  CHECK(std::isnan(holed[0]));
  CHECK(holed[1] == storey_q_values(std::vector<double>{0.01, 0.2})[0]);
  CHECK(storey_q_values(std::vector<double>{}).empty());
  CHECK_THROWS_AS(storey_null_share(std::vector<double>{0.5}, 1), argument_error);
  CHECK_THROWS_AS(storey_q_values(std::vector<double>{0.5}, quiet_nan), argument_error);
  CHECK_THROWS_AS(storey_q_values(std::vector<double>{1.5}), argument_error);
}

TEST_CASE("multiplicity: the error rates are kept and are used up" * doctest::test_suite("slow")) {
  int const repeats = 20000;
  double any[2] = {0, 0}, false_share = 0, storey_share = 0, null_share = 0;
  for (int r = 0; r < repeats; ++r) {
    random_stream random(4, 1, static_cast<std::uint64_t>(r));
    std::vector<double> null(20), mixed(20);
    for (double& p : null) p = random.uniform();
    for (std::size_t i = 0; i < 20; ++i) mixed[i] = i < 10 ? random.uniform() * 1e-3 : random.uniform();
    for (auto* adjust : {bonferroni<std::vector<double>>, holm<std::vector<double>>}) {
      auto const q = adjust(null);
      bool rejected = false;
      for (double const v : q) rejected = rejected || v <= 0.05;
      any[adjust == holm<std::vector<double>> ? 1 : 0] += rejected ? 1.0 / repeats : 0;
    }
    null_share += storey_null_share(mixed) / repeats;
    for (auto const& [q, share] :
         {std::pair{benjamini_hochberg(mixed), &false_share}, std::pair{storey_q_values(mixed), &storey_share}}) {
      int found = 0, wrong = 0;
      for (std::size_t i = 0; i < 20; ++i)
        if (q[i] <= 0.1) {
          ++found;
          wrong += i >= 10 ? 1 : 0;
        }
      *share += found > 0 ? double(wrong) / found / repeats : 0;
    }
  }
  MESSAGE("family-wise error ", any[0], " and ", any[1], ", false discoveries ", false_share, ", Storey ", storey_share,
          " with null share ", null_share);
  CHECK(std::abs(any[0] - (1 - std::pow(1 - 0.05 / 20, 20))) < 0.006);
  CHECK(any[1] == doctest::Approx(any[0]));
  CHECK(storey_share > 0.06);
  CHECK(storey_share < 0.1 + 0.006);
  CHECK(std::abs(null_share - 0.59) < 0.02);    // 1/2 of true nulls, + 1/(20/2), less where capped
  CHECK(std::abs(false_share - 0.05) < 0.006);  // half of the hypotheses are true, so half of 0.1
}

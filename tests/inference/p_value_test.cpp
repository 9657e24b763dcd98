// SPDX-License-Identifier: Apache-2.0
#include <moeroute/inference/p_value.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include <doctest/doctest.h>

#include "support/containers.hpp"
#include "support/golden.hpp"
#include "support/normal.hpp"

using namespace moeroute;

namespace {

struct document_logits {
  index_t experts;
  std::vector<double> logits;
  std::vector<std::int64_t> offsets{0}, ids;
  matrix_view<double> matrix() const { return {logits.data(), static_cast<index_t>(offsets.back()), experts}; }
  document_spans spans() const {
    return {{offsets.data(), static_cast<index_t>(offsets.size())}, {ids.data(), static_cast<index_t>(ids.size())}};
  }
};

// Tokens of a document share most of what they are; experts have unequal means, so that loads are unequal.
document_logits simulate(random_stream& random, int documents, index_t experts, int longest, double shared,
                         double spread) {
  document_logits d{experts, {}, {0}, {}};
  for (int i = 0; i < documents; ++i) {
    std::vector<double> own;
    for (index_t e = 0; e < experts; ++e) own.push_back(spread * static_cast<double>(e) + shared * normal(random));
    auto const n = 1 + static_cast<int>(random.index(static_cast<std::uint64_t>(longest)));
    for (int t = 0; t < n; ++t)
      for (double const m : own) d.logits.push_back(m + normal(random));
    d.offsets.push_back(d.offsets.back() + n);
    d.ids.push_back(i);
  }
  return d;
}

}  // namespace

TEST_CASE("p_value: by hand, ties count as at least as large") {
  empirical_reference const r(std::vector<double>{3, 1, 2, 2, quiet_nan});
  CHECK(r.undefined() == 1);
  CHECK(r.mass() == 4);
  CHECK(r.p_value(4) == 1.0 / 5);
  CHECK(r.p_value(3) == 2.0 / 5);
  CHECK(r.p_value(2) == 4.0 / 5);
  CHECK(r.p_value(1.5) == 4.0 / 5);
  CHECK(r.p_value(-9) == 1);
  CHECK(r.randomised_p_value(2, 1) == r.p_value(2));
  CHECK(r.randomised_p_value(2, 0.5) == 2.5 / 5);  // one above, half of (1 + two ties)
  CHECK(r.randomised_p_value(2.5, 0.5) == 1.5 / 5);
  CHECK(r.member_p_value(3) == 1.0 / 4);
  CHECK(std::isnan(r.p_value(quiet_nan)));
  CHECK(std::isnan(r.randomised_p_value(quiet_nan, 0.5)));
  CHECK(r.p_value(std::numeric_limits<double>::infinity()) == 1.0 / 5);
  CHECK(r.p_value(-std::numeric_limits<double>::infinity()) == 1);
  CHECK(empirical_reference().p_value(0) == 1);
  CHECK(std::isnan(empirical_reference().member_p_value(0)));
  CHECK_THROWS_AS(r.randomised_p_value(2, 0), argument_error);
  CHECK_THROWS_AS(r.randomised_p_value(2, quiet_nan), argument_error);
}

TEST_CASE("p_value: a histogram is the sample that it counts, in any order") {
  random_stream random(1, 1);
  std::vector<float> sample, values, shuffled;
  std::vector<std::uint64_t> counts(31);
  for (int i = 0; i < 31; ++i) values.push_back(static_cast<float>((i * 7) % 31) / 8);
  for (int i = 0; i < 5000; ++i) {
    auto const j = static_cast<std::size_t>(random.index(31));
    ++counts[j];
    sample.push_back(values[j]);
  }
  shuffled = sample;
  shuffle(shuffled, random);
  empirical_reference const a(sample), b(values, counts), c(shuffled);
  for (double z = -1; z < 5; z += 1.0 / 16) {
    double above = 0;
    for (float const x : sample) above += x >= z ? 1 : 0;
    CHECK(a.p_value(z) == (1 + above) / 5001);
    CHECK(b.p_value(z) == a.p_value(z));
    CHECK(c.randomised_p_value(z, 0.3) == b.randomised_p_value(z, 0.3));
  }
  CHECK_THROWS_AS(empirical_reference(values, std::vector<double>{1}), shape_error);
  CHECK_THROWS_AS(empirical_reference(std::vector<float>{1, 2}, std::vector<double>{1, -1}), argument_error);
  CHECK_THROWS_AS(empirical_reference(std::vector<float>{1}, std::vector<double>{quiet_nan}), argument_error);
}

TEST_CASE("p_value: every null against its definition, in every container") {
  random_stream random(2, 1);
  index_t const tokens = 40, experts = 5;
  std::vector<float> reference, test;
  for (index_t i = 0; i < tokens * experts; ++i) {
    reference.push_back(static_cast<float>(random.index(9)) / 2);
    test.push_back(static_cast<float>(random.index(9)) / 2);
  }
  auto const scaled = [&](std::vector<float> const& z, index_t t, index_t e, logit_scale scale) {
    std::vector<double> row(z.begin() + t * experts, z.begin() + (t + 1) * experts);
    double mean = 0, squares = 0;
    for (double const v : row) mean += v / static_cast<double>(experts);
    for (double const v : row) squares += (v - mean) * (v - mean);
    double const x = row[static_cast<std::size_t>(e)];
    if (scale == logit_scale::raw) return x;
    return (x - mean) / (scale == logit_scale::centred ? 1 : std::sqrt(squares / 4));
  };
  for (auto const null :
       {pooled_null, expert_null, centred_null, studentised_null, logit_null{logit_scale::centred, true}})
    for_each_matrix(tokens, experts, test, [&](char const* name, auto const& logits) {
      INFO(name);
      logit_reference const law(null, matrix_view<float>(reference.data(), tokens, experts));
      auto const p = law.p_values(logits);
      REQUIRE(p.shape()[0] == 40);
      REQUIRE(p.shape()[1] == 5);
      bool same = true;
      for (index_t t = 0; t < tokens; t += 7)
        for (index_t e = 0; e < experts; ++e) {
          double extreme = 1, n = 1;
          for (index_t s = 0; s < tokens; ++s)
            for (index_t f = 0; f < experts; ++f) {
              if (null.per_expert && f != e) continue;
              n += 1;
              extreme += scaled(reference, s, f, null.scale) >= scaled(test, t, e, null.scale) ? 1 : 0;
            }
          same = same && p(static_cast<std::size_t>(t), static_cast<std::size_t>(e)) == extreme / n;
        }
      CHECK(same);
    });
}

TEST_CASE("p_value: centred and studentised do not see what softmax does not see") {
  random_stream random(3, 1);
  auto const reference = simulate(random, 30, 6, 5, 1, 0.3);
  auto test = simulate(random, 4, 6, 5, 1, 0.3);
  logit_reference const centred(centred_null, reference.matrix()), studentised(studentised_null, reference.matrix()),
      pooled(pooled_null, reference.matrix());
  auto const before = centred.p_values(test.matrix()), also = studentised.p_values(test.matrix());
  auto const raw = pooled.p_values(test.matrix());
  for (double& z : test.logits) z += 8;
  CHECK(centred.p_values(test.matrix()) == before);
  CHECK(pooled.p_values(test.matrix()) != raw);
  for (double& z : test.logits) z *= 4;
  CHECK(studentised.p_values(test.matrix()) == also);
  CHECK(centred.p_values(test.matrix()) != before);
}

TEST_CASE("p_value: documents as units by hand") {
  // Documents {5, 5, 5, 1} and {2}, one expert.
  std::vector<double> const z{5, 5, 5, 1, 2};
  std::vector<std::int64_t> const offsets{0, 4, 5}, ids{0, 1};
  document_spans const documents({offsets.data(), 3}, {ids.data(), 2});
  logit_reference const r(pooled_null, matrix_view<double>(z.data(), 5, 1), documents);
  auto const& law = r.law(0);
  CHECK(law.mass() == 2);
  CHECK(law.p_value(6) == doctest::Approx(1.0 / 3));
  CHECK(law.p_value(5) == doctest::Approx(1.75 / 3));
  CHECK(law.p_value(2) == doctest::Approx(2.75 / 3));
  CHECK(law.p_value(0) == 1);
  CHECK_THROWS_AS(r.law(1), argument_error);
  CHECK_THROWS_AS(r.law(-1), argument_error);
  // Two experts: pooled, a document's mass 1 is spread over both; per expert each has its own.
  std::vector<double> const two{5, 0, 5, 1, 5, 2, 1, 3, 2, 4};
  matrix_view<double> const wide(two.data(), 5, 2);
  CHECK(logit_reference(pooled_null, wide, documents).law(0).mass() == 2);
  CHECK(logit_reference(pooled_null, wide, documents).law(0).p_value(4) == doctest::Approx((1 + 0.375 + 0.5) / 3));
  CHECK(logit_reference(expert_null, wide, documents).law(1).p_value(3) == doctest::Approx((1 + 0.25 + 1) / 3));
  CHECK_THROWS_AS(logit_reference(pooled_null, matrix_view<double>(z.data(), 4, 1), documents), shape_error);
}

TEST_CASE("p_value: not finite, constant and empty") {
  double const inf = std::numeric_limits<double>::infinity();
  std::vector<double> const reference{1, 2, 3, 4, quiet_nan, 2, 7, 7, inf, 0};
  matrix_view<double> const view(reference.data(), 5, 2);
  std::vector<double> const test{1, quiet_nan, 2, 2, 0, inf};
  matrix_view<double> const t(test.data(), 3, 2);
  logit_reference const raw(pooled_null, view), centred(centred_null, view), studentised(studentised_null, view);
  CHECK(raw.law(0).undefined() == 1);
  CHECK(raw.undefined_tokens() == 0);
  CHECK(centred.undefined_tokens() == 2);
  CHECK(studentised.undefined_tokens() == 3);
  CHECK(std::isnan(raw.p_values(t)(0, 1)));
  CHECK(raw.p_values(t)(2, 1) == 2.0 / 10);
  CHECK(std::isnan(centred.p_values(t)(0, 0)));
  CHECK(!std::isnan(centred.p_values(t)(1, 0)));
  CHECK(std::isnan(studentised.p_values(t)(1, 0)));
  CHECK(std::isnan(centred.p_values(t)(2, 0)));
  // A token of equal logits is at its mean, also where the mean rounds to another number.
  std::vector<double> equal(14, 0.1);
  std::fill(equal.begin() + 7, equal.end(), 0.3);
  matrix_view<double> const flat(equal.data(), 2, 7);
  auto const at_mean = logit_reference(centred_null, flat).p_values(flat);
  for (double const p : at_mean) CHECK(p == 1);
  logit_reference const none(expert_null, matrix_view<double>(nullptr, 0, 2));
  CHECK(none.p_values(t)(1, 0) == 1);
  CHECK_THROWS_AS(raw.p_values(matrix_view<double>(test.data(), 2, 3)), shape_error);
  CHECK_THROWS_AS(logit_reference(pooled_null, matrix_view<double>(nullptr, 0, 0)), argument_error);
}

TEST_CASE("p_value: randomised p-values are the same in every shard") {
  random_stream random(5, 1);
  auto const reference = simulate(random, 10, 4, 5, 0, 0);
  auto const test = simulate(random, 8, 4, 5, 0, 0);
  logit_reference const law(pooled_null, reference.matrix());
  auto const all = law.randomised_p_values(test.matrix(), 7);
  auto const rest = law.randomised_p_values(test.matrix().rows_from(3, test.matrix().rows() - 3), 7, 3);
  for (std::size_t t = 0; t < rest.shape()[0]; ++t)
    for (std::size_t e = 0; e < 4; ++e) CHECK(rest(t, e) == all(t + 3, e));
  CHECK(all != law.randomised_p_values(test.matrix(), 8));
  auto const upper = law.p_values(test.matrix());
  for (std::size_t i = 0; i < all.size(); ++i) CHECK((all.data()[i] > 0 && all.data()[i] <= upper.data()[i]));
}

TEST_CASE("p_value: label permutation is the rank within the token") {
  std::vector<double> const z{3, 1, 2, 2, quiet_nan, 5, 5, 5};
  auto const p = label_permutation_p_values(matrix_view<double>(z.data(), 2, 4));
  CHECK(p(0, 0) == 1.0 / 4);
  CHECK(p(0, 1) == 1);
  CHECK(p(0, 2) == 3.0 / 4);
  CHECK(p(0, 3) == 3.0 / 4);
  CHECK(std::isnan(p(1, 0)));
  CHECK(p(1, 1) == 1);
}

TEST_CASE("p_value: equals scipy's and numpy's counts") {
  auto const g = golden("p_value", "reference");
  auto const sample = g["sample"].get<std::vector<double>>(), z = g["z"].get<std::vector<double>>();
  empirical_reference const r(sample);
  for (std::size_t i = 0; i < z.size(); ++i) CHECK(close(r.p_value(z[i]), g["p"][i], 1e-15));
}

TEST_CASE("p_value: level under the null, ties, dependent tokens and unequal loads" * doctest::test_suite("slow")) {
  int const repeats = 2000;
  double tokens_only = 0, units = 0, per_expert = 0, randomised = 0, pooled_popular = 0;
  double const alpha = 0.05;
  for (int r = 0; r < repeats; ++r) {
    random_stream random(11, 1, static_cast<std::uint64_t>(r));
    auto const reference = simulate(random, 39, 4, 60, 3, 0.5);  // tokens of a document nearly alike
    auto const test = simulate(random, 1, 4, 60, 3, 0.5);
    auto const t = test.matrix().rows_from(
        static_cast<index_t>(random.index(static_cast<std::uint64_t>(test.matrix().rows()))), 1);
    tokens_only += logit_reference(expert_null, reference.matrix()).p_values(t)(0, 1) <= 0.01 ? 1.0 / repeats : 0;
    units += logit_reference(expert_null, reference.matrix(), reference.spans()).p_values(t)(0, 1) <= alpha
                 ? 1.0 / repeats
                 : 0;
    auto const free = simulate(random, 200, 4, 1, 0, 0.5), one = simulate(random, 1, 4, 1, 0, 0.5);
    per_expert += logit_reference(expert_null, free.matrix()).p_values(one.matrix())(0, 3) <= alpha ? 1.0 / repeats : 0;
    pooled_popular +=
        logit_reference(pooled_null, free.matrix()).p_values(one.matrix())(0, 3) <= alpha ? 1.0 / repeats : 0;
    std::vector<double> coarse;
    for (double const z : free.logits) coarse.push_back(std::round(z));  // heavy ties
    std::vector<double> last;
    for (double const z : one.logits) last.push_back(std::round(z));
    logit_reference const tied(expert_null, matrix_view<double>(coarse.data(), 200, 4));
    randomised +=
        tied.randomised_p_values(matrix_view<double>(last.data(), 1, 4), static_cast<std::uint64_t>(r))(0, 2) <= alpha
            ? 1.0 / repeats
            : 0;
  }
  MESSAGE("rejected at 1 %: tokens as units ", tokens_only, "; at 5 %: documents as units ", units,
          ", independent per expert ", per_expert, ", popular expert under the pooled null ", pooled_popular,
          ", ties randomised ", randomised);
  CHECK(tokens_only > 0.015);  // what dependence does to (1 + r)/(n + 1)
  CHECK(units <= 0.05 + 3 * std::sqrt(0.05 * 0.95 / repeats));
  CHECK(units > 0.02);
  for (double const rate : {per_expert, randomised})
    CHECK(std::abs(rate - 0.05) < 3 * std::sqrt(0.05 * 0.95 / repeats));
  CHECK(pooled_popular > 0.1);
}

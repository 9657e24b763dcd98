// SPDX-License-Identifier: Apache-2.0
#include <moeroute/inference/order_statistic.hpp>
#include <moeroute/inference/p_value.hpp>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include <doctest/doctest.h>

#include "support/containers.hpp"
#include "support/golden.hpp"
#include "support/normal.hpp"

using namespace moeroute;

namespace {

using vector = std::vector<double>;

struct tokens {
  index_t experts;
  vector p;
  std::vector<std::int64_t> offsets{0}, ids;
  matrix_view<double> matrix() const { return {p.data(), static_cast<index_t>(offsets.back()), experts}; }
  document_spans spans() const {
    return {{offsets.data(), static_cast<index_t>(offsets.size())}, {ids.data(), static_cast<index_t>(ids.size())}};
  }
  vector best(index_t k) const {
    auto const sorted = sorted_p_values(matrix());
    vector out;
    for (index_t t = 0; t < matrix().rows(); ++t)
      out.push_back(sorted(static_cast<std::size_t>(t), static_cast<std::size_t>(k - 1)));
    return out;
  }
};

// Uniform p-values: a share `document` of the variance is common to the tokens of a document (per expert), `token` to
// the experts of a token.
tokens simulate(random_stream& random, int documents, index_t experts, int longest, double document, double token,
                double shift = 0) {
  tokens t{experts, {}, {0}, {}};
  for (int d = 0; d < documents; ++d) {
    vector own;
    for (index_t e = 0; e < experts; ++e) own.push_back(normal(random));
    auto const n = 1 + static_cast<int>(random.index(static_cast<std::uint64_t>(longest)));
    for (int i = 0; i < n; ++i) {
      double const common = normal(random);
      for (double const m : own)
        t.p.push_back(0.5 * std::erfc((shift + std::sqrt(document) * m + std::sqrt(token) * common +
                                       std::sqrt(1 - document - token) * normal(random)) /
                                      std::numbers::sqrt2));
    }
    t.offsets.push_back(t.offsets.back() + n);
    t.ids.push_back(d);
  }
  return t;
}

}  // namespace

TEST_CASE("order_statistic: the Beta law, the shares below its quantiles and the means equal scipy's") {
  for (auto const& g : golden("order_statistic", "law"))
    CHECK(std::abs(order_statistic_cdf(g["p"], g["k"], g["experts"]) - g["cdf"].get<double>()) <=
          1e-13 * g["cdf"].get<double>());
  for (auto const& g : golden("order_statistic", "curves")) {
    tokens t{static_cast<index_t>(g["p"][0].size()), {}, {0}, {}};
    for (auto const& row : g["p"])
      for (double const v : row) t.p.push_back(v);
    for (int d = 0; d < 10; ++d) {
      t.offsets.push_back(5 * (d + 1));
      t.ids.push_back(d);
    }
    auto const r = order_statistic_test(t.best(g["k"]), g["k"], t.experts, t.spans(), {.grid = 16, .replicates = 99});
    CHECK(r.observed == g["observed"].get<vector>());
    CHECK(close(r.mean, g["mean"], 1e-13));
    CHECK(r.tokens == 50);
    CHECK(r.documents == 10);
    CHECK(r.expected == r.probability);
    CHECK(r.expected_mean == doctest::Approx(g["k"].get<double>() / static_cast<double>(t.experts + 1)));
  }
}

TEST_CASE("order_statistic: rows ascend and NaN goes last, in every container") {
  vector const p{0.3, 0.1, quiet_nan, 0.2, 0.5, 0.4};
  for_each_matrix<double>(2, 3, p, [&](char const* name, auto const& m) {
    INFO(name);
    auto const s = sorted_p_values(m);
    CHECK(s(0, 0) == 0.1);
    CHECK(s(0, 1) == 0.3);
    CHECK(std::isnan(s(0, 2)));
    CHECK(s(1, 2) == 0.5);
  });
}

TEST_CASE("order_statistic: the envelope and the p-value say the same, threads and document ids do not matter") {
  random_stream random(1, 1);
  for (double const shift : {0.0, 0.4}) {
    auto t = simulate(random, 60, 4, 8, 0.3, 0, shift);
    auto const a = order_statistic_test(t.best(1), 1, 4, t.spans());
    bool outside = false;
    for (std::size_t g = 0; g < a.observed.size(); ++g)
      outside = outside || a.observed[g] < a.lower[g] || a.observed[g] > a.upper[g];
    CHECK(outside == (a.p_value <= 0.05));
    CHECK((a.p_value <= 0.05) == (shift > 0));
    for (auto& id : t.ids) id = 1000 - id;
    auto const b = order_statistic_test(t.best(1), 1, 4, t.spans(), {.threads = 3});
    CHECK(b.p_value == a.p_value);
    CHECK(b.upper == a.upper);
    CHECK(order_statistic_test(t.best(1), 1, 4, t.spans(), {.seed = 2}).upper != a.upper);
  }
}

TEST_CASE("order_statistic: NaN, too few documents and nonsense") {
  vector const p{0.1, quiet_nan, 0.3, 0.9};
  std::vector<std::int64_t> const offsets{0, 2, 4}, ids{5, 6}, one{0, 4};
  document_spans const two({offsets.data(), 3}, {ids.data(), 2}), single({one.data(), 2}, {ids.data(), 1});
  auto const r = order_statistic_test(p, 1, 1, two, {.grid = 4});
  CHECK(r.tokens == 3);
  CHECK(r.observed == vector{1.0 / 3, 2.0 / 3, 2.0 / 3});
  CHECK(r.mean == doctest::Approx(1.3 / 3));
  CHECK(std::isnan(order_statistic_test(p, 1, 1, single).p_value));
  CHECK(std::isnan(order_statistic_test(vector(4, quiet_nan), 1, 1, two).p_value));
  // Resampling two documents that agree shows no error at all; that is no evidence.
  CHECK(std::isnan(order_statistic_test(vector(4, 0.3), 1, 1, two).p_value));
  CHECK(std::isnan(order_statistic_test(vector(4, 0.3), 1, 1, two).upper[0]));
  CHECK(std::isnan(order_statistic_test(vector(4, quiet_nan), 1, 1, two).mean));
  CHECK_THROWS_AS(order_statistic_test(vector{0.1}, 1, 1, two), shape_error);
  CHECK_THROWS_AS(order_statistic_test(p, 2, 1, two), argument_error);
  CHECK_THROWS_AS(order_statistic_test(vector{0.1, 0.2, 1.1, 0}, 1, 1, two), argument_error);
  CHECK_THROWS_AS(order_statistic_test(p, 1, 1, two, {.grid = 1}), argument_error);
  CHECK_THROWS_AS(order_statistic_test(p, 1, 1, two, {.level = 1}), argument_error);
  CHECK_THROWS_AS(order_statistic_test(p, 1, 1, two, {.replicates = -1}), argument_error);
  CHECK_THROWS_AS(order_statistic_cdf(0.5, 0, 4), argument_error);
  CHECK_THROWS_AS(by_popularity(matrix_view<double>(p.data(), 4, 1), std::vector<int>{1, 2}, two), shape_error);
}

TEST_CASE("order_statistic: what the envelope must hold") {
  random_stream random(4, 1);
  auto const t = simulate(random, 30, 1, 5, 0.3, 0), other = simulate(random, 12, 1, 5, 0.3, 0);
  order_statistic_options const options{.grid = 8, .replicates = 499};
  auto const width = [&](order_statistic_result const& r) { return r.upper[3] - r.lower[3]; };
  // A reference that was seen forty times as often has the same curve and next to no error of its own.
  tokens often{1, {}, {0}, {}};
  for (int copy = 0; copy < 40; ++copy) {
    often.p.insert(often.p.end(), other.p.begin(), other.p.end());
    for (std::size_t d = 0; d < other.ids.size(); ++d) {
      often.offsets.push_back(often.offsets.back() + other.offsets[d + 1] - other.offsets[d]);
      often.ids.push_back(static_cast<std::int64_t>(often.ids.size()));
    }
  }
  auto const rare = order_statistic_test(t.best(1), t.spans(), other.best(1), other.spans(), 1, 1, options);
  auto const known = order_statistic_test(t.best(1), t.spans(), often.best(1), often.spans(), 1, 1, options);
  CHECK(rare.expected[3] == doctest::Approx(known.expected[3]));
  CHECK(width(rare) > 1.3 * width(known));
  // Test and reference are resampled apart, also if they are the same documents.
  CHECK(order_statistic_test(t.best(1), t.spans(), t.best(1), t.spans(), 1, 1, options).p_value == 1);
  // A p-value on a grid point lies below it; a stretch that no document reaches is no infinite surprise.
  std::vector<std::int64_t> const offsets{0, 1, 2, 3, 4}, ids{0, 1, 2, 3};
  document_spans const four({offsets.data(), 5}, {ids.data(), 4});
  CHECK(order_statistic_test(vector{0.5, 0.5, 0.1, 0.9}, 1, 1, four, {.grid = 2}).observed[0] == 0.75);
  auto const middle = order_statistic_test(vector{0.3, 0.4, 0.6, 0.7}, 1, 1, four, {.grid = 16});
  CHECK(std::isfinite(middle.statistic));
  CHECK(middle.p_value > 0.05);
}

TEST_CASE("order_statistic: by popularity, with the null per expert") {
  random_stream random(3, 1);
  index_t const experts = 4;
  auto const draw = [&](int documents, double moved) {  // expert 2 is popular by its mean; expert 1 moves in the test
    tokens t{experts, {}, {0}, {}};
    for (int d = 0; d < documents; ++d) {
      double const own = normal(random);
      for (int i = 0; i < 6; ++i)
        for (index_t e = 0; e < experts; ++e)
          t.p.push_back(own + normal(random) + (e == 2 ? 3 : 0) + (e == 1 ? moved : 0));
      t.offsets.push_back(t.offsets.back() + 6);
      t.ids.push_back(d);
    }
    return t;
  };
  auto const reference = draw(300, 0), test = draw(100, 1.5);
  auto const per_expert = logit_reference(expert_null, reference.matrix(), reference.spans()).p_values(test.matrix());
  auto const pooled = logit_reference(pooled_null, reference.matrix()).p_values(test.matrix());
  std::vector<int> const counts{5, 7, 300, 7};
  auto const rows = by_popularity(per_expert, counts, test.spans(), {.replicates = 499});
  REQUIRE(rows.size() == 4);
  CHECK(std::vector<index_t>{rows[0].expert, rows[1].expert, rows[2].expert, rows[3].expert} ==
        std::vector<index_t>{2, 1, 3, 0});
  CHECK(rows[0].count == 300);
  CHECK(rows[0].p_value > 0.02);
  CHECK(rows[1].p_adjusted < 0.05);
  auto const adjusted = benjamini_yekutieli(vector{rows[0].p_value, rows[1].p_value, rows[2].p_value, rows[3].p_value});
  for (std::size_t i = 0; i < 4; ++i) CHECK(rows[i].p_adjusted == adjusted[i]);
  CHECK(rows[1].mean < 0.3);
  CHECK(by_popularity(pooled, counts, test.spans(), {.replicates = 499})[0].p_adjusted < 0.05);  // the tautology
}

TEST_CASE("order_statistic: level with dependent tokens and unequal documents; what dependent experts do" *
          doctest::test_suite("slow")) {
  int const repeats = 2000;
  double independent = 0, dependent = 0, extreme = 0, experts = 0, reference = 0, moved = 0;
  double const alpha = 0.05;
  auto const reject = [&](order_statistic_result const& r) { return r.p_value <= alpha ? 1.0 / repeats : 0; };
  for (int r = 0; r < repeats; ++r) {
    random_stream random(5, 1, static_cast<std::uint64_t>(r));
    order_statistic_options const options{.grid = 16, .replicates = 299, .seed = static_cast<std::uint64_t>(r)};
    auto const a = simulate(random, 80, 6, 12, 0, 0);
    independent += reject(order_statistic_test(a.best(1), 1, 6, a.spans(), options));
    auto const b = simulate(random, 80, 6, 12, 0.5, 0);
    dependent += reject(order_statistic_test(b.best(2), 2, 6, b.spans(), options));
    auto const c = simulate(random, 80, 6, 12, 0.95, 0);
    extreme += reject(order_statistic_test(c.best(1), 1, 6, c.spans(), options));
    auto const d = simulate(random, 80, 6, 12, 0.2, 0.5), e = simulate(random, 120, 6, 12, 0.2, 0.5),
               f = simulate(random, 80, 6, 12, 0.2, 0.5, 0.4);
    experts += reject(order_statistic_test(d.best(1), 1, 6, d.spans(), options));
    reference += reject(order_statistic_test(d.best(1), d.spans(), e.best(1), e.spans(), 1, 6, options));
    moved += reject(order_statistic_test(f.best(1), f.spans(), e.best(1), e.spans(), 1, 6, options));
  }
  MESSAGE("rejected at 5 %: independent tokens ", independent, ", half common to the document ", dependent,
          ", nearly all ", extreme, "; dependent experts against Beta ", experts, ", against a reference ", reference,
          ", moved by 0.4 sd ", moved);
  for (double const rate : {independent, dependent, extreme, reference}) {
    CHECK(rate < 0.085);
    CHECK(rate > 0.02);
  }
  CHECK(experts > 0.5);
  CHECK(moved > 0.7);
}

// SPDX-License-Identifier: Apache-2.0
#include <moeroute/inference/multiplicity.hpp>
#include <moeroute/routing/adaptive.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "support/containers.hpp"
#include "support/golden.hpp"
#include "support/laws.hpp"
#include "support/routing_data.hpp"

using namespace moeroute;

namespace {

adaptive_options options_of(adaptive_rule rule, index_t experts, double parameter, index_t min_k = 0,
                            index_t max_k = 0) {
  adaptive_options o;
  o.rule = rule;
  o.experts = experts;
  o.parameter = parameter;
  o.min_k = min_k;
  o.max_k = max_k;
  return o;
}

double upper_tail(double z) { return 0.5 * std::erfc(z / std::sqrt(2.0)); }

template <class T>
matrix_view<T> matrix(std::vector<T> const& v, index_t cols) {
  return {v.data(), static_cast<index_t>(v.size()) / cols, cols};
}

}  // namespace

TEST_CASE("adaptive_count: by hand") {
  std::vector<double> const p{0.9, 0.001, 0.03, 0.011, 0.5};
  using enum adaptive_rule;
  // Thresholds 0.01 k: 0.001 <= 0.01; 0.011 <= 0.02; 0.03 <= 0.03; 0.5 > 0.04.
  CHECK(adaptive_count(p, options_of(benjamini_hochberg, 5, 0.05)) == 3);
  CHECK(adaptive_count(p, options_of(benjamini_hochberg, 5, 0.05, 4)) == 4);
  CHECK(adaptive_count(p, options_of(benjamini_hochberg, 5, 0.05, 1, 2)) == 2);
  CHECK(adaptive_count(p, options_of(benjamini_yekutieli, 5, 0.05)) == 1);  // divided by 137/60
  CHECK(adaptive_count(p, options_of(benjamini_hochberg, 5, 0.0001)) == 0);
  CHECK(adaptive_count(p, options_of(benjamini_hochberg, 5, 0.0001, 1)) == 1);
  // A step-up rule: the third rescues the first two.
  CHECK(adaptive_count(std::vector<double>{0.03, 0.03, 0.03, 0.9, 0.9}, options_of(benjamini_hochberg, 5, 0.05)) == 3);
  // HC+ skips p <= 1/N; with alpha0 = 1: ranks 4 (0.5) and 5 (0.9) only, both p above 1/5.
  auto const hc = [](double i, double q) { return std::sqrt(5.0) * (i / 5 - q) / std::sqrt(q * (1 - q)); };
  CHECK(hc(4, 0.5) > hc(5, 0.9));
  CHECK(adaptive_count(p, options_of(higher_criticism, 5, 1)) == 4);
  auto strict = options_of(higher_criticism, 5, 1);
  strict.critical_value = hc(4, 0.5) + 1e-9;
  CHECK(adaptive_count(p, strict) == 0);
  // The repository's: at rank 1 its 0.001 gives (0.2 - 0.001)/0.0316; the largest by far.
  CHECK(adaptive_count(p, options_of(repository_higher_criticism, 5, 1, 1)) == 1);
  CHECK(adaptive_count(p, options_of(repository_higher_criticism_plus, 5, 1, 2, 4)) == 2);
  // Its min_k also hides ranks: without that rank 1 would win and be raised to 2.
  std::vector<double> const late{0.001, 0.19, 0.2, 0.9, 0.9};
  CHECK(adaptive_count(late, options_of(repository_higher_criticism, 5, 1, 2)) == 3);

  std::vector<double> const z{std::log(0.1), std::log(0.4), std::log(0.3), std::log(0.15), std::log(0.05)};
  CHECK(adaptive_count(z, options_of(top_mass, 5, 0.39)) == 1);
  CHECK(adaptive_count(z, options_of(top_mass, 5, 0.6)) == 2);
  CHECK(adaptive_count(z, options_of(top_mass, 5, 0.9)) == 4);
  CHECK(adaptive_count(z, options_of(top_mass, 5, 1)) >= 4);
  std::vector<double> const steps{1, 5, 4.5, 0.9, 3};
  CHECK(adaptive_count(steps, options_of(largest_gap, 5, 1)) == 3);  // 5 4.5 3 | 1 0.9
  CHECK(adaptive_count(steps, options_of(largest_gap, 5, 1, 1, 2)) == 2);
  CHECK(adaptive_count(steps, options_of(largest_gap, 5, 1, 4)) == 4);
  CHECK(adaptive_count(std::vector<double>{2, 2, 2}, options_of(largest_gap, 3, 1)) == 1);
  CHECK(adaptive_count(std::vector<double>{2}, options_of(largest_gap, 1, 1)) == 1);
}

TEST_CASE("adaptive_count: golden values of statsmodels, the published expressions in torch, and numpy") {
  auto const cases = golden("overlap", "adaptive");
  REQUIRE(cases.size() == 3);
  using enum adaptive_rule;
  for (auto const& c : cases) {
    index_t const n = c["experts"];
    auto const rows = [&](char const* name) { return c[name].get<std::vector<std::vector<double>>>(); };
    auto const p = rows("p"), z = rows("logits");
    for (std::size_t i = 0; i < p.size(); ++i) {
      for (auto const& [alpha, counts] : c["bh"].items())
        CHECK(adaptive_count(p[i], options_of(benjamini_hochberg, n, std::stod(alpha))) == counts[i]);
      for (auto const& [alpha, counts] : c["by"].items())
        CHECK(adaptive_count(p[i], options_of(benjamini_yekutieli, n, std::stod(alpha))) == counts[i]);
      for (auto const& want : c["published_bh"])
        CHECK(adaptive_count(p[i], options_of(benjamini_hochberg, n, want["alpha"], want["min_k"], want["max_k"])) ==
              want["count"][i]);
      for (auto const& [mass, counts] : c["top_p"].items())
        CHECK(adaptive_count(z[i], options_of(top_mass, n, std::stod(mass))) == counts[i]);
      for (auto const& want : c["gap"])
        CHECK(adaptive_count(z[i], options_of(largest_gap, n, 1, want["min_k"], want["max_k"])) == want["count"][i]);
      // The adjusted p-values of inference/ say the same.
      auto const adjusted = moeroute::benjamini_hochberg(p[i]);
      CHECK(adaptive_count(p[i], options_of(benjamini_hochberg, n, 0.3)) ==
            std::count_if(adjusted.begin(), adjusted.end(), [](double q) { return q <= 0.3; }));
    }
    for_each_vector(p[0], [&](char const* name, auto const& row) {
      INFO(name);
      CHECK(adaptive_count(row, options_of(benjamini_hochberg, n, 0.6)) == c["bh"]["0.6"][0]);
    });
  }
}

TEST_CASE("adaptive: by hand") {
  // Three tokens of four experts, own top 2.
  std::vector<std::int16_t> const ids{0, 1, 2, 3, 0, -1};
  std::vector<float> const logits{9, 8, 0, 0, 9, 8, 1, 0, std::numeric_limits<float>::quiet_NaN(), 0, 0, 0};
  std::vector<float> const weights(6, 0.5f);
  auto const batch = make_routing_batch(4, matrix(ids, 2), matrix(weights, 2), matrix(logits, 4));
  adaptive a(options_of(adaptive_rule::largest_gap, 4, 1));
  a.update(batch);
  auto const r = a.result();
  CHECK(r.tokens_by_count == std::vector<std::uint64_t>{0, 0, 2, 0, 0});  // 9 8 | 0 0 and 9 8 | 1 0
  CHECK(r.tokens == 2);
  CHECK(r.nonfinite_rows == 1);
  CHECK(r.mean_count == 2);
  CHECK(r.sd_count == 0);
  CHECK(r.recall == 0.5);
  CHECK(r.precision == 0.5);
  CHECK(r.jaccard == 0.5);
  CHECK(r.identical == 0.5);
  std::vector<double> const p{0.001, 0.002, 0.5, 0.5, 0.6, 0.7, 0.8, 0.9, 0.001, 0.9, 0.9, 0.9};
  adaptive b(options_of(adaptive_rule::benjamini_hochberg, 4, 0.05, 1, 1));
  b.update(batch, matrix(p, 4));
  auto const s = b.result();
  CHECK(s.tokens_by_count == std::vector<std::uint64_t>{0, 3, 0, 0, 0});
  CHECK(s.cut == 1);
  CHECK(s.raised == 1);
  CHECK(s.recall == 2.0 / 5);
  CHECK(s.precision == 2.0 / 3);
  CHECK(s.identical == 1.0 / 3);  // the token of which a slot was dropped
  CHECK(s.jaccard == doctest::Approx((0.5 + 0 + 1) / 3));
  adaptive none(options_of(adaptive_rule::benjamini_hochberg, 4, 1e-9));
  none.update(batch, matrix(p, 4));
  CHECK(none.result().tokens_by_count[0] == 3);
  CHECK(std::isnan(none.result().precision));
  CHECK(none.result().recall == 0);
  CHECK(std::isnan(adaptive(options_of(adaptive_rule::top_mass, 4, 0.5)).result().mean_count));
  // A repeated id is one expert.
  std::vector<std::int16_t> const twice{2, 2};
  std::vector<double> const only{0.9, 0.9, 0.001, 0.9};
  adaptive c(options_of(adaptive_rule::benjamini_hochberg, 4, 0.05));
  c.update(make_routing_batch(4, matrix(twice, 2)), matrix(only, 4));
  CHECK(c.result().identical == 1);
  CHECK(c.result().recall == 1);
}

TEST_CASE("adaptive: the model's own rule is recognised; ties go to the lowest index") {
  auto const d = random_routing({.experts = 9, .slots = 3, .documents = 12, .dropped = 0, .nonfinite = 0}, 6);
  auto own = d;
  top_k_rows(matrix(d.logits, 9), 3, own.ids.data());
  adaptive a(options_of(adaptive_rule::largest_gap, 9, 1, 3, 3));
  a.update(own.batch());
  CHECK(a.result().identical == 1);
  CHECK(a.result().jaccard == 1);
  std::vector<std::int16_t> const ids{0, 1};
  std::vector<double> const p{0.001, 0.001, 0.001, 0.001};
  adaptive b(options_of(adaptive_rule::benjamini_hochberg, 4, 0.05, 1, 2));
  b.update(make_routing_batch(4, matrix(ids, 2)), matrix(p, 4));
  CHECK(b.result().identical == 1);
}

TEST_CASE("adaptive: laws of every rule") {
  auto const d = random_routing({.documents = 20}, 3);
  std::vector<double> p;
  std::mt19937_64 random(1);
  for (std::size_t i = 0; i < d.logits.size(); ++i)
    p.push_back(random() % 50 == 0 ? quiet_nan : std::pow(static_cast<double>(random() >> 11) * 0x1p-53, 3));
  for (auto const rule :
       {adaptive_rule::benjamini_hochberg, adaptive_rule::benjamini_yekutieli, adaptive_rule::higher_criticism,
        adaptive_rule::repository_higher_criticism, adaptive_rule::repository_higher_criticism_plus,
        adaptive_rule::top_mass, adaptive_rule::largest_gap}) {
    auto const options = options_of(rule, 7, 0.4, 1, 5);
    auto other = options;
    other.max_k = 4;
    bool const p_values = detail::takes_p_values(rule);
    law_case<adaptive> c{options, other, d.size(), [&](adaptive& a, index_t first, index_t last) {
                           auto const from = d.offsets[static_cast<std::size_t>(first)] * 7;
                           if (p_values)
                             a.update(d.batch(first, last),
                                      matrix_view<double>(p.data() + from, d.batch(first, last).tokens(), 7));
                           else
                             a.update(d.batch(first, last));
                         }};
    c.bad_updates.push_back([&](adaptive& a) {
      if (p_values)
        a.update(d.batch());
      else
        a.update(d.batch(), matrix(p, 7));
    });
    c.bad_updates.push_back([&](adaptive& a) {
      auto wrong = p;
      wrong.back() = 1.5;
      a.update(d.batch(), matrix(wrong, 7));
    });
    c.bad_updates.push_back([&](adaptive& a) { a.update(d.batch(0, 3), matrix(p, 7)); });
    c.bad_updates.push_back([&](adaptive& a) {
      auto const wide = random_routing({.experts = 8, .documents = 2}, 1);
      a.update(wide.batch());
    });
    c.bad_updates.push_back([&](adaptive& a) { a.update(make_routing_batch(7, matrix(d.ids, 3))); });
    check_accumulator_laws(c);
  }
}

TEST_CASE("adaptive: bad options") {
  using enum adaptive_rule;
  for (auto const& o :
       {options_of(top_mass, 0, 0.5), options_of(top_mass, 4, 0), options_of(top_mass, 4, 1.1),
        options_of(top_mass, 4, quiet_nan), options_of(top_mass, 4, 0.5, -1), options_of(top_mass, 4, 0.5, 3, 2),
        options_of(top_mass, 4, 0.5, 0, 5), options_of(repository_higher_criticism, 4, 0.5, 0, 2)}) {
    CHECK_THROWS_AS(adaptive{o}, argument_error);
    CHECK_THROWS_AS(adaptive_count(std::vector<double>(4, 0.5), o), argument_error);
  }
  CHECK_THROWS_AS(adaptive_count(std::vector<double>{0.5}, options_of(top_mass, 4, 0.5)), shape_error);
  CHECK_THROWS_AS(adaptive_count(std::vector<double>{0.5, quiet_nan}, options_of(top_mass, 2, 0.5)), argument_error);
  CHECK_THROWS_AS(adaptive_count(std::vector<double>{0.5, 1.5}, options_of(benjamini_hochberg, 2, 0.5)),
                  argument_error);
}

namespace {

// Tokens whose logits share a component (equally dependent experts) and of which `planted` experts carry a signal.
struct error_rates {
  double fdp = 0, any = 0,
         power = 0;  // false share of the selection; tokens with a false one; share of the planted found
};
error_rates simulate(adaptive_options const& o, int tokens, index_t planted, double dependence, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal;
  error_rates r;
  std::vector<double> p(static_cast<std::size_t>(o.experts));
  for (int t = 0; t < tokens; ++t) {
    double const common = normal(random);
    for (std::size_t e = 0; e < p.size(); ++e) {
      double const z = std::sqrt(dependence) * common + std::sqrt(1 - dependence) * normal(random);
      p[e] = upper_tail(z + (std::cmp_less(e, planted) ? 4.0 : 0.0));
    }
    auto const k = adaptive_count(p, o);
    std::vector<index_t> order(p.size());
    for (std::size_t e = 0; e < p.size(); ++e) order[e] = static_cast<index_t>(e);
    std::sort(order.begin(), order.end(),
              [&](auto a, auto b) { return p[static_cast<std::size_t>(a)] < p[static_cast<std::size_t>(b)]; });
    auto const wrong = std::count_if(order.begin(), order.begin() + k, [&](auto e) { return e >= planted; });
    r.fdp += k == 0 ? 0 : static_cast<double>(wrong) / static_cast<double>(k) / tokens;
    r.any += wrong > 0 ? 1.0 / tokens : 0;
    if (planted > 0) r.power += static_cast<double>(k - wrong) / static_cast<double>(planted) / tokens;
  }
  return r;
}

void check_error_rates(int tokens, std::uint64_t seed) {
  using enum adaptive_rule;
  index_t const e = 64;
  double const slack = 3.5 * std::sqrt(0.05 * 0.95 / tokens);
  auto const bh = options_of(benjamini_hochberg, e, 0.05), by = options_of(benjamini_yekutieli, e, 0.05);
  auto const clipped = options_of(benjamini_hochberg, e, 0.05, 1, 16);
  auto const null = simulate(bh, tokens, 0, 0, seed), null_by = simulate(by, tokens, 0, 0.5, seed),
             published = simulate(clipped, tokens, 0, 0, seed);
  INFO("no signal, false selection: BH " << null.any << ", BY (dependent) " << null_by.any << ", clipped "
                                         << published.any);
  CHECK(std::abs(null.any - 0.05) < slack);
  CHECK(null_by.any < 0.05 + slack);
  CHECK(published.any == doctest::Approx(1));  // every token: that is what min_k does to the error rate
  for (double const dependence : {0.0, 0.5}) {
    auto const found = simulate(bh, tokens, 8, dependence, seed + 1),
               found_by = simulate(by, tokens, 8, dependence, seed + 2);
    INFO("8 planted, dependence " << dependence << ": BH fdp " << found.fdp << ", power " << found.power << "; BY fdp "
                                  << found_by.fdp << ", power " << found_by.power);
    CHECK(found.fdp < 0.05 * 56 / 64 + slack);
    CHECK(found_by.fdp < 0.05 + slack);
    CHECK(found.power > 0.85);
    CHECK(found_by.power > 0.6);
  }
  auto hc = options_of(higher_criticism, e, 0.5);
  hc.critical_value = higher_criticism_null(e, {.alpha0 = 0.5}, 4999).critical_value(0.05);
  auto const without = simulate(hc, tokens, 0, 0, seed + 3), with = simulate(hc, tokens, 8, 0, seed + 4);
  INFO("HC with its null: selects something without signal " << without.any << ", with 8 planted power " << with.power);
  CHECK(std::abs(without.any - 0.05) < slack + 0.01);
  CHECK(with.power > 0.9);
}

}  // namespace

TEST_CASE("adaptive: error rates with and without planted experts (quick)") { check_error_rates(300, 1); }
TEST_CASE("adaptive: error rates" * doctest::test_suite("slow")) { check_error_rates(20000, 100); }

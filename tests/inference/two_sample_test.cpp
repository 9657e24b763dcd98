// SPDX-License-Identifier: Apache-2.0
#include <moeroute/inference/two_sample.hpp>

#include <algorithm>
#include <cmath>
#include <vector>

#include <doctest/doctest.h>

#include "support/containers.hpp"
#include "support/golden.hpp"
#include "support/normal.hpp"

using namespace moeroute;

namespace {

struct sample {
  index_t experts = 6;
  std::vector<int> counts, labels, strata;
  matrix_view<int> table() const { return {counts.data(), static_cast<index_t>(labels.size()), experts}; }
  // Documents have a topic of their own, so that their tokens are dependent; expert 0 is three times as popular as the
  // others.
  void add(random_stream& random, int label, int stratum, double topic, int shortest, double effect = 0) {
    std::vector<double> p;
    double sum = 0;
    for (index_t e = 0; e < experts; ++e) {
      p.push_back((e == 0 ? 3 : 1) * std::exp(topic * normal(random) + (e == 2 ? effect : 0) + (e == 1 ? stratum : 0)));
      sum += p.back();
    }
    std::vector<int> n(p.size());
    for (int i = 0, slots = shortest + static_cast<int>(random.index(200)); i < slots; ++i) {
      double u = random.uniform() * sum;
      std::size_t e = 0;
      while (e + 1 < p.size() && u >= p[e]) u -= p[e++];
      ++n[e];
    }
    counts.insert(counts.end(), n.begin(), n.end());
    labels.push_back(label);
    strata.push_back(stratum);
  }
};

}  // namespace

TEST_CASE("two_sample: equals statsmodels, scipy and the list of all relabellings") {
  for (auto const& g : golden("two_sample", "cases")) {
    std::vector<int> counts;
    for (auto const& row : g["counts"])
      for (int const n : row) counts.push_back(n);
    auto const labels = g["labels"].get<std::vector<int>>(), strata = g["strata"].get<std::vector<int>>();
    index_t const permutations = 9999;
    for_each_matrix<int>(8, 4, counts, [&, first = true](char const* name, auto const& table) mutable {
      INFO(name);
      auto const r = two_sample_test(table, labels, strata, {.permutations = first ? permutations : 99});
      CHECK(close(r.jensen_shannon_nats, g["jensen_shannon"], 1e-13));
      CHECK(close(r.energy, g["energy"], 1e-13));
      if (!first) return;
      first = false;
      auto const near = [&](double ours, double p, double more = 2e-4) {
        CHECK(std::abs(ours - p) < 4 * std::sqrt(p * (1 - p) / static_cast<double>(permutations)) + more);
      };
      // With strata the mean over the relabellings is drawn, which splits ties among the 36 there are.
      double const drawn_mean = strata.front() == strata.back() ? 1e-9 : 0.06;
      for (std::size_t e = 0; e < 4; ++e) {
        CHECK(std::abs(r.t[e] - g["t"][e].get<double>()) < drawn_mean);
        near(r.p_value[e], g["p_value"][e], drawn_mean);
      }
      near(r.largest_t_p, g["largest_t_p"], drawn_mean);
      near(r.jensen_shannon_p, g["jensen_shannon_p"]);
      near(r.energy_p, g["energy_p"]);
      CHECK(r.jensen_shannon_null == doctest::Approx(g["jensen_shannon_null"].get<double>()).epsilon(0.05));
      CHECK(r.documents_0 == 4);
      CHECK(r.documents_1 == 4);
      CHECK(r.fixed == 0);
    });
  }
}

TEST_CASE("two_sample: with strata t is what the label adds to them") {
  // Eight of ten documents of the first stratum have label 1, two of the second; the strata differ, the labels in them
  // do not: 0.74 against 0.26 of expert 0, without any effect of the label.
  std::vector<double> counts;
  std::vector<int> labels, strata;
  for (int stratum = 0; stratum < 2; ++stratum)
    for (int d = 0; d < 10; ++d) {
      double const own = (stratum == 0 ? 90 : 10) + d % 5 - 2;
      counts.insert(counts.end(), {own, 100 - own});
      labels.push_back((d < 2) == (stratum == 0) ? 0 : 1);
      strata.push_back(stratum);
    }
  matrix_view<double> const table(counts.data(), 20, 2);
  auto const within = two_sample_test(table, labels, strata, {.permutations = 199});
  auto const free = two_sample_test(table, labels, {.permutations = 199});
  CHECK(std::abs(free.t[0]) > 2.5);
  CHECK(free.largest_t_p < 0.05);
  CHECK(std::abs(within.t[0]) < 0.5);
  CHECK(within.largest_t_p > 0.1);
}

TEST_CASE("two_sample: order of documents, experts and threads; the labels' names turn the sign") {
  random_stream random(1, 1);
  sample s;
  for (int d = 0; d < 24; ++d) s.add(random, d % 2, d % 3, 0.3, 50, d % 2 ? 0.5 : 0);
  two_sample_options const options{.permutations = 199, .seed = 4};
  auto const r = two_sample_test(s.table(), s.labels, s.strata, options);
  auto const parallel = two_sample_test(s.table(), s.labels, s.strata, {.permutations = 199, .seed = 4, .threads = 3});
  CHECK(parallel.t == r.t);
  CHECK(parallel.p_adjusted == r.p_adjusted);
  CHECK(parallel.energy_p == r.energy_p);
  sample turned = s;
  for (int& l : turned.labels) l = 1 - l;
  auto const other = two_sample_test(turned.table(), turned.labels, turned.strata, options);
  CHECK(other.jensen_shannon_nats == doctest::Approx(r.jensen_shannon_nats));
  CHECK(other.energy == doctest::Approx(r.energy));
  CHECK(other.t[2] * r.t[2] < 0);
  // Experts in reverse order.
  sample reversed = s;
  for (std::size_t d = 0; d < s.labels.size(); ++d)
    std::reverse(reversed.counts.begin() + static_cast<index_t>(6 * d),
                 reversed.counts.begin() + static_cast<index_t>(6 * d + 6));
  auto const mirrored = two_sample_test(reversed.table(), s.labels, s.strata, options);
  for (std::size_t e = 0; e < 6; ++e) CHECK(mirrored.p_adjusted[e] == r.p_adjusted[5 - e]);
  CHECK(mirrored.energy_p == r.energy_p);
}

TEST_CASE("two_sample: empty documents, one-sided strata, unused experts and nonsense") {
  std::vector<int> const counts{5, 5, 0, 0, 0, 0, 9, 1, 0, 2, 8, 0, 4, 6, 0, 7, 3, 0}, labels{0, 1, 0, 1, 1, 0},
      one(6, 3);
  matrix_view<int> const table(counts.data(), 6, 3);
  auto const r = two_sample_test(table, labels, one, {.permutations = 99});
  CHECK(r.left_out == 1);
  CHECK(r.documents_0 == 3);
  CHECK(r.documents_1 == 2);
  CHECK(std::isnan(r.t[2]));
  CHECK(std::isnan(r.p_adjusted[2]));
  CHECK(!std::isnan(r.largest_t_p));
  CHECK(two_sample_test(table, labels, {.permutations = 99}).largest_t_p == r.largest_t_p);
  auto const split = two_sample_test(table, labels, std::vector<int>{1, 2, 1, 3, 3, 3});
  CHECK(split.fixed == 2);  // stratum 1 holds label 0 only; stratum 2 held the empty document
}

TEST_CASE("two_sample: undefined and nonsense") {
  std::vector<int> const counts{5, 5, 9, 1, 2, 8, 4, 6}, labels{0, 1, 0, 1}, apart{0, 1, 0, 1}, single{0, 0, 0, 1};
  matrix_view<int> const table(counts.data(), 4, 2);
  for (auto const& r : {two_sample_test(table, labels, apart), two_sample_test(table, single)}) {
    CHECK(std::isnan(r.largest_t_p));
    CHECK(std::isnan(r.jensen_shannon_p));
    CHECK(std::isnan(r.energy));
    CHECK(r.t.size() == 2);
  }
  CHECK(two_sample_test(table, labels, apart).fixed == 4);
  CHECK(std::isnan(two_sample_test(table, labels, {.energy_documents = 3}).energy_p));
  CHECK(two_sample_test(table, labels, {.permutations = 0}).energy_p == 1);
  CHECK_THROWS_AS(two_sample_test(table, std::vector<int>{0, 1}), shape_error);
  CHECK_THROWS_AS(two_sample_test(table, labels, std::vector<int>{0}), shape_error);
  CHECK_THROWS_AS(two_sample_test(table, std::vector<int>{0, 1, 2, 0}), argument_error);
  CHECK_THROWS_AS(two_sample_test(table, labels, {.permutations = -1}), argument_error);
  std::vector<double> const negative{1, -1, 2, 3};
  CHECK_THROWS_AS(two_sample_test(matrix_view<double>(negative.data(), 2, 2), std::vector<int>{0, 1}), argument_error);
}

TEST_CASE("two_sample: levels with dependent tokens, unequal loads, unequal lengths and strata; power" *
          doctest::test_suite("slow")) {
  int const repeats = 2000;
  double level[3] = {}, lengths[3] = {}, strata[3] = {}, ignored = 0, power[3] = {}, tokens = 0;
  auto const count = [&](double* rate, two_sample_result const& r) {
    double const p[] = {r.largest_t_p, r.jensen_shannon_p, r.energy_p};
    for (int i = 0; i < 3; ++i) rate[i] += p[i] <= 0.05 ? 1.0 / repeats : 0;
  };
  for (int i = 0; i < repeats; ++i) {
    random_stream random(8, 1, static_cast<std::uint64_t>(i));
    two_sample_options const options{.permutations = 199, .seed = static_cast<std::uint64_t>(i)};
    sample same, longer, mixed, effect;
    for (int d = 0; d < 50; ++d) {
      same.add(random, d % 5 == 0, 0, 0.5, 20);
      longer.add(random, d % 2, 0, 0.2, d % 2 ? 400 : 20);
      int const stratum = d % 2;  // label 1 is common in stratum 1, whose documents love expert 1
      mixed.add(random, random.uniform() < (stratum ? 0.8 : 0.2), stratum, 0.5, 20);
      effect.add(random, d % 2, 0, 0.5, 20, d % 2 ? 0.8 : 0);
    }
    auto const r = two_sample_test(same.table(), same.labels, options);
    count(level, r);
    // The same divergence read as if tokens were independent: 2 n times it is nearly chi-square with E - 1 = 5.
    double n0 = 0, n1 = 0;
    for (std::size_t j = 0; j < same.counts.size(); ++j) (same.labels[j / 6] == 1 ? n1 : n0) += same.counts[j];
    tokens += 8 * r.jensen_shannon_nats * n0 * n1 / (n0 + n1) > 11.07 ? 1.0 / repeats : 0;
    count(lengths, two_sample_test(longer.table(), longer.labels, options));
    count(strata, two_sample_test(mixed.table(), mixed.labels, mixed.strata, options));
    ignored += two_sample_test(mixed.table(), mixed.labels, options).largest_t_p <= 0.05 ? 1.0 / repeats : 0;
    count(power, two_sample_test(effect.table(), effect.labels, options));
  }
  MESSAGE("rejected at 5 % by t, Jensen-Shannon, energy: same law ", level[0], " ", level[1], " ", level[2],
          "; unequal lengths ", lengths[0], " ", lengths[1], " ", lengths[2], "; within strata ", strata[0], " ",
          strata[1], " ", strata[2], ", strata ignored ", ignored, "; expert 2 favoured ", power[0], " ", power[1], " ",
          power[2], "; tokens as units ", tokens);
  double const noise = 3 * std::sqrt(0.05 * 0.95 / repeats);
  for (int i = 0; i < 3; ++i) {
    CHECK(std::abs(level[i] - 0.05) < noise);
    CHECK(std::abs(strata[i] - 0.05) < noise);
    CHECK(power[i] > 0.5);
  }
  CHECK(lengths[0] < 0.08);
  CHECK(ignored > 0.3);
  CHECK(tokens > 0.5);
}

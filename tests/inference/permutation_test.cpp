// SPDX-License-Identifier: Apache-2.0
#include <moeroute/inference/permutation.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <thread>
#include <vector>

#include <doctest/doctest.h>

#include "support/golden.hpp"
#include "support/laws.hpp"

using namespace moeroute;

namespace {

using ids = std::vector<int>;
using labels = std::vector<index_t>;

// Chi-square of the observed frequencies against equal ones.
template <class Counts>
double unevenness(Counts const& seen, double draws) {
  double const expected = draws / static_cast<double>(seen.size());
  double sum = 0;
  for (auto const& [value, n] : seen) sum += (n - expected) * (n - expected) / expected;
  return sum;
}

}  // namespace

TEST_CASE("permutation: within blocks, every assignment is equally likely and none leaves its block") {
  block_permutation const p(ids{0, 1, 2, 0, 1}, ids{5, 5, 5, 9, 9});
  CHECK(p.documents() == 5);
  CHECK(p.mixed_blocks() == 2);
  CHECK(p.unpaired() == 0);
  std::map<labels, int> seen;
  for (std::uint32_t b = 0; b < 12000; ++b) ++seen[p.draw(1, b)];
  REQUIRE(seen.size() == 12);
  for (auto const& [drawn, n] : seen) {
    CHECK(std::is_permutation(drawn.begin(), drawn.begin() + 3, labels{0, 1, 2}.begin()));
    CHECK(drawn[3] + drawn[4] == 1);
  }
  CHECK(unevenness(seen, 12000) < 31.3);  // 11 degrees of freedom, 0.1 %
}

TEST_CASE("permutation: within strata, every assignment is equally likely and strata of one label stay") {
  strata_permutation const p(ids{0, 1, 1, 0, 1, 2, 2}, ids{5, 5, 5, -9, -9, 7, 7});
  CHECK(p.documents() == 7);
  CHECK(p.fixed() == 2);
  CHECK(p.strata().size() == 2);
  std::map<labels, int> seen;
  for (std::uint32_t b = 0; b < 12000; ++b) ++seen[p.draw(1, b)];
  REQUIRE(seen.size() == 6);  // 3 places of the one 0, times 2
  for (auto const& [drawn, n] : seen) {
    CHECK(std::is_permutation(drawn.begin(), drawn.begin() + 3, labels{0, 1, 1}.begin()));
    CHECK(drawn[3] + drawn[4] == 1);
    CHECK(drawn[5] + drawn[6] == 4);
  }
  CHECK(unevenness(seen, 12000) < 20.6);  // 5 degrees of freedom, 0.1 %
  CHECK(p.draw(3, 8) == p.draw(3, 8));
  CHECK(strata_permutation(ids{}, ids{}).draw(1, 1).empty());
  CHECK_THROWS_AS(strata_permutation(ids{1}, ids{}), shape_error);
}

TEST_CASE("permutation: without mixed blocks, units swap freely and a block of one label moves as a whole") {
  block_permutation const p(ids{0, 0, 1, 2, 1}, ids{3, 3, 4, -1, 8});
  CHECK(p.free());
  CHECK(p.unpaired() == 4);
  std::map<labels, int> seen;
  for (std::uint32_t b = 0; b < 12000; ++b) ++seen[p.draw(1, b)];
  REQUIRE(seen.size() == 12);  // 4!/2! places of the labels 0, 1, 1, 2
  for (auto const& [drawn, n] : seen) CHECK(drawn[0] == drawn[1]);
  CHECK(unevenness(seen, 12000) < 31.3);
}

TEST_CASE("permutation: units without a block are spread evenly over the blocks and swap with one member each") {
  // 4 passages in labels 0 and 1, 6 snippets with label 2.
  ids l, b;
  for (int passage = 0; passage < 4; ++passage)
    for (int label = 0; label < 2; ++label) {
      l.push_back(label);
      b.push_back(passage);
    }
  for (int snippet = 0; snippet < 6; ++snippet) {
    l.push_back(2);
    b.push_back(-1);
  }
  block_permutation const p(l, b);
  CHECK(p.mixed_blocks() == 4);
  CHECK(p.unpaired() == 6);
  std::vector<int> snippets_with_a_language(6);
  int const draws = 6000;
  for (std::uint32_t r = 0; r < draws; ++r) {
    auto const drawn = p.draw(3, r);
    CHECK(std::is_permutation(drawn.begin(), drawn.end(), l.begin()));
    // A block has one or two guests, so at most two of its places carry label 2.
    for (std::size_t passage = 0; passage < 4; ++passage)
      REQUIRE((drawn[2 * passage] == 2) + (drawn[2 * passage + 1] == 2) <= 2);
    for (std::size_t s = 0; s < 6; ++s) snippets_with_a_language[s] += drawn[8 + s] != 2 ? 1 : 0;
  }
  // Two blocks have one guest (it leaves with 2/3), two have two (each leaves with 1/2): (2 * 2/3 + 4 * 1/2) / 6.
  for (int const n : snippets_with_a_language) CHECK(std::abs(n - draws * 5.0 / 9) < 5 * std::sqrt(draws * 20.0 / 81));
}

TEST_CASE("permutation: a draw depends on seed and replicate alone") {
  block_permutation const p(ids{0, 1, 2, 0, 1, 3, 3}, ids{5, 5, 5, 9, 9, -1, -1});
  std::vector<labels> serial, threaded(40);
  for (std::uint32_t b = 0; b < 40; ++b) serial.push_back(p.draw(7, b));
  {
    std::vector<std::jthread> pool;
    for (std::uint32_t w = 0; w < 4; ++w)
      pool.emplace_back([&, w] {
        for (std::uint32_t b = w; b < 40; b += 4) threaded[39 - b] = p.draw(7, 39 - b);
      });
  }
  CHECK(threaded == serial);
  CHECK(p.draw(7, 1) != p.draw(7, 2));
  std::vector<labels> other;
  for (std::uint32_t b = 0; b < 40; ++b) other.push_back(p.draw(8, b));
  CHECK(other != serial);
}

TEST_CASE("permutation: empty designs, one label, wrong lengths") {
  CHECK(block_permutation(ids{}, ids{}).draw(1, 1).empty());
  CHECK(block_permutation(ids{4, 4}, ids{0, 0}).draw(1, 1) == labels{4, 4});
  CHECK_THROWS_AS(block_permutation(ids{1}, ids{1, 2}), shape_error);
}

TEST_CASE("permutation: experts are permuted per layer and replicate") {
  auto const a = expert_permutation(1, 2, 3, 64);
  auto sorted = a;
  std::sort(sorted.begin(), sorted.end());
  for (index_t e = 0; e < 64; ++e) CHECK(sorted[static_cast<std::size_t>(e)] == e);
  CHECK(a == expert_permutation(1, 2, 3, 64));
  CHECK(a != expert_permutation(1, 2, 4, 64));
  CHECK(a != expert_permutation(1, 3, 3, 64));
  CHECK(a != expert_permutation(2, 2, 3, 64));
}

TEST_CASE("permutation: p-values count ties, never reach 0, and do not trust NaN") {
  std::vector<double> const r{1, 2, 3, 3};
  CHECK(permutation_p_value(5, r) == 0.2);
  CHECK(permutation_p_value(3, r) == 0.6);
  CHECK(permutation_p_value(3 * (1 + 1e-14), r) == 0.6);
  CHECK(permutation_p_value(0, r) == 1);
  CHECK(permutation_p_value(-3, std::vector<double>{-3 * (1 + 1e-14)}) == 1);
  CHECK(permutation_p_value(5, std::vector<double>{quiet_nan, 1, 1}) == 0.5);
  CHECK(std::isnan(permutation_p_value(quiet_nan, r)));
  CHECK(permutation_p_value(1, std::vector<double>{}) == 1);
}

TEST_CASE("max_statistic: equals the definitions in numpy") {
  auto const g = golden("inference", "max_statistic");
  max_statistic m(g["observed"].get<std::vector<double>>());
  for (auto const& replicate : g["replicates"]) m.update(replicate.get<std::vector<double>>());
  auto const r = m.result();
  CHECK(r.replicates == 199);
  for (std::size_t j = 0; j < 6; ++j) {
    CHECK(r.p_value[j] == g["p_value"][j].get<double>());
    CHECK(r.p_adjusted[j] == g["p_adjusted"][j].get<double>());
    CHECK(r.p_step_down[j] == g["p_step_down"][j].get<double>());
    CHECK(r.p_value[j] <= r.p_step_down[j]);
    CHECK(r.p_step_down[j] <= r.p_adjusted[j]);
  }
}

TEST_CASE("max_statistic: accumulator laws, undefined tests included") {
  std::vector<double> const observed{2, quiet_nan, 0.5, 2}, short_replicate{1};
  std::vector<std::vector<double>> replicates;
  random_stream random(1, 1);
  for (int b = 0; b < 35; ++b)
    replicates.push_back({3 * random.uniform(), random.uniform(), quiet_nan, 3 * random.uniform()});
  auto const feed = [&](max_statistic& m, index_t first, index_t last) {
    for (index_t b = first; b < last; ++b) m.update(replicates[static_cast<std::size_t>(b)]);
  };
  law_case<max_statistic> c{.options = observed,
                            .other_options = {2, quiet_nan, 0.5, 3},
                            .documents = 35,
                            .feed = feed,
                            .bad_updates = {[&](max_statistic& m) { m.update(short_replicate); }}};
  check_accumulator_laws(c);
  max_statistic m(observed);
  feed(m, 0, 35);
  auto const r = m.result();
  CHECK(r.replicates == 35);
  CHECK(r.undefined == 35);  // the third test's; the second is no test
  CHECK(std::isnan(r.p_adjusted[1]));
  CHECK(r.p_value[2] == 1);    // never defined, so never shown to be smaller
  CHECK(r.p_adjusted[0] < 1);  // but it does not spoil the others
  CHECK(r.p_adjusted[0] == r.p_adjusted[3]);
}

TEST_CASE("max_statistic: a less extreme test never gets a smaller step-down p-value") {
  max_statistic m({3, 2.9});
  for (int b = 0; b < 3; ++b) m.update(std::vector<double>{5, 0});
  CHECK(m.result().p_value == std::vector<double>{1, 0.25});
  CHECK(m.result().p_step_down == std::vector<double>{1, 1});
}

TEST_CASE("max_statistic: bad input throws and changes nothing") {
  max_statistic m({1, 2});
  m.update(std::vector<double>{0, 3});
  auto const before = m;
  CHECK_THROWS_AS(m.update(std::vector<double>{1}), shape_error);
  CHECK_THROWS_AS(m.merge(max_statistic({1, 3})), argument_error);
  CHECK(m == before);
  auto bytes = m.serialize();
  bytes.resize(bytes.size() - 1);
  CHECK_THROWS_AS(max_statistic::deserialize(bytes), format_error);
  bytes = m.serialize();
  bytes[bytes.size() - 16] = std::byte{0};  // no replicates, yet counts
  CHECK_THROWS_AS(max_statistic::deserialize(bytes), format_error);
  CHECK(max_statistic({1, 2}).result().p_adjusted == std::vector<double>{1, 1});
}

TEST_CASE("max_statistic: an infinite statistic is the most extreme, not undefined") {
  max_statistic m({std::numeric_limits<double>::infinity(), 1});
  for (int b = 0; b < 99; ++b) m.update(std::vector<double>{0.5, 0.5});
  CHECK(m.result().p_adjusted == std::vector<double>{0.01, 0.01});
  CHECK(permutation_p_value(std::numeric_limits<double>::infinity(), std::vector<double>(99, 0.5)) == 0.01);
}

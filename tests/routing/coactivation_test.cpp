// SPDX-License-Identifier: Apache-2.0
#include <moeroute/routing/coactivation.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <random>
#include <vector>

#include <doctest/doctest.h>

#include "support/containers.hpp"
#include "support/golden.hpp"
#include "support/kernels.hpp"
#include "support/laws.hpp"
#include "support/routing_data.hpp"
#include "support/routing_models.hpp"

using namespace moeroute;

namespace {

using counts_type = std::vector<std::uint64_t>;

template <class Ids>
coactivation counted(index_t experts, Ids const& ids, coactivation_pairs pairs = coactivation_pairs::all) {
  coactivation a({experts, pairs});
  a.update(make_routing_batch(experts, ids));
  return a;
}

coactivation counted(routing_batch<> const& batch) {
  coactivation a({batch.experts()});
  a.update(batch);
  return a;
}

// Sets one by one, in a square.
counts_type naive_pairs(routing_batch<> const& batch) {
  auto const n = static_cast<std::size_t>(batch.experts());
  counts_type counts(n * n);
  for (index_t t = 0; t < batch.tokens(); ++t) {
    std::vector<bool> chosen(n);
    for (index_t k = 0; k < batch.slots(); ++k)
      if (auto const id = batch.ids()(t, k); id >= 0) chosen[static_cast<std::size_t>(id)] = true;
    for (std::size_t i = 0; i < n; ++i)
      for (std::size_t j = 0; j < n; ++j) counts[i * n + j] += chosen[i] && chosen[j];
  }
  return counts;
}

void feed(coactivation& a, routing_data const& data, index_t first, index_t last) {
  auto const offsets = data.offsets_of(first, last);
  a.update(data.batch(first, last), document_spans({offsets.data(), static_cast<index_t>(offsets.size())},
                                                   {data.documents.data() + first, last - first}));
}

committee_test_result tested(simulated_routing const& data, index_t groups = 64) {
  coactivation a({data.experts, coactivation_pairs::all, groups});
  a.update(data.batch(), data.spans());
  return committee_test(a);
}

}  // namespace

TEST_CASE("coactivation: by hand") {
  std::vector<std::int16_t> const ids{0, 1, 2, 1, 0, 3, 2, 2, -1, -1, -1, -1};
  auto const r = counted(4, matrix_view<std::int16_t>(ids.data(), 4, 3)).result();
  CHECK(r.tokens == 4);
  CHECK(r.dropped == 4);
  CHECK(r.repeated == 1);  // 2, 2 is the set {2}
  CHECK(counts_type(r.counts.begin(), r.counts.end()) == counts_type{2, 2, 1, 1, 2, 2, 1, 1, 1, 1, 2, 0, 1, 1, 0, 1});
  CHECK(r.conditional(0, 2) == 0.5);
  CHECK(r.conditional(2, 0) == 0.5);
  CHECK(r.conditional(3, 0) == 1);
  CHECK(r.lift(0, 1) == 2 * 4.0 / (2 * 2));
  CHECK(r.lift(2, 3) == 0);
  CHECK(r.phi(0, 1) == doctest::Approx(1));
  CHECK(r.phi(2, 3) == doctest::Approx((0 * 4.0 - 2 * 1) / std::sqrt(2 * 2 * 1 * 3.0)));
  CHECK(r.excess(0, 1) == doctest::Approx(2 / r.expected(0, 1)));
  // Sizes 3, 3, 1, 0: 12 ordered pairs of 7 slots in 4 tokens.
  CHECK(r.forced_lift == doctest::Approx(4 * 4 * 12.0 / (3 * 7 * 7)));
}

TEST_CASE("coactivation: what top-k forces at equal loads") {
  // All sets of k of E once: exactly exchangeable.
  for (auto const& [experts, k, lift] : {std::tuple{8, 2, 0.571}, {10, 3, 0.741}}) {
    std::vector<std::int16_t> ids;
    std::vector<bool> pick(static_cast<std::size_t>(experts));
    std::fill_n(pick.begin(), k, true);
    do {
      for (std::size_t e = 0; e < pick.size(); ++e)
        if (pick[e]) ids.push_back(static_cast<std::int16_t>(e));
    } while (std::prev_permutation(pick.begin(), pick.end()));
    auto const r =
        counted(experts, matrix_view<std::int16_t>(ids.data(), static_cast<index_t>(ids.size()) / k, k)).result();
    CHECK(r.forced_lift == doctest::Approx((k - 1.0) * experts / (k * (experts - 1.0))));
    CHECK(r.forced_lift == doctest::Approx(lift).epsilon(1e-3));
    for (std::size_t i = 0; i < 3; ++i) {
      CHECK(r.lift(i, i + 1) == doctest::Approx(r.forced_lift));
      CHECK(r.excess(i, i + 1) == doctest::Approx(1).epsilon(1e-10));
      CHECK(r.phi(i, i + 1) == doctest::Approx(-1.0 / (experts - 1)));
    }
  }
  CHECK((8 - 1.0) * 64 / (8 * 63.0) == doctest::Approx(0.889).epsilon(1e-3));
}

TEST_CASE("coactivation: Gram matrix, phi and adjacent ranks of numpy") {
  for (auto const& c : golden("coactivation", "coactivation")) {
    auto const rows = c["ids"].get<std::vector<std::vector<std::int16_t>>>();
    std::vector<std::int16_t> ids;
    for (auto const& r : rows) ids.insert(ids.end(), r.begin(), r.end());
    auto const experts = c["experts"].get<index_t>();
    for_each_matrix(static_cast<index_t>(rows.size()), static_cast<index_t>(rows[0].size()), ids,
                    [&](char const* name, auto const& m) {
                      INFO(name);
                      auto const r = counted(experts, m).result();
                      auto const adjacent = counted(experts, m, coactivation_pairs::adjacent_ranks).result();
                      bool counts = true, near = true;
                      for (std::size_t i = 0; i < static_cast<std::size_t>(experts); ++i)
                        for (std::size_t j = 0; j < static_cast<std::size_t>(experts); ++j) {
                          counts = counts && r.counts(i, j) == c["counts"][i][j].get<std::uint64_t>();
                          near = near && close(r.conditional(i, j), c["conditional"][i][j], 1e-14) &&
                                 close(r.lift(i, j), c["lift"][i][j], 1e-14) &&
                                 close(r.phi(i, j), c["phi"][i][j], 1e-12);
                          if (i != j) near = near && close(adjacent.conditional(i, j), c["adjacent"][i][j], 1e-14);
                        }
                      CHECK(counts);
                      CHECK(near);
                      CHECK(adjacent.conditional(1, 1) == 1);
                      CHECK(std::isnan(adjacent.lift(0, 1)));
                      CHECK(std::isnan(adjacent.expected(0, 1)));
                    });
  }
}

TEST_CASE("coactivation: published rows fall short by a factor of k / 2") {
  auto const data = simulate({.experts = 64, .slots = 8, .documents = 10, .tokens = 100}, 3);
  auto const all = counted(data.batch()).result();
  auto const adjacent = counted(64, data.batch().ids(), coactivation_pairs::adjacent_ranks).result();
  double met = 0, adjacent_met = 0, slots = 0;
  for (std::size_t i = 0; i < 64; ++i) {
    slots += static_cast<double>(all.counts(i, i));
    for (std::size_t j = 0; j < 64; ++j)
      if (i != j) {
        met += static_cast<double>(all.counts(i, j));
        adjacent_met += static_cast<double>(adjacent.counts(i, j));
      }
  }
  CHECK(met / slots == doctest::Approx(7));
  CHECK(adjacent_met / slots == doctest::Approx(1.75));
}

TEST_CASE("coactivation: equals counting set by set, at every level, with drops and repeats") {
  std::uint64_t seed = 0;
  for (auto const& [experts, slots, documents, longest, dropped] : {std::tuple{7, 3, 23, 40, 0.05},
                                                                    {64, 8, 9, 600, 0.0},
                                                                    {64, 8, 9, 300, 0.02},
                                                                    {65, 8, 5, 513, 0.0},
                                                                    {128, 6, 5, 700, 0.0},
                                                                    {9, 9, 4, 900, 0.3},
                                                                    {200, 4, 3, 90, 0.0},
                                                                    {1, 1, 3, 2000, 0.5},
                                                                    {63, 2, 4, 1500, 0.0},
                                                                    {500, 8, 2, 3000, 0.0}}) {
    auto data = random_routing({experts, slots, documents, longest, dropped, 0}, ++seed);
    for (bool const repeats : {false, true}) {
      if (repeats && slots > 1)
        for (std::size_t i = 1; i < data.ids.size(); i += 37) data.ids[i] = data.ids[i - 1];
      auto const want = naive_pairs(data.batch());
      std::uint64_t drops = 0, kept = 0;
      for (auto const id : data.ids) drops += id < 0;
      for (std::size_t e = 0; e < static_cast<std::size_t>(experts); ++e)
        kept += want[e * static_cast<std::size_t>(experts) + e];
      for (auto const level : levels()) {
        at_level const here(level);
        INFO("experts " << experts << ", level " << static_cast<int>(level) << ", repeats " << repeats);
        auto const r = counted(data.batch()).result();
        CHECK(counts_type(r.counts.begin(), r.counts.end()) == want);
        CHECK(r.dropped == drops);
        CHECK(r.repeated == data.ids.size() - drops - kept);
        CHECK(r.tokens == static_cast<std::uint64_t>(data.tokens()));
      }
    }
  }
}

TEST_CASE("coactivation: one dropped and one repeated slot do not make up for each other") {
  std::vector<std::int16_t> ids;
  for (int t = 0; t < 100; ++t) ids.insert(ids.end(), {0, 1});
  ids[21] = -1;
  ids[41] = 0;
  for (auto const level : levels()) {
    at_level const here(level);
    auto const r = counted(4, matrix_view<std::int16_t>(ids.data(), 100, 2)).result();
    CHECK(r.counts(0, 1) == 98);
    CHECK(r.dropped == 1);
    CHECK(r.repeated == 1);
  }
}

TEST_CASE("coactivation: laws") {
  auto const data = random_routing({}, 5);
  for (auto const& [pairs, groups] : {std::tuple{coactivation_pairs::all, 1},
                                      {coactivation_pairs::all, 3},
                                      {coactivation_pairs::adjacent_ranks, 2}}) {
    law_case<coactivation> c{
        {7, pairs, groups}, {7, pairs, groups + 1}, data.size(), [&](coactivation& a, index_t first, index_t last) {
          feed(a, data, first, last);
        }};
    std::vector<std::int16_t> const ids{0, 1, 2};
    std::vector<std::int64_t> const offsets{0, 2}, documents{4};
    c.bad_updates = {
        [&](coactivation& a) {
          a.update(routing_batch<>(8, {ids.data(), 3, 1}));
        },
        [&](coactivation& a) {
          a.update(routing_batch<>(7, {ids.data(), 3, 1}), document_spans({offsets.data(), 2}, {documents.data(), 1}));
        }};
    if (groups > 1) c.bad_updates.push_back([&](coactivation& a) { a.update(routing_batch<>(7, {ids.data(), 3, 1})); });
    check_accumulator_laws(c);
  }
  CHECK_THROWS_AS(coactivation({0}), argument_error);
  CHECK_THROWS_AS(coactivation({4, coactivation_pairs::all, 0}), argument_error);
  CHECK_THROWS_AS(coactivation({4, coactivation_pairs::all, 257}), argument_error);
  CHECK_THROWS_AS(coactivation({index_t{1} << 40}), argument_error);
  CHECK_THROWS_AS(committee_test(coactivation({4, coactivation_pairs::adjacent_ranks, 8})), argument_error);
}

TEST_CASE("coactivation: empty, and one expert") {
  auto const r = coactivation({3}).result();
  CHECK(r.tokens == 0);
  CHECK(r.counts(0, 1) == 0);
  CHECK(std::isnan(r.conditional(0, 1)));
  CHECK(std::isnan(r.forced_lift));
  CHECK(std::isnan(committee_test(coactivation({3, coactivation_pairs::all, 4})).p_value(0, 1)));
  std::vector<std::int16_t> const ids{0, 0};
  auto const one = counted(1, matrix_view<std::int16_t>(ids.data(), 2, 1)).result();
  CHECK(one.counts(0, 0) == 2);
  CHECK(std::isnan(one.forced_lift));
}

TEST_CASE("coactivation: renumbered experts, reordered documents, data twice") {
  auto const data = random_routing({12, 4, 30, 60, 0.02, 0}, 8);
  coactivation plain({12, coactivation_pairs::all, 16}), twice = plain, renumbered = plain, reversed = plain;
  feed(plain, data, 0, data.size());
  feed(twice, data, 0, data.size());
  feed(twice, data, 0, data.size());
  for (index_t d = data.size(); d-- > 0;) feed(reversed, data, d, d + 1);
  CHECK(reversed == plain);
  std::vector<std::int16_t> const to{3, 7, 0, 11, 5, 1, 2, 4, 6, 8, 9, 10};
  auto other = data;
  for (auto& id : other.ids) id = id < 0 ? id : to[static_cast<std::size_t>(id)];
  feed(renumbered, other, 0, data.size());
  auto const a = plain.result(), b = twice.result(), c = renumbered.result();
  auto const p = committee_test(plain), q = committee_test(renumbered, 3);
  for (std::size_t i = 0; i < 12; ++i)
    for (std::size_t j = 0; j < 12; ++j) {
      if (i == j) continue;
      auto const x = static_cast<std::size_t>(to[i]), y = static_cast<std::size_t>(to[j]);
      CHECK(b.counts(i, j) == 2 * a.counts(i, j));
      CHECK(close(b.excess(i, j), a.excess(i, j), 1e-9));
      CHECK(close(b.phi(i, j), a.phi(i, j), 1e-14));
      CHECK(c.counts(x, y) == a.counts(i, j));
      CHECK(close(c.excess(x, y), a.excess(i, j), 1e-9));
      CHECK(close(q.p_value(x, y), p.p_value(i, j), 1e-7));
    }
}

TEST_CASE("committee_test: the numbers of its definition") {
  auto const data = simulate({.experts = 6, .slots = 2, .documents = 12, .tokens = 30, .topic = 0.5}, 9);
  index_t const groups = 5;
  coactivation a({6, coactivation_pairs::all, groups});
  a.update(data.batch(), data.spans());
  auto const r = committee_test(a), threaded = committee_test(a, 4);
  CHECK(r.p_value(0, 1) == threaded.p_value(0, 1));
  auto const difference = [&](index_t without) {
    coactivation part({6});
    for (std::size_t d = 0; d < data.documents.size(); ++d)
      if (detail::document_group(data.documents[d], groups) != without)
        part.update(data.batch().slice(data.offsets[d], 30));
    auto const x = part.result();
    return (static_cast<double>(x.counts(0, 1)) - x.expected(0, 1)) / static_cast<double>(x.tokens);
  };
  std::vector<double> left_out;
  for (index_t g = 0; g < groups; ++g)
    if (a.group_tokens(g) > 0) left_out.push_back(difference(g));
  CHECK(r.groups == static_cast<index_t>(left_out.size()));
  double const n = static_cast<double>(left_out.size()),
               mean = std::accumulate(left_out.begin(), left_out.end(), 0.0) / n;
  double square = 0;
  for (double const x : left_out) square += (x - mean) * (x - mean);
  CHECK(close(r.difference(0, 1), difference(-1), 1e-12));
  CHECK(r.standard_error(0, 1) == doctest::Approx(std::sqrt((n - 1) / n * square)).epsilon(1e-9));
  CHECK(r.q_value(0, 1) >= r.p_value(0, 1));
}

TEST_CASE("committee_test: a planted committee is found before everything else") {
  int found = 0, first = 0;
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    auto const r = tested(simulate({.documents = 128, .tokens = 60, .skew = 0.5, .sticky = 0.3, .committee = 4}, seed));
    found += r.q_value(0, 1) < 0.05 && r.q_value(0, 2) < 0.05 && r.q_value(1, 2) < 0.05;
    double weakest = std::min({r.difference(0, 1), r.difference(0, 2), r.difference(1, 2)}), strongest_other = -1;
    for (std::size_t i = 0; i < 16; ++i)
      for (std::size_t j = std::max<std::size_t>(i + 1, 3); j < 16; ++j)
        strongest_other = std::max(strongest_other, r.difference(i, j));
    first += weakest > 2 * strongest_other;
  }
  CHECK(found == 20);
  CHECK(first == 20);
}

namespace {

struct null_rates {
  double at_5 = 0, at_1 = 0, any_q = 0;
};

null_rates rates_of(router_model const& m, int runs, index_t groups) {
  null_rates r;
  double pairs = 0;
  for (int i = 0; i < runs; ++i) {
    auto const t = tested(simulate(m, static_cast<std::uint64_t>(1000 + i)), groups);
    bool any = false;
    for (std::size_t a = 0; a < static_cast<std::size_t>(m.experts); ++a)
      for (std::size_t b = a + 1; b < static_cast<std::size_t>(m.experts); ++b) {
        pairs += 1;
        r.at_5 += t.p_value(a, b) <= 0.05;
        r.at_1 += t.p_value(a, b) <= 0.01;
        any = any || t.q_value(a, b) <= 0.05;
      }
    r.any_q += any;
  }
  return {r.at_5 / pairs, r.at_1 / pairs, r.any_q / runs};
}

}  // namespace

// Loads alone decide: the conditional Bernoulli law, with tokens that repeat each other. Documents of their own
// favourites come in only at equal loads, where no mixture of documents can favour a pair.
TEST_CASE("committee_test: keeps its level under unequal loads and dependent tokens, quickly") {
  auto const r = rates_of(
      {.experts = 8, .slots = 3, .documents = 64, .tokens = 25, .skew = 0.5, .sticky = 0.7, .coins = true}, 60, 64);
  MESSAGE("per pair " << r.at_5 << " at 5 %, " << r.at_1 << " at 1 %, any q <= 5 %: " << r.any_q);
  CHECK(r.at_5 < 0.08);
  CHECK(r.at_5 > 0.02);
  CHECK(r.any_q < 0.12);
}

TEST_SUITE_BEGIN("slow");

TEST_CASE("committee_test: keeps its level under unequal loads and dependent tokens") {
  for (auto const& m :
       {router_model{.experts = 8, .slots = 3, .documents = 64, .tokens = 20, .coins = true},
        router_model{
            .experts = 8, .slots = 3, .documents = 128, .tokens = 40, .skew = 0.5, .sticky = 0.8, .coins = true},
        router_model{
            .experts = 8, .slots = 3, .documents = 64, .tokens = 20, .skew = 0, .topic = 0.7, .coins = true}}) {
    auto const r = rates_of(m, 2000, 64);
    MESSAGE("sticky " << m.sticky << ", topic " << m.topic << ": per pair " << r.at_5 << " at 5 %, " << r.at_1
                      << " at 1 %, any q <= 5 %: " << r.any_q);
    CHECK(r.at_5 < 0.065);
    CHECK(r.at_5 > 0.035);
    CHECK(r.at_1 < 0.02);
    CHECK(r.any_q <= 0.06);
  }
  // Some 250 independent sets in all, so that rare pairs are expected in a handful of documents: this is what the Bias
  // field warns of.
  auto const rare =
      rates_of({.experts = 10, .slots = 3, .documents = 64, .tokens = 20, .sticky = 0.8, .coins = true}, 500, 64);
  MESSAGE("rare pairs: " << rare.at_5 << " at 5 %, " << rare.at_1 << " at 1 %, any q <= 5 %: " << rare.any_q);
  CHECK(rare.at_5 < 0.09);
  CHECK(rare.any_q < 0.12);
}

TEST_SUITE_END();

// SPDX-License-Identifier: Apache-2.0
#include <moeroute/routing/locality.hpp>

#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

#include <doctest/doctest.h>

#include "support/containers.hpp"
#include "support/golden.hpp"
#include "support/laws.hpp"
#include "support/routing_data.hpp"
#include "support/routing_models.hpp"

using namespace moeroute;

namespace {

void feed(locality& a, routing_data const& data, index_t first, index_t last) {
  auto const offsets = data.offsets_of(first, last);
  a.update(data.batch(first, last), document_spans({offsets.data(), static_cast<index_t>(offsets.size())},
                                                   {data.documents.data() + first, last - first}));
}

locality measured(simulated_routing const& data, index_t groups = 64) {
  locality a({data.experts, data.slots, groups});
  a.update(data.batch(), data.spans());
  return a;
}

bool holds(estimate const& e, double value) { return e.lower <= value && value <= e.upper; }

bool near(estimate const& e, nlohmann::json const& want, double tolerance) {
  return close(e.value, want[0], tolerance) && close(e.lower, want[1], tolerance) && close(e.upper, want[2], tolerance);
}

}  // namespace

TEST_CASE("locality: by hand") {
  // Two documents: {0,1} {0,2} {0,2} {3,2} and {1,0} {1,-}.
  std::vector<std::int16_t> const ids{0, 1, 0, 2, 0, 2, 3, 2, 1, 0, 1, -1};
  std::vector<std::int64_t> const offsets{0, 4, 6}, documents{5, 6};
  locality a({4, 2, 1, 3});
  a.update(routing_batch<>(4, {ids.data(), 6, 2}), document_spans({offsets.data(), 3}, {documents.data(), 2}));
  auto const r = a.result();
  CHECK(r.tokens == 6);
  CHECK(r.documents == 2);
  CHECK(r.pairs == 4);
  CHECK(r.dropped == 1);
  CHECK(r.first_choice.observed.value == 3 / 4.0);
  CHECK(r.overlap.observed.value == (1 + 2 + 1 + 1) / 8.0);
  CHECK(r.any_overlap.observed.value == 1);
  CHECK(r.jaccard.observed.value == doctest::Approx((1 / 3.0 + 1 + 1 / 3.0 + 1 / 2.0) / 4).epsilon(1e-7));
  CHECK(r.first_choice.chance_loads == doctest::Approx((9 + 4 + 1) / 36.0));
  CHECK(r.overlap.chance_loads == doctest::Approx((16 + 9 + 9 + 1) / (6.0 * 11)));
  CHECK(r.first_choice.chance_uniform == 0.25);
  CHECK(r.overlap.chance_uniform == 0.5);
  // Three pairs of which 3 * 2 / (4 * 3) repeat, and the one of the other document.
  CHECK(r.first_choice.chance_shuffled == doctest::Approx((1.5 + 1) / 4));
  CHECK(r.first_choice_runs.lengths == std::vector<std::uint64_t>{1, 1, 1});
  CHECK(r.first_choice_runs.mean == 2);
  CHECK(r.active_runs.lengths == std::vector<std::uint64_t>{3, 1, 2});
  CHECK(r.active_runs.of_expert[0] == 2);            // 3 tokens and 1
  CHECK(std::isnan(r.first_choice.observed.lower));  // one group
}

TEST_CASE("locality: loops of Python, orders of tokens, Student's law of scipy") {
  for (auto const& c : golden("locality", "locality")) {
    auto const experts = c["experts"].get<index_t>(), slots = c["slots"].get<index_t>();
    auto const ids = c["ids"].get<std::vector<std::int16_t>>();
    auto const documents = c["documents"].get<std::vector<std::int64_t>>();
    std::vector<std::int64_t> offsets{0};
    for (auto const& n : c["lengths"]) offsets.push_back(offsets.back() + n.get<std::int64_t>());
    document_spans const spans({offsets.data(), static_cast<index_t>(offsets.size())},
                               {documents.data(), static_cast<index_t>(documents.size())});
    for_each_matrix(static_cast<index_t>(offsets.back()), slots, ids, [&](char const* name, auto const& m) {
      INFO(name);
      locality a({experts, slots, c["groups"].get<index_t>()});
      a.update(make_routing_batch(experts, m), spans);
      auto const r = a.result();
      CHECK(r.groups == c["occupied"].get<index_t>());
      CHECK(near(r.first_choice.observed, c["first"], 1e-12));
      CHECK(near(r.overlap.observed, c["overlap"], 1e-12));
      CHECK(near(r.any_overlap.observed, c["any"], 1e-12));
      CHECK(near(r.jaccard.observed, c["jaccard"], 1e-6));  // in units of 2^-24
      CHECK(close(r.first_choice.chance_loads, c["loads"][0], 1e-13));
      CHECK(close(r.overlap.chance_loads, c["loads"][1], 1e-13));
      CHECK(near(r.first_choice.over_loads, c["over_loads"][0], 1e-11));
      CHECK(near(r.overlap.over_loads, c["over_loads"][1], 1e-11));
      if (c.contains("shuffled")) {
        CHECK(close(r.first_choice.chance_shuffled, c["shuffled"][0], 1e-7));
        CHECK(close(r.overlap.chance_shuffled, c["shuffled"][1], 1e-7));
        CHECK(near(r.first_choice.over_shuffled, c["over_shuffled"][0], 1e-6));
        CHECK(near(r.overlap.over_shuffled, c["over_shuffled"][1], 1e-6));
      }
      for (std::size_t length = 1; length < 60; ++length) {
        auto const of = [&](char const* key) {
          return length < c[key].size() ? c[key][length].get<std::uint64_t>() : 0;
        };
        CHECK(r.first_choice_runs.lengths[length - 1] == of("runs"));
        CHECK(r.active_runs.lengths[length - 1] == of("active_runs"));
      }
    });
  }
}

TEST_CASE("locality: chance of random sets") {
  for (auto const& c : golden("locality", "uniform")) {
    auto const r = locality({c["experts"].get<index_t>(), c["slots"].get<index_t>()}).result();
    CHECK(close(r.any_overlap.chance_uniform, c["any"], 1e-13));
    CHECK(close(r.jaccard.chance_uniform, c["jaccard"], 1e-13));
  }
  CHECK(locality({8, 2}).result().any_overlap.chance_uniform ==
        doctest::Approx(0.464).epsilon(1e-3));  // "46 %" of Mixtral's table 5
}

TEST_CASE("locality: laws") {
  auto const data = random_routing({}, 5);
  for (index_t const groups : {1, 4}) {
    law_case<locality> c{
        {7, 3, groups, 5}, {7, 3, groups + 1, 5}, data.size(), [&](locality& a, index_t first, index_t last) {
          feed(a, data, first, last);
        }};
    std::vector<std::int16_t> const ids{0, 1, 2, 3, 4, 5};
    std::vector<std::int64_t> const offsets{0, 2}, short_offsets{0, 1}, documents{4};
    auto const with = [&](index_t experts, index_t slots, std::vector<std::int64_t> const& spans) {
      return [&, experts, slots, spans](locality& a) {
        a.update(routing_batch<>(experts, {ids.data(), 2, slots}),
                 document_spans({spans.data(), 2}, {documents.data(), 1}));
      };
    };
    c.bad_updates = {with(8, 3, offsets), with(7, 2, offsets), with(7, 3, short_offsets)};
    check_accumulator_laws(c);
  }
  CHECK_THROWS_AS(locality({0, 1}), argument_error);
  CHECK_THROWS_AS(locality({4, 0}), argument_error);
  CHECK_THROWS_AS(locality({4, 5}), argument_error);
  CHECK_THROWS_AS(locality({4, 2, 0}), argument_error);
  CHECK_THROWS_AS(locality({4, 2, 257}), argument_error);
  CHECK_THROWS_AS(locality({4, 2, 8, 0}), argument_error);
  CHECK_THROWS_AS(locality({index_t{1} << 40, 2}), argument_error);
  CHECK_THROWS_AS(locality({4, 2}).result(1.5), argument_error);
}

TEST_CASE("locality: empty, and documents of one token") {
  auto const r = locality({4, 2}).result();
  CHECK(r.tokens == 0);
  CHECK(std::isnan(r.first_choice.observed.value));
  CHECK(std::isnan(r.first_choice.over_loads.lower));
  CHECK(std::isnan(r.active_runs.mean));
  std::vector<std::int16_t> const ids{0, 0, 0};
  std::vector<std::int64_t> const offsets{0, 1, 2, 3}, documents{1, 2, 3};
  locality a({2, 1});
  a.update(routing_batch<>(2, {ids.data(), 3, 1}), document_spans({offsets.data(), 4}, {documents.data(), 3}));
  CHECK(a.result().pairs == 0);  // equal neighbours, but never of one document
  CHECK(std::isnan(a.result().overlap.observed.value));
  CHECK(a.result().first_choice_runs.lengths[0] == 3);
}

TEST_CASE("locality: runs and loads add up, renumbering changes nothing, long runs go to the last bin") {
  auto const data = random_routing({9, 3, 20, 80, 0.05, 0}, 12);
  locality a({9, 3, 8, 4}), renumbered({9, 3, 8, 4});
  feed(a, data, 0, data.size());
  auto other = data;
  for (auto& id : other.ids) id = id < 0 ? id : static_cast<std::int16_t>((4 * id + 5) % 9);
  feed(renumbered, other, 0, data.size());
  auto const r = a.result(), s = renumbered.result();
  CHECK(r.overlap.observed.value == s.overlap.observed.value);
  CHECK(r.first_choice.over_shuffled.lower == doctest::Approx(s.first_choice.over_shuffled.lower));
  CHECK(r.active_runs.lengths == s.active_runs.lengths);
  CHECK(r.active_runs.of_expert[2] == s.active_runs.of_expert[(4 * 2 + 5) % 9]);
  double const chance = std::accumulate(r.active_runs.chance.begin(), r.active_runs.chance.end(), 0.0);
  CHECK(chance == doctest::Approx(1));
  std::vector<std::int16_t> const ids(50, 1);
  std::vector<std::int64_t> const offsets{0, 50}, documents{1};
  locality runs({2, 1, 1, 4});
  runs.update(routing_batch<>(2, {ids.data(), 50, 1}), document_spans({offsets.data(), 2}, {documents.data(), 1}));
  CHECK(runs.result().first_choice_runs.lengths == std::vector<std::uint64_t>{0, 0, 0, 1});
  CHECK(runs.result().first_choice_runs.mean == 50);
  CHECK(runs.result().first_choice.observed.value == 1);
}

TEST_CASE("locality: a sticky router is told from topics") {
  int order = 0, topics = 0, false_order = 0;
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    auto const sticky = measured(simulate({.documents = 96, .tokens = 60, .sticky = 0.3}, seed)).result();
    order += sticky.overlap.over_shuffled.lower > 0 && sticky.first_choice.over_shuffled.lower > 0 &&
             sticky.overlap.over_loads.lower > 0;
    // A token that repeats keeps everything: 0.3 + 0.7 chance.
    CHECK(std::abs(sticky.first_choice.observed.value - (0.3 + 0.7 * sticky.first_choice.chance_loads)) < 0.04);
    auto const topical = measured(simulate({.documents = 96, .tokens = 60, .topic = 0.7}, seed)).result();
    topics += topical.overlap.over_loads.lower > 0;
    false_order += topical.overlap.over_shuffled.lower > 0;
  }
  CHECK(order == 20);
  CHECK(topics == 20);
  CHECK(false_order <= 3);
}

TEST_CASE("locality: run lengths of independent tokens are those of chance") {
  auto const r = measured(simulate({.experts = 6, .slots = 2, .documents = 40, .tokens = 2000}, 3)).result();
  for (auto const* runs : {&r.first_choice_runs, &r.active_runs}) {
    double const total =
        static_cast<double>(std::accumulate(runs->lengths.begin(), runs->lengths.end(), std::uint64_t{0}));
    for (std::size_t i = 0; i < 5; ++i)
      CHECK(std::abs(static_cast<double>(runs->lengths[i]) / total - runs->chance[i]) <
            5 * std::sqrt(runs->chance[i] / total) + 1e-3);
    CHECK(runs->mean == doctest::Approx(runs->mean_chance).epsilon(0.02));
    CHECK(runs->of_expert[1] == doctest::Approx(runs->of_expert_chance[1]).epsilon(0.05));
  }
}

namespace {

struct coverage {
  double loads_first = 0, loads_overlap = 0, shuffled_first = 0, shuffled_overlap = 0;
};

// How often the intervals around "over chance" hold 0.
coverage coverage_of(router_model const& m, int runs) {
  coverage c;
  for (int i = 0; i < runs; ++i) {
    auto const r = measured(simulate(m, static_cast<std::uint64_t>(3000 + i))).result();
    c.loads_first += holds(r.first_choice.over_loads, 0);
    c.loads_overlap += holds(r.overlap.over_loads, 0);
    c.shuffled_first += holds(r.first_choice.over_shuffled, 0);
    c.shuffled_overlap += holds(r.overlap.over_shuffled, 0);
  }
  return {c.loads_first / runs, c.loads_overlap / runs, c.shuffled_first / runs, c.shuffled_overlap / runs};
}

}  // namespace

TEST_CASE("locality: intervals under unequal loads and topics, quickly") {
  auto const c = coverage_of({.experts = 10, .slots = 3, .documents = 64, .tokens = 20}, 100);
  CHECK(c.loads_overlap >= 0.85);
  CHECK(c.shuffled_overlap >= 0.85);
  CHECK(c.shuffled_first >= 0.85);
}

TEST_SUITE_BEGIN("slow");

TEST_CASE("locality: intervals hold what they say under unequal loads and topics") {
  auto const plain = coverage_of({.experts = 10, .slots = 3, .documents = 64, .tokens = 20}, 2000);
  auto const topics = coverage_of({.experts = 10, .slots = 3, .documents = 64, .tokens = 20, .topic = 0.8}, 2000);
  MESSAGE("loads only: over_loads " << plain.loads_first << ", " << plain.loads_overlap << "; over_shuffled "
                                    << plain.shuffled_first << ", " << plain.shuffled_overlap);
  MESSAGE("topics: over_shuffled " << topics.shuffled_first << ", " << topics.shuffled_overlap
                                   << "; over_loads (topics are there) " << topics.loads_overlap);
  for (double const c : {plain.loads_first, plain.loads_overlap, plain.shuffled_first, plain.shuffled_overlap,
                         topics.shuffled_first, topics.shuffled_overlap}) {
    CHECK(c >= 0.93);
    CHECK(c <= 0.97);
  }
}

TEST_SUITE_END();

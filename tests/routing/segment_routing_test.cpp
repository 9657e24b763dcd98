// SPDX-License-Identifier: Apache-2.0
#include <moeroute/routing/segment_routing.hpp>

#include <cmath>
#include <cstdint>
#include <vector>

#include <doctest/doctest.h>

#include "support/containers.hpp"
#include "support/golden.hpp"
#include "support/laws.hpp"
#include "support/routing_data.hpp"
#include "support/routing_models.hpp"

using namespace moeroute;

namespace {

void feed(segment_routing& a, routing_data const& data, index_t first, index_t last) {
  auto const offsets = data.offsets_of(first, last);
  a.update(data.batch(first, last), document_spans({offsets.data(), static_cast<index_t>(offsets.size())},
                                                   {data.documents.data() + first, last - first}));
}

segment_routing_result measured(simulated_routing const& data, index_t window) {
  segment_routing a({data.experts, window});
  a.update(data.batch(), data.spans());
  return a.result();
}

}  // namespace

TEST_CASE("segment_routing: by hand") {
  // Expert 0 in tokens 0, 1, 2, expert 1 in 0 and 3; segments of two tokens: 0 is active in 2, 2, 1 of them, 1 in 1, 0, 1.
  std::vector<std::int16_t> const ids{0, 1, 0, -1, 0, 0, 1, -1};
  std::vector<std::int64_t> const offsets{0, 4}, documents{5};
  segment_routing a({3, 2, 1});
  a.update(routing_batch<>(3, {ids.data(), 4, 2}), document_spans({offsets.data(), 2}, {documents.data(), 1}));
  auto const r = a.result();
  CHECK(r.windows == 3);
  CHECK(r.of_expert[0] == doctest::Approx(2 * 5 / (6.0 + 5)));  // all three segments cover 5 of 5; two of them 4 of 5
  CHECK(r.threshold_of[0] == 0);
  CHECK(r.of_expert[1] == doctest::Approx(2 * 2 / (4.0 + 2)));
  CHECK(r.threshold_of[1] == 1);
  CHECK(std::isnan(r.of_expert[2]));
  CHECK(r.srp.value == doctest::Approx(2 * 7 / (10.0 + 7)));
  CHECK(r.threshold == 1);
  CHECK(std::isnan(r.srp.lower));
}

TEST_CASE("segment_routing: segments and thresholds one by one, in Python") {
  for (auto const& c : golden("segment_routing", "segment_routing")) {
    auto const experts = c["experts"].get<index_t>(), slots = c["slots"].get<index_t>();
    auto const ids = c["ids"].get<std::vector<std::int16_t>>();
    std::vector<std::int64_t> offsets{0}, documents;
    for (auto const& n : c["lengths"]) {
      offsets.push_back(offsets.back() + n.get<std::int64_t>());
      documents.push_back(9 + 5 * offsets.back());
    }
    for_each_matrix(static_cast<index_t>(offsets.back()), slots, ids, [&](char const* name, auto const& m) {
      INFO(name);
      segment_routing a({experts, c["window"].get<index_t>()});
      a.update(make_routing_batch(experts, m),
               document_spans({offsets.data(), static_cast<index_t>(offsets.size())},
                              {documents.data(), static_cast<index_t>(documents.size())}));
      auto const r = a.result();
      CHECK(r.windows == c["windows"].get<std::uint64_t>());
      CHECK(close(r.srp.value, c["srp"], 1e-14));
      CHECK(r.threshold == c["threshold"].get<index_t>());
      CHECK(close(r.chance, c["chance"], 1e-12));
      for (std::size_t e = 0; e < r.of_expert.size(); ++e) {
        if (c["of_expert"][e].is_null())
          CHECK(std::isnan(r.of_expert[e]));
        else
          CHECK(close(r.of_expert[e], c["of_expert"][e], 1e-14));
        CHECK(r.threshold_of[e] == c["threshold_of"][e].get<index_t>());
      }
    });
  }
}

TEST_CASE("segment_routing: laws") {
  auto const data = random_routing({}, 5);
  law_case<segment_routing> c{{7, 4, 3}, {7, 5, 3}, data.size(), [&](segment_routing& a, index_t first, index_t last) {
                                feed(a, data, first, last);
                              }};
  std::vector<std::int16_t> const ids{0, 1, 2};
  std::vector<std::int64_t> const offsets{0, 3}, short_offsets{0, 2}, documents{4};
  c.bad_updates = {
      [&](segment_routing& a) {
        a.update(routing_batch<>(8, {ids.data(), 3, 1}), document_spans({offsets.data(), 2}, {documents.data(), 1}));
      },
      [&](segment_routing& a) {
        a.update(routing_batch<>(7, {ids.data(), 3, 1}),
                 document_spans({short_offsets.data(), 2}, {documents.data(), 1}));
      }};
  check_accumulator_laws(c);
  CHECK_THROWS_AS(segment_routing({0}), argument_error);
  CHECK_THROWS_AS(segment_routing({4, 0}), argument_error);
  CHECK_THROWS_AS(segment_routing({4, 5000}), argument_error);
  CHECK_THROWS_AS(segment_routing({4, 4, 0}), argument_error);
  CHECK_THROWS_AS(segment_routing({4}).result(0), argument_error);
  CHECK(std::isnan(segment_routing({4}).result().srp.value));
}

TEST_CASE(
    "segment_routing: independent tokens stay at chance, sticky ones are above it, one segment choice is perfect") {
  int above = 0, sticky = 0;
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    auto const plain = measured(simulate({.documents = 64, .tokens = 80}, seed), 8);
    // A threshold chosen on the data gains a little; independent tokens are no further off than that.
    CHECK(std::abs(plain.srp.value - plain.chance) < 0.01);
    above += plain.srp.lower > plain.chance;
    auto const repeats = measured(simulate({.documents = 64, .tokens = 80, .sticky = 0.5}, seed), 8);
    sticky += repeats.srp.lower > repeats.chance + 0.01;
  }
  CHECK(above <= 3);
  CHECK(sticky == 20);
  CHECK(measured(simulate({.documents = 20, .tokens = 40, .sticky = 1}, 1), 8).srp.value == 1);
  CHECK(measured(simulate({.documents = 20, .tokens = 40}, 1), 1).srp.value == 1);
}

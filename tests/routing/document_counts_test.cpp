// SPDX-License-Identifier: Apache-2.0
#include <moeroute/routing/document_counts.hpp>

#include <limits>
#include <memory>

#include <doctest/doctest.h>

#include "support/laws.hpp"
#include "support/routing_data.hpp"

using namespace moeroute;

namespace {

void feed(document_counts& a, routing_data const& data, index_t first, index_t last) {
  auto const offsets = data.offsets_of(first, last);
  document_spans const spans({offsets.data(), static_cast<index_t>(offsets.size())},
                             {data.documents.data() + first, last - first});
  a.update(data.batch(first, last), spans, vector_view<std::int32_t>(data.rows.data() + first, last - first));
}

}  // namespace

TEST_CASE("document_counts: by hand") {
  std::vector<std::int16_t> const ids{0, 1, 1, 2, -1, 2};
  std::vector<std::int64_t> const offsets{0, 1, 1, 3}, documents{7, 8, 9};
  std::vector<std::int32_t> const rows{1, 0, 1};
  document_counts a({3, 2});
  a.update(routing_batch<>(3, {ids.data(), 3, 2}), document_spans({offsets.data(), 4}, {documents.data(), 3}),
           {rows.data(), 3});
  auto const r = a.result();
  CHECK(r.counts == std::vector<std::uint64_t>{0, 0, 0, 1, 2, 2});
  CHECK(r.tokens == std::vector<std::uint64_t>{0, 3});
  CHECK(a.count() == 3);
  CHECK(r.matrix()(1, 2) == 2);
}

TEST_CASE("document_counts: laws") {
  auto const data = random_routing({}, 21);
  law_case<document_counts> c{{7, 5}, {7, 6}, data.size(), [&](document_counts& a, index_t first, index_t last) {
                                feed(a, data, first, last);
                              }};
  auto const with_rows = [&](std::vector<std::int32_t> const& rows, std::vector<std::int64_t> const& offsets,
                             std::int16_t id) {
    return [=](document_counts& a) {
      std::vector<std::int16_t> const ids{0, 1, id};
      std::vector<std::int64_t> const documents{1, 2};
      a.update(routing_batch<>(7, {ids.data(), 3, 1}),
               document_spans({offsets.data(), static_cast<index_t>(offsets.size())}, {documents.data(), 2}),
               {rows.data(), static_cast<index_t>(rows.size())});
    };
  };
  c.bad_updates = {with_rows({0, 5}, {0, 1, 3}, 2), with_rows({0, -1}, {0, 1, 3}, 2), with_rows({0}, {0, 1, 3}, 2),
                   with_rows({0, 1}, {0, 1, 2}, 2), with_rows({0, 1}, {0, 1, 4}, 2),  with_rows({0, 1}, {0, 1, 3}, 7)};
  check_accumulator_laws(c);
  with_rows({0, 4}, {0, 1, 3}, 2)(
      *std::make_unique<document_counts>(document_counts_options{7, 5}));  // the good neighbour of the bad ones
}

TEST_CASE("document_counts: equals counting one by one, and its rows add up to the load") {
  for (std::uint64_t seed = 1; seed <= 10; ++seed) {
    auto const data = random_routing({9, 2, 12, 25, 0.1, 0}, seed);
    document_counts a({9, 5});
    feed(a, data, 0, data.size());
    std::vector<std::uint64_t> naive(5 * 9);
    for (std::size_t d = 0; d < data.documents.size(); ++d)
      for (auto t = data.offsets[d]; t < data.offsets[d + 1]; ++t)
        for (std::int64_t k = 0; k < 2; ++k)
          if (auto const id = data.ids[static_cast<std::size_t>(t * 2 + k)]; id >= 0)
            ++naive[static_cast<std::size_t>(data.rows[d] * 9 + id)];
    CHECK(a.result().counts == naive);
  }
}

TEST_CASE("document_counts: extremes") {
  CHECK(document_counts({4, 0}).result().counts.empty());
  CHECK_THROWS_AS(document_counts({0, 1}), argument_error);
  CHECK_THROWS_AS(document_counts({1, -1}), argument_error);
  auto const huge = std::numeric_limits<index_t>::max();
  CHECK_THROWS_AS(document_counts({huge, huge}), argument_error);
}

// SPDX-License-Identifier: Apache-2.0
#include <moeroute/routing/load.hpp>

#include <cmath>
#include <map>
#include <random>

#include <doctest/doctest.h>

#include "support/containers.hpp"
#include "support/laws.hpp"
#include "support/routing_data.hpp"

using namespace moeroute;

TEST_CASE("load: by hand") {
  std::vector<std::int16_t> const ids{0, 2, 2, 3, -1, 2};
  auto const r = load_of(matrix_view<std::int16_t>(ids.data(), 3, 2), 4);
  CHECK(r.counts == std::vector<std::uint64_t>{1, 0, 3, 1});
  CHECK(r.share == std::vector<double>{0.2, 0.0, 0.6, 0.2});
  CHECK(r.tokens == 3);
  CHECK(r.dropped == 1);
}

TEST_CASE("load: laws") {
  auto const data = random_routing({}, 11);
  law_case<load> c{
      {7}, {8}, data.size(), [&](load& a, index_t first, index_t last) { a.update(data.batch(first, last)); }};
  c.bad_updates = {[](load& a) {
                     std::vector<std::int16_t> const ids{0, 1, 7};
                     a.update(matrix_view<std::int16_t>(ids.data(), 1, 3));
                   },
                   [](load& a) {
                     std::vector<std::int16_t> const ids{0, 1, -2};
                     a.update(matrix_view<std::int16_t>(ids.data(), 1, 3));
                   },
                   [](load& a) {
                     std::vector<std::int16_t> const ids{0};
                     a.update(routing_batch<>(6, {ids.data(), 1, 1}));
                   }};
  check_accumulator_laws(c);
}

TEST_CASE("load: equals counting one by one") {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    auto const data =
        random_routing({static_cast<index_t>(4 + seed % 9), static_cast<index_t>(1 + seed % 4), 9, 30, 0.2, 0}, seed);
    std::map<int, std::uint64_t> naive;
    for (auto const id : data.ids) ++naive[id];
    load a({data.experts});
    a.update(data.batch());
    auto const r = a.result();
    CHECK(r.dropped == naive[-1]);
    double sum = 0;
    for (index_t e = 0; e < data.experts; ++e) {
      CHECK(r.counts[static_cast<std::size_t>(e)] == naive[static_cast<int>(e)]);
      sum += r.share[static_cast<std::size_t>(e)];
    }
    CHECK(sum == doctest::Approx(1).epsilon(1e-14));
  }
}

TEST_CASE("load: the same from every container and id type") {
  auto const data = random_routing({6, 2, 5, 9, 0.1, 0}, 3);
  auto const want = load_of(matrix_view<std::int16_t>(data.ids.data(), data.tokens(), 2), 6);
  auto const sweep = [&]<class Id>(std::vector<Id> const& ids) {
    for_each_matrix(data.tokens(), 2, ids, [&](char const* name, auto const& m) {
      INFO(name);
      auto const got = load_of(m, 6);
      CHECK(got.counts == want.counts);
      CHECK(got.dropped == want.dropped);
    });
  };
  sweep(data.ids);
  sweep(std::vector<std::int64_t>(data.ids.begin(), data.ids.end()));
}

TEST_CASE("load: relabelled experts, repeated data") {
  auto const data = random_routing({5, 2, 8, 20, 0.1, 0}, 5);
  auto const view = matrix_view<std::int16_t>(data.ids.data(), data.tokens(), 2);
  auto const r = load_of(view, 5);
  auto swapped = data.ids;
  for (auto& id : swapped)
    if (id >= 0) id = static_cast<std::int16_t>(4 - id);
  auto const mirrored = load_of(matrix_view<std::int16_t>(swapped.data(), data.tokens(), 2), 5);
  for (std::size_t e = 0; e < 5; ++e) CHECK(mirrored.counts[e] == r.counts[4 - e]);
  load twice({5});
  twice.update(view);
  twice.update(view);
  CHECK(twice.result().share == r.share);
}

TEST_CASE("load: extremes") {
  auto const nothing = load({3}).result();
  CHECK(nothing.counts == std::vector<std::uint64_t>{0, 0, 0});
  for (double const s : nothing.share) CHECK(std::isnan(s));

  std::vector<std::int16_t> const dropped{-1, -1};
  auto const all_dropped = load_of(matrix_view<std::int16_t>(dropped.data(), 2, 1), 2);
  CHECK(all_dropped.dropped == 2);
  CHECK(all_dropped.tokens == 2);
  CHECK(std::isnan(all_dropped.share[0]));

  std::vector<std::int16_t> const only{0, 0};
  CHECK(load_of(matrix_view<std::int16_t>(only.data(), 2, 1), 1).share == std::vector<double>{1.0});

  std::vector<std::uint8_t> bytes(256);
  for (std::size_t i = 0; i < 256; ++i) bytes[i] = static_cast<std::uint8_t>(i);
  auto const all = load_of(matrix_view<std::uint8_t>(bytes.data(), 1, 256), 256);  // K = E
  CHECK(std::all_of(all.counts.begin(), all.counts.end(), [](auto n) { return n == 1; }));

  CHECK_THROWS_AS(load({0}), argument_error);
  CHECK_THROWS_AS(load({-1}), argument_error);
  CHECK_THROWS_WITH_AS(load_of(matrix_view<std::int16_t>(only.data(), 2, 1), 0),
                       "moeroute::load: experts = 0, must be positive", argument_error);
}

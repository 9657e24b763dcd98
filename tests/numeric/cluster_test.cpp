// SPDX-License-Identifier: Apache-2.0
#include <moeroute/numeric/cluster.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <set>
#include <vector>

#include <doctest/doctest.h>

#include "support/containers.hpp"
#include "support/golden.hpp"

using namespace moeroute;

namespace {

std::vector<double> distances(std::vector<double> const& points) {
  std::vector<double> d;
  for (double const a : points)
    for (double const b : points) d.push_back(std::abs(a - b));
  return d;
}

matrix_view<double> square(std::vector<double> const& d) {
  auto const n = static_cast<index_t>(std::sqrt(static_cast<double>(d.size())) + 0.5);
  return {d.data(), n, n};
}

}  // namespace

TEST_CASE("average_linkage: by hand") {
  // 0 and 1 unite at 1; 10 joins at the mean of 10 and 9.
  auto const r = average_linkage(square(distances({0, 10, 1})));
  REQUIRE(r.unions.size() == 2);
  CHECK(r.unions[0].first == 0);
  CHECK(r.unions[0].second == 2);
  CHECK(r.unions[0].height == 1);
  CHECK(r.unions[0].size == 2);
  CHECK(r.unions[1].first == 1);
  CHECK(r.unions[1].second == 3);
  CHECK(r.unions[1].height == 9.5);
  CHECK(r.unions[1].size == 3);
  CHECK(r.order == std::vector<index_t>{1, 0, 2});
}

TEST_CASE("average_linkage: scipy, in every container") {
  for (auto const& c : golden("assignment", "cluster")) {
    auto const rows = c["distance"].get<std::vector<std::vector<double>>>();
    std::vector<double> d;
    for (auto const& r : rows) d.insert(d.end(), r.begin(), r.end());
    auto const n = static_cast<index_t>(rows.size());
    for_each_matrix(n, n, d, [&](char const* name, auto const& m) {
      INFO(name);
      auto const r = average_linkage(m);
      REQUIRE(r.unions.size() == c["height"].size());
      for (std::size_t u = 0; u < r.unions.size(); ++u) {
        CHECK(r.unions[u].first == c["first"][u].get<index_t>());
        CHECK(r.unions[u].second == c["second"][u].get<index_t>());
        CHECK(close(r.unions[u].height, c["height"][u].get<double>(), 1e-13));
        CHECK(r.unions[u].size == c["size"][u].get<index_t>());
      }
      CHECK(r.order == c["order"].get<std::vector<index_t>>());
    });
  }
}

TEST_CASE("average_linkage: every union is the closest pair of a slow search, its height the mean over member pairs") {
  std::mt19937_64 random(3);
  std::uniform_real_distribution<double> uniform;
  std::uniform_int_distribution<int> few(0, 3);
  for (int run = 0; run < 60; ++run) {
    std::size_t const n = 2 + static_cast<std::size_t>(run) % 14;
    std::vector<double> d(n * n);
    for (std::size_t i = 0; i < n; ++i)
      for (std::size_t j = 0; j < i; ++j) d[i * n + j] = d[j * n + i] = run % 3 ? uniform(random) : few(random);
    auto const r = average_linkage(square(d));
    std::vector<std::set<std::size_t>> members(n);
    for (std::size_t i = 0; i < n; ++i) members[i] = {i};
    std::set<std::size_t> open;
    for (std::size_t i = 0; i < n; ++i) open.insert(i);
    auto const between = [&](std::size_t a, std::size_t b) {
      double sum = 0;
      for (auto const i : members[a])
        for (auto const j : members[b]) sum += d[i * n + j];
      return sum / static_cast<double>(members[a].size() * members[b].size());
    };
    for (auto const& u : r.unions) {
      auto const a = static_cast<std::size_t>(u.first), b = static_cast<std::size_t>(u.second);
      REQUIRE(open.count(a) == 1);
      REQUIRE(open.count(b) == 1);
      double least = std::numeric_limits<double>::infinity();
      for (auto const x : open)
        for (auto const y : open)
          if (x < y) least = std::min(least, between(x, y));
      CHECK(close(u.height, between(a, b), 1e-12));
      if (run % 3) CHECK(close(u.height, least, 1e-12));  // with ties other closest pairs are as good
      open.erase(a);
      open.erase(b);
      open.insert(members.size());
      auto both = members[a];
      both.insert(members[b].begin(), members[b].end());
      CHECK(static_cast<index_t>(both.size()) == u.size);
      members.push_back(both);
    }
    CHECK(std::is_sorted(r.unions.begin(), r.unions.end(), [](auto& x, auto& y) { return x.height < y.height; }));
    auto sorted = r.order;
    std::sort(sorted.begin(), sorted.end());
    for (std::size_t i = 0; i < n; ++i) CHECK(sorted[i] == static_cast<index_t>(i));
  }
}

TEST_CASE("average_linkage: groups come out as blocks of the order") {
  std::mt19937_64 random(4);
  std::uniform_real_distribution<double> within(0, 1), between(3, 4);
  std::size_t const n = 24;
  std::vector<double> d(n * n);
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j < i; ++j) d[i * n + j] = d[j * n + i] = i % 4 == j % 4 ? within(random) : between(random);
  auto const order = average_linkage(square(d)).order;
  int changes = 0;
  for (std::size_t i = 1; i < n; ++i) changes += order[i] % 4 != order[i - 1] % 4;
  CHECK(changes == 3);
}

TEST_CASE("average_linkage: nothing to unite, and what is no distance") {
  std::vector<double> d{0, 1, 1, 0};
  CHECK(average_linkage(matrix_view<double>(d.data(), 0, 0)).order.empty());
  auto const one = average_linkage(matrix_view<double>(d.data(), 1, 1));
  CHECK(one.unions.empty());
  CHECK(one.order == std::vector<index_t>{0});
  CHECK_THROWS_AS(average_linkage(matrix_view<double>(d.data(), 1, 2)), shape_error);
  d[0] = quiet_nan;  // the diagonal is not read
  CHECK(average_linkage(matrix_view<double>(d.data(), 2, 2)).unions[0].height == 1);
  d[1] = 1.1;
  CHECK_THROWS_AS(average_linkage(matrix_view<double>(d.data(), 2, 2)), argument_error);
  for (double const bad : {quiet_nan, -1.0, std::numeric_limits<double>::infinity()}) {
    d[1] = d[2] = bad;
    CHECK_THROWS_AS(average_linkage(matrix_view<double>(d.data(), 2, 2)), argument_error);
  }
}

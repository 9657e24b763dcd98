// SPDX-License-Identifier: Apache-2.0
#include <moeroute/numeric/assignment.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "support/containers.hpp"
#include "support/golden.hpp"

using namespace moeroute;

namespace {

constexpr auto minimum = assignment_goal::minimum, maximum = assignment_goal::maximum;

matrix_view<double> view(std::vector<double> const& x, index_t rows, index_t cols) { return {x.data(), rows, cols}; }

// Every way to pair off: rows at most columns.
double best_of_all(matrix_view<double> m) {
  std::vector<index_t> columns(static_cast<std::size_t>(m.cols()));
  std::iota(columns.begin(), columns.end(), index_t{0});
  double best = std::numeric_limits<double>::infinity();
  do {
    double total = 0;
    for (index_t r = 0; r < m.rows(); ++r) total += m(r, columns[static_cast<std::size_t>(r)]);
    best = std::min(best, total);
  } while (std::next_permutation(columns.begin(), columns.end()));
  return best;
}

// Each column at most once, as many pairs as there can be, and the total is theirs.
void check_valid(matrix_view<double> m, assignment_result const& a) {
  REQUIRE(a.column.size() == static_cast<std::size_t>(m.rows()));
  std::vector<int> used(static_cast<std::size_t>(m.cols()));
  index_t pairs = 0;
  double total = 0;
  for (index_t r = 0; r < m.rows(); ++r) {
    auto const c = a.column[static_cast<std::size_t>(r)];
    if (c < 0) continue;
    REQUIRE(c < m.cols());
    ++used[static_cast<std::size_t>(c)];
    ++pairs;
    total += m(r, c);
  }
  CHECK(std::all_of(used.begin(), used.end(), [](int n) { return n <= 1; }));
  CHECK(pairs == std::min(m.rows(), m.cols()));
  CHECK(close(a.total, total, 1e-12));
}

}  // namespace

TEST_CASE("assign: by hand") {
  // Greedy takes the 1 and must then pay 100; the best takes 2 + 2.
  std::vector<double> const x{1, 2, 2, 100};
  auto const a = assign(view(x, 2, 2));
  CHECK(a.column == std::vector<index_t>{1, 0});
  CHECK(a.total == 4);
  CHECK(assign(view(x, 2, 2), maximum).total == 101);
  std::vector<double> const tall{5, 1, 9};
  CHECK(assign(view(tall, 3, 1)).column == std::vector<index_t>{-1, 0, -1});
  CHECK(assign(view(tall, 1, 3), maximum).column == std::vector<index_t>{2});
}

TEST_CASE("assign: scipy, in every container") {
  for (auto const& c : golden("assignment", "assignment")) {
    auto const rows = c["values"].get<std::vector<std::vector<double>>>();
    std::vector<double> x;
    for (auto const& r : rows) x.insert(x.end(), r.begin(), r.end());
    for_each_matrix(static_cast<index_t>(rows.size()), static_cast<index_t>(rows[0].size()), x,
                    [&](char const* name, auto const& m) {
                      INFO(name);
                      auto const a = assign(m, c["maximum"].get<bool>() ? maximum : minimum);
                      CHECK(a.column == c["column"].get<std::vector<index_t>>());
                      CHECK(close(a.total, c["total"].get<double>(), 1e-13));
                    });
  }
  for (auto const& c : golden("assignment", "tied")) {
    auto const rows = c["values"].get<std::vector<std::vector<double>>>();
    std::vector<double> x;
    for (auto const& r : rows) x.insert(x.end(), r.begin(), r.end());
    auto const m = view(x, static_cast<index_t>(rows.size()), static_cast<index_t>(rows[0].size()));
    auto const a = assign(m, c["maximum"].get<bool>() ? maximum : minimum);
    check_valid(m, a);
    CHECK(a.total == c["total"].get<double>());
  }
}

TEST_CASE("assign: the best of all permutations; integers, ties and negative values too") {
  std::mt19937_64 random(1);
  std::uniform_int_distribution<int> value(-3, 3);
  std::normal_distribution<double> normal;
  for (int i = 0; i < 400; ++i) {
    index_t const rows = 1 + i % 5, cols = rows + i % 3;
    std::vector<double> x;
    for (index_t j = 0; j < rows * cols; ++j) x.push_back(i % 2 ? value(random) : normal(random));
    auto const m = view(x, rows, cols);
    auto const a = assign(m);
    check_valid(m, a);
    CHECK(close(a.total, best_of_all(m), 1e-12));
    auto const turned = matrix_view<double>(x.data(), cols, rows, 1, cols);
    auto const b = assign(turned);
    check_valid(turned, b);
    CHECK(close(b.total, a.total, 1e-12));
    for (double& v : x) v = -v;
    CHECK(close(assign(m, maximum).total, -a.total, 1e-12));
  }
  std::vector<int> const whole{4, 1, 3, 2, 0, 5, 3, 2, 2};
  CHECK(assign(matrix_view<int>(whole.data(), 3, 3)).total == 5);
}

TEST_CASE("assign: a hidden permutation is found; a constant for a row or column changes nothing") {
  std::mt19937_64 random(2);
  std::uniform_real_distribution<double> noise;
  index_t const n = 60;
  std::vector<index_t> hidden(static_cast<std::size_t>(n));
  std::iota(hidden.begin(), hidden.end(), index_t{0});
  std::shuffle(hidden.begin(), hidden.end(), random);
  std::vector<double> x;
  for (index_t r = 0; r < n; ++r)
    for (index_t c = 0; c < n; ++c) x.push_back(noise(random) + (hidden[static_cast<std::size_t>(r)] == c ? 1.0 : 0.0));
  CHECK(assign(view(x, n, n), maximum).column == hidden);
  for (index_t r = 0; r < n; ++r)
    for (index_t c = 0; c < n; ++c) x[static_cast<std::size_t>(r * n + c)] += 100.0 * static_cast<double>(r - 2 * c);
  CHECK(assign(view(x, n, n), maximum).column == hidden);
}

TEST_CASE("assign: nothing to assign, and what cannot be") {
  std::vector<double> x{1, 2, 3, 4};
  CHECK(assign(view(x, 0, 4)).column.empty());
  auto const none = assign(view(x, 4, 0));
  CHECK(none.column == std::vector<index_t>{-1, -1, -1, -1});
  CHECK(none.total == 0);
  for (double const bad : {quiet_nan, std::numeric_limits<double>::infinity()}) {
    x[2] = bad;
    CHECK_THROWS_AS(assign(view(x, 2, 2)), argument_error);
    try {
      assign(matrix_view<double>(x.data(), 4, 1));
    } catch (argument_error const& e) {
      CHECK(std::string(e.what()).find("row 2, column 0") != std::string::npos);
    }
  }
}

// SPDX-License-Identifier: Apache-2.0
#include <moeroute/weights/expert_gram.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

#include <doctest/doctest.h>

#include "support/containers.hpp"
#include "support/golden.hpp"
#include "support/laws.hpp"

using namespace moeroute;

namespace {

template <class T>
T narrowed(double x) {
  if constexpr (std::is_same_v<T, bf16>)
    return to_bf16(static_cast<float>(x));
  else if constexpr (std::is_same_v<T, f16>)
    return to_f16(static_cast<float>(x));
  else
    return static_cast<T>(x);
}

template <class T>
std::vector<T> normal(index_t n, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> law;
  std::vector<T> x;
  for (index_t i = 0; i < n; ++i) x.push_back(narrowed<T>(law(random)));
  return x;
}

// The largest error of any dot product, in units of the bound that the header states.
template <class T>
double error_in_bounds(expert_gram_result const& r, std::vector<vector_view<T>> const& rows) {
  auto const experts = r.dots.shape()[1];
  double const bound = std::is_same_v<T, double> ? 132 * 0x1p-53 : 68 * 0x1p-24;
  double worst = 0;
  for (std::size_t p = 0; p < r.pairs.size(); ++p)
    for (std::size_t i = 0; i < experts; ++i)
      for (std::size_t j = 0; j < experts; ++j) {
        auto const a = rows[static_cast<std::size_t>(r.pairs[p].first) * experts + i],
                   b = rows[static_cast<std::size_t>(r.pairs[p].second) * experts + j];
        long double sum = 0, size = 0;
        for (index_t c = 0; c < a.size(); ++c) {
          auto const product = static_cast<long double>(to_compute(a[c])) * static_cast<long double>(to_compute(b[c]));
          sum += product;
          size += std::abs(product);
        }
        worst = std::max(worst, static_cast<double>(std::abs(r.dots(p, i, j) - sum) / (bound * size)));
      }
  return worst;
}

template <class T>
std::vector<vector_view<T>> rows_of(std::vector<T> const& x, index_t rows) {
  auto const n = static_cast<index_t>(x.size()) / rows;
  std::vector<vector_view<T>> views;
  for (index_t r = 0; r < rows; ++r) views.emplace_back(x.data() + r * n, n);
  return views;
}

}  // namespace

TEST_CASE("expert_gram: by hand, with the order of pairs") {
  std::vector<float> const w{1, 0, 0, 1, 3, 4, 1, 1, 0, 2, 5, 0};  // 3 layers of 2 experts of 2 weights
  expert_gram g({.layers = 3, .experts = 2, .deltas = {2}});
  g.update(matrix_view<float>(w.data(), 6, 2));
  auto const r = g.result();
  CHECK(r.columns == 2);
  CHECK(r.pairs == std::vector<expert_layer_pair>{{0, 0}, {1, 1}, {2, 2}, {0, 2}});
  std::vector<double> const dots(r.dots.begin(), r.dots.end());
  CHECK(dots == std::vector<double>{1, 0, 0, 1, 25, 7, 7, 2, 4, 0, 0, 25, 0, 5, 2, 0});
}

TEST_CASE("expert_gram: equals exact fractions") {
  auto const g = golden("gate", "expert_gram");
  std::vector<double> wide, exact;
  for (auto const& row : g["tile"]) wide.insert(wide.end(), row.begin(), row.end());
  for (auto const& row : g["dots"]) exact.insert(exact.end(), row.begin(), row.end());
  std::vector<float> const narrow(wide.begin(), wide.end());
  auto const n = static_cast<index_t>(wide.size() / 6);
  expert_gram a({.layers = 1, .experts = 6, .deltas = {}}), b(a.options());
  a.update(matrix_view<double>(wide.data(), 6, n));
  b.update(matrix_view<float>(narrow.data(), 6, n));
  auto const in_double = a.result().dots, in_float = b.result().dots;
  for (std::size_t i = 0; i < exact.size(); ++i) {
    CHECK(close(in_double.data()[i], exact[i], 1e-14));
    CHECK(std::abs(in_float.data()[i] - exact[i]) < 2e-4);  // 700 products of order 1 in binary32
  }
}

TEST_CASE_TEMPLATE("expert_gram: within the stated bound of sums in long double", T, float, double, bf16, f16) {
  for (index_t const experts : {1, 2, 5, 9})
    for (index_t const n : {1, 7, 16, 1023, 1024, 1025, 3000}) {
      auto const w = normal<T>(2 * experts * n, static_cast<std::uint64_t>(10 * n + experts));
      expert_gram g({.layers = 2, .experts = experts, .deltas = {1}});
      g.update(matrix_view<T>(w.data(), 2 * experts, n));
      auto const worst = error_in_bounds(g.result(), rows_of(w, 2 * experts));
      INFO(experts << " experts, " << n << " weights: " << worst << " of the bound");
      CHECK(worst <= 1);
      for (std::size_t i = 0; i < static_cast<std::size_t>(experts); ++i)
        for (std::size_t j = 0; j < i; ++j) CHECK(g.result().dots(0, i, j) == g.result().dots(0, j, i));
    }
}

TEST_CASE("expert_gram: no error in whole numbers that binary32 holds; long sums do not drift") {
  // All products positive, 300,000 columns: a plain float sum would be off by far more than this.
  index_t const n = 300000;
  std::vector<float> const w(static_cast<std::size_t>(2 * n), 0.1f);
  expert_gram g({.layers = 1, .experts = 2});
  g.update(matrix_view<float>(w.data(), 2, n));
  double const exact = static_cast<double>(0.1f) * static_cast<double>(0.1f) * static_cast<double>(n);
  CHECK(std::abs(g.result().dots(0, 0, 1) / exact - 1) < 1e-6);
  std::vector<float> whole;
  for (index_t i = 0; i < 2 * n; ++i) whole.push_back(static_cast<float>(i * 7919 % 23 - 11));
  expert_gram h({.layers = 1, .experts = 2});
  h.update(matrix_view<float>(whole.data(), 2, n));
  CHECK(h.result().dots(0, 0, 1) == std::inner_product(whole.begin(), whole.begin() + n, whole.begin() + n, 0.0));
}

TEST_CASE_TEMPLATE("expert_gram: the same bits at every dispatch level and for every number of threads", T, float,
                   double, bf16, f16) {
  index_t const n = 3 * 65536 + 1024 + 777;  // more chunks than threads; a short block after a full one
  auto const w = normal<T>(3 * n, 5);
  expert_gram const empty({.layers = 1, .experts = 3});
  auto first = empty;
  first.update(matrix_view<T>(w.data(), 3, n));
  for (int const threads : {2, 3, 7}) {
    auto g = empty;
    g.update(matrix_view<T>(w.data(), 3, n), threads);
    CHECK(g.serialize() == first.serialize());
  }
  for (auto const level : {simd_level::baseline, simd_level::avx2, simd_level::avx512}) {
    detail::limit_simd_level(level);
    auto g = empty;
    g.update(matrix_view<T>(w.data(), 3, n));
    CHECK(g.serialize() == first.serialize());
  }
  detail::limit_simd_level(simd_level::avx512);
}

TEST_CASE("expert_gram: the same in every container, and from one vector per expert") {
  auto const w = normal<float>(6 * 40, 3);
  expert_gram const empty({.layers = 2, .experts = 3, .deltas = {1}});
  auto first = empty;
  first.update(matrix_view<float>(w.data(), 6, 40));
  for_each_matrix(6, 40, w, [&](char const* name, auto const& m) {
    INFO(name);
    auto g = empty;
    g.update(m);
    CHECK(g == first);
  });
  auto g = empty;
  g.update(rows_of(w, 6));
  CHECK(g == first);
  std::vector<std::vector<float>> owned;
  for (auto const& row : rows_of(w, 6)) owned.emplace_back(row.data(), row.data() + row.size());
  auto h = empty;
  h.update(owned);
  CHECK(h == first);
}

TEST_CASE("expert_gram: a strided tile of more than one block leaves nothing of the block before in the last one") {
  auto const w = normal<float>(2 * 1033, 4);
  expert_gram const empty({.layers = 1, .experts = 2});
  auto first = empty;
  first.update(matrix_view<float>(w.data(), 2, 1033));
  for_each_matrix(2, 1033, w, [&](char const* name, auto const& m) {
    INFO(name);
    auto g = empty;
    g.update(m);
    CHECK(g == first);
  });
}

TEST_CASE("expert_gram: tiles add up, in any order; a tile counted several times") {
  auto const w = normal<double>(4 * 5000, 8);
  expert_gram const empty({.layers = 2, .experts = 2, .deltas = {1}});
  auto whole = empty, tiles = empty;
  whole.update(rows_of(w, 4));
  for (index_t const first : {3000, 0, 1000}) {
    auto rows = rows_of(w, 4);
    index_t const n = first == 1000 ? 2000 : first == 0 ? 1000 : 2000;
    for (auto& row : rows) row = {row.data() + first, n};
    tiles.update(rows);
  }
  auto const a = whole.result(), b = tiles.result();
  CHECK(a.columns == b.columns);
  for (std::size_t i = 0; i < a.dots.size(); ++i) CHECK(close(a.dots.flat(i) / 5000, b.dots.flat(i) / 5000, 1e-14));
  auto thrice = empty;
  thrice.update(rows_of(w, 4), 1, 3);
  CHECK(thrice.count() == 15000);
  for (std::size_t i = 0; i < a.dots.size(); ++i) CHECK(thrice.result().dots.flat(i) == 3 * a.dots.flat(i));
  auto none = empty;
  none.update(rows_of(w, 4), 1, 0);
  CHECK(none == empty);
}

TEST_CASE("expert_gram: weights that are not finite spoil their own expert only") {
  auto w = normal<float>(3 * 50, 1);
  w[60] = std::numeric_limits<float>::quiet_NaN();
  expert_gram g({.layers = 1, .experts = 3});
  g.update(matrix_view<float>(w.data(), 3, 50));
  auto r = g.result();
  for (std::size_t e = 0; e < 3; ++e) CHECK(std::isnan(r.dots(0, 1, e)));
  CHECK(std::isfinite(r.dots(0, 0, 2)));
  w[60] = std::numeric_limits<float>::infinity();
  expert_gram h({.layers = 1, .experts = 3});
  h.update(matrix_view<float>(w.data(), 3, 50));
  CHECK(std::isinf(h.result().dots(0, 1, 1)));
  CHECK(std::isfinite(h.result().dots(0, 2, 2)));
}

TEST_CASE("expert_gram: accumulator laws") {
  auto const w = normal<float>(4 * 2600, 77);
  law_case<expert_gram> c;
  c.options = {.layers = 2, .experts = 2, .deltas = {1}};
  c.other_options = {.layers = 2, .experts = 2};
  c.documents = 2600;  // columns
  c.feed = [&](expert_gram& g, index_t first, index_t last) {
    g.update(matrix_view<float>(w.data() + first, 4, last - first, 2600, 1));
  };
  c.bad_updates = {[&](expert_gram& g) { g.update(matrix_view<float>(w.data(), 3, 10)); },
                   [&](expert_gram& g) {
                     g.update(std::vector<std::vector<float>>{{1, 2}, {1, 2}, {1}, {1, 2}});
                   }};
  c.same = [](expert_gram const& a, expert_gram const& b) {
    auto const x = a.result(), y = b.result();
    if (a.options() != b.options() || x.columns != y.columns) return false;
    auto const n = static_cast<double>(x.columns);  // squared norms are about n
    for (std::size_t i = 0; i < x.dots.size(); ++i)
      if (std::abs(x.dots.flat(i) - y.dots.flat(i)) > 2 * 68 * 0x1p-24 * n) return false;
    return true;
  };
  check_accumulator_laws(c);
}

TEST_CASE("expert_gram: options are checked, no columns are no columns") {
  CHECK_THROWS_AS(expert_gram({.layers = 0, .experts = 2}), argument_error);
  CHECK_THROWS_AS(expert_gram({.layers = 2, .experts = 0}), argument_error);
  CHECK_THROWS_AS(expert_gram({.layers = 3, .experts = 2, .deltas = {0}}), argument_error);
  CHECK_THROWS_AS(expert_gram({.layers = 3, .experts = 2, .deltas = {3}}), argument_error);
  CHECK_THROWS_AS(expert_gram({.layers = 3, .experts = 2, .deltas = {2, 1}}), argument_error);
  CHECK_THROWS_AS(expert_gram({.layers = 3, .experts = 2, .deltas = {1, 1}}), argument_error);
  CHECK_THROWS_AS(expert_gram({.layers = 100000, .experts = 2}), argument_error);
  expert_gram g({.layers = 1, .experts = 2});
  float const x = 0;
  g.update(matrix_view<float>(&x, 2, 0));
  CHECK(g.count() == 0);
  CHECK(g.result().dots(0, 1, 1) == 0);
}

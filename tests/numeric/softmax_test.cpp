// SPDX-License-Identifier: Apache-2.0
#include <moeroute/numeric/softmax.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include <doctest/doctest.h>

#include "support/golden.hpp"
#include "support/kernels.hpp"

using namespace moeroute;

namespace {

constexpr float inf = std::numeric_limits<float>::infinity();
constexpr float nan_f = std::numeric_limits<float>::quiet_NaN();

template <class T>
std::vector<T> logits(index_t rows, index_t n, double spread = 2) {
  plain_random random(static_cast<std::uint64_t>(rows * 1000 + n));
  std::vector<T> z(static_cast<std::size_t>(rows * n));
  for (auto& v : z) v = scalar<T>(spread * random.bell());
  return z;
}

template <class T>
std::vector<compute_t<T>> probabilities(std::vector<T> const& z) {
  std::vector<compute_t<T>> p(z.size());
  softmax_row(z.data(), index_t(z.size()), p.data());
  return p;
}

template <class T>
exact_sums accumulated(matrix_view<T> z, double bound = 1) {
  exact_sums s(z.cols(), bound);
  softmax_accumulate(z, s);
  return s;
}

/// Everything that the kernels answer for rows of type T.
template <class T>
std::uint64_t all_answers() {
  hash h;
  for (index_t const n : {1, 2, 7, 8, 15, 16, 17, 31, 32, 33, 60, 64, 65, 160, 256, 384, 513, 1000}) {
    auto const z = logits<T>(5, n);
    matrix_view<T> const m(z.data(), 5, n);
    std::vector<compute_t<T>> p(z.size());
    softmax_rows(m, p.data());
    for (auto const v : p) h.add(v);
    sigmoid_rows(m, p.data());
    for (auto const v : p) h.add(v);
    auto const s = accumulated(m);
    for (index_t i = 0; i < n; ++i) h.add(s.words(i));
  }
  return h.value();
}

template <class T>
void same_bits_everywhere(std::uint64_t expected) {
  for (auto const level : levels()) {
    at_level const scope(level);
    CHECK(all_answers<T>() == expected);
  }
}

template <class T>
void near_golden(nlohmann::json const& g, double sigmoid_ulps) {
  auto const z = g["z"].get<std::vector<T>>();
  auto const n = index_t(z.size());
  constexpr double ulp = std::numeric_limits<T>::epsilon();
  double const top = static_cast<double>(*std::max_element(z.begin(), z.end()));
  std::vector<T> p(z.size()), s(z.size());
  softmax_row(z.data(), n, p.data());
  sigmoid_row(z.data(), n, s.data());
  for (std::size_t i = 0; i < z.size(); ++i) {
    double const exact = g["softmax"][i].get<double>();
    CHECK(std::abs(static_cast<double>(p[i]) - exact) <=
          exact * ulp * (4 + top - static_cast<double>(z[i])) + std::numeric_limits<T>::min());
    CHECK(ulps(s[i], g["sigmoid"][i].get<double>()) <= sigmoid_ulps);
  }
  double const exact = g["log_sum_exp"].get<double>();
  CHECK(std::abs(log_sum_exp_row(z.data(), n) - exact) <= 3 * ulp + std::abs(exact) * 0x1p-53);
}

template <class T>
void accumulating_equals_storing() {
  for (index_t const n : {1, 7, 16, 60, 64, 100}) {
    for (index_t const rows : {1, 3, 2047, 2048, 2049, 4100}) {
      auto const z = logits<T>(rows, n);
      matrix_view<T> const m(z.data(), rows, n);
      std::vector<compute_t<T>> p(z.size());
      softmax_rows(m, p.data());
      exact_sums stored(n);
      stored.add_rows(matrix_view<compute_t<T>>(p.data(), rows, n));
      CHECK(accumulated(m) == stored);
      if (rows < 3) continue;
      auto split = accumulated(m.rows_from(1, rows - 1));
      split.merge(accumulated(m.rows_from(0, 1)));
      CHECK(split == stored);
    }
  }
}

}  // namespace

TEST_CASE("softmax: near the values in 60 digits") {
  for (auto const& g : golden("kernels", "rows"))
    if (g["type"] == "float32")
      near_golden<float>(g, 3);
    else
      near_golden<double>(g, 3);
}

TEST_CASE("softmax: the same bits at every level and with every compiler") {
  same_bits_everywhere<float>(8522383244456483207u);
  same_bits_everywhere<double>(25088042395144300u);
  same_bits_everywhere<bf16>(15352691549569032126u);
  same_bits_everywhere<f16>(14967724456845389291u);
}

TEST_CASE("softmax: adding rows to exact sums equals storing them and adding, in any split") {
  accumulating_equals_storing<float>();
  accumulating_equals_storing<double>();
  accumulating_equals_storing<bf16>();
}

TEST_CASE("softmax: error of a mean over many rows") {
  auto const mean_error = []<class T>(T) {
    constexpr index_t rows = 20000, n = 64;
    auto const z = logits<T>(rows, n);
    auto const s = accumulated(matrix_view<T>(z.data(), rows, n));
    std::vector<long double> exact(n);
    for (index_t r = 0; r < rows; ++r) {
      long double e[n], total = 0;
      for (index_t i = 0; i < n; ++i)
        total += e[i] = std::exp(static_cast<long double>(z[static_cast<std::size_t>(r * n + i)]));
      for (index_t i = 0; i < n; ++i) exact[static_cast<std::size_t>(i)] += e[i] / total;
    }
    double worst = 0;
    for (index_t i = 0; i < n; ++i) {
      auto const want = static_cast<double>(exact[static_cast<std::size_t>(i)]);
      worst = std::max(worst, std::abs(s.sum(i) - want) / want);
    }
    return worst;
  };
  CHECK(mean_error(0.f) < 1e-8);
  CHECK(mean_error(0.) < 2e-16);
}

TEST_CASE("softmax: strided rows and columns, 16-bit logits, wider results, in place") {
  constexpr index_t rows = 6, n = 37;
  auto const z = logits<float>(rows, n);
  matrix_view<float> const m(z.data(), rows, n);
  std::vector<float> p(z.size()), q(z.size());
  softmax_rows(m, p.data());

  std::vector<float> transposed(z.size());
  for (index_t r = 0; r < rows; ++r)
    for (index_t i = 0; i < n; ++i) transposed[static_cast<std::size_t>(i * rows + r)] = m(r, i);
  matrix_view<float> const by_column(transposed.data(), rows, n, 1, rows);
  softmax_rows(by_column, q.data());
  CHECK(q == p);
  CHECK(accumulated(by_column) == accumulated(m));
  std::vector<double> l(rows), k(rows);
  log_sum_exp_rows(m, l.data());
  log_sum_exp_rows(by_column, k.data());
  CHECK(k == l);

  matrix_view<float> const every_other(z.data(), rows / 2, n, 2 * n, 1);
  softmax_rows(every_other, q.data());
  CHECK(std::equal(q.begin() + n, q.begin() + 2 * n, p.begin() + 2 * n));

  std::vector<double> wide(n);
  softmax_row(z.data(), n, wide.data());
  CHECK(std::equal(wide.begin(), wide.end(), p.begin()));

  auto in_place = z;
  softmax_row(in_place.data(), n, in_place.data());
  CHECK(std::equal(in_place.begin(), in_place.begin() + n, p.begin()));

  std::vector<bf16> b(n);
  std::vector<float> widened(n), from_b(n), from_w(n);
  for (std::size_t i = 0; i < b.size(); ++i) {
    b[i] = to_bf16(z[i]);
    widened[i] = to_float(b[i]);
  }
  softmax_row(b.data(), n, from_b.data());
  softmax_row(widened.data(), n, from_w.data());
  CHECK(from_b == from_w);
}

TEST_CASE("softmax: what is not finite") {
  // A masked expert has probability 0, the others as if it were not there.
  auto const masked = probabilities(std::vector<float>{1, -inf, 2, -inf});
  auto const without = probabilities(std::vector<float>{1, 2});
  CHECK(masked == std::vector<float>{without[0], 0, without[1], 0});
  for (auto const& bad :
       {std::vector<float>{1, nan_f, 2}, {1, inf, 2}, {-inf, -inf}, {inf, inf}, {nan_f}, {-inf, nan_f}})
    for (float const p : probabilities(bad)) CHECK(std::isnan(p));
  std::vector<float> long_row(70, -1.f);
  long_row[69] = nan_f;  // in the last, incomplete register
  CHECK(std::isnan(probabilities(long_row)[0]));
  CHECK(probabilities(std::vector<float>{3e38f, -3e38f, 3e38f}) == std::vector<float>{0.5f, 0, 0.5f});
  CHECK(probabilities(std::vector<float>(5, std::numeric_limits<float>::lowest())) == std::vector<float>(5, 0.2f));
  CHECK(probabilities(std::vector<double>{-1e308, 1e308}) == std::vector<double>{0, 1});

  auto const lse = [](std::vector<float> const& z) { return log_sum_exp_row(z.data(), index_t(z.size())); };
  CHECK(std::isnan(lse({1, nan_f})));
  CHECK(std::isnan(lse({inf, nan_f})));
  CHECK(lse({1, inf, -inf}) == inf);
  CHECK(lse({-inf, -inf}) == -inf);
  CHECK(lse({}) == -inf);
  CHECK(lse({-inf, 3.f}) == 3.0);
  CHECK(lse({1000.f, 1000.f}) == doctest::Approx(1000 + std::log(2)));

  std::vector<float> const z{inf, -inf, nan_f, 0, -88, 100};
  std::vector<float> p(6);
  sigmoid_row(z.data(), 6, p.data());
  CHECK(p[0] == 1);
  CHECK(p[1] == 0);
  CHECK(std::isnan(p[2]));
  CHECK(p[3] == 0.5f);
  CHECK(p[4] == 0);
  CHECK(p[5] == 1);
}

TEST_CASE("softmax: accumulating leaves out rows that are not finite and counts them") {
  constexpr index_t n = 40;
  auto z = logits<float>(10, n);
  matrix_view<float> const all(z.data(), 10, n);
  auto expected = accumulated(all.rows_from(0, 2));
  expected.merge(accumulated(all.rows_from(4, 5)));
  z[2 * n + 3] = -inf;
  z[3 * n + 39] = nan_f;
  z[9 * n] = inf;
  exact_sums s(n);
  CHECK(softmax_accumulate(all, s) == 3);
  CHECK(s == expected);
  CHECK(s.rows() == 7);
  CHECK(s.nan() == 0);
}

TEST_CASE("softmax: accumulating into another bound, and what is refused") {
  constexpr index_t n = 9;
  auto const z = logits<double>(3, n);
  matrix_view<double> const m(z.data(), 3, n);
  std::vector<double> p(z.size());
  softmax_rows(m, p.data());
  exact_sums stored(n, 8);
  stored.add_rows(matrix_view<double>(p.data(), 3, n));
  CHECK(accumulated(m, 8) == stored);

  exact_sums few(n - 1), small(n, 0.5), none(0);
  CHECK_THROWS_AS(softmax_accumulate(m, few), shape_error);
  CHECK_THROWS_AS(softmax_accumulate(m, small), argument_error);
  CHECK(few == exact_sums(n - 1));
  CHECK(softmax_accumulate(matrix_view<double>(z.data(), 3, 0), none) == 0);
  CHECK(softmax_accumulate(matrix_view<double>(z.data(), 0, n), few) == 0);
}

// SPDX-License-Identifier: Apache-2.0
#include <moeroute/numeric/top_k.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "support/kernels.hpp"

using namespace moeroute;

namespace {

constexpr float inf = std::numeric_limits<float>::infinity();
constexpr float nan_f = std::numeric_limits<float>::quiet_NaN();

// The definition: NaN below everything, equal values in the order of their indices.
template <class T>
bool before(T a, T b) {
  auto const x = to_compute(a), y = to_compute(b);
  return std::isnan(x) ? false : std::isnan(y) ? true : x > y;
}
template <class T>
bool equal(T a, T b) {
  return !before(a, b) && !before(b, a);
}

template <class T>
bool same_bits(T a, T b) {
  return std::memcmp(&a, &b, sizeof a) == 0;
}

/// Number of differences between top_k_rows and std::stable_sort.
template <class T, class Id = std::int16_t>
int differences(matrix_view<T> m, index_t k) {
  std::vector<Id> ids(static_cast<std::size_t>(m.rows() * k) + 1, Id{99});
  std::vector<T> values(ids.size());
  auto const tied = std::make_unique<bool[]>(static_cast<std::size_t>(m.rows()));
  auto const ties = top_k_rows(m, k, ids.data(), values.data(), tied.get());
  int wrong = ids.back() != Id{99};  // nothing is written behind the end
  index_t expected_ties = 0;
  for (index_t r = 0; r < m.rows(); ++r) {
    std::vector<index_t> order(static_cast<std::size_t>(m.cols()));
    std::iota(order.begin(), order.end(), index_t{0});
    std::stable_sort(order.begin(), order.end(), [&](index_t a, index_t b) { return before(m(r, a), m(r, b)); });
    for (index_t j = 0; j < k; ++j) {
      auto const at = static_cast<std::size_t>(r * k + j);
      auto const want = order[static_cast<std::size_t>(j)];
      wrong += ids[at] != static_cast<Id>(want);
      wrong += !same_bits(values[at], m(r, want));
    }
    bool const tie = k > 0 && k < m.cols() && equal(m(r, order[static_cast<std::size_t>(k - 1)]),
                                                    m(r, order[static_cast<std::size_t>(k)]));
    wrong += tied[static_cast<std::size_t>(r)] != tie;
    expected_ties += tie;
  }
  return wrong + (ties != expected_ties);
}

// Values that are awkward in one way or another, and many of them twice.
template <class T>
std::vector<T> awkward(std::size_t n, std::uint64_t kind, plain_random& random) {
  double const special[] = {0.0, -0.0, HUGE_VAL, -HUGE_VAL, quiet_nan, -quiet_nan,
                            1.0, -1.0, 6e-8,     -6e-8,     65504.0,   -65504.0};
  std::vector<T> z(n);
  for (auto& v : z) switch (kind) {
      case 0:
        v = scalar<T>(random.bell());
        break;
      case 1:
        v = scalar<T>(double(random.below(5)) - 2);
        break;
      case 2:
        v = scalar<T>(special[random.below(std::size(special))]);
        break;
      case 3:
        v = scalar<T>(random.below(4) == 0 ? special[random.below(std::size(special))] : random.bell());
        break;
      case 4:  // of a few leading bits, as 16-bit scores that were widened
        v = scalar<T>(to_float(to_bf16(static_cast<float>(random.bell()))));
        break;
      case 5:  // alike in the leading bits
        v = scalar<T>(-1 - double(random.below(64)) * 0x1p-20);
        break;
      default:
        v = scalar<T>(1.0);
        break;
    }
  return z;
}

template <class T>
void equals_stable_sort() {
  plain_random random(11);
  for (auto const level : levels()) {
    at_level const scope(level);
    for (index_t const n : {1, 2, 3, 7, 8, 9, 16, 31, 33, 60, 64, 65, 160})
      for (std::uint64_t kind = 0; kind < 7; ++kind) {
        constexpr index_t rows = 18;  // more than a block, and not whole blocks
        auto const z = awkward<T>(static_cast<std::size_t>(rows * n), kind, random);
        int wrong = 0;
        for (index_t const k : {0, 1, 2, 3, 7, 8, 9, 15, 16, 17})
          if (k <= n) wrong += differences(matrix_view<T>(z.data(), rows, n), k);
        wrong += differences(matrix_view<T>(z.data(), rows, n), n);
        CHECK_MESSAGE(wrong == 0, "n = ", n, ", kind ", kind, ", level ", static_cast<int>(level));
      }
  }
}

}  // namespace

TEST_CASE("top_k: equals a stable sort for every k, with ties, NaN, infinities and both zeros, at every level") {
  equals_stable_sort<float>();
  equals_stable_sort<double>();
  equals_stable_sort<bf16>();
  equals_stable_sort<f16>();
}

TEST_CASE("top_k: a row worked out by hand") {
  std::vector<float> const z{0.f, nan_f, 3.f, -0.f, 3.f, -inf, inf};
  std::int32_t ids[7];
  float values[7];
  CHECK_FALSE(top_k_row(z.data(), 7, 3, ids, values));
  CHECK(std::vector<std::int32_t>(ids, ids + 3) == std::vector<std::int32_t>{6, 2, 4});
  CHECK(top_k_row(z.data(), 7, 2, ids));  // 3 against 3
  CHECK(top_k_row(z.data(), 7, 4, ids));  // 0 against -0
  CHECK_FALSE(top_k_row(z.data(), 7, 7, ids, values));
  CHECK(std::vector<std::int32_t>(ids, ids + 7) == std::vector<std::int32_t>{6, 2, 4, 0, 3, 5, 1});
  CHECK(std::signbit(values[4]));
  CHECK_FALSE(top_k_row(z.data(), 7, 6, ids));  // -inf is above NaN
  std::vector<float> const nans(20, nan_f);
  for (index_t const k : {1, 2, 4, 8, 16, 17}) {
    std::vector<std::uint8_t> order(20);
    CHECK(top_k_row(nans.data(), 20, k, order.data()));
    CHECK(order[static_cast<std::size_t>(k - 1)] == k - 1);
  }
}

TEST_CASE("top_k: neighbouring floats and doubles are told apart") {
  plain_random random(5);
  constexpr index_t rows = 200, n = 64;
  std::vector<float> z(rows * n);
  std::vector<double> d(z.size());
  for (auto const level : levels()) {
    at_level const scope(level);
    float start = 0;
    for (std::size_t i = 0; i < z.size(); ++i) {
      if (i % n == 0) start = static_cast<float>(random.bell());
      z[i] = start;
      for (std::uint64_t steps = random.below(6); steps > 0; --steps) z[i] = std::nextafter(z[i], inf);
      d[i] = static_cast<double>(start) + static_cast<double>(random.below(6)) * 0x1p-60 * static_cast<double>(start);
    }
    for (index_t const k : {1, 7, 8, 16}) {
      CHECK(differences(matrix_view<float>(z.data(), rows, n), k) == 0);
      CHECK(differences(matrix_view<double>(d.data(), rows, n), k) == 0);
    }
    CHECK(differences(matrix_view<float>(z.data(), 1, n), 8) == 0);
  }
  // Subnormal numbers are not zero.
  std::vector<float> const tiny{0.f, 1e-45f, -1e-45f, 3e-45f};
  for (index_t const k : {1, 2, 4}) CHECK(differences(matrix_view<float>(tiny.data(), 1, 4), k) == 0);
  for (index_t const k : {1, 2}) CHECK(differences(matrix_view<float>(tiny.data(), 2, 2), k) == 0);
}

TEST_CASE("top_k: strided rows and columns") {
  plain_random random(2);
  auto const z = awkward<float>(40 * 30, 3, random);
  for (index_t const k : {1, 4, 8, 9, 25}) {
    CHECK(differences(matrix_view<float>(z.data(), 30, 40, 1, 30), k) == 0);
    CHECK(differences(matrix_view<float>(z.data(), 15, 40, 80, 1), k) == 0);
    CHECK(differences(matrix_view<float>(z.data() + 39, 10, 40, 40, -1), k) == 0);
  }
}

TEST_CASE("top_k: long rows, on both sides of where the networks end") {
  plain_random random(9);
  for (index_t const n : {1000, 4096, 4097}) {
    auto const z = awkward<float>(static_cast<std::size_t>(3 * n), 3, random);
    auto const h = awkward<f16>(static_cast<std::size_t>(3 * n), 0, random);
    for (index_t const k : {8, 100, 1000}) {
      CHECK(differences<float, std::int32_t>(matrix_view<float>(z.data(), 3, n), k) == 0);
      CHECK(differences<f16, std::int32_t>(matrix_view<f16>(h.data(), 3, n), k) == 0);
    }
  }
}

TEST_CASE("top_k: NaN of either sign is last, also where it fills the row") {
  plain_random random(12);
  for (auto const level : levels()) {
    at_level const scope(level);
    for (float const nan : {nan_f, -nan_f}) {
      std::vector<float> z(40 * 20);
      auto const other = std::bit_cast<float>(std::bit_cast<std::uint32_t>(nan) | 0x12345u);
      for (std::size_t i = 0; i < z.size(); ++i)
        z[i] = random.below(20) >= i / 20 / 2 ? static_cast<float>(random.bell()) : random.below(2) == 0 ? nan : other;
      for (index_t const k : {1, 8, 16, 20}) CHECK(differences(matrix_view<float>(z.data(), 40, 20), k) == 0);
      std::fill(z.begin(), z.end(), nan);
      for (index_t const k : {1, 8, 16, 20}) CHECK(differences(matrix_view<float>(z.data(), 40, 20), k) == 0);
    }
  }
}

TEST_CASE("top_k: what is refused, and empty input") {
  std::vector<float> const z(300, 1.f);
  std::uint8_t small[300];
  std::int16_t ids[300];
  CHECK_THROWS_AS(top_k_row(z.data(), 300, 2, small), argument_error);
  CHECK_THROWS_AS(top_k_row(z.data(), 8, 9, ids), argument_error);
  CHECK_THROWS_AS(top_k_row(z.data(), 8, -1, ids), argument_error);
  CHECK_THROWS_AS(top_k_rows(matrix_view<float>(z.data(), 0, 8), 9, ids), argument_error);
  CHECK_NOTHROW(top_k_row(z.data(), 256, 2, small));
  CHECK_FALSE(top_k_row(z.data(), 8, 0, ids));
  CHECK_FALSE(top_k_row(z.data(), 0, 0, ids));
  CHECK(top_k_rows(matrix_view<float>(z.data(), 0, 8), 2, ids) == 0);
}

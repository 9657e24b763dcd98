// SPDX-License-Identifier: Apache-2.0
#include <moeroute/numeric/moments.hpp>
#include <moeroute/numeric/random.hpp>

#include <cmath>
#include <vector>

#include <doctest/doctest.h>

#include "support/golden.hpp"
#include "support/kernels.hpp"
#include "support/laws.hpp"

using namespace moeroute;

namespace {

void check_same(moments_result const& a, moments_result const& b, double offset = 0) {
  CHECK(a.count == b.count);
  CHECK(a.nonfinite == b.nonfinite);
  double const sd = std::sqrt(b.variance);
  CHECK(std::abs(a.mean - b.mean - offset) <= 1e-13 * (std::abs(b.mean + offset) + sd));
  CHECK(std::abs(a.variance - b.variance) <= 1e-12 * b.variance);
  CHECK(close(a.skewness, b.skewness, 1e-10));
  CHECK(close(a.excess_kurtosis, b.excess_kurtosis, 1e-10));
}

std::vector<double> sample(std::uint64_t id, int n) {
  random_stream random(2, 1, id);
  std::vector<double> x;
  for (int i = 0; i < n; ++i) x.push_back(3 - std::log1p(-random.uniform()));  // skewed
  return x;
}

}  // namespace

TEST_CASE("moments: equals scipy") {
  for (auto const& g : golden("numeric", "moments")) {
    auto const r = moments_of(g["x"].get<std::vector<double>>());
    CHECK(close(r.mean, g["mean"], 1e-14));
    CHECK(close(r.variance, g["variance"], 1e-14));
    CHECK(close(r.variance_population, r.variance * double(r.count - 1) / double(r.count), 1e-14));
    CHECK(close(r.skewness, g["skewness"], 1e-12));
    CHECK(close(r.excess_kurtosis, g["excess_kurtosis"], 1e-12));
    CHECK(close(r.skewness_corrected, g["skewness_corrected"], 1e-12));
    CHECK(close(r.excess_kurtosis_corrected, g["excess_kurtosis_corrected"], 1e-12));
  }
}

TEST_CASE("moments: accumulator laws, to the stated tolerance") {
  auto x = sample(50, 300);
  x[7] = quiet_nan;
  law_case<moments> c{.options = {},
                      .other_options = {},
                      .documents = 300,
                      .feed = [&](moments& m, index_t first,
                                  index_t last) { m.update(vector_view<double>(x.data() + first, last - first)); },
                      .same =
                          [](moments const& a, moments const& b) {
                            auto const r = a.result(), s = b.result();
                            auto const equal = [](double u, double v, double tolerance) {
                              return (std::isnan(u) && std::isnan(v)) || close(u, v, tolerance);
                            };
                            return r.count == s.count && r.nonfinite == s.nonfinite && equal(r.mean, s.mean, 1e-13) &&
                                   equal(r.variance, s.variance, 1e-12) && equal(r.skewness, s.skewness, 1e-10) &&
                                   equal(r.excess_kurtosis, s.excess_kurtosis, 1e-10);
                          },
                      .check_unequal_options = false};
  check_accumulator_laws(c);
}

TEST_CASE("moments: merging equals seeing everything, in any order, to the stated tolerance") {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    auto const a = sample(3 * seed, 1 + int(seed % 5)), b = sample(3 * seed + 1, 40), c = sample(3 * seed + 2, 400);
    moments whole, x, y, z;
    for (auto const* part : {&a, &b, &c}) whole.update(*part);
    x.update(a);
    y.update(b);
    z.update(c);
    moments left = x, right = y, empty;
    left.merge(y);
    left.merge(z);
    right.merge(z);
    right.merge(x);
    check_same(left.result(), whole.result());
    check_same(right.result(), whole.result());
    auto const before = x;
    x.merge(empty);
    CHECK(x == before);
    empty.merge(x);
    CHECK(empty == x);
    CHECK(moments::deserialize(whole.serialize()) == whole);
  }
}

TEST_CASE("moments: equals the definitions in long double for every length, type and stride, alike at every level") {
  plain_random random(3);
  std::vector<float> x(5000);
  for (float& v : x) v = static_cast<float>(random.bell() + 4 * random.uniform() * random.uniform());
  x[0] = 40;  // what a block starts with need not be typical
  std::vector<bf16> narrow;
  std::vector<double> spread, wide;
  std::vector<int> whole;
  for (float const v : x) {
    narrow.push_back(to_bf16(v));
    wide.push_back(static_cast<double>(to_float(narrow.back())));
    whole.push_back(static_cast<int>(8 * v));
    spread.insert(spread.end(), {static_cast<double>(v), 1e9, -1e9});
  }
  auto const exact = [](auto const& values, index_t n) {
    long double mean = 0, m2 = 0, m3 = 0, m4 = 0;
    for (index_t i = 0; i < n; ++i) mean += static_cast<long double>(values[static_cast<std::size_t>(i)]) / n;
    for (index_t i = 0; i < n; ++i) {
      long double const d = static_cast<long double>(values[static_cast<std::size_t>(i)]) - mean;
      m2 += d * d / n;
      m3 += d * d * d / n;
      m4 += d * d * d * d / n;
    }
    moments_result r;
    r.count = static_cast<std::uint64_t>(n);
    r.mean = static_cast<double>(mean);
    r.variance = static_cast<double>(m2 * n / (n - 1));
    r.skewness = static_cast<double>(m3 / std::pow(m2, 1.5L));
    r.excess_kurtosis = static_cast<double>(m4 / (m2 * m2) - 3);
    return r;
  };
  for (index_t const n : {2, 15, 16, 17, 33, 1023, 1024, 1025, 5000}) {
    check_same(moments_of(vector_view<float>(x.data(), n)), exact(x, n));
    check_same(moments_of(vector_view<bf16>(narrow.data(), n)), exact(wide, n));
    check_same(moments_of(vector_view<double>(spread.data(), n, 3)), exact(x, n));
    check_same(moments_of(vector_view<int>(whole.data(), n)), exact(whole, n));
    moments first;
    for (auto const level : levels()) {
      at_level const scope(level);
      moments m;
      m.update(vector_view<float>(x.data(), n));
      if (level == simd_level::baseline) first = m;
      CHECK(m == first);
    }
  }
  wide[1500] = INFINITY;
  wide[4999] = quiet_nan;
  std::vector<double> finite = wide;
  finite.erase(finite.begin() + 1500);
  finite.pop_back();
  auto const r = moments_of(wide);
  CHECK(r.nonfinite == 2);
  auto holed = exact(finite, 4998);
  holed.nonfinite = 2;
  check_same(r, holed);
}

TEST_CASE("moments: a large offset costs no more than stated") {
  auto const x = sample(100, 2000);
  auto moved = x;
  for (double& v : moved) v = std::round((v + 1e6) * 0x1p20) * 0x1p-20;
  std::vector<double> back;
  for (double const v : moved) back.push_back(v - 1e6);  // exact
  moments left, right;
  left.update(std::span(moved).first(700));
  right.update(std::span(moved).subspan(700));
  left.merge(right);
  auto const r = left.result(), want = moments_of(back);
  CHECK(std::abs(r.mean - want.mean - 1e6) < 1e-13 * 1e6);
  CHECK(std::abs(r.variance - want.variance) < 1e-9 * want.variance);
  CHECK(close(r.skewness, want.skewness, 1e-8));
  CHECK(close(r.excess_kurtosis, want.excess_kurtosis, 1e-8));
}

TEST_CASE("moments: what is undefined is NaN, what is not finite is counted") {
  CHECK(std::isnan(moments().result().mean));
  auto const one = moments_of(std::vector<float>{3});
  CHECK(one.mean == 3);
  CHECK(std::isnan(one.variance));
  auto const flat = moments_of(std::vector<int>{2, 2, 2, 2});
  CHECK(flat.variance == 0);
  CHECK(std::isnan(flat.skewness));
  CHECK(std::isnan(moments_of(std::vector<int>{1, 2}).skewness_corrected));
  CHECK(std::isnan(moments_of(std::vector<int>{1, 2, 4}).excess_kurtosis_corrected));
  auto const holed = moments_of(std::vector<double>{1, quiet_nan, 3, INFINITY});
  CHECK(holed.count == 2);
  CHECK(holed.nonfinite == 2);
  CHECK(holed.mean == 2);
}

TEST_CASE("moments: bytes that are no state are refused") {
  moments m;
  m.update(std::vector<int>{1, 2, 3});
  auto bytes = m.serialize();
  auto cut = bytes;
  cut.pop_back();
  CHECK_THROWS_AS(moments::deserialize(cut), format_error);
  bytes.push_back(std::byte{0});
  CHECK_THROWS_AS(moments::deserialize(bytes), format_error);
  byte_writer w;
  for (std::uint64_t v : {3u, 0u}) w.put(v);
  for (double v : {1.0, -1.0, 0.0, 0.0}) w.put(v);
  CHECK_THROWS_AS(moments::deserialize(w.bytes()), format_error);
}

// SPDX-License-Identifier: Apache-2.0
#include <moeroute/numeric/exact_sum.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <span>
#include <vector>

#include <doctest/doctest.h>

#include "support/kernels.hpp"

using namespace moeroute;

namespace {

constexpr double unit = 0x1p-52;

exact_sums sums_of(std::vector<double> const& values, double bound = 1) {
  exact_sums s(1, bound);
  for (double const v : values) s.add_row(&v, 1);
  return s;
}

std::vector<std::byte> state(exact_sums const& s) {
  byte_writer out;
  s.serialize(out);
  return out.bytes();
}

exact_sums reread(std::vector<std::byte> const& bytes) {
  byte_reader in{std::span<std::byte const>(bytes)};
  auto s = exact_sums::deserialize(in);
  in.finish();
  return s;
}

}  // namespace

TEST_CASE("exact_sums: a value counts as the nearest number of units, halves to even") {
  auto const units = [](double x, double bound = 1) { return sums_of({x}, bound).words(0)[0]; };
  CHECK(units(0.0) == 0);
  CHECK(units(-0.0) == 0);
  CHECK(units(unit) == 1);
  CHECK(units(0.5 * unit) == 0);
  CHECK(units(1.5 * unit) == 2);
  CHECK(units(2.5 * unit) == 2);
  CHECK(units(std::nextafter(0.5 * unit, 1)) == 1);
  CHECK(units(1.0) == std::uint64_t{1} << 52);
  CHECK(units(std::nextafter(1.0, 0)) == std::uint64_t{1} << 52);  // 2^52 - 1/2: the tie goes to even
  CHECK(units(4.0, 4) == std::uint64_t{1} << 52);
  CHECK(units(1.0, 4) == std::uint64_t{1} << 50);
  CHECK(units(0x1p-500, 0x1p-500) == std::uint64_t{1} << 52);
}

#if defined(__x86_64__)
namespace {
__attribute__((target("fma"), noinline)) std::uint64_t units_of_product(double a, double b) {
  return detail::units_of(a * b, 1.0);
}
}  // namespace

TEST_CASE("exact_sums: a product of the caller is rounded before it is added") {
  if (!__builtin_cpu_supports("fma")) return;
  // 1.5 units less a little that only a fused operation would see: 2 units when rounded first, 1 when not.
  double volatile a = 1 + 0x1p-27, b = (1 - 0x1p-27) * 1.5 * unit;  // not known while compiling
  CHECK(units_of_product(a, b) == 2);
}
#endif

TEST_CASE("exact_sums: any order, split and merge leaves the same bytes") {
  plain_random random(1);
  constexpr index_t rows = 5000, n = 5;
  std::vector<double> x(rows * n);
  for (auto& v : x) v = std::pow(random.uniform(), 9);
  matrix_view<double> const all(x.data(), rows, n);
  exact_sums whole(n);
  whole.add_rows(all);
  CHECK(whole.rows() == rows);

  exact_sums reversed(n);
  for (index_t r = rows; r-- > 0;) reversed.add_row(all.row(r));
  CHECK(reversed == whole);

  exact_sums left(n), right(n), empty(n);
  left.add_rows(all.rows_from(0, 1234));
  right.add_rows(all.rows_from(1234, rows - 1234));
  auto merged = right;
  merged.merge(left);
  merged.merge(empty);
  CHECK(merged == whole);
  CHECK(state(merged) == state(whole));

  for (index_t i = 0; i < n; ++i) {
    long double exact = 0;
    for (index_t r = 0; r < rows; ++r) exact += static_cast<long double>(all(r, i));
    CHECK(std::abs(whole.sum(i) - static_cast<double>(exact)) <= rows * unit / 2);
  }
  auto changed = whole;
  changed.add_at(0, unit);
  CHECK_FALSE(changed == whole);
}

TEST_CASE("exact_sums: float and strided input, 16-bit input") {
  std::vector<float> const f{0.25f, 9.f, 0.5f, 9.f};
  std::vector<bf16> const b{to_bf16(0.25f), to_bf16(0.5f)};
  std::vector<double> const d{0.25, 0.5};
  exact_sums from_f(2), from_b(2), from_d(2);
  from_f.add_row(vector_view<float>(f.data(), 2, 2));
  from_b.add_row(b.data(), 2);
  from_d.add_row(d.data(), 2);
  CHECK(from_f == from_d);
  CHECK(from_b == from_d);
  CHECK(from_d.sum(0) == 0.25);
  CHECK(from_d.sum(1) == 0.5);
}

TEST_CASE("exact_sums: the sum is the double nearest to the integer") {
  auto const sum_of_units = [](std::uint64_t many, int more) {  // many * 2^52 + more units
    auto s = sums_of({1.0});
    exact_sums total(1);
    total.merge(s, many);
    for (int i = 0; i < more; ++i) total.add_at(0, unit);
    return total;
  };
  // 2^53 + 1 units lie between two doubles: to even. 2^53 + 3 likewise, up.
  CHECK(sum_of_units(2, 1).sum(0) == 2.0);
  CHECK(sum_of_units(2, 2).sum(0) == std::nextafter(2.0, 3.0));
  CHECK(sum_of_units(2, 3).sum(0) == 2.0 + 4 * unit);
  // Beyond one word.
  auto const wide = sum_of_units(std::uint64_t{1} << 40, 5);
  CHECK(wide.words(0)[1] == std::uint64_t{1} << 28);
  CHECK(wide.words(0)[0] == 5);
  CHECK(wide.sum(0) == 0x1p40);
  CHECK(sums_of({4.0, 4.0, 1.0}, 4).sum(0) == 9.0);
  // The addition that crosses from one word into the next, one value and a block at a time.
  auto below = sum_of_units(4095, 0), blockwise = below;
  below.add_at(0, 1.0);
  std::uint64_t const units = std::uint64_t{1} << 52;
  blockwise.add_units(&units, 1);
  CHECK(below.words(0) == std::array<std::uint64_t, 2>{0, 1});
  CHECK(blockwise == below);
  CHECK(below.sum(0) == 4096);
}

TEST_CASE("exact_sums: merging with a multiplicity repeats the rows, refused values too") {
  auto const s = sums_of({0.1, 0.7, quiet_nan, 2.0});
  exact_sums thrice(1), repeated(1);
  thrice.merge(s, 3);
  for (int i = 0; i < 3; ++i) repeated.merge(s);
  CHECK(thrice == repeated);
  CHECK(thrice.rows() == 12);
  CHECK(thrice.nan() == 3);
  CHECK(thrice.out_of_range() == 3);
  exact_sums never(1);
  never.merge(s, 0);
  CHECK(never == exact_sums(1));
  auto self = s;
  self.merge(self);
  exact_sums twice(1);
  twice.merge(s, 2);
  CHECK(self == twice);
}

TEST_CASE("exact_sums: NaN and values out of range are counted apart and add nothing") {
  auto const s = sums_of({quiet_nan, -quiet_nan, -1e-300, 1.0000000000000002, HUGE_VAL, -HUGE_VAL, 0.5});
  CHECK(s.nan() == 2);
  CHECK(s.out_of_range() == 4);
  CHECK(s.rows() == 7);
  CHECK(s.sum(0) == 0.5);
}

TEST_CASE("exact_sums: what the caller cannot mean is refused and changes nothing") {
  for (double const bound : {0.0, -1.0, 3.0, 1.5, 0x1p501, 0x1p-501, quiet_nan, HUGE_VAL})
    CHECK_THROWS_AS(exact_sums(1, bound), argument_error);
  CHECK_THROWS_AS(exact_sums(-1), argument_error);
  CHECK_THROWS_AS(exact_sum(0.3), argument_error);
  exact_sums s(2);
  double const row[3] = {0.1, 0.2, 0.3};
  CHECK_THROWS_AS(s.add_row(row, 3), shape_error);
  CHECK_THROWS_AS(s.add_rows(matrix_view<double>(row, 1, 3)), shape_error);
  CHECK_THROWS_AS(s.add_at(2, 0.5), argument_error);
  CHECK_THROWS_AS(s.add_at(-1, 0.5), argument_error);
  CHECK_THROWS_AS(s.merge(exact_sums(3)), argument_error);
  CHECK_THROWS_AS(s.merge(exact_sums(2, 2.0)), argument_error);
  CHECK(s == exact_sums(2));
  s.add_row(row, 2);
  auto const before = s;
  exact_sums big(2);
  big.merge(s, std::uint64_t{1} << 63);
  CHECK_THROWS_AS(s.merge(big, 2), argument_error);
  CHECK(s == before);
  CHECK_THROWS_WITH_AS(s.add_row(row, 3), "moeroute::exact_sums: a row of 3 values for 2 sums", shape_error);
}

TEST_CASE("exact_sums: a state is read back as it was, and nothing else is accepted") {
  auto s = sums_of({0.3, quiet_nan, 0.9, 7.0});
  CHECK(reread(state(s)) == s);
  CHECK(reread(state(exact_sums(0))) == exact_sums(0));
  auto const good = state(s);
  for (std::size_t n = 0; n < good.size(); ++n)
    CHECK_THROWS_AS(reread(std::vector<std::byte>(good.begin(), good.begin() + std::ptrdiff_t(n))), format_error);
  auto const with = [&](std::size_t place, int value) {
    auto bytes = good;
    bytes[place] = std::byte(value);
    return bytes;
  };
  CHECK_THROWS_AS(reread(with(6, 1)), format_error);                // the bound is no power of two any more
  CHECK_THROWS_AS(reread(with(8, 0)), format_error);                // no rows, but a sum
  CHECK_THROWS_AS(reread(with(32, 2)), format_error);               // more low words than there are
  CHECK_THROWS_AS(reread(with(good.size() - 1, 1)), format_error);  // a sum beyond rows times bound
}

TEST_CASE("exact_sum: counts as the only cell of exact_sums") {
  plain_random random(3);
  exact_sum a(2.0), b(2.0);
  exact_sums all(1, 2.0);
  for (int i = 0; i < 3000; ++i) {
    double const x = 2 * random.uniform();
    (i % 3 ? a : b).add(x);
    all.add_at(0, x);
  }
  a.merge(b);
  CHECK(a.sum() == all.sum(0));
  CHECK(a.count() == 3000);
  a.add(quiet_nan);
  a.add(2.5);
  CHECK(a.nan() == 1);
  CHECK(a.out_of_range() == 1);
  CHECK(a.count() == 3000);
  byte_writer out;
  a.serialize(out);
  byte_reader in{std::span<std::byte const>(out.bytes())};
  CHECK(exact_sum::deserialize(in) == a);
  exact_sum tripled(2.0);
  tripled.merge(a, 3);
  CHECK(tripled.count() == 9000);
  CHECK(tripled.sum() == doctest::Approx(3 * a.sum()).epsilon(1e-15));
  CHECK_THROWS_AS(a.merge(exact_sum(1.0)), argument_error);
}

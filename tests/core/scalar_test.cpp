// SPDX-License-Identifier: Apache-2.0
#include <moeroute/core/scalar.hpp>

#include <cstring>
#include <random>

#include <doctest/doctest.h>

#include "support/golden.hpp"

using namespace moeroute;

static_assert(real_scalar<float> && real_scalar<double> && real_scalar<bf16> && real_scalar<f16> && !real_scalar<int> &&
              !real_scalar<long double>);
static_assert(std::is_same_v<compute_t<bf16>, float> && std::is_same_v<compute_t<double>, double>);
static_assert(to_float(f16{0x3c00}) == 1 && to_bf16(1.0f).bits == 0x3f80 &&
              to_f16(-2.0f).bits == 0xc000);  // also at compile time

namespace {

std::uint32_t bits(float x) { return std::bit_cast<std::uint32_t>(x); }

std::uint64_t fnv(std::uint64_t hash, std::uint32_t word) {
  for (int i = 0; i < 4; ++i) hash = (hash ^ (word >> (8 * i) & 0xffu)) * 0x100000001b3u;
  return hash;
}
std::uint64_t const fnv_start = 0xcbf29ce484222325u;

// The definition of rounding: of the two neighbours the nearer, of equally near ones the even.
std::uint16_t nearest_bf16(float x) {
  auto const low = static_cast<std::uint16_t>(bits(x) >> 16);
  float const below = to_float(bf16{low});
  if (below == x) return low;
  auto const high = static_cast<std::uint16_t>(low + 1);
  double above = static_cast<double>(to_float(bf16{high}));
  if (std::isinf(above)) above = std::copysign(0x1p128, above);
  double const up = std::abs(above - static_cast<double>(x)),
               down = std::abs(static_cast<double>(x) - static_cast<double>(below));
  return up < down || (up == down && high % 2 == 0) ? high : low;
}

}  // namespace

TEST_CASE("scalar: all 65536 halves widen as numpy and ml_dtypes or torch widen them") {
  auto const want = golden("io", "scalar");
  std::uint64_t of_f16 = fnv_start, of_bf16 = fnv_start;
  for (std::uint32_t i = 0; i < 65536; ++i) {
    auto const h = to_float(f16{static_cast<std::uint16_t>(i)}), b = to_float(bf16{static_cast<std::uint16_t>(i)});
    // A signalling NaN may become quiet on the way: NaNs are compared as such.
    of_f16 = fnv(of_f16, std::isnan(h) ? 0x7fc00000u : bits(h));
    of_bf16 = fnv(of_bf16, std::isnan(b) ? 0x7fc00000u : bits(b));
  }
  CHECK(std::to_string(of_f16) == want["f16_widened"].get<std::string>());
  CHECK(std::to_string(of_bf16) == want["bf16_widened"].get<std::string>());
}

TEST_CASE("scalar: float to half as numpy and torch round") {
  // Cases near every place where rounding turns, as 32-bit patterns with the answers beside them.
  auto const cases = golden("io", "scalar")["rounded"];
  REQUIRE(cases.size() > 4000);
  for (auto const& c : cases) {
    float const x = std::bit_cast<float>(c[0].get<std::uint32_t>());
    INFO(c[0].get<std::uint32_t>());
    CHECK(to_f16(x).bits == c[1].get<unsigned>());
    CHECK(to_bf16(x).bits == c[2].get<unsigned>());
  }
}

TEST_CASE("scalar: halves survive the way to float and back") {
  for (std::uint32_t i = 0; i < 65536; ++i) {
    auto const p = static_cast<std::uint16_t>(i);
    bool const f16_nan = (p & 0x7fffu) > 0x7c00u, bf16_nan = (p & 0x7fffu) > 0x7f80u;
    if (f16_nan ? !std::isnan(to_float(f16{p})) || (to_f16(to_float(f16{p})).bits & 0x7e00u) != 0x7e00u
                : to_f16(to_float(f16{p})).bits != p)
      FAIL_CHECK("f16 " << i);
    if (bf16_nan ? !std::isnan(to_float(bf16{p})) || (to_bf16(to_float(bf16{p})).bits & 0x7fc0u) != 0x7fc0u
                 : to_bf16(to_float(bf16{p})).bits != p)
      FAIL_CHECK("bf16 " << i);
  }
  CHECK(to_f16(-std::numeric_limits<float>::quiet_NaN()).bits == 0xfe00);
  CHECK(to_bf16(std::bit_cast<float>(0x7f800001u)).bits ==
        0x7fc0);  // a NaN whose upper half is that of infinity stays NaN
}

TEST_CASE("scalar: a million random floats round to the nearest half") {
  std::mt19937_64 random(5);
  long wrong_bf16 = 0, wrong_f16 = 0;
  for (int i = 0; i < 1000000; ++i) {
    auto const u = static_cast<std::uint32_t>(random());
    float const x = std::bit_cast<float>(u);
    if (std::isnan(x)) continue;
    wrong_bf16 += to_bf16(x).bits != (std::isinf(x) ? static_cast<std::uint16_t>(u >> 16) : nearest_bf16(x));
#ifdef __FLT16_MANT_DIG__
    // The compiler's own binary16 is another implementation of the same standard.
    auto const y = std::bit_cast<float>((u & 0x8fffffffu) | 0x30000000u);  // exponents around those of binary16
    wrong_f16 += to_f16(y).bits != std::bit_cast<std::uint16_t>(static_cast<_Float16>(y));
#endif
  }
  CHECK(wrong_bf16 == 0);
  CHECK(wrong_f16 == 0);
}

TEST_CASE("scalar: finite or not") {
  CHECK(is_finite(0.0f));
  CHECK(is_finite(to_f16(65504.0f)));
  CHECK_FALSE(is_finite(to_f16(65520.0f)));
  CHECK(is_finite(to_f16(std::nextafter(65520.0f, 0.0f))));
  CHECK_FALSE(is_finite(bf16{0x7f80}));
  CHECK_FALSE(is_finite(std::numeric_limits<double>::quiet_NaN()));
  CHECK(is_finite(std::numeric_limits<double>::max()));
  CHECK(to_compute(1e300) == 1e300);
  CHECK(to_compute(bf16{0x4000}) == 2.0f);
}

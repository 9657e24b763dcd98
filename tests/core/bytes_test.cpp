// SPDX-License-Identifier: Apache-2.0
#include <moeroute/core/bytes.hpp>

#include <limits>

#include <doctest/doctest.h>

using namespace moeroute;

TEST_CASE("bytes: little-endian, lengths as 64 bits, to the byte") {
  byte_writer w;
  w.put(std::uint16_t{0x1234});
  w.put(std::int8_t{-1});
  w.put(1.0f);
  w.put(std::string_view("ab"));
  w.put(std::vector<std::uint16_t>{0x0102});
  std::vector<int> const want{0x34, 0x12, 0xff, 0, 0, 0x80, 0x3f, 2, 0, 0, 0, 0, 0, 0,
                              0,    'a',  'b',  1, 0, 0,    0,    0, 0, 0, 0, 2, 1};
  std::vector<int> got;
  for (auto const b : w.bytes()) got.push_back(std::to_integer<int>(b));
  CHECK(got == want);
}

TEST_CASE("bytes: what was written is read, also NaN bit for bit") {
  byte_writer w;
  auto const odd_nan = std::bit_cast<double>(std::uint64_t{0x7ff4000000000123});
  w.put(odd_nan);
  w.put(std::numeric_limits<std::int64_t>::min());
  w.put(std::vector<double>{});
  w.put(std::vector<std::uint32_t>{1, 2, 3});
  w.put(std::string_view("\0x", 2));
  byte_reader r(w.bytes());
  CHECK(std::bit_cast<std::uint64_t>(r.get<double>()) == 0x7ff4000000000123u);
  CHECK(r.get<std::int64_t>() == std::numeric_limits<std::int64_t>::min());
  CHECK(r.get_vector<double>().empty());
  CHECK(r.get_vector<std::uint32_t>() == std::vector<std::uint32_t>{1, 2, 3});
  CHECK(r.get_string() == std::string("\0x", 2));
  CHECK(r.left() == 0);
  CHECK_NOTHROW(r.finish());
}

TEST_CASE("bytes: a length that lies is refused before anything is allocated") {
  for (std::uint64_t const lie :
       {std::uint64_t{3}, std::uint64_t{1} << 61, (std::uint64_t{1} << 61) + 1, ~std::uint64_t{0}}) {
    byte_writer w;
    w.put(lie);
    w.put(0.0);
    w.put(0.0);
    CHECK_THROWS_WITH_AS(byte_reader(w.bytes()).get_vector<double>(),
                         "serialized state:byte 8: array length exceeds the remaining bytes", format_error);
    CHECK_THROWS_AS(byte_reader(std::span(w.bytes()).first(10)).get_string(), format_error);
  }
}

TEST_CASE("bytes: an end inside a value, bytes left over") {
  byte_writer w;
  w.put(std::uint32_t{7});
  byte_reader r(w.bytes());
  CHECK_THROWS_WITH_AS(r.finish(), "serialized state:byte 0: bytes left over", format_error);
  CHECK_THROWS_WITH_AS(r.get<std::uint64_t>(), "serialized state:byte 0: ends inside a value", format_error);
  CHECK(r.get<std::uint32_t>() == 7);  // the failed read took nothing
  CHECK_THROWS_AS(r.get<std::uint8_t>(), format_error);
}

// SPDX-License-Identifier: Apache-2.0
#include <moeroute/io/npy.hpp>

#include <limits>

#include <doctest/doctest.h>

#include "support/golden.hpp"
#include "support/pattern.hpp"
#include "support/python.hpp"
#include "support/temporary_folder.hpp"

using namespace moeroute;

namespace {

std::filesystem::path golden_file(std::string const& name) {
  return std::filesystem::path(MOEROUTE_GOLDEN_DIR) / "io" / name;
}

template <class T>
void write(std::filesystem::path const& path, std::vector<index_t> const& shape, std::size_t n) {
  auto const values = pattern<T>(n);
  write_npy(path, std::span<T const>(values), shape);
}

// A file with this header text and these bytes of data.
std::string npy(std::string header, std::string const& data, char major = 1) {
  std::string out = "\x93NUMPY";
  out += {major, '\0'};
  auto const n = header.size();
  for (int i = 0; i < (major == 1 ? 2 : 4); ++i) out.push_back(static_cast<char>(n >> (8 * i)));
  return out + header + data;
}

}  // namespace

TEST_CASE("npy: files of numpy") {
  auto const f4 = read_npy<float>(golden_file("f4.npy"));
  CHECK(f4.shape == std::vector<index_t>{3, 4});
  CHECK(f4.values == pattern<float>(12));
  auto const i2 = read_npy<std::int16_t>(golden_file("i2.npy"));
  CHECK(i2.shape == std::vector<index_t>{5});
  CHECK(i2.values == pattern<std::int16_t>(5));
  CHECK(read_npy<std::uint8_t>(golden_file("u1_empty.npy")).shape == std::vector<index_t>{0, 3});
  auto const scalar = read_npy<double>(golden_file("scalar.npy"));
  CHECK(scalar.shape.empty());
  CHECK(scalar.values == std::vector<double>{-6});
  CHECK(read_npy<double>(golden_file("version2.npy")).values == pattern<double>(6));
  CHECK_THROWS_WITH_AS(read_npy<float>(golden_file("fortran.npy")), doctest::Contains("Fortran order"), format_error);
  CHECK_THROWS_WITH_AS(read_npy<float>(golden_file("big_endian.npy")), doctest::Contains("element type is not <f4"),
                       format_error);
  CHECK_THROWS_WITH_AS(read_npy<double>(golden_file("f4.npy")), doctest::Contains("element type is not <f8"),
                       format_error);
}

TEST_CASE("npy: numpy reads ours") {
  temporary_folder const folder;
  write<float>(folder / "f4.npy", {3, 4}, 12);
  write<double>(folder / "f8.npy", {2, 3, 4}, 24);
  write<std::int16_t>(folder / "i2.npy", {5}, 5);
  write<std::uint8_t>(folder / "u1.npy", {0, 3}, 0);
  write<std::int64_t>(folder / "i8.npy", {}, 1);
  write<std::uint64_t>(folder / "u8.npy", {1, 1}, 1);
  for (char const* name : {"f4", "f8", "i2", "u1", "i8", "u8"}) {
    mapped_file const f(folder / (std::string(name) + ".npy"));
    std::size_t const header =
        std::to_integer<std::size_t>(f.bytes()[8]) + 256 * std::to_integer<std::size_t>(f.bytes()[9]);
    CHECK((10 + header) % 64 == 0);  // data can be mapped aligned
  }
  CHECK(read_npy<double>(folder / "f8.npy").values == pattern<double>(24));
  if (python_has("numpy, safetensors")) CHECK(python("golden/make_io.py --check npy " + folder.path().string()) == 0);
}

TEST_CASE("npy: special values come back to the bit") {
  temporary_folder const folder;
  std::vector<double> const x{std::numeric_limits<double>::quiet_NaN(), -0.0, std::numeric_limits<double>::denorm_min(),
                              std::numeric_limits<double>::infinity()};
  write_npy(folder / "x.npy", std::span<double const>(x), {4});
  auto const y = read_npy<double>(folder / "x.npy");
  CHECK(std::memcmp(x.data(), y.values.data(), 32) == 0);
}

TEST_CASE("npy: shapes that do not fit are refused before anything is written") {
  temporary_folder const folder;
  std::vector<float> const six(6);
  for (auto const& shape : std::vector<std::vector<index_t>>{
           {5}, {2, 2}, {-2, -3}, {}, {std::numeric_limits<index_t>::max(), std::numeric_limits<index_t>::max()}})
    CHECK_THROWS_AS(write_npy(folder / "x.npy", std::span<float const>(six), shape), argument_error);
  CHECK_FALSE(std::filesystem::exists(folder / "x.npy"));
}

TEST_CASE("npy: bad bytes are refused with file and place") {
  temporary_folder const folder;
  auto const path = folder / "bad.npy";
  std::string const good = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }\n", data(8, '\0');
  struct bad {
    std::string bytes, words;
  };
  bad const cases[] = {
      {"", "byte 0: is not a .npy file"},
      {"PK\3\4 and so on", "byte 0: is not a .npy file"},
      {npy(good, data, 4), "byte 6: has format version 4"},
      {npy(good, data).substr(0, 40), "header is longer than the file"},
      {std::string("\x93NUMPY\2\0\1\0", 10), "byte 8: is truncated"},
      {npy(good, data.substr(1)), "has 7 bytes of data, its shape needs 8"},
      {npy(good, data + "x"), "has 9 bytes of data, its shape needs 8"},
      {npy("{'fortran_order': False, 'shape': (2,), }", data), "header has no 'descr'"},
      {npy("{'descr': '<f4', 'shape': (2,), }", data), "header has no 'fortran_order'"},
      {npy("{'descr': '<f4', 'fortran_order': False}", data), "header has no 'shape'"},
      {npy("{'descr': '<f4', 'fortran_order': False, 'shape'", data), "has no value for 'shape'"},
      {npy("{'descr': '<f4', 'fortran_order': False, 'shape': 2}", data), "has no shape"},
      {npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2", data), "has no shape"},
      {npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-2,)}", data), "unusable shape"},
      {npy("{'descr': '<f4', 'fortran_order': False, 'shape': (x,)}", data), "unusable shape"},
      {npy("{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904, 4)}", data), "unusable shape"},
      {npy("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,)}", data), "unusable shape"},
      {npy("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,)}", data), "element type is not <f4"},
      {npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", data), "element type is not <f4"},
  };
  for (auto const& c : cases) {
    write_file(path, c.bytes);
    INFO(c.words);
    try {
      read_npy<float>(path);
      FAIL_CHECK("accepted");
    } catch (format_error const& e) {
      CHECK(std::string(e.what()).find(c.words) != std::string::npos);
      CHECK(e.file() == path.string());
    }
  }
  write_file(path, npy(good, data));  // their good neighbour
  CHECK(read_npy<float>(path).values.size() == 2);
}

// SPDX-License-Identifier: Apache-2.0
#include <moeroute/io/safetensors.hpp>

#include <algorithm>
#include <fstream>
#include <limits>
#include <random>
#include <set>

#include <doctest/doctest.h>

#include "support/pattern.hpp"
#include "support/python.hpp"
#include "support/temporary_folder.hpp"

using namespace moeroute;

namespace {

std::string file_of(std::string const& header, std::size_t data_bytes, std::uint64_t claimed) {
  std::string out;
  for (int i = 0; i < 8; ++i) out.push_back(static_cast<char>(claimed >> (8 * i)));
  return out + header + std::string(data_bytes, '\0');
}
std::string file_of(std::string const& header, std::size_t data_bytes) {
  return file_of(header, data_bytes, header.size());
}

std::string entry(std::string const& name, std::string const& type, std::string const& shape,
                  std::string const& offsets) {
  return "\"" + name + "\":{\"dtype\":" + type + ",\"shape\":" + shape + ",\"data_offsets\":" + offsets + "}";
}
std::string one(std::string const& type, std::string const& shape, std::string const& offsets) {
  return "{" + entry("a", type, shape, offsets) + "}";
}

std::string message(std::filesystem::path const& path) {
  try {
    safetensors_file const f(path);
    return "accepted";
  } catch (format_error const& e) {
    CHECK(e.file() == path.string());
    return e.what();
  }
}

std::vector<tensor_data> example(std::vector<float> const& f32, std::vector<double> const& f64,
                                 std::vector<std::int16_t> const& i16, std::vector<std::int64_t> const& ids,
                                 std::vector<std::uint8_t> const& bytes, std::vector<std::int32_t> const& scalar) {
  return {make_tensor<std::uint8_t>("bytes", {3}, bytes), make_tensor<float>("f32", {3, 4}, f32),
          make_tensor<std::int16_t>("i16", {5, 1}, i16),  make_tensor<double>("f64", {7}, f64),
          make_tensor<std::int64_t>("ids/ü", {3}, ids),   make_tensor<std::int32_t>("scalar", {}, scalar),
          make_tensor<float>("empty", {0, 4}, {})};
}

}  // namespace

TEST_CASE("safetensors: a file of the Python package") {
  safetensors_file const f(std::filesystem::path(MOEROUTE_GOLDEN_DIR) / "io" / "python.safetensors");
  CHECK(f.tensors().size() == 6);
  CHECK(f.metadata() == std::map<std::string, std::string>{{"key", "välue"}});
  auto const m = f.matrix<float>("f32");
  auto const want = pattern<float>(12);
  CHECK(m.rows() == 3);
  CHECK(m.cols() == 4);
  for (index_t i = 0; i < 12; ++i) CHECK(m(i / 4, i % 4) == want[static_cast<std::size_t>(i)]);
  auto const v = f.vector<std::int16_t>("i16");
  CHECK(v.size() == 5);
  CHECK(v[4] == -12);
  CHECK(to_float(f.vector<f16>("half")[3]) == -12);
  CHECK(f.at("scalar").shape.empty());
  CHECK(f.at("scalar").elements() == 1);
  CHECK(f.at("empty").elements() == 0);
  CHECK(f.at("bools").type == dtype::boolean);
}

TEST_CASE("safetensors: what was written is read, here and in Python; equal content is equal bytes") {
  temporary_folder const folder;
  auto const f32 = pattern<float>(12);
  auto const f64 = pattern<double>(7);
  auto const i16 = pattern<std::int16_t>(5);
  auto const ids = pattern<std::int64_t>(3);
  auto const bytes = pattern<std::uint8_t>(3);
  auto const scalar = pattern<std::int32_t>(1);
  auto tensors = example(f32, f64, i16, ids, bytes, scalar);
  std::map<std::string, std::string> const metadata{{"made by", "moeroute"}, {"mark", "ü\n\""}};
  write_safetensors(folder / "written.safetensors", tensors, metadata);
  safetensors_file const f(folder / "written.safetensors");
  CHECK(f.metadata() == metadata);
  CHECK(f.tensors().size() == 7);
  CHECK(f.vector<double>("f64")[6] == f64[6]);
  CHECK(f.vector<std::int64_t>("ids/ü")[2] == -10);
  CHECK(f.matrix<std::int16_t>("i16")(4, 0) == -12);
  CHECK(f.matrix<float>("empty").cols() == 4);
  for (auto const& t : f.tensors()) CHECK(t.file_offset % dtype_bytes(t.type) == 0);
  CHECK(f.find("f3") == nullptr);
  CHECK(f.find("f32")->name == "f32");

  std::reverse(tensors.begin(), tensors.end());
  write_safetensors(folder / "again.safetensors", tensors, metadata);
  CHECK(read_text(folder / "again.safetensors") == read_text(folder / "written.safetensors"));
  if (python_has("numpy, safetensors"))
    CHECK(python("golden/make_io.py --check safetensors " + folder.path().string()) == 0);

  write_safetensors(folder / "none.safetensors", {});
  CHECK(safetensors_file(folder / "none.safetensors").tensors().empty());
}

TEST_CASE("safetensors: all element types") {
  std::set<std::string_view> names;
  for (auto const& d : dtype_table) {
    CHECK(dtype_name(d.type) == d.name);
    CHECK(dtype_bytes(d.type) == d.bytes);
    names.insert(d.name);
    temporary_folder const folder;
    write_file(
        folder / "x",
        file_of(one("\"" + std::string(d.name) + "\"", "[3]", "[0," + std::to_string(3 * d.bytes) + "]"), 3 * d.bytes));
    safetensors_file const f(folder / "x");
    CHECK(f.at("a").type == d.type);
    CHECK(f.at("a").elements() == 3);
  }
  CHECK(names.size() == 15);
}

TEST_CASE("safetensors: hostile headers are refused with file and place") {
  temporary_folder const folder;
  auto const path = folder / "bad.safetensors";
  std::string const f32 = "\"F32\"";
  auto const two = [&](std::string const& first, std::string const& second) {
    return "{" + entry("a", f32, "[1]", first) + "," + entry("b", f32, "[1]", second) + "}";
  };
  struct bad {
    std::string bytes, words;
  };
  std::vector<bad> const cases{
      {"", "byte 0: file has 0 bytes"},
      {"1234567", "byte 0: file has 7 bytes"},
      {file_of("{}", 0, 3), "byte 0: header length 3, but only 2 bytes follow"},
      {file_of("{}", 0, 100'000'001), "byte 0: header length 100000001 exceeds the limit"},
      {file_of("{}", 0, ~std::uint64_t{0}), "byte 0: header length 18446744073709551615 exceeds the limit"},
      {file_of("", 0), "header is not valid JSON"},
      {file_of("{\"a\":", 0), "byte 14: header is not valid JSON"},
      {file_of("{} x", 0), "header is not valid JSON"},
      {file_of("[]", 0), "byte 8: header is not a JSON object"},
      {file_of("7", 0), "byte 8: header is not a JSON object"},
      {file_of("{\"\xff\":1}", 0), "header is not valid JSON"},
      {file_of(std::string("{\"a\0\":1}", 8), 0), "header is not valid JSON"},
      {file_of("{\"a\":" + std::string(100000, '['), 0), "header is nested too deeply"},
      // To print the wrong value would take a stack as deep as it.
      {file_of(one(std::string(100000, '[') + std::string(100000, ']'), "[1]", "[0,4]"), 4), "header is nested too deeply"},
      {file_of(one(f32, "[1e999]", "[0,4]"), 4), "byte 8: header holds a number beyond all bounds"},
      {file_of(
           [] {
             std::string s;
             for (int i = 0; i < 1000; ++i) s += "{\"a\":";
             return s;
           }(),
           0),
       "byte 8: header is nested too deeply"},
      {file_of("{" + entry("a", f32, "[1]", "[0,4]") + "," + entry("a", f32, "[1]", "[0,4]") + "}", 4),
       "byte 8: header names 'a' twice"},
      {file_of("{\"a\":{\"dtype\":\"F32\",\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4),
       "header names 'dtype' twice"},
      {file_of("{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4), "tensor 'a' needs dtype, shape and data_offsets"},
      {file_of("{\"a\":5}", 0), "tensor 'a' needs dtype"},
      {file_of(one("\"F33\"", "[1]", "[0,4]"), 4), "tensor 'a' has an unknown dtype \"F33\""},
      {file_of(one("4", "[1]", "[0,4]"), 4), "tensor 'a' has an unknown dtype 4"},
      {file_of(one(f32, "1", "[0,4]"), 4), "tensor 'a' has no usable shape"},
      {file_of(one(f32, "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]", "[0,4]"), 4), "tensor 'a' has no usable shape"},
      {file_of(one(f32, "[-1]", "[0,4]"), 4), "shape entry that is not a size"},
      {file_of(one(f32, "[1.0]", "[0,4]"), 4), "shape entry that is not a size"},
      {file_of(one(f32, "[\"1\"]", "[0,4]"), 4), "shape entry that is not a size"},
      {file_of(one(f32, "[9223372036854775808]", "[0,4]"), 4), "shape entry that is not a size"},
      {file_of(one(f32, "[99999999999999999999999]", "[0,4]"), 4), "shape entry that is not a size"},
      {file_of(one(f32, "[4611686018427387904,4]", "[0,0]"), 0), "shape that overflows"},
      {file_of(one(f32, "[1]", "[0]"), 4), "needs two data_offsets"},
      {file_of(one(f32, "[1]", "[0,-4]"), 4), "needs two data_offsets"},
      {file_of(one(f32, "[1]", "[4,0]"), 4), "data_offsets [4, 0]"},
      {file_of(one(f32, "[1]", "[0,5]"), 4), "data_offsets [0, 5], but the data has 4 bytes (truncated?)"},
      {file_of(one(f32, "[2]", "[0,8]"), 7), "truncated?"},
      {file_of(one(f32, "[2]", "[0,4]"), 4), "has 4 bytes, its shape and dtype need 8"},
      {file_of(two("[0,4]", "[0,4]"), 4), "tensor 'b' begins at byte"},
      {file_of(two("[0,4]", "[2,6]"), 6), "inside the tensor before it"},
      {file_of(two("[0,4]", "[5,9]"), 9), "leaving a hole"},
      {file_of(one(f32, "[1]", "[1,5]"), 5), "leaving a hole"},
      {file_of(one(f32, "[1]", "[0,4]"), 6), "2 bytes belong to no tensor"},
      {file_of("{}", 6), "byte 10: 6 bytes belong to no tensor"},
      {file_of("{\"__metadata__\":7}", 0), "byte 8: __metadata__ is not an object"},
      {file_of("{\"__metadata__\":{\"k\":7}}", 0), "byte 8: __metadata__ 'k' is not a string"},
  };
  for (auto const& c : cases) {
    write_file(path, c.bytes);
    auto const text = message(path);
    INFO(text);
    CHECK_MESSAGE(text.find(c.words) != std::string::npos, c.words);
    CHECK(text.find(path.string() + ":byte ") == 0);
  }
  // Their good neighbours.
  for (auto const& bytes : {file_of(two("[0,4]", "[4,8]"), 8), file_of(two("[4,8]", "[0,4]"), 8),
                            file_of(one("\"U8\"", "[4611686018427387904,2,0]", "[0,0]"), 0), file_of("{}   ", 0)}) {
    write_file(path, bytes);
    CHECK(message(path) == "accepted");
    safetensors_file const f(path);
    for (auto const& t : f.tensors()) CHECK(t.elements() == static_cast<index_t>(t.data.size() / dtype_bytes(t.type)));
  }
  CHECK(safetensors_file(path).tensors().empty());
  CHECK_THROWS_AS(safetensors_file(folder / "none"), io_error);
}

TEST_CASE("safetensors: a tensor of another type, rank, name or alignment") {
  temporary_folder const folder;
  auto header = "{" + entry("a", "\"U8\"", "[1]", "[0,1]") + "," + entry("b", "\"F32\"", "[2]", "[1,9]") + "}";
  header.append(8 - header.size() % 8, ' ');
  write_file(folder / "x", file_of(header, 9));
  safetensors_file const f(folder / "x");
  CHECK_THROWS_WITH_AS(f.vector<float>("c"), doctest::Contains("header: has no tensor 'c'"), format_error);
  CHECK_THROWS_WITH_AS(f.vector<double>("b"), doctest::Contains("tensor 'b' is F32, expected F64"), format_error);
  CHECK_THROWS_WITH_AS(f.matrix<float>("b"), doctest::Contains("tensor 'b' has rank 1, expected 2"), format_error);
  CHECK_THROWS_WITH_AS(f.vector<float>("b"), doctest::Contains("not aligned"), format_error);
  CHECK(f.vector<std::uint8_t>("a").size() == 1);
}

TEST_CASE("safetensors: no mutation of a good file is anything but refused or read within its bounds") {
  temporary_folder const folder;
  auto const f32 = pattern<float>(12);
  write_safetensors(folder / "good", {make_tensor<float>("x", {3, 4}, f32), make_tensor<float>("y", {12}, f32)},
                    {{"k", "v"}});
  auto const good = read_text(folder / "good");
  for (unsigned seed = 0; seed < 500; ++seed) {
    std::mt19937_64 random(seed);
    auto bytes = good;
    for (auto n = random() % 3 + 1; n > 0; --n)
      bytes[random() % 200 % bytes.size()] =
          random() % 4 == 0 ? static_cast<char>(random()) : "0123456789[]{},:\"-eE."[random() % 22];
    if (random() % 4 == 0) bytes.resize(random() % bytes.size());
    std::ofstream(folder / "mutant", std::ios::binary) << bytes;
    try {
      safetensors_file const f(folder / "mutant");
      for (auto const& t : f.tensors()) CHECK(t.file_offset + t.data.size() <= bytes.size());
    } catch (format_error const&) {
    }
  }
}

TEST_CASE("safetensors: what cannot be written is refused and leaves no file") {
  temporary_folder const folder;
  auto const path = folder / "x";
  std::vector<float> const six(6);
  auto const max = std::numeric_limits<index_t>::max();
  auto const refused = [&](std::vector<tensor_data> const& tensors,
                           std::map<std::string, std::string> const& metadata = {}) {
    CHECK_THROWS_AS(write_safetensors(path, tensors, metadata), argument_error);
    CHECK_FALSE(std::filesystem::exists(path));
  };
  refused({make_tensor<float>("a", {5}, six)});
  refused({make_tensor<float>("a", {-2, -3}, six)});
  refused({make_tensor<float>("a", {max, max, 0}, {})});
  refused({make_tensor<float>("a", {6}, six), make_tensor<float>("a", {6}, six)});
  refused({make_tensor<float>("__metadata__", {6}, six)});
  refused({make_tensor<float>("\xff", {6}, six)});
  refused({make_tensor<float>("a", {6}, six)}, {{"k", "\xc3"}});
  CHECK_THROWS_AS(write_safetensors(folder / "no such folder" / "x", {}), io_error);
}

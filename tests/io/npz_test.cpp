// SPDX-License-Identifier: Apache-2.0
#include <moeroute/io/npz.hpp>

#include <cstring>
#include <limits>

#include <doctest/doctest.h>

#include "support/pattern.hpp"
#include "support/python.hpp"
#include "support/temporary_folder.hpp"

using namespace moeroute;

namespace {

void write_example(std::filesystem::path const& path) {
  npz_writer file(path);
  file.add<double>("x", pattern<double>(12), {3, 4});
  file.add<float>("cdf", pattern<float>(5), {5});
  file.add<std::int64_t>("scalar", pattern<std::int64_t>(1), {});
  file.add<std::uint8_t>("empty", {}, {0, 3});
  file.commit();
}

std::uint32_t crc_of(std::string_view text) {
  return detail::crc32(std::as_bytes(std::span<char const>(text.data(), text.size())));
}

}  // namespace

TEST_CASE("npz: crc32") {
  CHECK(crc_of("123456789") == 0xCBF43926u);  // the check value of the catalogues
  CHECK(crc_of("") == 0);
  std::string_view const text = "in two pieces";
  auto const bytes = std::as_bytes(std::span<char const>(text.data(), text.size()));
  CHECK(detail::crc32(bytes.subspan(5), detail::crc32(bytes.first(5))) == detail::crc32(bytes));
}

TEST_CASE("npz: numpy reads ours, and the same arrays give the same bytes") {
  temporary_folder const folder;
  write_example(folder / "a.npz");
  write_example(folder / "b.npz");
  CHECK(read_text(folder / "a.npz") == read_text(folder / "b.npz"));
  CHECK(read_text(folder / "a.npz").substr(0, 4) == std::string("PK\3\4"));
  if (python_has("numpy, safetensors")) CHECK(python("golden/make_io.py --check npz " + folder.path().string()) == 0);
}

TEST_CASE("npz: an empty file, and one that is not finished") {
  temporary_folder const folder;
  npz_writer(folder / "empty.npz").commit();
  CHECK(read_text(folder / "empty.npz").size() == 22);
  {
    npz_writer file(folder / "left.npz");
    file.add<double>("x", pattern<double>(3), {3});
  }
  CHECK_FALSE(std::filesystem::exists(folder / "left.npz"));
  CHECK_FALSE(std::filesystem::exists(folder / "left.npz.tmp"));
  CHECK_THROWS_AS(npz_writer(folder / "no" / "folder.npz"), io_error);
}

TEST_CASE("npz: what is refused leaves the file as it was") {
  temporary_folder const folder;
  npz_writer file(folder / "a.npz");
  file.add<double>("x", pattern<double>(12), {3, 4});
  file.add<float>("cdf", pattern<float>(5), {5});
  std::vector<double> const three(3);
  for (char const* name : {"", "a/b", "a\\b", "a b", "\xc3\xbc", "x"})
    CHECK_THROWS_AS(file.add<double>(name, three, {3}), argument_error);
  CHECK_THROWS_WITH_AS(file.add<double>("y", three, {4}),
                       doctest::Contains("npz_writer::add: 3 values, the shape needs 4"), argument_error);
  CHECK_THROWS_AS(file.add<double>("y", three, {-3}), argument_error);
  // Nothing is touched before the size is known to fit.
  CHECK_THROWS_WITH_AS(
      file.add<double>("y", std::span<double const>(three.data(), std::size_t{1} << 29), {index_t{1} << 29}),
      doctest::Contains("4 GiB"), argument_error);
  file.add<std::int64_t>("scalar", pattern<std::int64_t>(1), {});
  file.add<std::uint8_t>("empty", {}, {0, 3});
  file.commit();
  write_example(folder / "b.npz");
  CHECK(read_text(folder / "a.npz") == read_text(folder / "b.npz"));
}

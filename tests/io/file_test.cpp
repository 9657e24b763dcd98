// SPDX-License-Identifier: Apache-2.0
#include <moeroute/io/file.hpp>

#include <cerrno>
#include <fstream>
#include <string>
#include <sys/stat.h>

#include <doctest/doctest.h>

#include "support/temporary_folder.hpp"

using namespace moeroute;
namespace fs = std::filesystem;

TEST_CASE("file: written, mapped, read") {
  temporary_folder const folder;
  write_file(folder / "a", "some\0text");
  CHECK(read_text(folder / "a") == "some");
  mapped_file a(folder / "a");
  CHECK(a.bytes().size() == 4);
  CHECK(a.path() == (folder / "a").string());
  mapped_file b(std::move(a));
  CHECK(b.bytes().size() == 4);
  CHECK(a.bytes().empty());  // NOLINT: moved from is empty
  write_file(folder / "a", "");
  CHECK(read_text(folder / "a").empty());
  CHECK(b.bytes()[0] == std::byte{'s'});  // replaced by renaming: who mapped the old one keeps it
  b = mapped_file(folder / "a");
  CHECK(b.bytes().empty());
}

TEST_CASE("file: what cannot be read says why") {
  temporary_folder const folder;
  try {
    mapped_file const none(folder / "none");
    FAIL("opened");
  } catch (io_error const& e) {
    CHECK(e.error_number() == ENOENT);
    CHECK(std::string(e.what()).find("none: cannot open: No such file") != std::string::npos);
  }
  CHECK_THROWS_WITH_AS(mapped_file{folder.path()}, doctest::Contains("Is a directory"), io_error);
  REQUIRE(::mkfifo((folder / "pipe").c_str(), 0600) == 0);
  CHECK_THROWS_AS(mapped_file{folder / "pipe"}, io_error);  // at once, not when somebody writes to it
}

TEST_CASE("file: whole or not at all") {
  temporary_folder const folder;
  write_file(folder / "a", "old");
  {
    atomic_file half(folder / "a");
    half.write(std::string_view("new, but never"));
  }
  CHECK(read_text(folder / "a") == "old");
  CHECK(std::distance(fs::directory_iterator(folder.path()), {}) == 1);  // nothing left beside it
  atomic_file whole(folder / "a");
  whole.write(std::string_view("ne"));
  whole.write(std::string_view("w"));
  CHECK(read_text(folder / "a") == "old");
  whole.commit();
  CHECK(read_text(folder / "a") == "new");
  CHECK(std::distance(fs::directory_iterator(folder.path()), {}) == 1);
}

TEST_CASE("file: a disk that refuses") {
  temporary_folder const folder;
  CHECK_THROWS_AS(write_file(folder / "no such folder" / "a", "x"), io_error);
  fs::create_directory(folder / "taken");
  write_file(folder / "taken" / "in the way", "x");
  CHECK_THROWS_WITH_AS(write_file(folder / "taken", "x"), doctest::Contains("cannot rename"), io_error);
  CHECK_FALSE(fs::exists(folder / "taken.tmp"));
  if (fs::exists("/dev/full")) {
    fs::create_symlink("/dev/full", folder / "full.tmp");
    atomic_file full(folder / "full");
    CHECK_THROWS_WITH_AS(full.write(std::string_view("x")), doctest::Contains("No space left on device"), io_error);
  }
}

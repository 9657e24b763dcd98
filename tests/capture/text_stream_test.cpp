// SPDX-License-Identifier: Apache-2.0
#include "text_stream.hpp"

#include <moeroute/core/error.hpp>
#include <moeroute/io/file.hpp>

#include <filesystem>
#include <fstream>
#include <string>
#include <sys/resource.h>
#include <unistd.h>
#include <vector>

#include <doctest/doctest.h>
#include <zlib.h>

#include "csv.hpp"

using namespace moeroute::capture;

namespace {

std::string scratch(std::string const& name, std::string const& bytes) {
  auto const folder = std::filesystem::temp_directory_path() / ("moeroute-stream-" + std::to_string(::getpid()));
  std::filesystem::create_directories(folder);
  moeroute::write_file(folder / name, bytes);
  return (folder / name).string();
}

// gzip -n of "one\ntwo\n".
std::string const packed{"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03\xcb\xcf\x4b\xe5\x2a\x29\xcf\xe7\x02\x00\xe6\x0b\xba\x12\x08\x00\x00\x00", 28};

std::vector<std::string> lines(std::string const& file, std::uint64_t limit = 1 << 20) {
  text_stream in(file, limit);
  std::vector<std::string> out;
  for (std::string line; in.line(line);) out.push_back(line);
  return out;
}

template <class F>
std::string complaint(F&& f) {
  try {
    f();
  } catch (moeroute::format_error const& e) {
    return e.what();
  }
  return "";
}

std::vector<std::vector<std::string>> records(std::string const& text, char separator = ',', std::uint64_t limit = 1000) {
  std::size_t at = 0;
  csv_reader reader("t", separator, limit, [&](std::string& line) {
    if (at >= text.size()) return false;
    auto const end = std::min(text.find('\n', at), text.size());
    line = text.substr(at, end - at);
    at = end + 1;
    return true;
  });
  std::vector<std::vector<std::string>> out;
  for (std::vector<std::string> fields; reader.record(fields);) out.push_back(fields);
  return out;
}

using table = std::vector<std::vector<std::string>>;

}  // namespace

TEST_CASE("lines, offsets and the rest") {
  text_stream in(scratch("a", "one\n\nthree"), 100);
  std::string line;
  REQUIRE(in.line(line));
  CHECK(line == "one");
  CHECK(in.offset() == 4);
  REQUIRE(in.line(line));
  CHECK(line.empty());
  CHECK(in.lines() == 2);
  CHECK(in.rest() == "three");
  CHECK_FALSE(in.line(line));
  CHECK(lines(scratch("empty", "")).empty());
  // A line over several blocks.
  std::string const wide(200'000, 'x');
  CHECK(lines(scratch("wide", wide + "\ny\n")) == std::vector<std::string>{wide, "y"});
}

TEST_CASE("gzip: members, padding, damage") {
  using list = std::vector<std::string>;
  CHECK(lines(scratch("a.gz", packed)) == list{"one", "two"});
  CHECK(lines(scratch("no_suffix", packed)) == list{"one", "two"});
  CHECK(lines(scratch("b.gz", packed + packed)) == list{"one", "two", "one", "two"});
  CHECK(lines(scratch("c.gz", packed + std::string(1000, '\0'))) == list{"one", "two"});
  // The signature of the second member is cut by the end of a block of the file: a name of the first one fills it.
  auto named = packed;
  named[3] = 8;
  named.insert(10, std::string((1 << 16) - 1 - named.size() - 1, 'n') + '\0');
  CHECK(lines(scratch("d.gz", named + packed)) == list{"one", "two", "one", "two"});
  for (std::size_t n = 2; n < packed.size(); ++n)
    CHECK(complaint([&] { lines(scratch("cut.gz", packed.substr(0, n))); }).find("cut.gz:byte " + std::to_string(n) + ": ends inside its gzip data") != std::string::npos);
  for (std::size_t n = 0; n < 2; ++n)
    CHECK(complaint([&] { lines(scratch("cut.gz", packed.substr(0, n))); }).find("is not gzip data") != std::string::npos);
  for (std::size_t i = 10; i < packed.size(); ++i) {
    auto bad = packed;
    bad[i] = static_cast<char>(bad[i] ^ 1);
    CAPTURE(i);
    CHECK(complaint([&] { lines(scratch("bad.gz", bad)); }).find("bad.gz:byte ") != std::string::npos);
  }
  CHECK(complaint([&] { lines(scratch("behind.gz", packed + "x")); }).find("byte 28: has bytes behind its gzip data") != std::string::npos);
  CHECK(complaint([&] { lines(scratch("p.jsonl", std::string("PAR1") + "....")); }).find("is parquet, which is not read") != std::string::npos);
}

TEST_CASE("no line and no text is longer than the limit") {
  std::string const text(100, 'x');
  CHECK(lines(scratch("a", text), 100).size() == 1);
  CHECK(complaint([&] { lines(scratch("a", "y\n" + text + "x"), 100); }).find("a:2: the line has more than 100 bytes") != std::string::npos);
  CHECK(complaint([&] {
          text_stream in(scratch("a", text + "\n"), 100);
          in.rest();
        }).find("a:1: the text has more than 100 bytes") != std::string::npos);
}

TEST_CASE("a packed file is never unpacked whole") {
  auto const file = scratch("bomb.gz", "");
  gzFile const out = gzopen(file.c_str(), "wb1");
  std::string const mebibyte(1 << 20, 'x');
  for (int i = 0; i < 256; ++i) gzwrite(out, mebibyte.data(), 1 << 20);
  gzclose(out);
  auto const peak = [] {
    struct ::rusage usage {};
    ::getrusage(RUSAGE_SELF, &usage);
    return usage.ru_maxrss;  // KiB
  };
  auto const before = peak();
  CHECK(complaint([&] { lines(file); }).find("the line has more than") != std::string::npos);
  CHECK(complaint([&] { text_stream(file, 1 << 20).rest(); }).find("the text has more than") != std::string::npos);
  CHECK(peak() - before < 16 << 10);
}

TEST_CASE("csv: RFC 4180") {
  CHECK(records("a,b\r\n1,\r\n\n,\n") == table{{"a", "b"}, {"1", ""}, {"", ""}});
  CHECK(records("\"a,\"\"b\"\"\",\"\"\n\"two\r\nlines\",x") == table{{"a,\"b\"", ""}, {"two\r\nlines", "x"}});
  CHECK(records("\"a\tb\"\tc, d\n", '\t') == table{{"a\tb", "c, d"}});
  CHECK(complaint([] { records("a\nb\"c\n"); }) == "t:2: field 1 has a quote inside; quote the whole field and double it");
  CHECK(complaint([] { records("a,\"b\nc\"d\n"); }) == "t:2: field 2 goes on behind its closing quote; a quote inside is doubled");
  CHECK(complaint([] { records("x\na,\"b\nc\n"); }) == "t:2: field 2 opens a quote that is never closed");
  CHECK(complaint([] { records("\"" + std::string(2000, '\n')); }).find("t:1: field 1 has more than 1000 bytes") == 0);
}

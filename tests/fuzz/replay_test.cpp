// SPDX-License-Identifier: Apache-2.0
// Every file of the corpus: good-* must be accepted, bad-* refused, the others (what fuzzing found) must do no harm.
#include <moeroute/io/file.hpp>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "targets.hpp"

namespace {

void replay(std::string const& target, bool (*run)(std::string_view)) {
  std::vector<std::filesystem::path> files;
  for (auto const& entry : std::filesystem::directory_iterator(MOEROUTE_FUZZ_CORPUS "/" + target))
    files.push_back(entry);
  std::sort(files.begin(), files.end());
  int good = 0, bad = 0;
  for (auto const& path : files) {
    auto const name = path.filename().string();
    CAPTURE(name);
    bool accepted = false;
    CHECK_NOTHROW(accepted = run(moeroute::read_text(path)));
    if (name.starts_with("good-")) {
      ++good;
      CHECK(accepted);
    } else if (name.starts_with("bad-")) {
      ++bad;
      CHECK_FALSE(accepted);
    }
  }
  CHECK(good > 0);
  CHECK(bad > 0);
}

}  // namespace

TEST_CASE("fuzz: safetensors") { replay("safetensors", moeroute::fuzz::safetensors); }
TEST_CASE("fuzz: config") { replay("config", moeroute::fuzz::config); }
TEST_CASE("fuzz: tokenizer") { replay("tokenizer", moeroute::fuzz::tokenizer); }

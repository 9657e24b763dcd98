// SPDX-License-Identifier: Apache-2.0
#include "tokenizer.hpp"

#include <moeroute/core/error.hpp>
#include <moeroute/io/file.hpp>

#include <filesystem>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unistd.h>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include "normal_form.hpp"
#include "utf8.hpp"

using namespace moeroute::capture;

namespace {

/// A folder with this tokenizer.json, gone at the end.
struct folder_with {
  std::filesystem::path path;

  explicit folder_with(std::string const& json)
      : path{std::filesystem::temp_directory_path() / ("moeroute-tokenizer-" + std::to_string(::getpid()))} {
    std::filesystem::create_directories(path);
    moeroute::write_file(path / "tokenizer.json", json);
  }
  folder_with(folder_with const&) = delete;
  folder_with& operator=(folder_with const&) = delete;
  ~folder_with() { std::filesystem::remove_all(path); }
};

std::string small_tokenizer(std::string const& model_extra = "", std::string const& added = "") {
  return R"({"normalizer": {"type": "NFC"}, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false},
    "added_tokens": [)" +
         added + R"(],
    "model": {"type": "BPE", )" +
         model_extra +
         R"( "vocab": {"a": 0, "b": 1, "c": 2, "Ġ": 3, "ab": 4, "bc": 5, "abc": 6, "Ġa": 7, "Ã": 8, "©": 9},
    "merges": ["b c", "a b", ["a", "bc"], "Ġ a"]}})";
}

std::vector<std::int32_t> encode(std::string const& json, std::string const& text) {
  folder_with const folder(json);
  return tokenizer::load(folder.path).encode(text);
}

std::vector<std::pair<std::size_t, std::size_t>> matches(char const* pattern, std::string_view text) {
  std::vector<std::pair<std::size_t, std::size_t>> found{{7, 7}};
  regex{pattern}.find(text, found);
  return found;
}

}  // namespace

TEST_CASE("UTF-8: what is refused, and where") {
  CHECK(find_invalid_utf8("") == std::string::npos);
  CHECK(find_invalid_utf8("a\xC3\xA9\xED\x95\x9C\xF0\x9F\x98\x80") == std::string::npos);
  CHECK(find_invalid_utf8("ab\xFF") == 2);
  CHECK(find_invalid_utf8("a\xC0\x80") == 1);         // overlong
  CHECK(find_invalid_utf8("\xE0\x80\x80") == 0);      // overlong
  CHECK(find_invalid_utf8("x\xED\xA0\x80") == 1);     // surrogate
  CHECK(find_invalid_utf8("\xF4\x90\x80\x80") == 0);  // above U+10FFFF
  CHECK(find_invalid_utf8("ab\xE2\x82") == 2);        // cut off
  CHECK(find_invalid_utf8("\x80") == 0);
}

TEST_CASE("UTF-8: one U+FFFD for every maximal ill-formed part") {
  std::string const r = "\xEF\xBF\xBD";
  CHECK(replace_invalid_utf8("a\xFFz") == "a" + r + "z");
  CHECK(replace_invalid_utf8("\xE2\x82") == r);
  CHECK(replace_invalid_utf8("\xE2\x82(") == r + "(");
  CHECK(replace_invalid_utf8("\xED\xA0\x80") == r + r + r);
  CHECK(replace_invalid_utf8("\xF0\x9F\x98\x41") == r + "A");
}

TEST_CASE("UTF-8: every code point there and back") {
  for (char32_t c = 0; c <= 0x10FFFF; ++c) {
    if (c >= 0xD800 && c <= 0xDFFF) continue;
    std::string text;
    append_utf8(text, c);
    auto const back = first_code_point(text);
    REQUIRE(back.value == c);
    REQUIRE(back.length == text.size());
  }
}

TEST_CASE("normal forms") {
  auto const nfc = [](std::string const& text) { return normalized(text, normal_form::nfc); };
  CHECK(nfc("plain ASCII") == "plain ASCII");
  CHECK(nfc("e\xCC\x81x") == "\xC3\xA9x");                               // e + acute
  CHECK(nfc("\xE1\x84\x80\xE1\x85\xA1\xE1\x86\xA8") == "\xEA\xB0\x81");  // three jamo, one syllable
  CHECK(nfc("\xE2\x84\xAB") == "\xC3\x85");                              // Angstrom sign
  CHECK(nfc("a\xCC\x81\xCC\xA3") == "\xE1\xBA\xA1\xCC\x81");             // marks change places, then the first composes
  // A mark that the reference's older tables do not know stays where it is, and what follows does not pass it.
  CHECK(nfc("a\xF0\x91\xB6\x97\xCC\x81") == "a\xF0\x91\xB6\x97\xCC\x81");
  CHECK(normalized("x\xC3\xA9", normal_form::nfd) == "xe\xCC\x81");
  CHECK(nfc("\xEF\xAC\x81") == "\xEF\xAC\x81");  // the ligature fi
  CHECK(normalized("\xEF\xAC\x81", normal_form::nfkc) == "fi");
  CHECK(normalized("\xE1\xBA\x9B\xCC\xA3", normal_form::nfkd) == "s\xCC\xA3\xCC\x87");
  CHECK(normalized("\xE1\xBA\x9B\xCC\xA3", normal_form::nfkc) == "\xE1\xB9\xA9");
}

TEST_CASE("regular expressions: what is rewritten and what is refused") {
  CHECK(pcre2_dialect(R"(\p{Han}+\p{L})") == R"(\p{sc:Han}+\p{L})");
  CHECK(pcre2_dialect(R"([^\s\]]\S)").find(R"(\s)") == std::string::npos);
  for (char const* pattern : {R"(\w)", R"(\h)", R"([\S])", "[a[b]]", "[a&&b]", R"(\pL)", "a\\", R"(\p{L)"}) {
    CAPTURE(pattern);
    CHECK_THROWS_AS(regex{pattern}, std::invalid_argument);
  }
  CHECK_THROWS_AS(regex{"(a"}, std::invalid_argument);
  CHECK_THROWS_AS(regex{R"(\p{Nonsense})"}, std::invalid_argument);
  // U+180E is white space to PCRE2, and not to the reference.
  CHECK(matches(R"(\s+)", " \xE1\xA0\x8E").size() == 1);
  CHECK(matches(R"(\s+)", "\xE3\x80\x80\xC2\x85") == std::vector<std::pair<std::size_t, std::size_t>>{{0, 5}});
}

TEST_CASE("regular expressions: matches of no width make progress") {
  CHECK(matches("x*", "axxb\xC3\xA9x") == std::vector<std::pair<std::size_t, std::size_t>>{{1, 3}, {6, 7}});
}

TEST_CASE("merges go by rank, not by length or place") {
  // "b c" comes first in the list: abc becomes a + bc, then the third rule joins them; ab alone uses the second.
  CHECK(encode(small_tokenizer(), "abc") == std::vector<std::int32_t>{6});
  CHECK(encode(small_tokenizer(), "ab") == std::vector<std::int32_t>{4});
  CHECK(encode(small_tokenizer(), "ab ab") ==
        std::vector<std::int32_t>{4, 3, 4});  // "a b" has the better rank than "Ġ a"
  CHECK(encode(small_tokenizer(), "a ac") == std::vector<std::int32_t>{0, 7, 2});
}

TEST_CASE("bytes, unknown bytes and pieces") {
  CHECK(encode(small_tokenizer(), "\xC3\xA9") == std::vector<std::int32_t>{8, 9});
  // Without an unknown token the byte is left out and its neighbours meet, as in the reference.
  CHECK(encode(small_tokenizer(), "azb") == std::vector<std::int32_t>{4});
  CHECK(encode(small_tokenizer(R"("unk_token": "c",)"), "azzb") == std::vector<std::int32_t>{0, 2, 2, 1});
  CHECK(encode(small_tokenizer(R"("unk_token": "c", "fuse_unk": true,)"), "azzb") ==
        std::vector<std::int32_t>{0, 2, 1});
  folder_with const folder(small_tokenizer());
  auto const t = tokenizer::load(folder.path);
  CHECK(t.piece(7) == " a");
  CHECK(t.piece(8) == "\xEF\xBF\xBD");
  CHECK(t.piece(-1).empty());
  CHECK(t.piece(1000).empty());
}

TEST_CASE("added tokens: the longest, stripping, single words") {
  auto const tokens = R"({"id": 20, "content": "<x>", "lstrip": true}, {"id": 21, "content": "<xy>", "rstrip": true},
    {"id": 22, "content": "ab", "single_word": true}, {"id": 23, "content": "<x>y"})";
  auto const with = [&](std::string const& text) { return encode(small_tokenizer("", tokens), text); };
  CHECK(with("c  <x>c") == std::vector<std::int32_t>{2, 20, 2});
  CHECK(with("<xy>  c") == std::vector<std::int32_t>{21, 2});
  CHECK(with("<x>y") == std::vector<std::int32_t>{23});
  CHECK(with("ab") == std::vector<std::int32_t>{22});
  CHECK(with("abc") == std::vector<std::int32_t>{6});
  CHECK(with("c ab") == std::vector<std::int32_t>{2, 3, 22});
}

TEST_CASE("refusals name file and key") {
  auto const refused = [](std::string const& json, std::string const& place) {
    CAPTURE(json);
    folder_with const folder(json);
    try {
      tokenizer::load(folder.path);
      FAIL("was accepted");
    } catch (moeroute::format_error const& e) {
      CHECK(e.file() == (folder.path / "tokenizer.json").string());
      CHECK(e.place() == place);
    }
  };
  refused(R"({"model": {"type": "WordPiece"}})", "model.type");
  refused(R"({"model": 3})", "model");
  refused(R"([])", "top level");
  refused(R"({"model": )", "byte 10");
  refused(small_tokenizer(R"("byte_fallback": true,)"), "model.byte_fallback");
  refused(small_tokenizer(R"("unk_token": "nope",)"), "model.unk_token");
  refused(small_tokenizer("", R"({"id": -1, "content": "x"})"), "added_tokens[0].id");
}

TEST_CASE("damaged files end in an error of ours, never elsewhere") {
  std::string const good = small_tokenizer(R"("unk_token": "c",)", R"({"id": 20, "content": "<x>"})");
  std::mt19937 random(7);
  int accepted = 0;
  for (int round = 0; round < 2000; ++round) {
    std::string bad = good;
    for (int edits = 1 + static_cast<int>(random() % 3); edits > 0; --edits) {
      auto const at = random() % bad.size();
      if (random() % 3 == 0)
        bad.erase(at, 1 + random() % 8);
      else
        bad[at] = static_cast<char>(random() % 256);
    }
    folder_with const folder(bad);
    try {
      (void)tokenizer::load(folder.path).encode("abc <x> \xC3\xA9 z");
      ++accepted;
    } catch (moeroute::format_error const&) {
    }
  }
  CHECK(accepted < 2000);
}

// SPDX-License-Identifier: Apache-2.0
#include "detokenizer.hpp"

#include <moeroute/core/error.hpp>
#include <moeroute/io/file.hpp>

#include <cstdint>
#include <filesystem>
#include <string>
#include <unistd.h>
#include <vector>

#include <doctest/doctest.h>

using namespace moeroute::capture;

namespace {

detokenizer with_decoder(std::string const& decoder, std::string const& vocabulary = R"({"a": 0, "b": 1, "</s>": 2})") {
  auto const folder = std::filesystem::temp_directory_path() / ("moeroute-detokenizer-" + std::to_string(::getpid()));
  std::filesystem::create_directories(folder);
  moeroute::write_file(folder / "tokenizer.json",
                       R"({"model": {"vocab": )" + vocabulary + R"(}, "added_tokens": [{"id": 2, "content": "</s>", "special": true}])" +
                           (decoder.empty() ? "" : R"(, "decoder": )" + decoder) + "}");
  return detokenizer::load(folder);
}

std::string refusal(std::string const& decoder, std::string const& vocabulary = R"({"a": 0})") {
  try {
    with_decoder(decoder, vocabulary);
  } catch (moeroute::format_error const& e) {
    return e.what();
  }
  return "";
}

}  // namespace

// What tokenizers gives is in test_generate.py; here is what nobody generates.

TEST_CASE("ids outside the vocabulary give no text, nor do special ones on request") {
  auto const d = with_decoder("");
  CHECK(d.decode(std::vector<std::int32_t>{}, false).empty());
  CHECK(d.decode(std::vector<std::int32_t>{0, 7, -1, 1, 2}, false) == "a b </s>");
  CHECK(d.decode(std::vector<std::int32_t>{0, 7, -1, 1, 2}, true) == "a b");
}

TEST_CASE("the mark at the start of a text, in older and newer files") {
  auto const first = [](std::string const& more) {
    auto const d = with_decoder(R"({"type": "Metaspace", "replacement": "_")" + more + "}", R"({"_a": 0, "_b": 1})");
    return d.decode(std::vector<std::int32_t>{0, 1}, false);
  };
  CHECK(first("") == "a b");
  CHECK(first(R"(, "add_prefix_space": true)") == "a b");
  CHECK(first(R"(, "add_prefix_space": false)") == " a b");
  CHECK(first(R"(, "prepend_scheme": "never", "add_prefix_space": true)") == " a b");
}

TEST_CASE("a decoder is refused by file and key") {
  auto const says = [](std::string const& text, char const* words) {
    CHECK_MESSAGE(text.find(words) != std::string::npos, text << " does not say: " << words);
  };
  says(refusal(R"({"type": "CTC"})"), "tokenizer.json:decoder.type: \"CTC\" is not built yet");
  says(refusal(R"({"type": "Replace", "pattern": {"Regex": "a"}, "content": ""})"), "decoder.pattern: only \"String\"");
  says(refusal(R"({"type": "Replace", "pattern": {"String": ""}, "content": ""})"), "decoder.pattern.String: is empty");
  says(refusal(R"({"type": "Strip", "content": " ", "start": -1, "stop": 0})"), "decoder.start: expected an integer from 0");
  says(refusal(R"({"type": "Strip", "content": "", "start": 1, "stop": 0})"), "decoder.content: is empty");
  says(refusal(R"({"type": "Metaspace", "replacement": ""})"), "decoder.replacement: is empty");
  says(refusal(R"({"type": "Sequence", "decoders": [{"type": "Fuse"}, 3]})"), "decoder.decoders[1]: expected an object");
  says(refusal("", R"({"a": -1})"), "model.vocab.a: expected an integer from 0");
  says(refusal("", "[]"), "model.vocab: expected an object of token to id");
}

TEST_CASE("replacements cannot fill the memory") {
  std::string steps;
  for (int i = 0; i < 60; ++i) steps += R"({"type": "Replace", "pattern": {"String": "a"}, "content": "aa"},)";
  auto const d = with_decoder(R"({"type": "Sequence", "decoders": [)" + steps + R"({"type": "Fuse"}]})");
  CHECK(d.decode(std::vector<std::int32_t>{1}, false) == "b");
  CHECK_THROWS_WITH_AS(d.decode(std::vector<std::int32_t>{0}, false),
                       "decoder of tokenizer.json: makes the text more than 64 times as long", std::runtime_error);
}

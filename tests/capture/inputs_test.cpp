// SPDX-License-Identifier: Apache-2.0
#include "inputs.hpp"

#include <moeroute/core/error.hpp>
#include <moeroute/io/file.hpp>

#include <filesystem>
#include <string>
#include <unistd.h>
#include <vector>

#include <doctest/doctest.h>

#include "family.hpp"

using namespace moeroute::capture;

namespace {

std::filesystem::path scratch(std::string const& name, std::string const& text) {
  auto const folder = std::filesystem::temp_directory_path() / ("moeroute-inputs-" + std::to_string(::getpid()));
  std::filesystem::create_directories(folder);
  moeroute::write_file(folder / name, text);
  return folder / name;
}

std::vector<document> all(input_options const& options) {
  std::vector<document> out;
  read_documents(options, [&](document&& d) { out.push_back(std::move(d)); });
  return out;
}

std::string complaint(input_options const& options) {
  try {
    all(options);
  } catch (moeroute::format_error const& e) {
    return e.what();
  }
  return "";
}

}  // namespace

TEST_CASE("lines, labels and ids of documents") {
  input_options options;
  options.files = {
      scratch("a.jsonl", "{\"text\": \"one\", \"id\": 7, \"lang\": \"de\"}\n \n{\"text\": \"two\"}").string()};
  options.texts = {"zero"};
  options.labels = {{"set", "s"}};
  options.label_field = "";
  auto const d = all(options);
  REQUIRE(d.size() == 3);
  CHECK(d[0].id == "text-1");
  CHECK(d[1].id == "7");
  CHECK(d[1].labels == std::map<std::string, std::string>{{"lang", "de"}, {"set", "s"}});
  CHECK(d[2].id == "a:3");
  CHECK(d[2].source == "a.jsonl:3");
  options.max_documents = 1;  // of the texts, and of the file
  CHECK(all(options).size() == 2);
}

TEST_CASE("places in complaints") {
  input_options options;
  auto const path =
      scratch("b.jsonl", "{\"text\": \"one\", \"id\": \"x\"}\n{\"text\": \"two\", \"id\": \"x\"}\n").string();
  options.files = {path};
  CHECK(complaint(options) == path + ":2: document id \"x\" was used before, at " + path + ":1");
  options.files = {path.substr(0, path.size() - 7) + "d.jsonl", path};
  scratch("d.jsonl", "{\"text\": \"zero\", \"id\": \"x\"}\n");
  CHECK(complaint(options) == path + ":1: document id \"x\" was used before, at " + options.files[0] + ":1");
  options.files = {scratch("c.txt", "ab\xFF").string()};
  CHECK(complaint(options).find("c.txt:byte 2: is not UTF-8") != std::string::npos);
  options.replace_invalid_utf8 = true;
  CHECK(all(options).at(0).text == "ab\xEF\xBF\xBD");
}

TEST_CASE("a config nested without end is refused, and not printed") {
  auto const deep = std::string(200'000, '[') + std::string(200'000, ']');
  auto const path = scratch("config.json", "{\"model_type\": " + deep + "}");
  std::string complaint;
  try {
    read_config(path);
  } catch (moeroute::format_error const& e) {
    complaint = e.what();
  }
  CHECK(complaint == path.string() + ":byte 0: is JSON nested more than 64 deep");
}

TEST_CASE("published sizes come out of the table of tensors") {
  auto const path = scratch("config.json", R"({"model_type": "olmoe", "hidden_size": 2048, "intermediate_size": 1024,
    "num_hidden_layers": 16, "num_attention_heads": 16, "num_key_value_heads": 16, "num_experts": 64, "num_experts_per_tok": 8,
    "vocab_size": 50304, "max_position_embeddings": 4096, "tie_word_embeddings": false, "clip_qkv": null})");
  auto const spec = read_config(path);
  CHECK(parameters(spec) == 6'919'161'856u);
  CHECK(spec.clip == 0);
  CHECK(spec.head_width == 128);
  CHECK(tensor_name("a.{l}.b.{e}.c", 3, 41) == "a.3.b.41.c");
}

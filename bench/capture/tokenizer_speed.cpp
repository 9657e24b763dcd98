// SPDX-License-Identifier: Apache-2.0
// tokenizer_speed FOLDER TEXTS.jsonl ROUNDS IDS.bin: processor time of moeroute's tokenizer over all texts, ROUNDS times; writes
// the ids (int32) of the last round. Prints {"bytes", "ids", "seconds": [...]}. For bench/capture/tokenizer.py.
#include <moeroute/io/file.hpp>

#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <exception>
#include <fstream>
#include <span>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "tokenizer.hpp"

int main(int argc, char** argv) try {
  if (argc != 5) {
    std::fputs("usage: tokenizer_speed FOLDER TEXTS.jsonl ROUNDS IDS.bin\n", stderr);
    return 2;
  }
  std::vector<std::string> texts;
  std::size_t bytes = 0;
  std::ifstream file(argv[2]);
  for (std::string line; std::getline(file, line);) {
    texts.push_back(nlohmann::json::parse(line).at("text").get<std::string>());
    bytes += texts.back().size();
  }
  std::vector<std::int32_t> ids;
  nlohmann::ordered_json out{{"bytes", bytes}};
  for (int round = std::atoi(argv[3]); round > 0; --round) {
    // A new one each time: what it remembers of the last round would not be there in a real run.
    auto const words = moeroute::capture::tokenizer::load(argv[1]);
    ids.clear();
    auto const start = std::clock();
    for (auto const& text : texts) {
      auto const of_text = words.encode(text);
      ids.insert(ids.end(), of_text.begin(), of_text.end());
    }
    out["seconds"].push_back(static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC);
  }
  out["ids"] = ids.size();
  auto const raw = std::as_bytes(std::span<std::int32_t const>(ids));
  moeroute::write_file(argv[4], std::string(reinterpret_cast<char const*>(raw.data()), raw.size()));
  std::puts(out.dump().c_str());
  return 0;
} catch (std::exception const& e) {
  std::fprintf(stderr, "tokenizer_speed: %s\n", e.what());
  return 1;
}

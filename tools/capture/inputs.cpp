// SPDX-License-Identifier: Apache-2.0
#include "inputs.hpp"

#include <moeroute/core/error.hpp>
#include <moeroute/io/file.hpp>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <string_view>
#include <unordered_map>

#include <nlohmann/json.hpp>

#include "json_view.hpp"
#include "utf8.hpp"

namespace moeroute::capture {
namespace {

namespace fs = std::filesystem;

std::string read_standard_input() {
  std::string text;
  std::array<char, 1 << 16> buffer{};
  std::size_t n = 0;
  while ((n = std::fread(buffer.data(), 1, buffer.size(), stdin)) > 0) text.append(buffer.data(), n);
  if (std::ferror(stdin) != 0) throw io_error("standard input", "cannot read", errno);
  return text;
}

class reader {
 public:
  reader(input_options const& options, std::function<void(document&&)> const& sink) : options_{options}, sink_{sink} {}

  void read_all() {
    for (std::size_t i = 0; i < options_.texts.size() && !done(); ++i) {
      std::string const place = "--text:" + std::to_string(i + 1);
      if (!options_.ids_field.empty()) throw argument_error("--text is a text; with --token-ids documents are ids");
      give({"text-" + std::to_string(i + 1), {}, place, place, checked(options_.texts[i], place)});
    }
    for (auto const& file : options_.files) {
      if (done()) return;
      read_file(file);
    }
  }

 private:
  bool done() const { return given_ >= options_.max_documents; }

  std::string checked(std::string text, std::string const& name) const {
    auto const bad = find_invalid_utf8(text);
    if (bad == std::string::npos) return text;
    if (!options_.replace_invalid_utf8)
      throw format_error(name, static_cast<std::uint64_t>(bad),
                         "is not UTF-8; use --replace-invalid-utf8 to go on with U+FFFD");
    return replace_invalid_utf8(text);
  }

  void read_file(std::string const& file) {
    bool const standard = file == "-";
    std::string const name = standard ? "standard input" : file;
    std::string const extension = standard ? (options_.lines ? ".txt" : ".jsonl") : fs::path(file).extension().string();
    for (char const* not_built : {".json", ".csv", ".tsv", ".gz", ".zst", ".parquet"})
      if (extension == not_built)
        throw format_error(name, extension, "this kind of file is not built yet; give .jsonl or plain text");
    if (!options_.ids_field.empty() && extension != ".jsonl")
      throw argument_error("--token-ids reads .jsonl files, not " + name);
    std::string const text = checked(standard ? read_standard_input() : read_text(file), name);
    std::string const short_name = standard ? "-" : fs::path(file).filename().string();
    if (extension != ".jsonl" && !options_.lines) {
      give({short_name, {}, short_name, name + ":1", text});
      return;
    }
    std::string const stem = standard ? "-" : fs::path(file).stem().string();
    std::string_view rest = text;
    for (std::size_t line = 1; !rest.empty() && !done(); ++line) {
      auto const end = std::min(rest.find('\n'), rest.size());
      std::string_view content = rest.substr(0, end);
      rest.remove_prefix(std::min(end + 1, rest.size()));
      if (!content.empty() && content.back() == '\r') content.remove_suffix(1);
      std::string const number = std::to_string(line);
      if (extension == ".jsonl") {
        if (content.find_first_not_of(" \t\r") == std::string_view::npos) continue;
        give(from_json(content, name, number,
                       {stem + ":" + number, {}, short_name + ":" + number, name + ":" + number}));
      } else {
        give({stem + ":" + number, {}, short_name + ":" + number, name + ":" + number, std::string(content)});
      }
    }
  }

  std::vector<std::int32_t> token_ids(nlohmann::json const& json, std::string const& name,
                                      std::string const& number) const {
    auto const& field = options_.ids_field;
    auto const refuse = [&](std::string const& what) { throw format_error(name, number, "field \"" + field + "\" " + what); };
    if (!json.contains(field) || !json[field].is_array()) refuse("is not an array of token ids");
    std::vector<std::int32_t> ids;
    for (auto const& id : json[field]) {
      if (!id.is_number_unsigned() || id.get<std::uint64_t>() > std::numeric_limits<std::int32_t>::max())
        refuse("holds " + id.dump() + ", which is no token id");
      ids.push_back(id.get<std::int32_t>());
    }
    return ids;
  }

  document from_json(std::string_view line, std::string const& name, std::string const& number, document out) const {
    nlohmann::json json;
    try {
      json = nlohmann::json::parse(line);
    } catch (nlohmann::json::parse_error const& e) {
      throw format_error(name, number, "is not valid JSON (column " + std::to_string(e.byte) + ")");
    } catch (nlohmann::json::out_of_range const&) {
      throw format_error(name, number, "holds a number beyond all bounds");
    }
    if (!json.is_object()) throw format_error(name, number, "is not a JSON object");
    if (!options_.ids_field.empty())
      out.ids = token_ids(json, name, number);
    else if (!json.contains(options_.text_field))
      throw format_error(name, number, "has no field \"" + options_.text_field + "\"; name it with --text-field");
    if (options_.ids_field.empty()) {
      if (!json[options_.text_field].is_string())
        throw format_error(name, number, "field \"" + options_.text_field + "\" is not a string");
      out.text = json[options_.text_field].get<std::string>();
    }
    if (json.contains("id") && options_.text_field != "id") {
      if (!json["id"].is_string() && !json["id"].is_number_integer())
        throw format_error(name, number, "field \"id\" is neither a string nor an integer");
      out.id = json["id"].is_string() ? json["id"].get<std::string>() : json["id"].dump();
    }
    for (auto const& [key, value] : json.items())
      if (value.is_string() && key != options_.text_field && key != "id") out.labels[key] = value.get<std::string>();
    if (!options_.label_field.empty()) {
      if (!json.contains(options_.label_field))
        throw format_error(name, number, "has no field \"" + options_.label_field + "\", which --label-field asks for");
      auto const& value = json[options_.label_field];
      out.labels.erase(options_.label_field);
      out.labels["label"] = value.is_string() ? value.get<std::string>() : value.dump();
    }
    return out;
  }

  void give(document&& d) {
    if (d.text.empty() && d.ids.empty()) {
      if (options_.skip_empty) return;
      auto const colon = d.place.rfind(':');
      throw format_error(d.place.substr(0, colon), d.place.substr(colon + 1),
                         "the document is empty; remove it or use --skip-empty");
    }
    auto const [place, fresh] = seen_.emplace(d.id, d.place);
    if (!fresh) {
      auto const colon = d.place.rfind(':');
      throw format_error(d.place.substr(0, colon), d.place.substr(colon + 1),
                         "document id \"" + d.id + "\" was used before, at " + place->second);
    }
    for (auto const& [key, value] : options_.labels) d.labels[key] = value;
    ++given_;
    sink_(std::move(d));
  }

  input_options const& options_;
  std::function<void(document&&)> const& sink_;
  std::unordered_map<std::string, std::string> seen_;  // id to place
  std::uint64_t given_ = 0;
};

}  // namespace

void read_documents(input_options const& options, std::function<void(document&&)> const& sink) {
  reader(options, sink).read_all();
}

}  // namespace moeroute::capture

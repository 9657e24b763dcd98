// SPDX-License-Identifier: Apache-2.0
#include "inputs.hpp"

#include <moeroute/core/error.hpp>

#include <algorithm>
#include <filesystem>
#include <string_view>
#include <unordered_map>

#include <nlohmann/json.hpp>

#include "csv.hpp"
#include "text_stream.hpp"
#include "utf8.hpp"

namespace moeroute::capture {
namespace {

namespace fs = std::filesystem;

bool ends_in_gz(std::string const& name) { return name.size() > 3 && name.ends_with(".gz"); }

class reader {
 public:
  reader(input_options const& options, std::function<void(document&&)> const& sink) : options_{options}, sink_{sink} {}

  void read_all() {
    for (std::size_t i = 0; i < options_.texts.size() && given_ < options_.max_documents; ++i) {
      std::string const place = "--text:" + std::to_string(i + 1);
      if (!options_.ids_field.empty()) throw argument_error("--text is a text; with --token-ids documents are ids");
      given_ += give({"text-" + std::to_string(i + 1), {}, place, place, checked(options_.texts[i], place)}) ? 1 : 0;
    }
    auto const sources = sources_of(options_);
    for (std::size_t i = 0; i < sources.size(); ++i) read_source(sources[i], i);
  }

 private:
  // `before`: bytes of the file before the text.
  std::string checked(std::string text, std::string const& name, std::uint64_t before = 0) const {
    auto const bad = find_invalid_utf8(text);
    if (bad == std::string::npos) return text;
    if (!options_.replace_invalid_utf8)
      throw format_error(name, before + static_cast<std::uint64_t>(bad),
                         "is not UTF-8; use --replace-invalid-utf8 to go on with U+FFFD");
    return replace_invalid_utf8(text);
  }

  void read_source(data_source const& source, std::size_t index) {
    bool const standard = source.file == "-";
    if (!options_.ids_field.empty() && source.kind != data_kind::jsonl)
      throw argument_error("--token-ids reads JSON lines; " + source.file + " is " + std::string(name_of(source.kind)));
    text_stream in(source.file, options_.document_bytes);
    auto const file = standard ? "-" : fs::path(source.file).filename().string();
    auto const stem = fs::path(ends_in_gz(file) ? file.substr(0, file.size() - 3) : file).stem().string();
    auto const line = [&](std::string& out) {
      auto const before = in.offset();
      if (!in.line(out)) return false;
      out = checked(std::move(out), in.name(), before);
      return true;
    };
    given_ = 0;
    if (is_preset(source.kind)) {
      std::string example;
      read_preset({source.kind, index, in.name(), file, stem, options_.document_bytes, line}, [&](document&& d) {
        if (d.scored->example != example) ++given_;
        example = d.scored->example;
        give(std::move(d));
        return given_ < options_.max_documents;
      });
      return;
    }
    if (source.kind == data_kind::csv || source.kind == data_kind::tsv)
      return read_table(in, source.kind == data_kind::csv ? ',' : '\t', stem, file, line);
    if (source.kind == data_kind::text && !options_.lines) {
      give({file, {}, file, in.name() + ":1", checked(in.rest(), in.name())});
      return;
    }
    for (std::string text; given_ < options_.max_documents && line(text);) {
      if (text.ends_with('\r')) text.pop_back();
      std::string const number = std::to_string(in.lines());
      document d{stem + ":" + number, {}, file + ":" + number, in.name() + ":" + number};
      if (source.kind == data_kind::text) {
        d.text = text;
      } else {
        if (text.find_first_not_of(" \t\r") == std::string::npos) continue;
        d = from_json(text, in.name(), number, std::move(d));
      }
      given_ += give(std::move(d)) ? 1 : 0;
    }
  }

  void read_table(text_stream const& in, char separator, std::string const& stem, std::string const& file,
                  std::function<bool(std::string&)> const& line) {
    csv_reader table(in.name(), separator, options_.document_bytes, line);
    std::vector<std::string> header, fields;
    if (!table.record(header)) throw format_error(in.name(), "1", "is empty; the first line names the columns");
    if (header[0].starts_with("\xEF\xBB\xBF")) header[0].erase(0, 3);
    auto const refuse = [&](std::string const& what) { throw format_error(in.name(), std::to_string(table.line()), what); };
    auto const column = [&](std::string const& name) {
      return static_cast<std::size_t>(std::find(header.begin(), header.end(), name) - header.begin());
    };
    for (std::size_t c = 0; c < header.size(); ++c)
      if (column(header[c]) != c) refuse("names the column \"" + header[c] + "\" twice");
    auto const text = column(options_.text_field), id = column("id");
    auto const label = options_.label_field.empty() ? header.size() : column(options_.label_field);
    if (text == header.size()) refuse("has no column \"" + options_.text_field + "\"; name it with --text-field");
    if (!options_.label_field.empty() && label == header.size())
      refuse("has no column \"" + options_.label_field + "\", which --label-field asks for");
    while (given_ < options_.max_documents && table.record(fields)) {
      if (fields.size() != header.size())
        refuse("has " + std::to_string(fields.size()) + " fields, the header has " + std::to_string(header.size()));
      std::string const number = std::to_string(table.line());
      document d{stem + ":" + number, {}, file + ":" + number, in.name() + ":" + number};
      if (id < header.size() && id != text) d.id = fields[id];
      for (std::size_t c = 0; c < header.size(); ++c)
        if (c != text && c != id && c != label && !header[c].empty() && !fields[c].empty()) d.labels[header[c]] = fields[c];
      if (label < header.size()) d.labels["label"] = fields[label];
      d.text = std::move(fields[text]);
      given_ += give(std::move(d)) ? 1 : 0;
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

  // False if it was left out.
  bool give(document&& d) {
    if (d.text.empty() && d.ids.empty()) {
      if (options_.skip_empty) return false;
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
    sink_(std::move(d));
    return true;
  }

  input_options const& options_;
  std::function<void(document&&)> const& sink_;
  std::unordered_map<std::string, std::string> seen_;  // id to place
  std::uint64_t given_ = 0;  // of this file
};

}  // namespace

std::vector<data_source> sources_of(input_options const& options) {
  std::vector<data_source> out;
  for (auto const& file : options.files) {
    auto const extension = fs::path(ends_in_gz(file) ? file.substr(0, file.size() - 3) : file).extension().string();
    if (extension == ".json")
      throw argument_error(file + ": .json says not what it holds; give its kind with --data, for example --data jsonl:" + file);
    auto const kind = file == "-"             ? options.lines ? data_kind::text : data_kind::jsonl
                      : extension == ".jsonl" ? data_kind::jsonl
                      : extension == ".csv"   ? data_kind::csv
                      : extension == ".tsv"   ? data_kind::tsv
                                              : data_kind::text;
    out.push_back({kind, file});
  }
  for (auto const& text : options.data) out.push_back(parse_data(text));
  return out;
}

void read_documents(input_options const& options, std::function<void(document&&)> const& sink) {
  reader(options, sink).read_all();
}

}  // namespace moeroute::capture

// SPDX-License-Identifier: Apache-2.0
#include "report/report.hpp"

#include <moeroute/core/error.hpp>
#include <moeroute/io/file.hpp>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include <nlohmann/json.hpp>

// Defined in assets.cpp by the assembler.
extern "C" {
extern char const moeroute_report_plotly[], moeroute_report_plotly_end[];
extern char const moeroute_report_template[], moeroute_report_template_end[];
extern char const moeroute_report_style[], moeroute_report_style_end[];
extern char const moeroute_report_page[], moeroute_report_page_end[];
extern char const moeroute_report_sections[], moeroute_report_sections_end[];
}

namespace moeroute::report {
namespace {

using json = nlohmann::json;

constexpr int schema_version = 1;
// The schema is 9 deep. Without a limit a file of a million brackets would end the recursion below by overflowing the
// stack.
constexpr int depth_limit = 32;

// A value of results.json together with where it stands, so that every complaint names the place.
class node {
 public:
  node(std::string const& file, json const& value, std::string place = "")
      : file_{&file}, value_{&value}, place_{std::move(place)} {}

  [[noreturn]] void bad(std::string const& what, char const* advice = "write it again with `moeroute analyze`") const {
    throw format_error(*file_, place_.empty() ? "/" : place_, what + "; " + advice);
  }

  node at(std::string const& name) const {
    if (!value_->is_object()) bad("an object is expected, found " + kind());
    auto const found = value_->find(name);
    if (found == value_->end()) bad("\"" + name + "\" is missing");
    return node(*file_, *found, place_ + "/" + name);
  }
  // A part that may be absent; null is as good as absent.
  std::optional<node> find(std::string const& name) const {
    if (value_->is_object() && (!value_->contains(name) || (*value_)[name].is_null())) return std::nullopt;
    return at(name);
  }

  // Calls f for every element.
  template <class Function>
  void each(Function f) const {
    elements();
    std::size_t i = 0;
    for (json const& value : *value_) f(node(*file_, value, place_ + "/" + std::to_string(i++)));
  }

  std::size_t elements() const {
    if (!value_->is_array()) bad("an array is expected, found " + kind());
    return value_->size();
  }
  void elements(std::size_t expected, char const* unit) const {
    if (elements() != expected) {
      bad(std::to_string(value_->size()) + " values where there are " + std::to_string(expected) + " " + unit);
    }
  }
  void numbers(std::size_t expected, char const* unit) const {
    elements(expected, unit);
    // Not through each(): there can be millions of numbers, and a place is built only for the one that is wrong.
    for (std::size_t i = 0; i < value_->size(); ++i) {
      if (json const& x = (*value_)[i]; !x.is_number() && !x.is_null())
        node(*file_, x, place_ + "/" + std::to_string(i)).number();
    }
  }

  void number() const {
    if (!value_->is_number() && !value_->is_null()) bad("a number is expected, found " + kind());
  }
  std::size_t count() const {
    if (!value_->is_number_integer() || *value_ < 0) bad("a count is expected, found " + kind());
    return value_->get<std::size_t>();
  }
  std::string const& text() const {
    if (!value_->is_string()) bad("text is expected, found " + kind());
    return value_->get_ref<std::string const&>();
  }

 private:
  std::string kind() const {
    return value_->is_number() ? value_->dump()
           : value_->is_null() ? "null"
                               : std::string("a value of type ") + value_->type_name();
  }

  std::string const* file_;
  json const* value_;
  std::string place_;
};

void check_estimate(node const& estimate) {
  for (char const* field : {"value", "lower", "upper"}) estimate.at(field).number();
}

void check_layer(node const& layer, std::size_t labels) {
  layer.at("layer").count();
  auto const experts = layer.at("experts").count();
  layer.at("counts").numbers(experts, "experts");
  layer.at("load_share").numbers(experts, "experts");
  for (char const* field : {"probability", "weight_share"}) {
    if (auto const found = layer.find(field)) found->numbers(experts, "experts");
  }
  if (auto const balance = layer.find("balance")) {
    for (char const* field : {"max_violation", "effective_experts"}) {
      if (auto const entry = balance->find(field)) entry->at("value").number();
    }
  }
  if (auto const unseen = layer.find("unseen")) unseen->at("experts").elements();
  if (auto const all = layer.find("labels")) {
    all->elements(labels, "labels");
    all->each([&](node const& label) {
      for (char const* field :
           {"counts", "share", "lower", "upper", "lift", "lift_lower", "lift_upper", "p_value", "p_adjusted", "q_by"}) {
        label.at(field).numbers(experts, "experts");
      }
      check_estimate(label.at("effective_experts"));
    });
  }
}

void check_document(node const& document) {
  document.at("label").text();
  auto const tokens = document.at("tokens").elements();
  document.at("tokens").each([](node const& token) { token.text(); });
  document.at("layers").each([&](node const& layer) {
    layer.at("layer").count();
    layer.at("ids").elements(tokens, "tokens");
    for (char const* field : {"probability", "ids", "weights"}) {
      if (auto const rows = layer.find(field)) {
        rows->elements(tokens, "tokens");
        rows->each([](node const& row) { row.numbers(row.elements(), "experts"); });
      }
    }
  });
}

void check_lags(node const& part, std::size_t layers) {
  auto const matrix = part.at("matrix");
  matrix.elements(layers, "layers");
  matrix.each([](node const& row) { row.numbers(row.elements(), "lags"); });
  part.at("lags").each([](node const& lag) {
    lag.at("delta").count();
    for (char const* field : {"mean", "p_value", "p_adjusted"}) lag.at(field).number();
  });
}

// What the page relies on. A file that passes gives a page without holes; fields it does not know are carried along
// unseen.
void check(node const& results) {
  if (results.at("schema").text() != "moeroute.results")
    results.at("schema").bad("this is not a moeroute results file");
  if (auto const version = results.at("schema_version").count(); version != schema_version) {
    results.at("schema_version")
        .bad("version " + std::to_string(version) + ", where this moeroute reads version " +
                 std::to_string(schema_version),
             version > schema_version ? "use a newer moeroute" : "write it again with `moeroute analyze`");
  }
  auto const trace = results.at("trace");
  trace.at("model").find("name");
  trace.at("documents").count();
  trace.at("tokens").count();
  auto const labels = trace.at("labels").elements();
  trace.at("labels").each([](node const& label) { label.at("name").text(); });

  results.at("layers").each([&](node const& layer) { check_layer(layer, labels); });
  if (auto const effective = results.find("effective_experts")) {
    effective->at("labels").each([](node const& label) {
      label.at("name").text();
      check_estimate(label);
    });
    effective->at("differences").each([](node const& difference) {
      difference.at("a").text();
      difference.at("b").text();
      check_estimate(difference);
    });
  }
  if (auto const lag = results.find("lag_correlation")) {
    auto const layers = lag->at("layers").elements();
    lag->at("layers").each([](node const& layer) { layer.count(); });
    check_lags(lag->at("load"), layers);
    if (auto const probability = lag->find("probability")) check_lags(*probability, layers);
  }
  if (auto const documents = results.find("documents")) documents->each(check_document);
  for (char const* field : {"answers", "warnings"}) {
    if (auto const sentences = results.find(field)) sentences->each([](node const& sentence) { sentence.text(); });
  }
  if (auto const reasons = results.find("not_computed")) {
    reasons->each([](node const& reason) {
      reason.at("what").text();
      reason.at("why").text();
    });
  }
}

json read_results(std::string const& file) {
  mapped_file const mapped(file);
  auto const* const begin = reinterpret_cast<char const*>(mapped.bytes().data());
  auto const limit = [&](int depth, json::parse_event_t, json const&) {
    if (depth > depth_limit)
      throw format_error(file, "/", "nested deeper than " + std::to_string(depth_limit) + " levels");
    return true;
  };
  try {
    return json::parse(begin, begin + mapped.bytes().size(), limit);
  } catch (json::parse_error const& error) {
    throw format_error(file, error.byte,
                       "not valid JSON (cut short or damaged); write it again with `moeroute analyze`");
  } catch (json::exception const&) {  // a number such as 1e999
    throw format_error(file, "/", "a number is out of range; write it again with `moeroute analyze`");
  }
}

// 5 significant digits are more than a screen shows and make the page a third of the size.
void round_numbers(json& value) {
  if (value.is_number_float()) {
    std::array<char, 32> text;
    auto& x = value.get_ref<double&>();
    auto const end = std::to_chars(text.data(), text.data() + text.size(), x, std::chars_format::general, 5).ptr;
    std::from_chars(text.data(), end, x);
  } else if (value.is_structured()) {
    for (json& element : value) round_numbers(element);
  }
}

// Tokens x experts x layers is nearly all of a large page: there, whole ten-thousandths take a third of the room.
void shrink_documents(json& results) {
  if (!results.contains("documents")) return;
  for (json& document : results["documents"]) {
    for (json& layer : document["layers"]) {
      auto const found = layer.find("probability");
      if (found == layer.end() || found->is_null()) continue;
      json rows = std::move(*found);
      for (json& row : rows) {
        for (json& x : row) {
          if (x.is_number()) x = std::lround(std::clamp(x.get<double>(), 0.0, 1.0) * 1e4);
        }
      }
      layer.erase(found);
      layer["probability_e4"] = std::move(rows);
    }
  }
}

// JSON that may stand in a <script> element whatever the texts in it are. These three occur only inside strings.
std::string script_safe(json const& value) {
  std::string const text = value.dump(-1, ' ', true);  // ASCII only: U+2028 and its kind are escaped here
  std::string safe;
  safe.reserve(text.size());
  for (char const c : text) {
    if (c == '<') {
      safe += "\\u003c";
    } else if (c == '>') {
      safe += "\\u003e";
    } else if (c == '&') {
      safe += "\\u0026";
    } else {
      safe += c;
    }
  }
  return safe;
}

std::string base64(std::string_view bytes) {
  constexpr std::string_view digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  text.reserve((bytes.size() + 2) / 3 * 4);
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    auto const byte = [&](std::size_t at) { return at < bytes.size() ? static_cast<unsigned char>(bytes[at]) : 0U; };
    unsigned const word = byte(i) << 16U | byte(i + 1) << 8U | byte(i + 2);
    for (unsigned digit = 0; digit < 4; ++digit) {
      text += digit > bytes.size() - i ? '=' : digits[word >> (18U - 6U * digit) & 63U];
    }
  }
  return text;
}

std::string_view asset(char const* begin, char const* end) { return {begin, static_cast<std::size_t>(end - begin)}; }

std::string plotly_source(std::filesystem::path const& file) {
  if (!file.empty()) {
    auto text = read_text(file);
    bool const gzip = text.starts_with("\x1f\x8b");
    if (!gzip && text.find("plotly.js") == std::string::npos) {
      throw format_error(file.string(), 0, "this is not plotly.min.js, plain or gzip");
    }
    return text;
  }
  auto const built_in = asset(moeroute_report_plotly, moeroute_report_plotly_end);
  if (built_in.empty()) {
    throw argument_error(
        "report: this moeroute was built without plotly.js; pass --plotly FILE (plotly.min.js of the plotly Python "
        "package)");
  }
  return std::string(built_in);
}

}  // namespace

void write_report(report_options const& options) {
  std::error_code ignored;  // what cannot be looked at cannot be opened either, and opening says why
  bool const folder = is_directory(options.results, ignored);
  auto const file = (folder ? options.results / "results.json" : options.results).string();
  if (auto const output = status(options.output, ignored); exists(output) && !is_regular_file(output)) {
    throw io_error(options.output.string(), "cannot replace what is not a regular file",
                   is_directory(output) ? EISDIR : EINVAL);
  }
  auto const plotly = plotly_source(options.plotly);
  json results = read_results(file);
  check(node(file, results));
  shrink_documents(results);
  round_numbers(results);

  atomic_file page(options.output);
  auto rest = asset(moeroute_report_template, moeroute_report_template_end);
  for (auto open = rest.find("{{"); open != rest.npos; open = rest.find("{{")) {
    auto const close = rest.find("}}", open);
    auto const name = rest.substr(open + 2, close - open - 2);
    page.write(rest.substr(0, open));
    if (name == "style") page.write(asset(moeroute_report_style, moeroute_report_style_end));
    if (name == "page") page.write(asset(moeroute_report_page, moeroute_report_page_end));
    if (name == "sections") page.write(asset(moeroute_report_sections, moeroute_report_sections_end));
    if (name == "plotly") page.write(base64(plotly));
    if (name == "results") page.write(script_safe(results));
    rest.remove_prefix(close + 2);
  }
  page.write(rest);
  page.commit();
}

}  // namespace moeroute::report

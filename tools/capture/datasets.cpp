// SPDX-License-Identifier: Apache-2.0
#include "datasets.hpp"

#include <moeroute/core/error.hpp>

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "inputs.hpp"
#include "json_view.hpp"

namespace moeroute::capture {
namespace {

constexpr std::array<std::pair<data_kind, std::string_view>, 12> names{{{data_kind::text, "text"},
                                                                        {data_kind::jsonl, "jsonl"},
                                                                        {data_kind::csv, "csv"},
                                                                        {data_kind::tsv, "tsv"},
                                                                        {data_kind::lambada, "lambada"},
                                                                        {data_kind::hellaswag, "hellaswag"},
                                                                        {data_kind::wikitext, "wikitext"},
                                                                        {data_kind::gsm8k, "gsm8k"},
                                                                        {data_kind::math, "math"},
                                                                        {data_kind::aqua, "aqua"},
                                                                        {data_kind::humaneval, "humaneval"},
                                                                        {data_kind::mgsm, "mgsm"}}};

constexpr std::string_view white_space = " \t\n\v\f\r";

std::string stripped(std::string const& text) {
  auto const first = text.find_first_not_of(white_space);
  return first == std::string::npos ? "" : text.substr(first, text.find_last_not_of(white_space) - first + 1);
}

std::string replaced(std::string const& text, std::string_view what, std::string_view by) {
  std::string out;
  std::size_t from = 0;
  for (std::size_t at; (at = text.find(what, from)) != std::string::npos; from = at + what.size())
    out.append(text, from, at - from) += by;
  return out.append(text, from);
}

// What evaluations take out of WikiHow's texts: "[title]", "[step]" and the like.
std::string cleaned(std::string const& text) {
  auto const titled = replaced(stripped(text), " [title]", ". ");
  std::string out;
  for (std::size_t at = 0; at < titled.size(); ++at) {
    auto const end = titled[at] == '[' ? titled.find_first_of("]\n", at) : std::string::npos;
    if (end != std::string::npos && titled[end] == ']')
      at = end;
    else
      out += titled[at];
  }
  return replaced(out, "  ", " ");
}

// ASCII letters only: the texts are English.
std::string capitalized(std::string text) {
  for (std::size_t i = 0; i < text.size(); ++i)
    if (char& c = text[i]; i == 0 && c >= 'a' && c <= 'z')
      c = static_cast<char>(c - 'a' + 'A');
    else if (i > 0 && c >= 'A' && c <= 'Z')
      c = static_cast<char>(c - 'A' + 'a');
  return text;
}

std::uint64_t code_points(std::string_view text) {
  return static_cast<std::uint64_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

std::uint64_t words(std::string_view text) {
  std::uint64_t n = 0;
  bool inside = false;
  for (char const c : text) {
    bool const space = white_space.find(c) != std::string_view::npos;
    n += !space && !inside ? 1 : 0;
    inside = !space;
  }
  return n;
}

class preset_reader {
 public:
  preset_reader(preset_input const& input, std::function<bool(document&&)> const& give) : in_{input}, give_{give} {}

  void read() {
    if (in_.kind == data_kind::wikitext) return read_articles();
    for (std::string line; next(line);) {
      if (line.find_first_not_of(white_space) == std::string::npos) continue;
      if (!(in_.kind == data_kind::mgsm ? mgsm(line) : from_json(line))) return;
    }
  }

 private:
  bool next(std::string& line) {
    if (!in_.next_line(line)) return false;
    ++line_;
    return true;
  }
  std::string number() const { return std::to_string(line_); }
  [[noreturn]] void refuse(std::string const& what) const { throw format_error(in_.name, number(), what); }

  document start(std::size_t line) const {
    auto const at = ":" + std::to_string(line);
    document d{in_.stem + at, {{"label", std::string(name_of(in_.kind))}}, in_.file + at, in_.name + at};
    d.scored = scored_part{in_.kind, in_.source, d.id};
    return d;
  }

  // White space at the end of a prompt goes to what follows, where tokenizers attach it.
  static void put(document& d, std::string const& prompt, std::string const& answer) {
    auto const end = prompt.find_last_not_of(white_space);
    d.scored->context = end == std::string::npos ? 0 : end + 1;
    d.text = prompt + answer;
  }

  bool one(std::string const& prompt, std::string const& answer, std::map<std::string, std::string> labels = {}) {
    if (answer.find_first_not_of(white_space) == std::string::npos) refuse("has an empty answer");
    auto d = start(line_);
    d.labels.merge(labels);
    put(d, prompt, answer);
    return give_(std::move(d));
  }

  // The documents of one question share its words, so they also share a block.
  bool choices(std::string const& prompt, std::vector<std::string> const& answers, std::size_t right) {
    if (right >= answers.size()) refuse("names the right answer " + std::to_string(right) + " of " + std::to_string(answers.size()));
    bool more = true;
    for (std::size_t c = 0; c < answers.size(); ++c) {
      if (answers[c].empty()) refuse("has an empty answer");
      auto d = start(line_);
      d.labels["passage"] = d.id;
      d.id += "/" + std::to_string(c);
      put(d, prompt, " " + answers[c]);
      d.scored->choice = static_cast<std::uint32_t>(c);
      d.scored->right = static_cast<std::uint32_t>(right);
      d.scored->length = code_points(answers[c]);
      more = give_(std::move(d));
    }
    return more;
  }

  bool from_json(std::string const& line) {
    nlohmann::json parsed;
    try {
      parsed = nlohmann::json::parse(line);
    } catch (nlohmann::json::parse_error const& e) {
      refuse("is not valid JSON (column " + std::to_string(e.byte) + ")");
    }
    json_view const json(parsed, in_.name, number());
    auto const text = [&](char const* key) { return json.at(key).string(); };
    auto const list = [&](char const* key) {
      std::vector<std::string> out;
      for (auto const& element : json.at(key).elements()) out.push_back(element.string());
      return out;
    };
    switch (in_.kind) {
      case data_kind::lambada: {
        auto const passage = text("text");
        auto const space = passage.rfind(' ');
        if (space == std::string::npos || space + 1 == passage.size()) refuse("field \"text\" does not end in a space and a word");
        return one(passage.substr(0, space), passage.substr(space));
      }
      case data_kind::hellaswag: {
        if (json.has("query")) return choices(text("query"), list("choices"), index(json, "gold"));
        auto endings = list("endings");
        for (auto& ending : endings) ending = cleaned(ending);
        return choices(cleaned(text("activity_label") + ": " + text("ctx_a") + " " + capitalized(text("ctx_b"))), endings,
                       index(json, "label"));
      }
      case data_kind::gsm8k: return one("Question: " + text("question") + "\nAnswer:", " " + text("answer"));
      case data_kind::math:
        return one("Problem:\n" + text("problem") + "\n\nSolution:", " " + text("solution"),
                   {{"level", text("level")}, {"type", text("type")}});
      case data_kind::aqua: {
        auto prompt = "Question: " + text("question") + "\nOptions:\n";
        std::vector<std::string> letters;
        for (auto const& option : list("options")) {
          prompt += option + "\n";
          letters.emplace_back(1, static_cast<char>('A' + letters.size()));
        }
        auto const correct = std::find(letters.begin(), letters.end(), text("correct"));
        if (correct == letters.end()) refuse("field \"correct\" names none of the options");
        return choices(prompt + "Answer:", letters, static_cast<std::size_t>(correct - letters.begin()));
      }
      default: return one(text("prompt"), text("canonical_solution"), {{"task_id", text("task_id")}});
    }
  }

  // The number is a number in one release and a string in another; in the test split it is empty.
  std::size_t index(json_view const& json, char const* key) const {
    auto const value = json.at(key);
    if (!value.raw().is_string()) return static_cast<std::size_t>(value.integer(0, 1000));
    auto const& digits = value.string();
    if (digits.size() != 1 || digits[0] < '0' || digits[0] > '9')
      value.refuse("is \"" + digits + "\", which says not which ending is right; give a split with labels");
    return static_cast<std::size_t>(digits[0] - '0');
  }

  bool mgsm(std::string line) {
    if (line.ends_with('\r')) line.pop_back();
    auto const tab = line.find('\t');
    if (tab == std::string::npos || line.find('\t', tab + 1) != std::string::npos)
      refuse("is not question<tab>answer");
    std::map<std::string, std::string> labels{{"passage", "mgsm:" + number()}};
    if (auto const at = in_.stem.find("mgsm_"); at != std::string::npos) labels["language"] = in_.stem.substr(at + 5);
    return one("Question: " + line.substr(0, tab) + "\nAnswer:", " " + line.substr(tab + 1), std::move(labels));
  }

  static bool is_title(std::string_view line) {
    return line.starts_with(" = ") && !line.starts_with(" = = ") && line.size() > 5 &&
           line.substr(0, line.find_last_not_of(white_space) + 1).ends_with(" =");
  }

  void read_articles() {
    std::string line, text;
    std::size_t first = 1;
    bool blank = true, more = true;
    auto const finish = [&] {
      if (text.find_first_not_of(white_space) == std::string::npos) return true;
      auto d = start(first);
      d.labels["passage"] = d.id;
      d.scored->length = words(text);
      d.text = std::move(text);
      return give_(std::move(d));
    };
    while (more && next(line)) {
      if (blank && is_title(line)) {
        more = finish();
        text.clear();
        first = line_;
      }
      blank = line.find_first_not_of(white_space) == std::string::npos;
      if (text.size() + line.size() >= in_.limit)
        refuse("the article that begins in line " + std::to_string(first) + " has more than " + std::to_string(in_.limit) + " bytes");
      text += line + '\n';
    }
    if (more) finish();
  }

  preset_input const& in_;
  std::function<bool(document&&)> const& give_;
  std::size_t line_ = 0;
};

}  // namespace

std::string_view name_of(data_kind kind) { return names[static_cast<std::size_t>(kind)].second; }

data_source parse_data(std::string const& text) {
  auto const colon = text.find(':');
  auto const kind = std::string_view(text).substr(0, std::min(colon, text.size()));
  for (auto const& [value, name] : names)
    if (colon != std::string::npos && colon + 1 < text.size() && name == kind) return {value, text.substr(colon + 1)};
  std::string known;
  for (auto const& [value, name] : names) known += (known.empty() ? "" : ", ") + std::string(name);
  throw argument_error("--data " + text + ": expected KIND:FILE, where KIND is one of " + known);
}

void read_preset(preset_input const& input, std::function<bool(document&&)> const& give) {
  preset_reader(input, give).read();
}

}  // namespace moeroute::capture

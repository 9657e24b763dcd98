// SPDX-License-Identifier: Apache-2.0
#include "scoring.hpp"

#include <moeroute/core/error.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>

namespace moeroute::capture {
namespace {

using json = nlohmann::ordered_json;

[[noreturn]] void refuse(document const& d, std::string const& what) {
  auto const colon = d.place.rfind(':');
  throw format_error(d.place.substr(0, colon), d.place.substr(colon + 1), what);
}

json number(double x) { return std::isfinite(x) ? json(x) : json(nullptr); }

// All examples of one data set.
class data_set {
 public:
  explicit data_set(data_source const& source) : source_{source} {}

  // The documents [first, last) are one example.
  void add(scored_document const* first, scored_document const* last) {
    json entry{{"id", first->part->example}, {"documents", json::array()}};
    double nats = 0;
    std::uint64_t tokens = 0, length = 0;
    for (auto const* d = first; d != last; ++d) {
      entry["documents"].push_back(d->document);
      nats += d->score.nats;
      tokens += d->score.tokens;
      length += d->part->length;
    }
    bool const choices = source_.kind == data_kind::hellaswag || source_.kind == data_kind::aqua;
    if (choices) {
      for (char const* list : {"nats", "tokens", "characters"}) entry[list] = json::array();
      for (auto const* d = first; d != last; ++d) {
        entry["nats"].push_back(number(d->score.nats));
        entry["tokens"].push_back(d->score.tokens);
        entry["characters"].push_back(d->part->length);
      }
    } else {
      entry["nats"] = number(nats);
      entry["tokens"] = tokens;
    }
    if (!std::isfinite(nats)) {
      ++nonfinite_;
    } else {
      ++n_;
      nats_ += nats;
      tokens_ += tokens;
      words_ += length;
      if (choices) {
        // The first of equals, as argmax has it.
        auto const best = [&](auto const& loss) {
          return static_cast<std::size_t>(std::min_element(first, last, [&](auto const& a, auto const& b) { return loss(a) < loss(b); }) - first);
        };
        auto const plain = best([](scored_document const& d) { return d.score.nats; });
        auto const by_length = best([](scored_document const& d) { return d.score.nats / static_cast<double>(d.part->length); });
        entry["right"] = first->part->right;
        entry["choice"] = plain;
        right_ += plain == first->part->right ? 1 : 0;
        if (source_.kind == data_kind::hellaswag) {
          entry["choice_normalized"] = by_length;
          right_by_length_ += by_length == first->part->right ? 1 : 0;
        }
      } else if (source_.kind == data_kind::wikitext) {
        entry["words"] = length;
      } else {
        entry["greedy"] = first->score.greedy;
        right_ += first->score.greedy ? 1 : 0;
      }
    }
    examples_.push_back(std::move(entry));
  }

  void report(score_report& out) const {
    json metrics = json::object();
    auto const n = static_cast<double>(n_), tokens = static_cast<double>(tokens_);
    auto const set = [&](char const* name, double value) { metrics[name] = number(value); };
    char const* unit = "examples";
    switch (source_.kind) {
      case data_kind::lambada:
        unit = "passages";
        set("accuracy", static_cast<double>(right_) / n);
        set("perplexity", std::exp(nats_ / n));
        break;
      case data_kind::hellaswag:
        set("accuracy_normalized", static_cast<double>(right_by_length_) / n);
        [[fallthrough]];
      case data_kind::aqua:
        unit = "questions";
        set("accuracy", static_cast<double>(right_) / n);
        break;
      case data_kind::wikitext:
        unit = "articles";
        set("word_perplexity", std::exp(nats_ / static_cast<double>(words_)));
        set("token_perplexity", std::exp(nats_ / tokens));
        break;
      default:
        unit = "answers";
        set("nats_per_answer", nats_ / n);
        set("nats_per_token", nats_ / tokens);
        set("greedy_match", static_cast<double>(right_) / n);
    }
    std::string const name(name_of(source_.kind)), file = source_.file == "-" ? "-" : std::filesystem::path(source_.file).filename().string();
    std::string line = name + " (" + file + "):";
    for (auto const& [key, value] : metrics.items()) {
      std::string text = " " + key;
      std::replace(text.begin(), text.end(), '_', ' ');
      char digits[40] = "undefined";
      if (!value.is_null()) std::snprintf(digits, sizeof digits, "%.4f", value.get<double>());
      line += text + " " + digits + ",";
    }
    line += " n = " + std::to_string(n_) + " " + unit;
    if (nonfinite_ > 0) line += "; " + std::to_string(nonfinite_) + " more have no finite log probability";
    out.lines.push_back(line);
    json entry{{"data_set", name}, {"file", file}, {"n", n_}, {"nonfinite", nonfinite_}};
    if (source_.kind == data_kind::wikitext) entry.update({{"tokens", tokens_}, {"words", words_}});
    entry["metrics"] = std::move(metrics);
    entry["examples"] = examples_;
    out.json["data_sets"].push_back(std::move(entry));
  }

 private:
  data_source const& source_;
  std::uint64_t n_ = 0, nonfinite_ = 0, tokens_ = 0, words_ = 0, right_ = 0, right_by_length_ = 0;
  double nats_ = 0;
  json examples_ = json::array();
};

}  // namespace

std::vector<scored_tokens> scored_pieces(document const& d,
                                         std::function<std::vector<std::int32_t>(std::string_view)> const& encode,
                                         std::size_t longest, bool& cut) {
  auto ids = encode(d.text);
  cut = false;
  if (d.scored->kind == data_kind::wikitext) {
    std::vector<scored_tokens> out;
    if (longest < 2) throw argument_error("--max-tokens " + std::to_string(longest) + ": an article is scored in pieces of at least 2 tokens");
    for (std::size_t first = 0;; first += longest - 1) {
      auto const last = std::min(first + longest, ids.size());
      out.push_back({{ids.begin() + static_cast<std::ptrdiff_t>(first), ids.begin() + static_cast<std::ptrdiff_t>(last)}, 1});
      if (last == ids.size()) return out;
    }
  }
  auto from = encode(std::string_view(d.text).substr(0, d.scored->context)).size();
  if (from == 0) refuse(d, "the prompt has no tokens, so nothing says how probable the answer's first token is");
  if (from >= ids.size()) refuse(d, "the answer has no tokens of its own");
  if (ids.size() > longest) {
    if (ids.size() - from >= longest)
      refuse(d, "the answer has " + std::to_string(ids.size() - from) + " tokens, more than fit beside a prompt into " + std::to_string(longest));
    from -= ids.size() - longest;
    ids.erase(ids.begin(), ids.end() - static_cast<std::ptrdiff_t>(longest));
    cut = true;
  }
  return {{std::move(ids), from}};
}

document_score score_of(std::span<std::int32_t const> ids, std::span<float const> logprob,
                        std::span<std::int32_t const> predicted, std::size_t from) {
  document_score out{0, 0, true};
  for (auto t = from; t < ids.size(); ++t) {
    out.nats -= static_cast<double>(logprob[t]);
    out.greedy = out.greedy && predicted[t - 1] == ids[t];
    ++out.tokens;
  }
  return out;
}

score_report report_scores(std::vector<data_source> const& sources, std::vector<scored_document> const& documents) {
  score_report out;
  out.json = {{"format", "moeroute.scores"}, {"version", 1}, {"data_sets", json::array()}};
  for (std::size_t i = 0; i < documents.size();) {
    auto const source = documents[i].part->source;
    data_set set(sources.at(source));
    while (i < documents.size() && documents[i].part->source == source) {
      auto last = i;
      while (last < documents.size() && documents[last].part->source == source &&
             documents[last].part->example == documents[i].part->example)
        ++last;
      set.add(documents.data() + i, documents.data() + last);
      i = last;
    }
    set.report(out);
  }
  return out;
}

}  // namespace moeroute::capture

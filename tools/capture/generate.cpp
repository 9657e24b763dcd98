// SPDX-License-Identifier: Apache-2.0
#include "generate.hpp"

#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>

#include "json_view.hpp"
#include "sampling.hpp"

namespace moeroute::capture {
namespace {

// Rows [begin, end) of `from` behind those of `to`.
void append_rows(batch_output& to, batch_output const& from, std::size_t begin, std::size_t end) {
  auto const rows = from.logprob.size();
  auto const append = [&](auto& target, auto const& source) {
    auto const width = static_cast<std::ptrdiff_t>(source.size() / rows);
    target.insert(target.end(), source.begin() + static_cast<std::ptrdiff_t>(begin) * width,
                  source.begin() + static_cast<std::ptrdiff_t>(end) * width);
  };
  append(to.logprob, from.logprob);
  append(to.predicted, from.predicted);
  to.layers.resize(from.layers.size());
  for (std::size_t l = 0; l < from.layers.size(); ++l) {
    append(to.layers[l].logits, from.layers[l].logits);
    append(to.layers[l].ids, from.layers[l].ids);
    append(to.layers[l].weights, from.layers[l].weights);
  }
}

class generator {
 public:
  generator(model const& decoder, generation_options const& options, std::vector<std::int32_t> const& ends,
            std::vector<prompt> const& prompts, std::function<bool(std::uint64_t)> const& go_on)
      : decoder_{decoder}, options_{options}, ends_{ends}, prompts_{prompts}, go_on_{go_on}, pieces_(prompts.size()) {
    result_.documents.resize(prompts.size());
  }

  std::optional<generation> run(std::uint64_t batch_tokens) {
    std::vector<std::size_t> order(prompts_.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(),
                     [&](auto a, auto b) { return prompts_[a].ids.size() < prompts_[b].ids.size(); });
    for (std::size_t first = 0; first < order.size();) {
      auto last = first + 1;
      while (last < order.size() &&
             (last - first + 1) * (prompts_[order[last]].ids.size() + options_.tokens) <= batch_tokens)
        ++last;
      auto const at = [&](std::size_t i) { return order.begin() + static_cast<std::ptrdiff_t>(i); };
      if (!run_batch({at(first), at(last)})) return std::nullopt;
      first = last;
    }
    assemble();
    return std::move(result_);
  }

 private:
  // Rows [begin, end) of outputs_[output].
  struct piece {
    std::size_t output, begin, end;
  };

  void add(std::size_t document, std::size_t begin, std::size_t end) {
    pieces_[document].push_back({outputs_.size() - 1, begin, end});
  }

  bool run_batch(std::vector<std::size_t> documents) {
    std::vector<std::int32_t> ids;
    std::vector<std::int64_t> offsets{0};
    for (auto const d : documents) {
      ids.insert(ids.end(), prompts_[d].ids.begin(), prompts_[d].ids.end());
      offsets.push_back(static_cast<std::int64_t>(ids.size()));
    }
    if (!go_on_(0)) return false;
    continuation onward;
    outputs_.push_back(decoder_.begin(ids, offsets, static_cast<std::int64_t>(options_.tokens), onward));
    if (!go_on_(ids.size())) return false;
    std::vector<std::int32_t> predicted;
    for (std::size_t i = 0; i < documents.size(); ++i) {
      auto const end = static_cast<std::size_t>(offsets[i + 1]);
      add(documents[i], static_cast<std::size_t>(offsets[i]), end);
      predicted.push_back(outputs_.back().predicted[end - 1]);
    }
    for (std::uint64_t n = 0; n < options_.tokens && !documents.empty(); ++n) {
      auto const chosen = options_.temperature > 0 ? drawn(onward, documents, predicted) : predicted;
      auto logprob = decoder_.logprob(onward, chosen);
      outputs_.push_back(decoder_.step(onward, chosen));
      outputs_.back().logprob = std::move(logprob);
      if (!go_on_(chosen.size())) return false;
      std::vector<std::int64_t> left;
      for (std::size_t i = 0; i < documents.size(); ++i) {
        add(documents[i], i, i + 1);
        auto& document = result_.documents[documents[i]];
        document.ids.push_back(chosen[i]);
        document.ended = std::find(ends_.begin(), ends_.end(), chosen[i]) != ends_.end();
        if (!document.ended) left.push_back(static_cast<std::int64_t>(i));
      }
      predicted = outputs_.back().predicted;
      if (left.size() == documents.size()) continue;
      std::vector<std::size_t> remaining;
      std::vector<std::int32_t> theirs;
      for (auto const i : left) {
        remaining.push_back(documents[static_cast<std::size_t>(i)]);
        theirs.push_back(predicted[static_cast<std::size_t>(i)]);
      }
      documents = std::move(remaining);
      predicted = std::move(theirs);
      if (!documents.empty()) decoder_.keep(onward, left);
    }
    return true;
  }

  std::vector<std::int32_t> drawn(continuation const& onward, std::vector<std::size_t> const& documents,
                                  std::vector<std::int32_t> const& predicted) const {
    auto const all = decoder_.probabilities(onward, options_.temperature);
    auto const width = all.size() / documents.size();
    std::vector<std::int32_t> out;
    for (std::size_t i = 0; i < documents.size(); ++i) {
      auto const& from = prompts_[documents[i]];
      auto const position = from.ids.size() + result_.documents[documents[i]].ids.size();
      auto const u = draw_number(options_.seed, from.id, static_cast<std::uint32_t>(position));
      auto const id = draw_token({all.data() + i * width, width}, options_.top_p, u);
      out.push_back(id >= 0 ? id : predicted[i]);  // NaN: counted and warned of, as everywhere
    }
    return out;
  }

  void assemble() {
    auto& rows = result_.rows;
    for (auto const& document : pieces_)
      for (auto const& p : document) append_rows(rows, outputs_[p.output], p.begin, p.end);
    for (auto const& from : outputs_) {
      rows.nonfinite += from.nonfinite;
      for (std::size_t l = 0; l < from.layers.size(); ++l) rows.layers[l].nonfinite += from.layers[l].nonfinite;
    }
  }

  model const& decoder_;
  generation_options const& options_;
  std::vector<std::int32_t> const& ends_;
  std::vector<prompt> const& prompts_;
  std::function<bool(std::uint64_t)> const& go_on_;
  std::vector<batch_output> outputs_;
  std::vector<std::vector<piece>> pieces_;  // [D]
  generation result_;
};

}  // namespace

std::vector<std::int32_t> end_tokens(std::filesystem::path const& folder) {
  for (char const* name : {"generation_config.json", "config.json"}) {
    auto const path = folder / name;
    if (!std::filesystem::exists(path)) continue;
    auto const json = read_json(path);
    json_view const top(json, path.string());
    // A language model inside a larger one has its own part of the file.
    auto const from = !top.has("eos_token_id") && top.has("text_config") ? top.at("text_config") : top;
    if (!from.has("eos_token_id")) continue;
    auto const value = from.at("eos_token_id");
    std::vector<std::int32_t> out;
    for (auto const& id : value.raw().is_array() ? value.elements() : std::vector{value})
      out.push_back(static_cast<std::int32_t>(id.integer(0, std::numeric_limits<std::int32_t>::max())));
    return out;
  }
  return {};
}

std::optional<generation> generate(model const& decoder, generation_options const& options,
                                   std::vector<std::int32_t> const& ends, std::vector<prompt> const& prompts,
                                   std::uint64_t batch_tokens, std::function<bool(std::uint64_t)> const& go_on) {
  return generator(decoder, options, ends, prompts, go_on).run(batch_tokens);
}

}  // namespace moeroute::capture

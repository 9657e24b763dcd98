// SPDX-License-Identifier: Apache-2.0
#include <cli/collect.hpp>

#include <moeroute/core/parallel.hpp>
#include <moeroute/numeric/softmax.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>
#include <optional>
#include <tuple>
#include <type_traits>
#include <utility>

#include <unistd.h>

namespace moeroute::cli {

namespace {

// A shard with the rows of one phase alone: the same documents, shorter; those without such a row are left out.
class chosen_shard {
 public:
  chosen_shard(trace_shard&& shard, phase_choice phase) : shard_{std::move(shard)}, all_{phase == phase_choice::all} {
    if (all_) return;
    auto const& file = shard_.file();
    if (file.find("phase") == nullptr) throw format_error(file.path(), "phase", "is missing, and --phase asks for it");
    auto const column = file.vector<std::uint8_t>("phase");
    std::optional<vector_view<float>> logprob;
    if (file.find("logprob") != nullptr) logprob = file.vector<float>("logprob");
    auto const wanted = phase == phase_choice::decode ? trace_decode : trace_prefill;
    auto const& spans = shard_.spans();
    offsets_.push_back(0);
    for (index_t d = 0; d < spans.documents(); ++d) {
      trace_document document = shard_.documents()[static_cast<std::size_t>(d)];
      std::vector<std::string> const pieces = std::move(document.pieces);
      document.pieces.clear();
      double nats = 0;
      index_t predicted = 0;
      for (index_t p = 0; p < spans.size(d); ++p) {
        auto const row = spans.first(d) + p;
        if (column[row] != wanted) continue;
        rows_.push_back(row);
        if (!pieces.empty()) document.pieces.push_back(pieces[static_cast<std::size_t>(p)]);
        if (!logprob || std::isnan((*logprob)[row])) continue;
        nats -= static_cast<double>((*logprob)[row]);
        ++predicted;
      }
      if (static_cast<index_t>(rows_.size()) == offsets_.back()) continue;
      document.tokens = rows_.size() - static_cast<std::size_t>(offsets_.back());
      document.loss = predicted > 0 ? nats / static_cast<double>(predicted) : quiet_nan;
      predicted_.push_back(static_cast<std::uint64_t>(predicted));
      offsets_.push_back(static_cast<std::int64_t>(rows_.size()));
      ids_.push_back(document.document);
      documents_.push_back(std::move(document));
    }
  }

  trace_shard const& whole() const { return shard_; }
  document_spans spans() const {
    if (all_) return shard_.spans();
    return {vector_view<std::int64_t>(offsets_.data(), static_cast<index_t>(offsets_.size())),
            vector_view<std::int64_t>(ids_.data(), static_cast<index_t>(ids_.size()))};
  }
  std::vector<trace_document> const& documents() const { return all_ ? shard_.documents() : documents_; }
  /// Tokens of document d whose loss is known.
  std::uint64_t predicted(std::size_t d) const {
    return all_ ? std::max<std::uint64_t>(documents()[d].tokens, 1) - 1 : predicted_[d];
  }

  template <class Logit>
  struct copied_rows {
    std::vector<std::int16_t> ids;
    std::vector<float> weights;
    std::vector<Logit> logits;
  };
  /// As trace_shard::layer; the rows of one phase are copied into `memory`.
  template <class Logit>
  routing_batch<Logit> layer(std::size_t l, copied_rows<Logit>& memory) const {
    auto const batch = shard_.layer<Logit>(l);
    if (all_) return batch;
    auto const copy = [this](auto const& from, auto& to) {
      for (auto const row : rows_)
        for (index_t c = 0; c < from.cols(); ++c) to.push_back(from(row, c));
      return std::remove_cvref_t<decltype(from)>(to.data(), static_cast<index_t>(rows_.size()), from.cols());
    };
    matrix_view<float> weights;
    matrix_view<Logit> logits;
    if (batch.has_weights()) weights = copy(batch.weights(), memory.weights);
    if (batch.has_logits()) logits = copy(batch.logits(), memory.logits);
    return {batch.experts(), copy(batch.ids(), memory.ids), weights, logits};
  }

 private:
  trace_shard shard_;
  bool all_;
  std::vector<index_t> rows_;
  std::vector<std::int64_t> offsets_, ids_;
  std::vector<std::uint64_t> predicted_;
  std::vector<trace_document> documents_;
};

document_table read_documents(trace_reader const& trace, collect_options const& options) {
  std::vector<document_entry> entries;
  for (std::size_t s = 0; s < trace.shards(); ++s) {
    chosen_shard const shard(trace.shard(s), options.phase);
    for (std::size_t i = 0; i < shard.documents().size(); ++i) {
      auto const& d = shard.documents()[i];
      auto const value = [&](std::string const& key) {
        auto const it = d.labels.find(key);
        return it == d.labels.end() ? std::string() : it->second;
      };
      entries.push_back({d.document, value(options.label_key), value(options.block_key), d.tokens,
                         shard.predicted(i), d.loss});
    }
  }
  // By global id, so that nothing depends on how the documents are spread over shards.
  std::sort(entries.begin(), entries.end(), [](auto const& a, auto const& b) { return a.id < b.id; });
  for (std::size_t i = 1; i < entries.size(); ++i)
    if (entries[i].id == entries[i - 1].id)
      throw format_error((trace.folder() / "manifest.json").string(), "shards",
                         "document " + std::to_string(entries[i].id) + " appears twice in the trace");
  std::uint64_t experts = 0;
  for (auto const& l : trace.manifest().layers) experts += static_cast<std::uint64_t>(l.router.experts) + 1;
  return make_table(entries, entries.size() * experts * 8 > options.count_memory);
}

trace_statistics read_state(trace_reader const& trace, collect_options const& options) {
  auto const& manifest = trace.manifest();
  if (options.phase != phase_choice::all)
    throw argument_error("--phase: this trace keeps counts, and they were counted over all rows");
  auto counts = read_counts(trace.folder(), *manifest.counts, manifest.layers);
  for (auto const& [option, asked, kept] : {std::tuple("--label", options.label_key, counts.label_key), std::tuple("--block", options.block_key, counts.block_key)})
    if (asked != kept)
      throw argument_error(std::string(option) + " " + asked + ": this trace keeps counts, and they were counted by '" + kept + "'");
  if (counts.table.documents != manifest.documents || counts.table.tokens != manifest.tokens)
    throw format_error((trace.folder() / manifest.counts->file).string(), "table", "documents or tokens differ from the manifest");
  trace_statistics out{std::move(counts.table), std::move(counts.layers), {}};
  out.examples.resize(out.table.label_list.size());
  for (auto& e : out.examples) e.layers.resize(manifest.layers.size());
  return out;
}

// One line on stderr that follows the work; nothing when it is short or stderr is no terminal.
class progress_line {
 public:
  progress_line(bool on, std::uint64_t total) : on_{on && isatty(STDERR_FILENO) != 0}, total_{std::max<std::uint64_t>(1, total)} {}
  progress_line(progress_line const&) = delete;
  progress_line& operator=(progress_line const&) = delete;
  void advance(std::uint64_t n) {
    done_ += n;
    if (on_) std::fprintf(stderr, "\ranalyzing %3d %%", static_cast<int>(100 * done_ / total_));
  }
  ~progress_line() {
    if (on_) std::fprintf(stderr, "\r\033[K");
  }

 private:
  bool on_;
  std::uint64_t total_, done_ = 0;
};

template <class Logit>
void keep_example(example_document::layer& out, routing_batch<Logit> const& batch, router_spec const& spec) {
  auto const ids = batch.ids();
  for (index_t t = 0; t < batch.tokens(); ++t) {
    for (index_t k = 0; k < ids.cols(); ++k) {
      out.ids.push_back(ids(t, k));
      if (batch.has_weights()) out.weights.push_back(batch.weights()(t, k));
    }
    if (!batch.has_logits()) continue;
    std::vector<double> z(static_cast<std::size_t>(spec.experts)), p(z.size());
    for (index_t e = 0; e < spec.experts; ++e) z[static_cast<std::size_t>(e)] = static_cast<double>(to_compute(batch.logits()(t, e)));
    if (spec.score == score_function::sigmoid) {
      sigmoid_row(z.data(), spec.experts, p.data());
      double const sum = std::accumulate(p.begin(), p.end(), 0.0);
      for (double& x : p) x /= sum;
    } else {
      softmax_row(z.data(), spec.experts, p.data());
    }
    out.probability.insert(out.probability.end(), p.begin(), p.end());
  }
}

template <class Logit>
void add_layer(layer_statistics& statistics, chosen_shard const& shard, std::size_t l, router_spec const& spec, document_table const& table,
               std::vector<std::int32_t> const& rows, std::vector<std::size_t> const& labels, std::vector<example_document>& examples) {
  typename chosen_shard::copied_rows<Logit> memory;
  auto const batch = shard.layer<Logit>(l, memory);
  auto const spans = shard.spans();
  update(statistics, batch, spans, rows, labels);
  for (index_t d = 0; d < spans.documents(); ++d) {
    auto const c = labels[static_cast<std::size_t>(d)];
    if (table.examples[c] == spans.id(d))
      keep_example(examples[c].layers[l], batch.slice(spans.first(d), static_cast<index_t>(examples[c].tokens)), spec);
  }
}

}  // namespace

trace_statistics collect(trace_reader const& trace, collect_options const& options) {
  auto const& manifest = trace.manifest();
  if (manifest.counts) return read_state(trace, options);
  trace_statistics out;
  out.table = read_documents(trace, options);
  if (out.table.tokens == 0)
    throw format_error((trace.folder() / "manifest.json").string(), "shards",
                       std::string("have no ") + (options.phase == phase_choice::decode ? "decode" : "prefill") + " rows");
  auto const& table = out.table;
  auto const labels = table.label_list.size();
  bool has_logits = false;
  if (trace.shards() > 0) has_logits = trace.shard(0).has(manifest.layers.front().layer, "logits");

  for (auto const& l : manifest.layers) out.layers.push_back(empty_statistics(l.router, table, has_logits));
  out.examples.resize(labels);
  for (auto& e : out.examples) e.layers.resize(manifest.layers.size());

  progress_line progress(options.progress, manifest.tokens);
  for (std::size_t s = 0; s < trace.shards(); ++s) {
    chosen_shard const shard(trace.shard(s), options.phase);
    for (auto const& l : manifest.layers)
      if (shard.whole().has(l.layer, "logits") != has_logits)
        throw format_error(shard.whole().file().path(), "layers." + std::to_string(l.layer) + ".logits",
                           has_logits ? "is missing, other layers or shards have it" : "is there, other layers or shards lack it");
    std::vector<std::int32_t> rows;
    std::vector<std::size_t> label_of;
    for (auto const& d : shard.documents()) {
      auto const i = table.index_of(d.document);
      rows.push_back(table.rows[i]);
      label_of.push_back(static_cast<std::size_t>(table.labels[i]));
      if (auto const c = label_of.back(); table.examples[c] == d.document) {
        out.examples[c].document = d;
        out.examples[c].tokens = std::min(options.example_tokens, static_cast<std::size_t>(d.tokens));
      }
    }
    auto const type = shard.whole().logit_type();
    // A layer belongs to one thread: nothing is shared, so the number of threads cannot show in the result.
    parallel_for(static_cast<index_t>(manifest.layers.size()), options.threads, [&](index_t i) {
      auto const l = static_cast<std::size_t>(i);
      auto const add = [&]<class Logit>(Logit) {
        add_layer<Logit>(out.layers[l], shard, l, manifest.layers[l].router, table, rows, label_of, out.examples);
      };
      if (type == dtype::bf16)
        add(bf16{});
      else if (type == dtype::f16)
        add(f16{});
      else
        add(float{});
    });
    progress.advance(static_cast<std::uint64_t>(shard.spans().tokens()));
  }
  return out;
}

}  // namespace moeroute::cli

// SPDX-License-Identifier: Apache-2.0
#include <cli/collect.hpp>

#include <moeroute/core/parallel.hpp>
#include <moeroute/numeric/softmax.hpp>

#include <algorithm>
#include <cstdio>
#include <numeric>
#include <tuple>
#include <utility>

#include <unistd.h>

namespace moeroute::cli {

namespace {

document_table read_documents(trace_reader const& trace, collect_options const& options) {
  std::vector<document_entry> entries;
  for (std::size_t s = 0; s < trace.shards(); ++s) {
    auto const shard = trace.shard(s);
    for (auto const& d : shard.documents()) {
      auto const value = [&](std::string const& key) {
        auto const it = d.labels.find(key);
        return it == d.labels.end() ? std::string() : it->second;
      };
      entries.push_back({d.document, value(options.label_key), value(options.block_key), d.tokens,
                         std::max<std::uint64_t>(d.tokens, 1) - 1, d.loss});
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
void add_layer(layer_statistics& statistics, trace_shard const& shard, std::size_t l, router_spec const& spec, document_table const& table,
               std::vector<std::int32_t> const& rows, std::vector<std::size_t> const& labels, std::vector<example_document>& examples) {
  auto const batch = shard.layer<Logit>(l);
  auto const& spans = shard.spans();
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
  auto const& table = out.table;
  auto const labels = table.label_list.size();
  bool has_logits = false;
  if (trace.shards() > 0) has_logits = trace.shard(0).has(manifest.layers.front().layer, "logits");

  for (auto const& l : manifest.layers) out.layers.push_back(empty_statistics(l.router, table, has_logits));
  out.examples.resize(labels);
  for (auto& e : out.examples) e.layers.resize(manifest.layers.size());

  progress_line progress(options.progress, manifest.tokens);
  for (std::size_t s = 0; s < trace.shards(); ++s) {
    auto const shard = trace.shard(s);
    for (auto const& l : manifest.layers)
      if (shard.has(l.layer, "logits") != has_logits)
        throw format_error(shard.file().path(), "layers." + std::to_string(l.layer) + ".logits",
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
    auto const type = shard.logit_type();
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

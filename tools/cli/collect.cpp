// SPDX-License-Identifier: Apache-2.0
#include <cli/collect.hpp>

#include <moeroute/core/parallel.hpp>
#include <moeroute/numeric/softmax.hpp>

#include <algorithm>
#include <bit>
#include <cstdio>
#include <map>
#include <numeric>
#include <set>
#include <utility>

#include <unistd.h>

namespace moeroute::cli {

namespace {

// FNV-1a: a fixed function of the text, so that every shard and run groups alike.
std::uint64_t text_hash(std::string const& text) {
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (char const c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return hash ^ (hash >> 32);
}

constexpr std::int32_t hash_groups = 256;

document_table read_documents(trace_reader const& trace, collect_options const& options) {
  struct entry {
    std::int64_t id;
    std::string label, block;
    std::uint64_t tokens;
    double loss;
  };
  std::vector<entry> entries;
  std::set<std::string> names;
  for (std::size_t s = 0; s < trace.shards(); ++s) {
    auto const shard = trace.shard(s);
    for (auto const& d : shard.documents()) {
      auto const value = [&](std::string const& key) {
        auto const it = d.labels.find(key);
        return it == d.labels.end() ? std::string() : it->second;
      };
      entries.push_back({d.document, value(options.label_key), value(options.block_key), d.tokens, d.loss});
      if (entries.back().label.empty()) entries.back().label = "(none)";
      names.insert(entries.back().label);
    }
  }
  // By global id, so that nothing depends on how the documents are spread over shards.
  std::sort(entries.begin(), entries.end(), [](auto const& a, auto const& b) { return a.id < b.id; });
  for (std::size_t i = 1; i < entries.size(); ++i)
    if (entries[i].id == entries[i - 1].id)
      throw format_error((trace.folder() / "manifest.json").string(), "shards",
                         "document " + std::to_string(entries[i].id) + " appears twice in the trace");

  document_table table;
  std::map<std::string, std::int32_t> label_index;
  for (auto const& name : names) {
    label_index[name] = static_cast<std::int32_t>(table.label_list.size());
    table.label_list.push_back({name});
  }
  std::vector<double> nats(names.size()), predicted(names.size());
  std::map<std::string, std::int64_t> block_index;
  std::vector<std::int64_t> blocks;
  for (auto const& e : entries) {
    auto const c = static_cast<std::size_t>(label_index[e.label]);
    table.ids.push_back(e.id);
    table.labels.push_back(static_cast<std::int32_t>(c));
    table.label_list[c].documents += 1;
    table.label_list[c].tokens += e.tokens;
    table.tokens += e.tokens;
    if (std::isfinite(e.loss) && e.tokens > 1) {
      nats[c] += e.loss * static_cast<double>(e.tokens - 1);
      predicted[c] += static_cast<double>(e.tokens - 1);
    }
    if (e.block.empty()) {
      blocks.push_back(static_cast<std::int64_t>(table.blocks++));
    } else {
      auto const [it, fresh] = block_index.try_emplace(e.block, static_cast<std::int64_t>(table.blocks));
      if (fresh) ++table.blocks;
      blocks.push_back(it->second);
      table.has_blocks = true;
    }
  }
  for (std::size_t c = 0; c < names.size(); ++c)
    if (predicted[c] > 0) table.label_list[c].loss = nats[c] / predicted[c];

  std::uint64_t experts = 0;
  for (auto const& l : trace.manifest().layers) experts += static_cast<std::uint64_t>(l.router.experts) + 1;
  table.grouped = entries.size() * experts * 8 > options.count_memory;
  if (table.grouped) {
    auto const labels = static_cast<std::int32_t>(names.size());
    for (std::int32_t c = 0; c < labels; ++c)
      for (std::int32_t h = 0; h < hash_groups; ++h) {
        table.row_labels.push_back(c);
        table.row_blocks.push_back(h);
      }
    for (std::size_t d = 0; d < entries.size(); ++d) {
      auto const key = entries[d].block.empty() ? std::to_string(entries[d].id) : entries[d].block;
      table.rows.push_back(table.labels[d] * hash_groups + static_cast<std::int32_t>(text_hash(key) % hash_groups));
    }
  } else {
    table.rows.resize(entries.size());
    std::iota(table.rows.begin(), table.rows.end(), 0);
    table.row_labels = table.labels;
    table.row_blocks = blocks;
  }

  // The first document of each label; among parallel passages the first passage that all share would do as well.
  std::vector<bool> found(names.size());
  table.examples.assign(names.size(), -1);
  for (std::size_t d = 0; d < entries.size(); ++d) {
    auto const c = static_cast<std::size_t>(table.labels[d]);
    if (!found[c] && entries[d].tokens > 0) {
      found[c] = true;
      table.examples[c] = entries[d].id;
    }
  }
  return table;
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
  statistics.total.update(batch);
  statistics.documents.update(batch, spans, vector_view<std::int32_t>(rows.data(), static_cast<index_t>(rows.size())));
  if (batch.has_logits()) {
    statistics.decision->update(batch);
    statistics.agreement->update(batch);
  }
  // Neighbouring documents of one label go in together.
  for (index_t d = 0; d < spans.documents();) {
    index_t last = d + 1;
    while (last < spans.documents() && labels[static_cast<std::size_t>(last)] == labels[static_cast<std::size_t>(d)]) ++last;
    auto const end = last == spans.documents() ? spans.tokens() : spans.first(last);
    statistics.by_label[labels[static_cast<std::size_t>(d)]].update(batch.slice(spans.first(d), end - spans.first(d)));
    d = last;
  }
  for (index_t d = 0; d < spans.documents(); ++d) {
    auto const c = labels[static_cast<std::size_t>(d)];
    if (table.examples[c] == spans.id(d))
      keep_example(examples[c].layers[l], batch.slice(spans.first(d), static_cast<index_t>(examples[c].tokens)), spec);
  }
}

}  // namespace

std::size_t document_table::index_of(std::int64_t id) const {
  return static_cast<std::size_t>(std::lower_bound(ids.begin(), ids.end(), id) - ids.begin());
}

trace_statistics collect(trace_reader const& trace, collect_options const& options) {
  auto const& manifest = trace.manifest();
  trace_statistics out;
  out.table = read_documents(trace, options);
  auto const& table = out.table;
  auto const labels = table.label_list.size();
  bool has_logits = false;
  if (trace.shards() > 0) has_logits = trace.shard(0).has(manifest.layers.front().layer, "logits");

  for (auto const& l : manifest.layers) {
    auto const& spec = l.router;
    // A power of two that no weight exceeds; rounding of the weights themselves may pass the scale by an ulp.
    double const bound = static_cast<double>(std::bit_ceil(static_cast<std::uint64_t>(spec.scale * 1.01) + 1));
    out.layers.push_back({load({spec.experts}),
                          std::vector<activation>(labels, activation({spec.experts, spec.score, bound})),
                          has_logits ? std::optional(gate({spec.experts, spec.top_k})) : std::nullopt,
                          has_logits ? std::optional(selection_agreement(spec)) : std::nullopt,
                          document_counts({spec.experts, static_cast<index_t>(table.row_labels.size())})});
  }
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

// SPDX-License-Identifier: Apache-2.0
// The whole pass of `moeroute analyze` over one layer: loads, soft probabilities, gate, per-document counts, agreement
// with the router. Items are tokens.
#include <moeroute/core/batch.hpp>
#include <moeroute/io/npy.hpp>
#include <moeroute/routing/activation.hpp>
#include <moeroute/routing/document_counts.hpp>
#include <moeroute/routing/gate.hpp>
#include <moeroute/routing/load.hpp>
#include <moeroute/routing/selection.hpp>

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "support.hpp"

namespace {

using namespace moeroute;

constexpr index_t top_k = 8, document_tokens = 512;

router_spec spec_of(index_t n) {
  router_spec spec;
  spec.experts = n;
  spec.top_k = top_k;
  return spec;
}

struct layer {
  load total;
  activation soft;
  gate decision;
  selection_agreement agreement;
  document_counts documents;

  layer(router_spec const& spec, index_t rows)
      : total({spec.experts}),
        soft({spec.experts, spec.score, 1}),
        decision({spec.experts, spec.top_k}),
        agreement(spec),
        documents({spec.experts, rows}) {}

  void update(routing_batch<> const& batch, document_spans const& spans, vector_view<std::int32_t> rows) {
    total.update(batch);
    soft.update(batch);
    decision.update(batch);
    agreement.update(batch);
    documents.update(batch, spans, rows);
  }
  void merge(layer const& other) {
    total.merge(other.total);
    soft.merge(other.soft);
    decision.merge(other.decision);
    agreement.merge(other.agreement);
    documents.merge(other.documents);
  }
};

layer analyze(routing_batch<> const& batch, index_t threads) {
  index_t const documents = batch.tokens() / document_tokens;
  std::vector<layer> parts(static_cast<std::size_t>(threads), layer(spec_of(batch.experts()), documents));
  parallel_for(threads, static_cast<int>(threads), [&](index_t i) {
    index_t const first = documents * i / threads, count = documents * (i + 1) / threads - first;
    std::vector<std::int64_t> offsets, ids;
    std::vector<std::int32_t> rows;
    for (index_t d = 0; d <= count; ++d) offsets.push_back(d * document_tokens);
    for (index_t d = first; d < first + count; ++d) {
      ids.push_back(d);
      rows.push_back(static_cast<std::int32_t>(d));
    }
    document_spans const spans({offsets.data(), count + 1}, {ids.data(), count});
    parts[static_cast<std::size_t>(i)].update(batch.slice(first * document_tokens, count * document_tokens), spans,
                                              {rows.data(), count});
  });
  for (std::size_t i = 1; i < parts.size(); ++i) parts[0].merge(parts[i]);
  return std::move(parts[0]);
}

void analysis_pass(benchmark::State& state) {
  index_t const n = state.range(0);
  auto const& z = bench_logits(bench_rows, n);
  auto const chosen = select(matrix_view<float>(z.data(), bench_rows, n), spec_of(n));
  routing_batch<> const batch(n, {chosen.ids.data(), bench_rows, top_k}, {chosen.weights.data(), bench_rows, top_k},
                              {z.data(), bench_rows, n});
  for (auto _ : state) benchmark::DoNotOptimize(analyze(batch, state.range(1)).total.count());
  finish(state, bench_rows, bench_rows * (4 * n + top_k * (2 + 4)));
}

void answers(std::filesystem::path const& folder) {
  for (index_t const n : {64, 256}) {
    auto const size = std::to_string(n);
    auto const z = read_npy<float>(folder / ("logits_" + size + ".npy"));
    index_t const rows = z.shape.at(0) / document_tokens * document_tokens;
    matrix_view<float> const logits(z.values.data(), rows, n);
    auto const chosen = select(logits, spec_of(n));
    auto const r = analyze({n, {chosen.ids.data(), rows, top_k}, {chosen.weights.data(), rows, top_k}, logits}, 2);
    auto const gate = r.decision.result();
    auto const soft = r.soft.result();
    auto const documents = r.documents.result();
    std::vector<double> const scalars{gate.entropy_nats,
                                      gate.top1_probability,
                                      gate.top_k_mass,
                                      gate.margin,
                                      gate.z_loss,
                                      static_cast<double>(r.agreement.result().mismatched_rows)};
    auto const write = [&](char const* name, auto const& v, std::vector<index_t> const& shape) {
      using value = typename std::decay_t<decltype(v)>::value_type;
      write_npy(folder / (std::string("analysis_") + name + "_" + size + ".npy"), std::span<value const>(v), shape);
    };
    write("scalars", scalars, {6});
    write("probability", soft.probability, {n});
    write("weight", soft.weight, {n});
    write("load", r.total.result().counts, {n});
    write("documents", documents.counts, {documents.rows, n});
  }
}

}  // namespace

int main(int argc, char** argv) {
  for (int const threads : bench_threads())
    benchmark::RegisterBenchmark("analysis_pass", analysis_pass)->UseRealTime()->ArgsProduct({{64, 256}, {threads}});
  return bench_main(argc, argv, answers);
}

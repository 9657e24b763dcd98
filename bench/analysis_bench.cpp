// SPDX-License-Identifier: Apache-2.0
// The whole pass of `moeroute analyze` over one layer: loads, soft probabilities, gate, per-document counts, agreement with the router.
#include <moeroute/core/batch.hpp>
#include <moeroute/routing/activation.hpp>
#include <moeroute/routing/document_counts.hpp>
#include <moeroute/routing/gate.hpp>
#include <moeroute/routing/load.hpp>
#include <moeroute/routing/selection.hpp>

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <stdexcept>
#include <vector>

#include "support.hpp"

namespace {

using namespace moeroute;

constexpr index_t top_k = 8, document_tokens = 512;

struct layer {
  load total;
  activation soft;
  gate decision;
  selection_agreement agreement;
  document_counts documents;

  explicit layer(router_spec const& spec)
      : total({spec.experts}),
        soft({spec.experts, spec.score, 1}),
        decision({spec.experts, spec.top_k}),
        agreement(spec),
        documents({spec.experts, bench_rows / document_tokens}) {}

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

// The answer is checked before anything is timed: mean probability and entropy by the plain formulas in double.
void check(layer const& got, std::vector<float> const& z, index_t n) {
  std::vector<double> mean(static_cast<std::size_t>(n));
  double entropy = 0;
  for (index_t t = 0; t < bench_rows; ++t) {
    double sum = 0, weighted = 0;
    for (index_t e = 0; e < n; ++e) sum += std::exp(static_cast<double>(z[static_cast<std::size_t>(t * n + e)]));
    for (index_t e = 0; e < n; ++e) {
      double const x = static_cast<double>(z[static_cast<std::size_t>(t * n + e)]), p = std::exp(x) / sum;
      mean[static_cast<std::size_t>(e)] += p / bench_rows;
      weighted += p * x;
    }
    entropy += (std::log(sum) - weighted) / bench_rows;
  }
  auto const soft = got.soft.result();
  double worst = std::abs(got.decision.result().entropy_nats - entropy);
  for (std::size_t e = 0; e < mean.size(); ++e) worst = std::max(worst, std::abs(soft.probability[e] - mean[e]));
  if (!(worst < 1e-6) || got.agreement.result().mismatched_rows != 0) throw std::runtime_error("analysis_pass: wrong answer");
}

void analysis_pass(benchmark::State& state) {
  index_t const n = state.range(0);
  auto const threads = state.range(1);
  router_spec spec;
  spec.experts = n;
  spec.top_k = top_k;
  auto const z = bench_logits(bench_rows, n);
  auto const chosen = select(matrix_view<float>(z.data(), bench_rows, n), spec);
  routing_batch<> const batch(n, {chosen.ids.data(), bench_rows, top_k}, {chosen.weights.data(), bench_rows, top_k}, {z.data(), bench_rows, n});
  index_t const documents = bench_rows / document_tokens;
  auto const pass = [&] {
    std::vector<layer> parts(static_cast<std::size_t>(threads), layer(spec));
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
      parts[static_cast<std::size_t>(i)].update(batch.slice(first * document_tokens, count * document_tokens), spans, {rows.data(), count});
    });
    for (std::size_t i = 1; i < parts.size(); ++i) parts[0].merge(parts[i]);
    return std::move(parts[0]);
  };
  check(pass(), z, n);
  for (auto _ : state) benchmark::DoNotOptimize(pass().total.count());
  finish(state, bench_rows, bench_rows * (4 * n + top_k * (2 + 4)));
}

}  // namespace

int main(int argc, char** argv) {
  for (int const threads : bench_threads())
    benchmark::RegisterBenchmark("analysis_pass", analysis_pass)->UseRealTime()->ArgsProduct({{64, 128, 256}, {threads}});
  return bench_main(argc, argv, [](std::filesystem::path const&) {});
}

// SPDX-License-Identifier: Apache-2.0
// Two layers whose consecutive tokens are about equally alike. One is sticky: a token may repeat the choice before it.
// One has no memory at all, but every document has its own favourites. Only the order of tokens tells them apart. A
// third layer does neither.
#include <moeroute/numeric/random.hpp>
#include <moeroute/routing/locality.hpp>
#include <moeroute/routing/path.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <vector>

constexpr moeroute::index_t experts = 8, slots = 2, documents = 200, length = 40;

int main() {
  std::vector<std::int64_t> offsets{0}, document_ids;
  for (moeroute::index_t d = 0; d < documents; ++d) {
    offsets.push_back(offsets.back() + length);
    document_ids.push_back(d);
  }
  moeroute::trace_batch<> trace;
  trace.documents = {{offsets.data(), documents + 1}, {document_ids.data(), documents}};
  std::array<std::vector<std::int16_t>, 3> layers;
  char const* const name[] = {"sticky", "topical", "neither"};
  for (int layer = 0; layer < 3; ++layer) {
    moeroute::random_stream random(14, 0, static_cast<std::uint64_t>(layer));
    auto& ids = layers[static_cast<std::size_t>(layer)];
    for (moeroute::index_t d = 0; d < documents; ++d) {
      std::array<double, experts> favourite{};
      if (layer == 1)
        for (double& x : favourite) x = 3.2 * random.uniform();
      for (moeroute::index_t t = 0; t < length; ++t) {
        if (layer == 0 && t > 0 && random.uniform() < 0.19) {
          for (int k = 0; k < slots; ++k) ids.push_back(ids[ids.size() - slots]);
          continue;
        }
        auto score = favourite;
        for (double& x : score) x -= std::log(-std::log(random.uniform()));
        for (int k = 0; k < slots; ++k) {
          auto const best = std::max_element(score.begin(), score.end());
          ids.push_back(static_cast<std::int16_t>(best - score.begin()));
          *best = -1e9;
        }
      }
    }
    trace.layer_numbers.push_back(layer);
    trace.layers.emplace_back(experts, moeroute::matrix_view<std::int16_t>(ids.data(), documents * length, slots));

    moeroute::locality locality({.experts = experts, .slots = slots});
    locality.update(trace.layers.back(), trace.documents);
    auto const r = locality.result().overlap;
    std::printf("%-7s  overlap %.2f, chance %.2f; over shuffled documents %+.3f (%+.3f to %+.3f)\n", name[layer],
                r.observed.value, r.chance_loads, r.over_shuffled.value, r.over_shuffled.lower, r.over_shuffled.upper);
  }

  moeroute::paths paths({.layers = 3, .slots = slots, .choice = moeroute::path_choice::set});
  paths.update(trace);
  auto const p = paths.result(1);
  std::printf("%.0f paths of %llu tokens, coverage %.2f; of a new document's paths %.2f\n", p.distinct,
              static_cast<unsigned long long>(p.tokens), p.coverage, p.coverage_documents);
  std::printf("entropy %.2f nats plug-in, %.2f Chao-Shen, %.2f at most\n", p.entropy_nats, p.entropy_chao_shen_nats,
              3 * std::log(28.0));
  std::printf("most frequent: {%d,%d} {%d,%d} {%d,%d}, %.0f tokens\n", p.top[0].experts[0], p.top[0].experts[1],
              p.top[0].experts[2], p.top[0].experts[3], p.top[0].experts[4], p.top[0].experts[5], p.top[0].tokens);
}

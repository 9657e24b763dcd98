// SPDX-License-Identifier: Apache-2.0
// Three layers route 40 documents of 6 tokens. The second is the first with other expert numbers; the third knows the
// documents' topics too, but chooses on its own.
#include <moeroute/layers/layer_similarity.hpp>
#include <moeroute/numeric/random.hpp>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <vector>

int main() {
  using moeroute::index_t;
  constexpr index_t documents = 40, tokens = 6, experts = 12;
  moeroute::random_stream random(3, 0);
  std::vector<std::int16_t> first, copy, third;
  std::vector<std::int64_t> offsets{0}, ids;
  for (index_t d = 0; d < documents; ++d) {
    auto const topic = random.index(experts);
    auto const choice = [&] {
      auto const id = random.uniform() < 0.5 ? topic : random.index(experts);
      return static_cast<std::int16_t>(id);
    };
    for (index_t t = 0; t < tokens; ++t) {
      first.push_back(choice());
      copy.push_back(static_cast<std::int16_t>((first.back() * 5 + 3) % experts));
      third.push_back(choice());
    }
    offsets.push_back(offsets.back() + tokens);
    ids.push_back(d);
  }
  std::vector<moeroute::matrix_view<std::int16_t>> layers;
  for (auto const* l : {&first, &copy, &third}) layers.emplace_back(l->data(), documents * tokens, 1);
  moeroute::document_spans const spans({offsets.data(), documents + 1}, {ids.data(), documents});
  auto const r = moeroute::layer_similarity(layers, spans, {.experts = experts, .replicates = 999});
  std::printf("first layer and       copy   (by chance, p)      third  (by chance, p)\n");
  auto const line = [](char const* name, moeroute::layer_similarity_measure const& m) {
    std::printf("%-18s  %6.3f  (%6.3f, %.3f)   %6.3f  (%6.3f, %.3f)\n", name, m.value(0, 1), m.null_mean(0, 1),
                m.p_value(0, 1), m.value(0, 2), m.null_mean(0, 2), m.p_value(0, 2));
  };
  line("cka", r.cka);
  line("paired experts", r.matched);
  line("equal numbers", r.same_number);
}

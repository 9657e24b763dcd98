// SPDX-License-Identifier: Apache-2.0
// Two layers of 12 experts, 3 per token. In the first, experts 0 and 1 are a committee: some tokens want both, others
// neither. Experts 4 and 5 are only popular. In the second layer, tokens that chose expert 0 go on to expert 7.
#include <moeroute/numeric/random.hpp>
#include <moeroute/routing/coactivation.hpp>
#include <moeroute/routing/transition.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <vector>

constexpr moeroute::index_t experts = 12, slots = 3, documents = 200, length = 50;

void choose(std::array<double, experts> log_odds, moeroute::random_stream& random, std::vector<std::int16_t>& ids) {
  for (double& x : log_odds) x -= std::log(-std::log(random.uniform()));  // Gumbel noise: draws without replacement
  for (int k = 0; k < slots; ++k) {
    auto const best = std::max_element(log_odds.begin(), log_odds.end());
    ids.push_back(static_cast<std::int16_t>(best - log_odds.begin()));
    *best = -1e9;
  }
}

int main() {
  moeroute::random_stream random(13, 0);
  std::vector<std::int16_t> first, second;
  std::vector<std::int64_t> offsets{0}, ids;
  for (moeroute::index_t d = 0; d < documents; ++d) {
    for (moeroute::index_t t = 0; t < length; ++t) {
      double const together = random.uniform() < 0.5 ? 1 : -1;
      choose({together, together, 0, 0, 1.5, 1.5}, random, first);
      bool const chose_0 = std::find(first.end() - slots, first.end(), 0) != first.end();
      choose({0, 0, 0, 0, 0, 0, 0, chose_0 ? 2.0 : 0.0}, random, second);
    }
    offsets.push_back(offsets.back() + length);
    ids.push_back(d);
  }
  moeroute::document_spans const spans({offsets.data(), documents + 1}, {ids.data(), documents});
  moeroute::routing_batch<> const layer_0(experts, {first.data(), documents * length, slots}),
      layer_1(experts, {second.data(), documents * length, slots});

  moeroute::coactivation together({.experts = experts, .groups = 64});
  together.update(layer_0, spans);
  auto const r = together.result();
  auto const test = moeroute::committee_test(together);
  std::printf("experts  P(j|i)  lift  excess  q < 0.05\n");
  for (auto const& [i, j] : {std::array<std::size_t, 2>{0, 1}, {4, 5}, {2, 3}})
    std::printf("%zu and %zu   %5.2f  %4.2f  %6.2f  %s\n", i, j, r.conditional(i, j), r.lift(i, j), r.excess(i, j),
                test.q_value(i, j) < 0.05 ? "yes" : "no");
  std::printf("lift that 3 of 12 force at equal loads: %.2f\n", r.forced_lift);

  moeroute::transition next({.from = experts, .to = experts, .groups = 64});
  next.update(layer_0, layer_1, spans);
  auto const t = next.result();
  auto const information = moeroute::transition_information(next).mutual_information_nats;
  std::printf("P(7|0) = %.2f, lift %.2f; P(7|1) = %.2f, lift %.2f\n", t.conditional(0, 7), t.lift(0, 7),
              t.conditional(1, 7), t.lift(1, 7));
  std::printf("mutual information %.4f nats, 95 %% interval %.4f to %.4f\n", information.value, information.lower,
              information.upper);
}

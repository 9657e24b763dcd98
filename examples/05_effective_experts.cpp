// SPDX-License-Identifier: Apache-2.0
// A sample of 100 slots looks more concentrated than one of 5000 from the same router. Four ways to say how many
// experts a text uses; the first is what most figures show.
#include <moeroute/numeric/entropy.hpp>
#include <moeroute/numeric/random.hpp>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <vector>

int main() {
  std::size_t const experts = 32;  // the router is uniform: 32 effective experts
  moeroute::random_stream random(7, 0);
  auto const draw = [&](int slots) {
    std::vector<std::uint64_t> counts(experts);
    for (int i = 0; i < slots; ++i) ++counts[random.index(experts)];
    return counts;
  };
  auto const few = draw(100), many = draw(5000);
  std::printf("slots          100   5000\n");
  std::printf("plug-in      %5.1f  %5.1f   exp(H), biased down\n", moeroute::effective_number(few),
              moeroute::effective_number(many));
  std::printf("Miller-Madow %5.1f  %5.1f   exp(H + (S-1)/2n)\n", std::exp(moeroute::entropy_miller_madow_nats(few)),
              std::exp(moeroute::entropy_miller_madow_nats(many)));
  std::printf("at 100 slots %5.1f  %5.1f   expected plug-in of 100 of the slots\n",
              std::exp(moeroute::rarefied_entropy_nats(few, 100)),
              std::exp(moeroute::rarefied_entropy_nats(many, 100)));
  std::printf("expansion    %5.1f  %5.1f   the same to second order\n",
              std::exp(moeroute::rarefied_entropy_expansion_nats(few, 100)),
              std::exp(moeroute::rarefied_entropy_expansion_nats(many, 100)));
}

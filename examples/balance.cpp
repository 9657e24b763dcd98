// SPDX-License-Identifier: Apache-2.0
// How even is the load of a router, and how even would chance be? A MaxVio of 0.5 says little when tokens are few.
#include <moeroute/routing/balance.hpp>
#include <moeroute/routing/load.hpp>

#include <Eigen/Core>

#include <cstddef>
#include <cstdio>

int main() {
  // 12 tokens, 2 slots each, 4 experts; -1 is a slot that the model dropped.
  Eigen::Matrix<int, 12, 2> ids;
  ids << 0, 1, 2, 0, 1, 0, 0, 3, 3, 1, 0, 2, 1, 3, 0, 1, 2, 1, 0, -1, 3, 0, 1, 0;
  moeroute::load_result const load = moeroute::load_of(ids, 4);
  for (std::size_t expert = 0; expert < load.counts.size(); ++expert)
    std::printf("expert %zu  %4.1f %% of the slots\n", expert, 100 * load.share[expert]);

  auto const measured = moeroute::balance_of(load.counts);
  auto const chance = moeroute::uniform_balance(12, 4, 2);
  std::printf("max violation %.2f; uniform routing of 12 tokens goes up to %.2f in 95 %% of cases\n",
              measured.max_violation, chance.bound_95.max_violation);
  std::printf("effective number of experts %.2f of 4\n", measured.effective_experts);
}

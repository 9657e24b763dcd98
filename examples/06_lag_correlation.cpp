// SPDX-License-Identifier: Apache-2.0
// A model of 12 layers that was stacked from 4: layer l+4 loads the same expert numbers as layer l, up to noise.
// Lag 4 stands out. Lags 2 and 6 show what the header warns of: a chance correlation of two layers is repeated by their
// copies.
#include <moeroute/layers/lag_correlation.hpp>
#include <moeroute/numeric/random.hpp>

#include <cstddef>
#include <cstdio>
#include <vector>

int main() {
  moeroute::index_t const layers = 12, experts = 32, period = 4;
  moeroute::random_stream random(3, 0);
  std::vector<double> load(static_cast<std::size_t>(layers * experts));
  for (moeroute::index_t l = 0; l < layers; ++l)
    for (moeroute::index_t e = 0; e < experts; ++e) {
      auto const at = static_cast<std::size_t>(l * experts + e);
      load[at] = l < period ? random.uniform()
                            : load[at - static_cast<std::size_t>(period * experts)] + 0.6 * random.uniform();
    }
  auto const r =
      moeroute::lag_correlation(moeroute::matrix_view<double>(load.data(), layers, experts), {.delta_max = 6});
  std::printf("lag  mean r  pairs  family-wise p\n");
  for (auto const& lag : r.lags)
    std::printf("%3td  %6.2f  %5td  %13.2f\n", lag.delta, lag.mean, lag.pairs, lag.p_adjusted);
  std::printf("sd of one r under chance: %.2f\n", r.null_sd);
}

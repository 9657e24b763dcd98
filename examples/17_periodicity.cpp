// SPDX-License-Identifier: Apache-2.0
// Two models of 24 layers. In one, neighbouring layers are alike and the likeness fades with depth. The other was
// stacked from 6 layers and shows the same fading besides. Both have significant lags; only the second has a period.
#include <moeroute/layers/periodicity.hpp>
#include <moeroute/numeric/random.hpp>

#include <cmath>
#include <cstddef>
#include <cstdio>
#include <vector>

namespace {

using moeroute::index_t;
constexpr index_t layers = 24, experts = 64;

double noise(moeroute::random_stream& random) {
  double sum = -6;
  for (int i = 0; i < 12; ++i) sum += random.uniform();
  return sum;
}

std::vector<double> model(double stacked) {
  moeroute::random_stream random(7, 0);
  std::vector<double> load, drift(experts), copies(6 * experts);
  for (double& c : copies) c = noise(random);
  for (double& d : drift) d = noise(random);
  for (index_t l = 0; l < layers; ++l)
    for (index_t e = 0; e < experts; ++e) {
      auto& d = drift[static_cast<std::size_t>(e)];
      d = 0.8 * d + 0.6 * noise(random);
      load.push_back(
          std::exp(0.5 * (d + stacked * copies[static_cast<std::size_t>(l % 6 * experts + e)] + 0.5 * noise(random))));
    }
  return load;
}

}  // namespace

int main() {
  for (double const stacked : {0.0, 1.0}) {
    auto const load = model(stacked);
    moeroute::periodicity_options options;
    options.correlation.delta_max = 8;
    auto const r = moeroute::periodicity(moeroute::matrix_view<double>(load.data(), layers, experts), options);
    std::printf("%s\nlag  mean r  p label  rise   p peak\n", stacked > 0 ? "stacked from 6" : "fading only");
    for (auto const& lag : r.lags)
      std::printf("%3td  %6.2f  %7.4f  %5.2f  %6.4f%s\n", lag.delta, lag.mean, lag.p_adjusted, lag.rise,
                  lag.p_peak_adjusted, lag.periodic ? "  periodic" : "");
    std::printf("harmonics of 6: %td, p %.4f\n", r.lags[5].harmonics, r.lags[5].p_harmonics);
  }
}
